from dataclasses import replace

import pytest

from proxy.controlplane.explain import Visitor, explain
from proxy.routing.split import bucket, seed_of
from proxy.routing.table import Endpoint, Override, Service, Sticky, Version

SEED = seed_of("salt")
SERVICE = Service(
    "web",
    Version("1", (Endpoint("http://a", "a", 80),)),
    Version("2", (Endpoint("http://b", "b", 80),)),
    sticky=Sticky("cookie", "session"),
    override=Override("x-tidegate-version", ("10.0.0.0/8",)),
)
MINTED = "A" * 22


def ask(service=SERVICE, weight_bp=5000, cookies=None, headers=None, client_ip=None):
    return explain(service, Visitor(cookies or {}, headers or {}, client_ip), weight_bp=weight_bp, seed=SEED)


@pytest.mark.parametrize("weight_bp", [0, 1, 2500, 10_000])
def test_the_bucket_decides_as_it_does_in_a_worker(weight_bp):
    for key in map(str, range(50)):
        answer = ask(weight_bp=weight_bp, cookies={"session": key, "other": "x"})
        at = bucket(key.encode(), SEED)
        assert answer["bucket"] == at
        assert answer["version"] == ("new" if at < weight_bp else "stable")
        assert (answer["key"], answer["key_from"]) == (key, "cookie")
        assert answer["weight"] == weight_bp / 100


def test_a_minted_cookie_comes_first_if_it_is_well_formed():
    assert ask(cookies={"session": "s", "tidegate": MINTED})["key_from"] == "minted"
    assert ask(cookies={"session": "s", "tidegate": "forged"})["key_from"] == "cookie"


def test_a_minted_cookie_that_is_malformed_is_named():
    spoilt = "its cookie tidegate is not one that tidegate minted"
    assert spoilt in ask(cookies={"tidegate": "forged"})["reason"]
    assert spoilt in ask(cookies={"session": "s", "tidegate": MINTED[1:]})["reason"]
    assert spoilt not in ask(cookies={"tidegate": MINTED})["reason"]
    by_address = replace(SERVICE, sticky=Sticky("client_ip"))
    assert spoilt not in ask(by_address, cookies={"tidegate": "x"}, client_ip="192.0.2.1")["reason"]


def test_without_a_key_chance_decides_unless_the_weight_does():
    assert ask()["version"] is None
    assert "minted" in ask()["reason"]
    assert ask(weight_bp=0)["version"] == "stable"
    assert ask(weight_bp=10_000)["version"] == "new"
    drawn = replace(SERVICE, sticky=Sticky("none", mint=False))
    assert "drawn" in ask(drawn)["reason"]


def test_headers_and_addresses_are_keys_too():
    by_header = replace(SERVICE, sticky=Sticky("header", "X-User"))
    assert ask(by_header, headers={"x-user": "u"})["key"] == "u"
    by_address = replace(SERVICE, sticky=Sticky("client_ip"))
    assert ask(by_address, client_ip="192.0.2.1")["key"] == "192.0.2.1"


def test_testers_from_allowed_addresses_choose_for_themselves():
    headers = {"x-tidegate-version": "new"}
    assert ask(weight_bp=0, headers=headers, client_ip="10.1.2.3")["version"] == "new"
    assert ask(weight_bp=0, headers=headers, client_ip="192.0.2.1")["version"] == "stable"
    assert ask(weight_bp=0, headers=headers, client_ip="nonsense")["version"] == "stable"
    assert ask(weight_bp=0, headers={"x-tidegate-version": "newest"}, client_ip="10.1.2.3")["version"] == "stable"


def test_without_a_new_version_there_is_nothing_to_decide():
    answer = ask(replace(SERVICE, new=Version()), weight_bp=10_000, cookies={"session": "s"})
    assert (answer["version"], answer["bucket"]) == ("stable", None)
