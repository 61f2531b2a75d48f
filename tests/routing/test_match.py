"""Which service a request is for, against the rule written down the slow way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.match import Matcher, host_name
from proxy.routing.table import Match

HOSTS = ["", "a.test", "b.a.test", "*.a.test", "*.test", "*.b.a.test"]
PATHS = ["/", "/x", "/x/", "/x/y", "/xy"]
MATCHES = st.lists(st.builds(Match, st.sampled_from(HOSTS), st.sampled_from(PATHS)), unique=True, max_size=12)
ASKED_HOSTS = st.sampled_from(["a.test", "A.TEST:80", "b.a.test", "c.b.a.test", "test", "x.test.", "other", ""])
ASKED_PATHS = st.sampled_from(["/", "/x", "/x/", "/xy", "/x/y", "/x/y/z", "/X", "/z"])


def slowly(entries, host, path):
    """Exact host before the longest suffix before none, then the longest path: each written as a number."""
    host = host.lower().partition(":")[0].rstrip(".")

    def narrowness(one):
        return 1000 if one and not one.startswith("*") else len(one)

    def fits(match):
        if match.host and match.host != host and not (match.host[0] == "*" and host.endswith(match.host[1:])):
            return False
        whole = match.path.rstrip("/")
        return not whole or path == whole or path.startswith(whole + "/")

    fitting = [(narrowness(match.host), len(match.path.rstrip("/")), value) for match, value in entries if fits(match)]
    return max(fitting, key=lambda one: one[:2])[:2] if fitting else None


@given(MATCHES, ASKED_HOSTS, ASKED_PATHS)
def test_find_obeys_the_rule(matches, host, path):
    entries = [(match, match) for match in matches]
    found = Matcher(entries).find(host.encode(), path.encode())
    wanted = slowly(entries, host, path)
    if wanted is None:
        assert found is None
    else:
        assert found is not None
        assert slowly([(found, found)], host, path) == wanted


@pytest.mark.parametrize(
    "authority, host",
    [
        (b"Shop.Example.com", b"shop.example.com"),
        (b"shop.example.com:8080", b"shop.example.com"),
        (b"shop.example.com.", b"shop.example.com"),
        (b"shop.example.com.:80", b"shop.example.com"),
        (b"[2001:DB8::1]:80", b"[2001:db8::1]"),
        (b"[::1]", b"[::1]"),
        (b"127.0.0.1:80", b"127.0.0.1"),
        (b"", b""),
    ],
)
def test_host_names(authority, host):
    assert host_name(authority) == host


def test_whole_segments_only():
    matcher = Matcher([(Match("", "/api"), "api"), (Match("", "/api/v1"), "v1")])
    assert [matcher.find(b"", path) for path in (b"/api", b"/api/", b"/apix", b"/api/v1/x", b"/api/v10", b"/")] == [
        "api",
        "api",
        None,
        "v1",
        "api",
        None,
    ]


def test_a_host_without_the_path_falls_through_to_wider_hosts():
    matcher = Matcher([(Match("a.test", "/x"), "narrow"), (Match("*.test", "/y"), "wide"), (Match(), "any")])
    assert [matcher.find(b"a.test", path) for path in (b"/x", b"/y", b"/z")] == ["narrow", "wide", "any"]


def test_hosts_in_the_config_have_no_case():
    matcher = Matcher([(Match("Shop.TEST"), 1), (Match("*.Shop.TEST"), 2)])
    assert [matcher.find(host, b"/") for host in (b"shop.test", b"a.shop.test", b"test")] == [1, 2, None]
