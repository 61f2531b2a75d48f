"""Addresses: where we listen, endpoints, hosts, networks.

`parse_…` raises `WrongValue`, whose text never repeats a whole URL: a mistyped one may hold a password.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from proxy.config.wrong import WrongValue
from proxy.routing.table import Endpoint

UNIX_PATH_MAX = 107  # sun_path without its final NUL, in bytes (unix(7))
_PORT = re.compile(r"\d{1,5}", re.ASCII)
# Names as resolvers take them: underscores too, because service names of container networks have them.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_NOT_IN_ENDPOINTS = {"@": "a user name or password", "?": "a query", "#": "a fragment", "/": "a path"}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110 §5.6.2


def parse_listen(text: str) -> str:
    """Return the canonical `host:port`, `[v6]:port` or `unix:/path` to listen on; port 0 lets the kernel choose."""
    if text.startswith("unix:"):
        return f"unix:{_unix_path(text)}"
    if "://" in text:
        raise WrongValue("is a URL", "write an address and a port, such as 0.0.0.0:8080")
    host, port = _host_port(text)
    if port is None:
        raise WrongValue("has no port", "write it as 0.0.0.0:8080, [::]:8080 or unix:/path")
    if host == "localhost":
        host = "127.0.0.1"
    if host in {"", "*"}:
        raise WrongValue("has no address", f"write 0.0.0.0:{port} for all of IPv4, [::]:{port} for all of IPv6")
    return f"{_literal(host)}:{port}"


def is_local(address: str) -> bool:
    """Return whether only this machine can reach a canonical listen address (loopback or unix socket)."""
    if address.startswith("unix:"):
        return True
    return ip_address(address.rpartition(":")[0].strip("[]")).is_loopback


def parse_endpoint(url: str) -> Endpoint:
    """Return the endpoint of `http[s]://host[:port]` or `unix:/path`; raise `ValueError` with a clear sentence."""
    if url.startswith("unix:"):
        path = _unix_path(url)
        return Endpoint(url=f"unix:{path}", host="localhost", port=80, unix=path)
    scheme, separator, authority = url.partition("://")
    if not separator:
        raise WrongValue("is not an endpoint", "write http://host:port, https://host:port or unix:/path")
    scheme = scheme.lower()
    if scheme not in {"http", "https"}:
        raise WrongValue("has an unknown scheme", "write http://host:port, https://host:port or unix:/path")
    authority = authority.removesuffix("/")
    for character, what in _NOT_IN_ENDPOINTS.items():
        if character in authority:
            raise WrongValue(f"has {what}", "endpoints are http://host:port or https://host:port only")
    host, port = _host_port(authority)
    if port == 0:
        raise WrongValue("has port 0", "write the port that the endpoint listens on")
    host = _upstream_host(host)
    suffix = "" if port is None else f":{port}"
    tls = scheme == "https"
    if port is None:
        port = 443 if tls else 80
    return Endpoint(url=f"{scheme}://{host}{suffix}", host=host.strip("[]"), port=port, tls=tls)


def parse_url(text: str) -> str:
    """Return the `http://` or `https://` URL of a check or a hook; no user name, password or fragment in it."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise WrongValue("is not a URL", "write it like http://127.0.0.1:9005/metrics.json") from None
    if parts.scheme not in {"http", "https"} or not parts.netloc or not re.fullmatch(r"[!-~]+", text):
        raise WrongValue("is not a URL", "write it like http://127.0.0.1:9005/metrics.json")
    if "@" in parts.netloc or parts.fragment or port == 0:
        raise WrongValue("has a user name, a fragment or port 0", "write http://host:port/path alone")
    _upstream_host(f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname))
    return text


def parse_network(text: str) -> str:
    """Return the canonical network of an IP address or CIDR, such as `10.0.0.0/8`."""
    try:
        return str(ip_network(text))
    except ValueError:
        pass
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise WrongValue("is neither an IP address nor a network", "write it as 10.0.0.1 or 10.0.0.0/8") from None
    raise WrongValue("has bits set to the right of its prefix", f"write {network}")


def parse_match_host(text: str) -> str:
    """Return the lower-case exact host or `*.suffix` that requests are matched with."""
    host = text.lower().rstrip(".")
    if host == "*":
        raise WrongValue("matches every host", "leave the key out for that")
    if "://" in host or "/" in host:
        raise WrongValue("is a URL", "write the host alone, such as shop.example.com")
    if host.startswith("["):
        return _literal(host)
    if ":" in host:
        raise WrongValue("has a port", "hosts are matched without it")
    name = host.removeprefix("*.")
    if "*" in name:
        raise WrongValue("has a * that does not stand for the first part", "write *.example.com")
    if not _HOST.fullmatch(name) or len(host) > 253:
        raise WrongValue("is not a host name", "write it as shop.example.com or *.example.com")
    return host


def parse_match_path(text: str) -> str:
    """Return the path prefix that requests are matched with, without a final slash."""
    if not text.startswith("/"):
        raise WrongValue("does not begin with a slash", f"write /{text}")
    if re.search(r"[^!-~]|[?#*]", text):
        raise WrongValue("is not a path prefix", "no spaces, ?, # or * (a prefix matches whole segments by itself)")
    if "//" in text or re.search(r"/\.\.?(?:/|$)", text):
        raise WrongValue("has an empty or dot segment", "requests are compared as they come")
    return text.rstrip("/") or "/"


def parse_check_target(text: str) -> str:
    """Return the request target of a health check in origin form: a path, and perhaps a query."""
    if not text.startswith("/"):
        raise WrongValue("does not begin with a slash", f"write /{text}")
    if re.search(r"[^!-~]|#", text):
        raise WrongValue("is not a path", "no spaces or #; write other characters as %20 and the like")
    return text


def parse_upstream_host(text: str) -> str:
    """Return `preserve`, `endpoint` or the fixed host (with an optional port) that endpoints see."""
    if text in {"preserve", "endpoint"}:
        return text
    host, port = _host_port(text)
    host = _upstream_host(host)
    return host if port is None else f"{host}:{port}"


def parse_field_name(text: str) -> str:
    """Return a header's name in lower case."""
    if not _TOKEN.fullmatch(text):
        raise WrongValue("is not a header name", "letters, digits and - only")
    return text.lower()


def parse_cookie_name(text: str) -> str:
    """Return a cookie's name as it is: cookies are told apart by case."""
    if not _TOKEN.fullmatch(text):
        raise WrongValue("is not a cookie name", "letters, digits, - and _ only")
    return text


def _host_port(text: str) -> tuple[str, int | None]:
    """Return host (brackets kept) and port of `host[:port]`."""
    if text.startswith("["):
        host, closing, rest = text.partition("]")
        host += closing
        if not closing or (rest and not rest.startswith(":")):
            raise WrongValue("has unbalanced brackets", "write an IPv6 address as [::1]:8080")
        port = rest[1:] if rest else None
    elif text.count(":") > 1:
        raise WrongValue("looks like IPv6", "write it in brackets, such as [::1]:8080")
    else:
        host, separator, rest = text.partition(":")
        port = rest if separator else None
    if port is None:
        return host, None
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise WrongValue("has no valid port", "a port is a number up to 65535")
    return host, int(port)


def _upstream_host(text: str) -> str:
    """Return a host towards endpoints in its canonical form: a name in lower case, IPv4, or [IPv6]."""
    host = text.lower()
    if host.startswith("[") or re.fullmatch(r"[0-9.]+", host):
        return _literal(host)
    if not _HOST.fullmatch(host) or len(host) > 253:
        raise WrongValue("has no valid host", "write a name such as app.internal, an IPv4 address or [IPv6]")
    return host


def _literal(host: str) -> str:
    try:
        address: IPv4Address | IPv6Address = ip_address(host.strip("[]"))
    except ValueError:
        raise WrongValue("has no valid IP address", "write it as 0.0.0.0:8080 or [::]:8080") from None
    if isinstance(address, IPv6Address):
        return f"[{address}]"
    if host.startswith("["):
        raise WrongValue("has an IPv4 address in brackets", "write it without")
    return str(address)


def _unix_path(text: str) -> str:
    path = text.removeprefix("unix:")
    if path.startswith("//"):
        path = "/" + path.lstrip("/")
    if not path:
        raise WrongValue("has no path", "write unix:/run/name.sock")
    if path.startswith("@"):
        # Anybody on the machine could take such a name, and connect to it: there is no owner and no mode.
        raise WrongValue("is an abstract name", "write the path of a socket, such as unix:/run/name.sock")
    if not path.isprintable() or "?" in path or "#" in path:
        raise WrongValue("has a path that no socket should have", "plain characters only")
    if len(path.encode()) > UNIX_PATH_MAX:
        raise WrongValue(f"has a path longer than {UNIX_PATH_MAX} bytes", "the kernel takes no longer socket path")
    return path
