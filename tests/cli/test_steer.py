import json

import pytest

from tests.cli.conftest import command, tidegate


def test_set_says_the_result_and_passes_everything_on(admin):
    args = ("--reason", "canary", "--ttl", "30m", "--if-match", "1", "--admin", admin.url)
    result = tidegate("weights", "set", "12.5%", *args)
    assert result.exit_code == 0
    assert result.output == "web: stable 87.5%, new 12.5%, revision 2\n"
    assert admin.operations.weight_bp["web"] == 1250
    assert admin.operations.ttl_s == 1800
    order = admin.operations.orders[0]
    assert (order.reason, order.if_match) == ("canary", 1)


def test_options_may_stand_before_set_too(admin):
    result = tidegate("weights", "--admin", admin.url, "-o", "json", "set", "1%")
    assert json.loads(result.output) == admin.call(admin.operations.weights, "web")


def test_json_is_the_apis_object(admin):
    result = tidegate("weights", "-o", "json", "--admin", admin.url)
    assert json.loads(result.output) == admin.operations.weights("web")
    result = tidegate("rollback", "-o", "json", "--admin", admin.url)
    assert json.loads(result.output) == admin.operations.service("web")


def test_dry_run_says_who_would_move(admin):
    result = tidegate("weights", "set", "25%", "--dry-run", "--admin", admin.url)
    assert result.output.splitlines() == [
        "web: would be stable 75%, new 25%, revision 1",
        "  of 10,000 buckets 2,500 move to new, 0 to stable",
    ]
    assert admin.operations.weight_bp["web"] == 0


@pytest.mark.parametrize("args", [("25",), ("0.25",), ("101%",), ("1.005%",), ("x",), ("1%", "--ttl", "30")])
def test_what_cannot_be_meant_is_a_usage_error_and_sent_nowhere(admin, args):
    result = tidegate("weights", "set", *args, "--admin", admin.url)
    assert result.exit_code == 2
    assert admin.operations.orders == []


def test_a_bare_number_is_refused_with_the_cure(admin):
    assert "write 25%" in tidegate("weights", "set", "25", "--admin", admin.url).output


def test_refusals_have_the_apis_sentence(admin):
    admin.operations.phase["web"] = "progressing"
    result = tidegate("weights", "set", "25%", "--admin", admin.url)
    assert result.exit_code == 1
    assert result.output == "tidegate: a rollout is progressing (take_over=true)\n"
    assert tidegate("weights", "set", "25%", "--take-over", "--admin", admin.url).exit_code == 0
    result = tidegate("weights", "set", "26%", "--if-match", "1", "--admin", admin.url)
    assert result.exit_code == 1
    result = tidegate("rollback", "--reason", "two\nlines", "--admin", admin.url)
    assert result.exit_code == 2
    assert "reason: must be one line" in result.output


PAUSED = {
    "plan": "default",
    "stage": "canary",
    "resume": {"phase": "progressing", "stage": "canary", "weight": 1},
    "promote": {"phase": "progressing", "stage": "half", "weight": 50},
}


def test_a_weight_that_pauses_a_rollout_says_so_and_how_it_goes_on(admin):
    admin.operations.paused = PAUSED
    result = tidegate("weights", "set", "25%", "--take-over", "--admin", admin.url)
    assert result.output.splitlines() == [
        "web: stable 75%, new 25%, revision 2",
        "  the rollout 'default' is paused in stage canary",
        "  tidegate rollout resume goes back to 1%, stage canary",
        "  tidegate rollout promote goes on to 50%, stage half",
    ]
    admin.operations.paused = PAUSED | {"promote": {"phase": "completed", "stage": "canary", "weight": 1}}
    result = tidegate("weights", "set", "26%", "--take-over", "--admin", admin.url)
    assert result.output.splitlines()[-1] == "  tidegate rollout promote completes it at 1%, stage canary"
    result = tidegate("weights", "set", "27%", "-o", "json", "--admin", admin.url)
    assert json.loads(result.output)["paused"]["stage"] == "canary"


def test_rollback_as_a_process(admin):
    admin.operations.weight_bp["web"] = 5000
    done = command("rollback", "--reason", "errors", env={"TIDEGATE_ADMIN": admin.url})
    assert (done.returncode, done.stdout) == (0, "web: all weight is on stable, revision 2\n")
    assert admin.operations.orders[0].reason == "errors"


def test_what_was_not_stored_is_said(admin):
    admin.operations.durable = False
    result = tidegate("rollback", "--admin", admin.url)
    assert result.exit_code == 0
    assert "not stored" in result.stderr


def test_a_warning_is_said(admin):
    admin.operations.warning = "no endpoint of stable is ready"
    for args in (("weights", "set", "0%"), ("rollback",)):
        result = tidegate(*args, "--admin", admin.url)
        assert result.exit_code == 0
        assert result.stderr == "tidegate: no endpoint of stable is ready\n"


def test_an_endless_ttl(admin):
    assert tidegate("weights", "set", "5%", "--ttl", "none", "--admin", admin.url).exit_code == 0
    assert admin.operations.ttl_s == float("inf")


def test_an_endpoint_is_drained_and_let_in_again(admin):
    result = tidegate("drain", "http://127.0.0.1:9002/", "--reason", "disk", "--admin", admin.url)
    assert (result.exit_code, result.output) == (0, "new http://127.0.0.1:9002: drain, 1 in flight\n")
    assert admin.operations.orders[-1].reason == "disk"
    result = tidegate("drain", "http://127.0.0.1:9002", "--maintenance", "-o", "json", "--admin", admin.url)
    assert json.loads(result.output) == admin.operations.endpoints("web")
    assert admin.operations.states == {("new", "http://127.0.0.1:9002"): "maintenance"}
    result = tidegate("undrain", "http://127.0.0.1:9002", "--admin", admin.url)
    assert result.output == "new http://127.0.0.1:9002: ready, 1 in flight\n"
    admin.operations.warning = "no endpoint of stable is ready"
    result = tidegate("drain", "http://127.0.0.1:9001", "--admin", admin.url)
    assert result.stderr == "tidegate: no endpoint of stable is ready\n"


def test_an_unknown_endpoint_is_a_usage_error_with_the_known_ones(admin):
    result = tidegate("drain", "http://127.0.0.1:1", "--admin", admin.url)
    assert result.exit_code == 2
    assert "http://127.0.0.1:9001, http://127.0.0.1:9002" in result.output
    assert admin.operations.orders == []


def test_a_weight_without_its_verb_is_told_the_verb():
    result = tidegate("weights", "25%")
    assert (result.exit_code, result.output) == (
        2,
        "tidegate: '25%' is no verb of weights (write `tidegate weights set 25%`)\n",
    )
