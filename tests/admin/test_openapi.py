from proxy.admin.openapi import document
from proxy.admin.routes import ROUTES
from tests.admin.serving import running, served


@running
async def test_the_document_lists_every_route_and_nothing_else():
    async with served() as api:
        value, _ = await api.ask("GET", "/openapi.json")
        listed = {(method, path) for path, calls in value["paths"].items() for method in calls}
        assert listed == {(route.method.lower(), route.path.replace(":stable|new", "")) for route in ROUTES}
        served_here = {
            (route.method.lower(), route.resource.canonical)
            for route in api.run.app.router.routes()
            if route.method != "HEAD"
        }
        assert listed == served_here


def test_references_resolve_and_operations_are_distinct():
    value = document(ROUTES)
    calls = [call for path in value["paths"].values() for call in path.values()]
    assert len({call["operationId"] for call in calls}) == len(calls)
    schemas = value["components"]["schemas"]
    for call in calls:
        for content in call.get("requestBody", {}).get("content", {}).values():
            reference = content["schema"].get("$ref")
            assert reference is None or reference.rpartition("/")[2] in schemas
    assert schemas["Weights"]["properties"]["new"]["maximum"] == 100


def test_whatever_changes_something_needs_an_operator():
    for route in ROUTES:
        assert (route.role == "operator") == (route.method != "GET")
        assert route.role != "open" or route.path in {"/livez", "/readyz"}
