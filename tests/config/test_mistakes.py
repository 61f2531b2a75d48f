"""Wrong configs and exactly what is said about them: place, key, message, cure."""

from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.compile import compile_file, compile_text
from proxy.errors import ConfigError

GOOD = "services: [{name: web, stable: {endpoints: [http://s]}}]"

TOO_MANY = "is the 17th different latency limit of this service: at most 16, so use a bound again that stands elsewhere"


def mistakes(text, **environ):
    try:
        compile_text(text, environ, name="f")
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def service(line, *more):
    """Return a config with one service and extra lines in it; the first of them is line 4."""
    head = ["services:", "  - name: web", "    stable: {endpoints: [http://s]}"]
    return "\n".join([*head, *(f"    {text}" for text in (line, *more))])


def told(name):
    """Return (wrong line, what is said about it) from a file: the sayings stand below the line, indented."""
    cases = []
    for line in (Path(__file__).parent / name).read_text().splitlines():
        if line.startswith("    "):
            cases[-1][1].append(f"f:{line.strip()}")
        elif line and not line.startswith("#"):
            cases.append((line, []))
    return cases


def test_the_smallest_config_is_right():
    assert mistakes(GOOD) == []


@pytest.mark.parametrize("line,expected", told("mistakes_service.txt"))
def test_a_mistake_in_a_service(line, expected):
    assert mistakes(service(line)) == expected


@pytest.mark.parametrize("line,expected", told("mistakes_top.txt"))
def test_a_mistake_beside_the_services(line, expected):
    assert mistakes(f"{line}\n{GOOD}") == expected


@pytest.mark.parametrize(
    "text,expected",
    [
        ("", "f:1:1: is empty: a config needs at least services"),
        ("# nothing\n", "f:1:1: is empty: a config needs at least services"),
        ("services", "f:1:1: must be a mapping with keys such as listen, workers, state, admin"),
        ("- a", "f:1:1: must be a mapping with keys such as listen, workers, state, admin"),
        ("listen: 0.0.0.0:80", "f:1:1: services: is missing: what clients reach"),
        ("services: []", "f:1:11: services: is empty: it needs at least 1"),
        ("services: [{name: w}]", "f:1:12: services[0].stable: is missing: the version that everything returns to"),
        (
            "services: {web: {}}",
            "f:1:11: services: must be a list: write [first, second], or one per line with - before it",
        ),
    ],
)
def test_a_config_that_is_hardly_one(text, expected):
    assert mistakes(text) == [expected]


def test_services_that_are_the_same_to_a_request():
    text = dedent("""\
        services:
          - {name: a, match: {host: Shop.example.com}, stable: {endpoints: [http://s]}}
          - {name: b, match: {host: shop.example.com, path: /}, stable: {endpoints: [http://s]}}
          - {name: c, stable: {endpoints: [http://s]}}
          - {name: c, stable: {endpoints: [http://s]}}
          - {name: d, match: {path: /x/}, stable: {endpoints: [http://s]}}
          - {name: e, match: {path: /x}, stable: {endpoints: [http://s]}}
        """)
    cure = "give one of them another host or path"
    assert mistakes(text) == [
        f'f:3:22: services[1].match: matches host shop.example.com and path / as service "a" does: {cure}',
        f'f:5:5: services[3]: matches every host and path / as service "c" does: {cure}',
        "f:5:12: services[3].name: is the name of another service already: remove one of them",
        f'f:7:22: services[5].match: matches every host and path /x as service "d" does: {cure}',
    ]


def test_at_most_16_different_latency_limits():
    limits = [f"  - {{metric: p99, max: {10 + n // 2}ms}}" for n in range(36)]
    assert mistakes(service("limits:", *limits)) == [
        f"f:37:28: services[0].limits[32].max: {TOO_MANY}",
        f"f:38:28: services[0].limits[33].max: {TOO_MANY}",
        f"f:39:28: services[0].limits[34].max: {TOO_MANY}",
        f"f:40:28: services[0].limits[35].max: {TOO_MANY}",
    ]


def test_ten_mistakes_are_ten_lines():
    text = dedent("""\
        lisen: 0.0.0.0:80
        workers: many
        admin: {listen: 0.0.0.0:9900}
        services:
          - name: Web
            stable: {endpoints: [http://s/path]}
            new: {label: 3.0, endpoints: [http://n]}
            split: {new: 10}
            limits: {error_rate: 1, p99: 40s}
            health: {path: health}
        """)
    assert [line.split(": ")[:2] for line in mistakes(text)] == [
        ["f:1:1", "lisen"],
        ["f:2:10", "workers"],
        ["f:3:17", "admin.listen"],
        ["f:5:11", "services[0].name"],
        ["f:6:26", "services[0].stable.endpoints[0]"],
        ["f:7:18", "services[0].new.label"],
        ["f:8:18", "services[0].split.new"],
        ["f:9:26", "services[0].limits.error_rate"],
        ["f:9:34", "services[0].limits.p99"],
        ["f:10:20", "services[0].health.path"],
    ]


def test_a_mistake_is_told_once():
    found = mistakes(service("split: {new: '${ABSENT}'}", "split: {new: 5}", "watchdog: !x 2s"))
    assert [line.split(": ")[:3] for line in found] == [
        ["f:4:18", "services[0].split.new", "the environment variable ABSENT is not set"],
        ["f:5:5", "services[0].split", "stands twice"],
        ["f:6:15", "services[0].watchdog", "has the YAML tag !x"],
    ]


@pytest.mark.parametrize(
    "line",
    [
        "admin: {tokens: [{name: a, role: read, token: hunter 2}]}",
        "admin: {tokens: [{name: a, role: '${S}', token: x}]}",
        "admin: {tokens: [{name: '${S}', role: read, token: x}]}",
        "admin: {tokens: [{name: a, role: read, token: 12345678}]}",
        "admin: {tokens: [{name: a, role: read, token: '${S}'}]}",
        "admin: {tokens: ['${S}']}",
        "admin: {listen: '${S}'}",
        "drain: {delay: '${N}'}",
        "drain: {delay: '${U}'}",
        "request_limits: {head: '${U}'}",
        "trusted_proxies: ['${S}']",
        "workers: ${S}",
        "workers: ${N}",
        "listen: ${N}",
        "half_close: ${S}",
        "state: ${N}",
    ],
)
def test_secrets_and_variables_are_never_shown(line):
    found = mistakes(f"{line}\n{GOOD}", S="hunter 2", N="12345678", U="12345678x")
    assert found
    assert "hunter" not in "".join(found)
    assert "12345678" not in "".join(found)


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    expected = {
        "none.yaml": "none.yaml:1:1: cannot be read: No such file or directory (give the path of a config file)",
        ".": ":1:1: cannot be read: Is a directory (give the path of a config file)",
        "latin.yaml": "latin.yaml:2:7: is not UTF-8 here: save the file as UTF-8",
    }
    for name, message in expected.items():
        with pytest.raises(ConfigError) as caught:
            compile_file(tmp_path / name, {})
        assert str(caught.value).endswith(message)
        assert caught.value.exit_code == 2


WHOLE = yaml.safe_load(
    """
    listen: [127.0.0.1:80]
    workers: 2
    state: a.db
    admin: {listen: 127.0.0.1:9900, tokens: [{name: a, role: operator, token: x}], hosts: [a]}
    services:
      - name: web
        match: {host: a, path: /}
        stable: {label: a, endpoints: [http://a]}
        new: {label: b, endpoints: [http://b]}
        split: {new: 1%, sticky: {by: header, name: x}, salt: a, override: {header: x, allow: [10.0.0.1]}}
        limits: [{metric: p99, max: 1s, window: 1s, for: 1s, after: 1s, min_requests: 1, version: new, action: alert}]
        judge: {block: 1s}
        timeouts: {connect: 1s, first_byte: 2s, total: none}
        failover: {to_stable: safe, when: [5xx], budget: 1%}
        watchdog: 3s
      - {name: b, match: {host: b}, stable: {endpoints: [http://a]}, limits: {error_rate: 1%, availability: 99%}}
    trusted_proxies: [10.0.0.1]
    request_limits: {head: 32KiB, body: none, headers: 5}
    access_log: {path: none, sample: 1%, redact: [a]}
    drain: {delay: 1s}
    """
)
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["1%", "1s", "1KiB", "none", "${X}", "http://a/b", "10.0.0.1"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["name", "max", "metric", "x"]), st.integers(), max_size=2),
)


def places(data, loc=()):
    yield loc
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*loc, key))


def replaced(data, loc, junk):
    if not loc:
        return junk
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[loc[0]] = replaced(data[loc[0]], loc[1:], junk)
    return copy


def test_the_whole_config_is_right():
    assert mistakes(yaml.safe_dump(WHOLE)) == []


@pytest.mark.slow
@settings(max_examples=200)
@given(st.sampled_from(sorted(places(WHOLE), key=str)), JUNK)
def test_anything_anywhere_is_accepted_or_refused_with_a_place(loc, junk):
    for line in mistakes(yaml.safe_dump(replaced(WHOLE, loc, junk), allow_unicode=True)):
        name, row, column, rest = line.split(":", 3)
        assert name == "f"
        assert int(row) >= 1
        assert int(column) >= 1
        assert rest.strip()
