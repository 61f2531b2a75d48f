"""Addresses, endpoints, hosts and networks: their canonical form, and what is refused with which cure."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.addresses import (
    is_local,
    parse_endpoint,
    parse_listen,
    parse_match_host,
    parse_match_path,
    parse_network,
    parse_upstream_host,
)
from proxy.routing.table import Endpoint


@pytest.mark.parametrize(
    "text,canonical,local",
    [
        ("0.0.0.0:8080", "0.0.0.0:8080", False),
        ("127.0.0.1:0", "127.0.0.1:0", True),
        ("127.9.9.9:80", "127.9.9.9:80", True),
        ("localhost:9900", "127.0.0.1:9900", True),
        ("[::]:8080", "[::]:8080", False),
        ("[0:0:0:0:0:0:0:1]:9900", "[::1]:9900", True),
        ("unix:/run/tidegate.sock", "unix:/run/tidegate.sock", True),
        ("unix:admin.sock", "unix:admin.sock", True),
        ("unix:///run/tidegate.sock", "unix:/run/tidegate.sock", True),
    ],
)
def test_listen_addresses(text, canonical, local):
    assert parse_listen(text) == canonical
    assert is_local(canonical) is local


@pytest.mark.parametrize(
    "text,message",
    [
        ("0.0.0.0", "has no port: write it as 0.0.0.0:8080, [::]:8080 or unix:/path"),
        (":8080", "has no address: write 0.0.0.0:8080 for all of IPv4, [::]:8080 for all of IPv6"),
        ("*:80", "has no address: write 0.0.0.0:80 for all of IPv4, [::]:80 for all of IPv6"),
        ("::1:8080", "looks like IPv6: write it in brackets, such as [::1]:8080"),
        ("[::1", "has unbalanced brackets: write an IPv6 address as [::1]:8080"),
        ("[127.0.0.1]:80", "has an IPv4 address in brackets: write it without"),
        ("http://0.0.0.0:8080", "is a URL: write an address and a port, such as 0.0.0.0:8080"),
        ("0.0.0.0:65536", "has no valid port: a port is a number up to 65535"),
        ("0.0.0.0:http", "has no valid port: a port is a number up to 65535"),
        ("gate.example.com:80", "has no valid IP address: write it as 0.0.0.0:8080 or [::]:8080"),
        ("unix:", "has no path: write unix:/run/name.sock"),
        ("unix:@name", "is an abstract name: write the path of a socket, such as unix:/run/name.sock"),
        ("unix:/" + "x" * 107, "has a path longer than 107 bytes: the kernel takes no longer socket path"),
    ],
)
def test_wrong_listen_addresses(text, message):
    with pytest.raises(ValueError) as caught:
        parse_listen(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "url,endpoint",
    [
        ("http://127.0.0.1:9001", Endpoint("http://127.0.0.1:9001", "127.0.0.1", 9001)),
        ("HTTP://App.Internal", Endpoint("http://app.internal", "app.internal", 80)),
        ("http://my_service:8000/", Endpoint("http://my_service:8000", "my_service", 8000)),
        ("http://[0::1]:9001", Endpoint("http://[::1]:9001", "::1", 9001)),
        ("unix:/run/app.sock", Endpoint("unix:/run/app.sock", "localhost", 80, "/run/app.sock")),
    ],
)
def test_endpoints(url, endpoint):
    assert parse_endpoint(url) == endpoint
    assert parse_endpoint(endpoint.url) == endpoint


@pytest.mark.parametrize(
    "url,message",
    [
        ("127.0.0.1:9001", "is not an endpoint: write http://host:port, https://host:port or unix:/path"),
        ("ftp://a", "has an unknown scheme: write http://host:port, https://host:port or unix:/path"),
        ("http://a/x", "has a path: endpoints are http://host:port or https://host:port only"),
        ("http://a?x", "has a query: endpoints are http://host:port or https://host:port only"),
        ("http://a#x", "has a fragment: endpoints are http://host:port or https://host:port only"),
        ("http://me:pw@a", "has a user name or password: endpoints are http://host:port or https://host:port only"),
        ("http://a:0", "has port 0: write the port that the endpoint listens on"),
        ("http://a:99999", "has no valid port: a port is a number up to 65535"),
        ("http://a b", "has no valid host: write a name such as app.internal, an IPv4 address or [IPv6]"),
        ("http://", "has no valid host: write a name such as app.internal, an IPv4 address or [IPv6]"),
        ("http://1.2.3:80", "has no valid IP address: write it as 0.0.0.0:8080 or [::]:8080"),
        ("http://a\r\nx", "has no valid host: write a name such as app.internal, an IPv4 address or [IPv6]"),
    ],
)
def test_wrong_endpoints(url, message):
    with pytest.raises(ValueError) as caught:
        parse_endpoint(url)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "parse,text,canonical",
    [
        (parse_network, "10.0.0.1", "10.0.0.1/32"),
        (parse_network, "fd00::/8", "fd00::/8"),
        (parse_match_host, "Shop.Example.com.", "shop.example.com"),
        (parse_match_host, "*.Example.com", "*.example.com"),
        (parse_match_host, "[::1]", "[::1]"),
        (parse_match_path, "/api/", "/api"),
        (parse_match_path, "/", "/"),
        (parse_upstream_host, "preserve", "preserve"),
        (parse_upstream_host, "App.internal:81", "app.internal:81"),
        (parse_upstream_host, "[::1]:81", "[::1]:81"),
    ],
)
def test_canonical_forms(parse, text, canonical):
    assert parse(text) == canonical


@pytest.mark.parametrize(
    "parse,text,message",
    [
        (parse_network, "10.0.0.1/8", "has bits set to the right of its prefix: write 10.0.0.0/8"),
        (parse_network, "office", "is neither an IP address nor a network: write it as 10.0.0.1 or 10.0.0.0/8"),
        (parse_match_host, "*", "matches every host: leave the key out for that"),
        (parse_match_host, "a:80", "has a port: hosts are matched without it"),
        (parse_match_host, "a.*.com", "has a * that does not stand for the first part: write *.example.com"),
        (parse_match_host, "http://a", "is a URL: write the host alone, such as shop.example.com"),
        (parse_match_path, "api", "does not begin with a slash: write /api"),
        (parse_match_path, "/a//b", "has an empty or dot segment: requests are compared as they come"),
        (parse_match_path, "/a/../b", "has an empty or dot segment: requests are compared as they come"),
        (
            parse_match_path,
            "/api/*",
            "is not a path prefix: no spaces, ?, # or * (a prefix matches whole segments by itself)",
        ),
    ],
)
def test_wrong_hosts_paths_and_networks(parse, text, message):
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert str(caught.value) == message


@given(st.text())
def test_whatever_comes_is_an_address_or_refused(text):
    for parse in (parse_listen, parse_match_host, parse_match_path, parse_network, parse_upstream_host):
        with suppress(ValueError):
            assert parse(parse(text)) == parse(text)


@given(st.text(max_size=20).map(lambda text: f"http://{text}"))
def test_whatever_comes_is_an_endpoint_or_refused(url):
    with suppress(ValueError):
        endpoint = parse_endpoint(url)
        assert endpoint.url.isascii()
        assert endpoint.url.isprintable()
        assert parse_endpoint(endpoint.url) == endpoint
