"""What a right config becomes: settings, routing table, plans, notes, and a copy without secrets."""

import json
import os
from pathlib import Path

import pytest

from proxy.config.compile import compile_file, compile_flags, compile_text
from proxy.errors import ConfigError
from proxy.rollout.plan import Limit
from proxy.routing.health import Health
from proxy.routing.outlier import Eject
from proxy.routing.table import (
    NEW,
    STABLE,
    AccessLog,
    Drain,
    Endpoint,
    Failover,
    Match,
    Override,
    RequestLimits,
    RoutingTable,
    Service,
    Sticky,
    Timeouts,
    Version,
    from_plain,
    to_plain,
)
from tests.certificates import issue

SMALL = "services: [{name: web, stable: {endpoints: [http://s]}}]"
WHOLE = """
listen: ["[::]:8080", unix:run/tidegate.sock]
workers: 3
state: var/tidegate.db
admin:
  listen: unix:admin.sock
  tokens:
    - {name: ops, role: operator, token: "${TOKEN}"}
    - {name: mon, role: read, token_file: mon.token}
    - {name: nobody, role: read, token: ""}
  public_metrics: true
  hosts: [Gate.example.com]
services:
  - name: web
    match: {host: Shop.example.com, path: /api/}
    stable: {label: "1", endpoints: [http://s:9001, unix:run/s.sock]}
    new: {label: "2", endpoints: [http://n:9002]}
    split:
      new: 12.5%
      sticky: {by: header, name: X-User, mint: false}
      salt: fixed
      override: {header: X-Version, allow: [127.0.0.1]}
    limits:
      - {metric: error_rate, max: 0.5%}
      - {metric: p99, max: 290ms, window: 30s, for: 5s, after: 1m, min_requests: 50}
      - {metric: p50, max: 35ms, action: alert, dry_run: true}
      - {metric: p95, max: 290ms, version: stable, action: pause}
      - {metric: availability, min: 99%}
    judge: {block: 500ms}
    health: {path: "/well?deep=1", interval: 3s, timeout: 500ms, rise: 4, fall: 5}
    eject: {bad: 30%, window: 20s, min_requests: 50, base: 1m, max: 10m}
    slow_start: 20s
    on_rollback: {tunnels: 8s}
    timeouts: {connect: 2s, first_byte: 3s, idle: 4s, total: 5s, tunnel_idle: 6s, pool_idle: 7s}
    failover: {to_stable: never, when: [5xx], budget: 5%}
    fallback_to_new: true
    watchdog: 3s
    host: App.internal
    expose_version: false
trusted_proxies: [10.0.0.0/8]
request_limits: {head: 8KiB, target: 4KiB, headers: 10, body: 1MiB, header_timeout: 1s, body_idle_timeout: 2s,
                 keepalive_timeout: 3s, connections: 5}
access_log: {path: logs/access.json, sample: 10%, min_status: 500, redact: [Cookie]}
drain: {delay: 0s, timeout: 1m}
half_close: allow
via: false
"""


@pytest.fixture
def whole(tmp_path):
    (tmp_path / "mon.token").write_text("from-a-file\n")
    (tmp_path / "logs").mkdir()
    (tmp_path / "tidegate.yaml").write_text(WHOLE)
    return compile_file(tmp_path / "tidegate.yaml", {"TOKEN": "from-the-environment"})


def test_settings(whole, tmp_path):
    settings = whole.settings
    assert settings.listen == ("[::]:8080", f"unix:{tmp_path}/run/tidegate.sock")
    assert settings.workers == 3
    assert settings.state == tmp_path / "var/tidegate.db"
    assert settings.admin.listen == f"unix:{tmp_path}/admin.sock"
    assert settings.admin.public_metrics
    assert settings.admin.hosts == ("gate.example.com",)
    ops, mon = settings.admin.tokens
    assert (ops.name, ops.role, ops.token, ops.token_file) == ("ops", "operator", "from-the-environment", None)
    assert (mon.name, mon.role, mon.token, mon.token_file) == ("mon", "read", "from-a-file", tmp_path / "mon.token")
    assert whole.source == tmp_path / "tidegate.yaml"


def test_routing_table(whole, tmp_path):
    stable = (
        Endpoint("http://s:9001", "s", 9001),
        Endpoint(f"unix:{tmp_path}/run/s.sock", "localhost", 80, f"{tmp_path}/run/s.sock"),
    )
    assert whole.table == RoutingTable(
        services=(
            Service(
                name="web",
                stable=Version("1", stable),
                new=Version("2", (Endpoint("http://n:9002", "n", 9002),)),
                match=Match("shop.example.com", "/api"),
                sticky=Sticky("header", "x-user", mint=False),
                override=Override("x-version", ("127.0.0.1/32",)),
                close_tunnels_s=8,
                timeouts=Timeouts(2, 3, 4, 5, 6, 7),
                failover=Failover("never", ("5xx",), 0.05),
                thresholds_us=(35_000, 290_000),
                fallback_to_new=True,
                watchdog_s=3,
                host="app.internal",
                expose_version=False,
            ),
        ),
        trusted_proxies=("10.0.0.0/8",),
        request_limits=RequestLimits(8192, 4096, 10, 1024**2, 1, 2, 3, 5),
        access_log=AccessLog(f"{tmp_path}/logs/access.json", "json", 0.1, 500, ("cookie",)),
        drain=Drain(0, 60),
        via=False,
        half_close="allow",
    )


def test_plans(whole):
    (plan,) = whole.plans
    assert (plan.name, plan.block_s, plan.initial_weight, plan.salt, plan.watchdog_s) == ("web", 0.5, 1250, "fixed", 3)
    assert plan.limits == (
        Limit("error_rate", max=0.005),
        Limit("p99", max=290, window_s=30, for_s=5, after_s=60, min_requests=50),
        Limit("p50", max=35, action="alert", dry_run=True),
        Limit("p95", max=290, version=STABLE, action="pause"),
        Limit("availability", min=0.99),
    )
    assert {limit.threshold_us for limit in plan.limits} - {None} == {35_000, 290_000}
    assert plan.health == Health("/well?deep=1", interval_s=3, timeout_s=0.5, rise=4, fall=5)
    assert plan.eject == Eject(bad=0.3, window_s=20, min_requests=50, base_s=60, max_s=600)
    assert plan.slow_start_s == 20


def test_by_default_there_are_no_checks_and_ejection(tmp_path):
    (plan,) = compile_text(SMALL, {}).plans
    assert (plan.health, plan.eject, plan.slow_start_s) == (None, Eject(), 10)
    none = compile_text(SMALL.replace("web,", "web, eject: none,"), {})
    assert none.plans[0].eject is None
    # What is shown means the same.
    assert none.redacted["services"][0]["eject"] == "none"


def test_notes_say_how_every_limit_is_judged(whole, tmp_path):
    assert whole.notes == (
        f"state: {tmp_path / 'var'} does not exist: run creates it",
        "web: error_rate max 0.5% is judged by evidence, with at least 20 requests",
        "web: p99 max 290ms is judged over window 30s with at least 50 requests, in breach for 5s, after 1m",
        "web: p50 max 35ms is judged by evidence, with at least 20 requests, reported only (dry_run)",
        "web: p95 of stable max 290ms is judged by evidence, with at least 20 requests, then pause",
        "web: availability min 99% is judged by evidence, with at least 20 requests",
    )


def state(tmp_path, path):
    return compile_text(f"state: {path}\nservices: [{{name: w, stable: {{endpoints: [http://s]}}}}]", {}, base=tmp_path)


def test_what_is_said_of_the_directory_of_the_state(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert not [note for note in state(tmp_path, "tidegate.db").notes if "state" in note]
    assert state(tmp_path, "a/b/tidegate.db").notes[0] == f"state: {tmp_path / 'a/b'} does not exist: run creates it"
    for path, cure in (
        ("file/tidegate.db", f"cannot be created: {tmp_path / 'file'} is no directory: give another path"),
        (".", "is a directory: give the path of a file, such as tidegate.db"),
    ):
        with pytest.raises(ConfigError) as wrong:
            state(tmp_path, path)
        assert [(problem.key, problem.message) for problem in wrong.value.problems] == [("state", cure)]
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, who may do all
    assert state(tmp_path, "a/tidegate.db").notes[0] == (
        f"warning: state: {tmp_path / 'a'} does not exist, and this user may not create it in {tmp_path}: "
        "create it for the user that runs, or give another path"
    )


def test_a_log_that_cannot_be_opened_is_told_before_anything_starts(tmp_path, monkeypatch):
    def said(path):
        try:
            compile_text(f"access_log: {{path: {path}}}\n{SMALL}", {}, name="f", base=tmp_path)
        except ConfigError as error:
            return [str(problem) for problem in error.problems]
        return []

    (tmp_path / "old.log").touch()
    assert [said(path) for path in ("new.log", "old.log", "none", '"-"', f"{tmp_path}/new.log")] == [[]] * 5
    assert not (tmp_path / "new.log").exists()
    head, cure = "f:1:20: access_log.path:", "give it to the user that runs (owner, mode), or another path"
    no_directory = f"cannot be opened, there is no directory {tmp_path}/logs: create it, or give another path"
    assert said("logs/a.log") == [f"{head} {no_directory}"]
    assert said("a" * 300) == [f"{head} cannot be opened (file name too long): give another path"]
    assert said(".") == [f"{head} is a directory: give the path of a file, such as access.log"]
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, who may do all
    assert said("old.log") == [f"{head} cannot be written by this user: {cure}"]
    assert said("new.log") == [f"{head} cannot be created, this user may not write in {tmp_path}: {cure}"]


def test_notes_say_what_may_surprise():
    text = """
    services:
      - {name: a, stable: {endpoints: [http://s]}, split: {new: 5%}}
      - name: b
        match: {path: /b}
        stable: {endpoints: [http://s]}
        new: {endpoints: [http://n]}
        limits: [{metric: p99, max: 1s, window: 5s, dry_run: true}]
    """
    compiled = compile_text(text, {})
    assert compiled.notes == (
        "state: none: weights, versions and events are in memory and end with the process",
        "admin: no operator token: whoever reaches 127.0.0.1:9900 on this machine may change weights",
        "a: split.new waits for a new version: the weight is 0% until there is one",
        "b: p99 max 1s is judged over window 5s with at least 20 requests, reported only (dry_run)",
        "b: no limit rolls back: new stays until a person takes it out",
    )
    assert compiled.plans[0].initial_weight == 0
    assert compiled.table.services[0].new == Version()


def test_defaults_are_those_of_the_routing_table():
    compiled = compile_text(SMALL, {})
    assert compiled.table == RoutingTable(
        services=(Service("web", Version(endpoints=(Endpoint("http://s", "s", 80),))),),
    )
    assert compiled.settings.listen == ("0.0.0.0:8080",)
    assert compiled.settings.admin.listen == "127.0.0.1:9900"
    assert compiled.settings.state is None
    assert 1 <= compiled.settings.workers <= os.cpu_count()
    assert compiled.source is None


def test_the_table_crosses_the_process_border_as_json(whole):
    assert from_plain(json.loads(json.dumps(to_plain(whole.table)))) == whole.table


def test_no_secret_is_left_in_what_is_shown(whole):
    shown = json.dumps(whole.redacted) + repr(whole)
    assert "from-the-environment" not in shown
    assert "from-a-file" not in shown
    tokens = whole.redacted["admin"]["tokens"]
    assert tokens[0] == {"name": "ops", "role": "operator", "token": "***"}
    assert tokens[1] == {"name": "mon", "role": "read", "token_file": "mon.token"}


def test_what_is_shown_is_a_config_that_means_the_same(whole, tmp_path):
    """The redacted copy is JSON, which is YAML, in the notation of the file."""
    again = compile_text(json.dumps(whole.redacted), {}, base=tmp_path)
    assert again.table == whole.table
    assert again.plans == whole.plans
    assert again.redacted == whole.redacted


@pytest.mark.parametrize(
    "content,message",
    [
        (None, "cannot be read (No such file or directory): relative paths are taken from "),
        (b" \n", "is empty: write the token into it"),
        (b"two words", "holds more than one word: a token file holds the token alone"),
        (b"caf\xc3\xa9", "holds a character that no HTTP header can carry"),
    ],
)
def test_a_token_file_that_is_of_no_use(tmp_path, content, message):
    if content is not None:
        (tmp_path / "t").write_bytes(content)
    text = f"admin: {{tokens: [{{name: a, role: read, token_file: t}}]}}\n{SMALL}"
    with pytest.raises(ConfigError) as caught:
        compile_text(text, {}, name="f", base=tmp_path)
    assert str(caught.value).startswith(f"f:1:52: admin.tokens[0].token_file: {message}")


def test_a_token_file_counts_as_an_operator_token(tmp_path):
    (tmp_path / "t").write_text("secret")
    text = f"admin: {{listen: 0.0.0.0:9900, tokens: [{{name: a, role: operator, token_file: t}}]}}\n{SMALL}"
    assert compile_text(text, {}, base=tmp_path).settings.admin.tokens[0].token == "secret"


@pytest.mark.parametrize(
    "listen, token, keys",
    [
        ("0.0.0.0:9900", "hunter2", ["admin.listen", "admin.tokens[0].token"]),
        ("0.0.0.0:9900", "0123456789abcdef", ["admin.listen"]),
        ("127.0.0.1:9900", "hunter2", []),
        ("unix:/run/t.sock", "hunter2", []),
    ],
)
def test_tokens_that_may_be_overheard_or_guessed_are_warned_of(listen, token, keys):
    text = f"admin: {{listen: '{listen}', tokens: [{{name: a, role: operator, token: {token}}}]}}\n{SMALL}"
    notes = compile_text(text, {}, name="f").notes
    warned = [note for note in notes if note.startswith("warning: f:1:")]
    assert [note.split(": ")[2] for note in warned] == keys
    assert token not in str(notes)


@pytest.mark.parametrize(
    "stable, new, said",
    [
        ("http://s:80", "http://s", ["services[0].new.endpoints[0]: is an endpoint of stable, too"]),
        ("http://localhost:8080", "http://n", ["services[0].stable.endpoints[0]: is the address 0.0.0.0:8080 of this"]),
        ("http://[::1]:8080", "http://[::1]:81", ["services[0].new.endpoints[0]: is the address [::1]:81 of this"]),
        ("http://127.0.0.1:9900", "http://n", ["services[0].stable.endpoints[0]: is the admin API of this proxy"]),
        ("unix:/run/own.sock", "http://n", ["services[0].stable.endpoints[0]: is the address unix:/run/own.sock of"]),
        ("http://127.0.0.1:8081", "http://own:8080", []),
    ],
)
def test_endpoints_that_are_hardly_meant_are_warned_of(stable, new, said):
    listen = "listen: [0.0.0.0:8080, '[::1]:81', unix:/run/own.sock]"
    text = f"{listen}\nservices: [{{name: web, stable: {{endpoints: ['{stable}']}}, new: {{endpoints: ['{new}']}}}}]"
    warned = [note for note in compile_text(text, {}, name="f").notes if note.startswith("warning: f:2:")]
    assert len(warned) == len(said)
    assert all(f": {part}" in note for part, note in zip(said, warned, strict=True))


def test_two_tokens_with_one_secret_are_one(tmp_path):
    (tmp_path / "t").write_text("0123456789abcdef\n")
    tokens = "{name: a, role: operator, token: 0123456789abcdef}, {name: b, role: %s, token_file: t}"
    text = f"admin: {{tokens: [{tokens}]}}\n{SMALL}"
    with pytest.raises(ConfigError) as refused:
        compile_text(text % "read", {}, name="f", base=tmp_path)
    assert "admin.tokens[1].token_file: is the secret of admin.tokens[0], whose role" in str(refused.value)
    (warned,) = [note for note in compile_text(text % "operator", {}, name="f", base=tmp_path).notes if "f:1" in note]
    assert "admin.tokens[1].token_file: is the secret of admin.tokens[0], whose name" in warned
    assert "0123" not in str(refused.value) + warned


def test_warnings_of_flags_name_the_flags():
    compiled, _ = compile_flags(
        stable=["http://a"], admin_listen="0.0.0.0:9900", environ={"TIDEGATE_ADMIN_TOKEN": "hunter2"}
    )
    warned = [note.split(": ")[1] for note in compiled.notes if note.startswith("warning: ")]
    assert warned == ["--admin-listen", "TIDEGATE_ADMIN_TOKEN"]


def test_a_token_of_a_file_may_be_too_short_and_tls_lets_nobody_overhear(authority, tmp_path):
    issue(authority, tmp_path, "a.test")
    (tmp_path / "t").write_text("secret")
    tokens = "tokens: [{name: a, role: operator, token_file: t}]"
    text = f"admin: {{listen: 0.0.0.0:9900, tls: {{cert: cert.pem, key: key.pem}}, {tokens}}}\n{SMALL}"
    (warned,) = [note for note in compile_text(text, {}, name="f", base=tmp_path).notes if "warning: f:1" in note]
    assert "admin.tokens[0].token_file: is so short that other machines may guess it" in warned


def test_relative_socket_paths_must_be_short_where_the_file_stands(tmp_path):
    base = tmp_path / ("x" * 100)
    text = "listen: unix:a.sock\nservices: [{name: web, stable: {endpoints: [unix:b.sock, unix:/c.sock]}}]"
    with pytest.raises(ConfigError) as caught:
        compile_text(text, {}, name="f", base=base)
    assert str(caught.value).splitlines() == [
        f"f:1:9: listen: is longer than 107 bytes below {base}: give a short absolute path",
        f"f:2:45: services[0].stable.endpoints[0]: is longer than 107 bytes below {base}: give a short absolute path",
    ]


def test_flags_compile_as_the_yaml_that_is_shown():
    compiled, text = compile_flags(
        stable=["http://127.0.0.1:9001", "http://127.0.0.1:9003"],
        new=["http://127.0.0.1:9002"],
        weight="25%",
        sticky="header:x-user",
        p99="300ms",
        error_rate="2%",
        listen="127.0.0.1:0",
        admin_listen="127.0.0.1:0",
        state=Path("/tmp/state.db"),
        environ={"TIDEGATE_ADMIN_TOKEN": "s3cret"},
    )
    assert compile_text(text, {"TIDEGATE_ADMIN_TOKEN": "s3cret"}) == compiled
    assert "s3cret" not in text
    (service,), (plan,) = compiled.table.services, compiled.plans
    assert [endpoint.port for endpoint in service.stable.endpoints] == [9001, 9003]
    assert service.sticky == Sticky("header", "x-user")
    assert plan.initial_weight == 2500
    assert plan.limits == (Limit("error_rate", max=0.02), Limit("p99", max=300.0))
    assert compiled.settings.state == Path("/tmp/state.db")
    assert compiled.settings.admin.tokens[0].token == "s3cret"


def test_flags_have_good_defaults():
    compiled, _ = compile_flags(stable=["http://s"], environ={})
    assert compiled.settings.listen == ("0.0.0.0:8080",)
    assert compiled.settings.state is None
    assert compiled.settings.admin.tokens == ()
    assert compiled.table.services[0].sticky == Sticky("cookie", "session")
    assert compiled.plans[0].initial_weight == 0
    assert {limit.metric: limit.max for limit in compiled.plans[0].limits} == {"error_rate": 0.01, "p99": 200.0}
    assert all(limit.version == NEW for limit in compiled.plans[0].limits)


@pytest.mark.parametrize(
    "sticky,expected", [("cookie", Sticky()), ("client_ip", Sticky("client_ip")), ("none", Sticky("none"))]
)
def test_sticky_flags_without_a_name(sticky, expected):
    assert compile_flags(stable=["http://s"], sticky=sticky, environ={})[0].table.services[0].sticky == expected


def test_mistakes_in_flags_name_the_flag():
    with pytest.raises(ConfigError) as caught:
        compile_flags(
            stable=["ftp://s"],
            new=["n"],
            weight="10",
            sticky="cokie",
            p99="200",
            error_rate="1",
            listen="8080",
            admin_listen="0.0.0.0:9900",
            environ={},
        )
    flags = sorted((problem.key, problem.file) for problem in caught.value.problems)
    said = {problem.key: problem.message for problem in caught.value.problems}
    assert said["--p99"] == '"200" needs a unit (ms, s, m, h or d): write 200ms'
    assert said["--error-rate"] == '"1" needs a unit (%): write 1%'
    assert flags == [
        (flag, "")
        for flag in (
            "--admin-listen",
            "--error-rate",
            "--listen",
            "--new",
            "--p99",
            "--stable",
            "--sticky",
            "--weight",
        )
    ]


def test_flags_take_every_text_as_it_is():
    with pytest.raises(ConfigError) as caught:
        compile_flags(stable=['http://"${HOME}"'], environ={"HOME": "leak"})
    (problem,) = caught.value.problems
    assert problem.key == "--stable"
    assert "leak" not in problem.message


def test_no_stable_is_a_mistake():
    with pytest.raises(ConfigError) as caught:
        compile_flags(stable=[], environ={})
    assert str(caught.value) == "--stable: is empty: it needs at least 1"
