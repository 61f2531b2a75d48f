"""Where a request wants to go: `uri-host [":" port]`.

Grammar: RFC 3986 §3.2 through RFC 9110 §4.2 and §7.2: names of any length, ports of any number of digits. Narrower in
one place: no user information (RFC 9110 §4.2.4 tells recipients to treat it as an error).
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv6Address

from proxy.http1.fields import ALPHA, DIGITS

_UNRESERVED = ALPHA + DIGITS + b"-._~"
_SUB_DELIMS = b"!$&'()*+,;="
_REG_NAME_BYTES = _UNRESERVED + _SUB_DELIMS + b"%"
_HEX = DIGITS + b"abcdefABCDEF"


def is_authority(value: bytes) -> bool:
    """Tell whether `value` is a non-empty host with an optional port, however large its number."""
    if value.startswith(b"["):
        literal, bracket, rest = value[1:].partition(b"]")
        if not bracket or not _is_ip_literal(literal):
            return False
        return rest == b"" or (rest.startswith(b":") and _is_port(rest[1:]))
    host, _, port = value.partition(b":")
    return _is_reg_name(host) and _is_port(port)


def _is_port(port: bytes) -> bool:
    # > RFC 3986 §3.2.3: port = *DIGIT. An empty one is allowed and means the default.
    return port == b"" or port.isdigit()


def _is_reg_name(host: bytes) -> bool:
    if not host or host.translate(None, _REG_NAME_BYTES):
        return False
    return b"%" not in host or all(_is_escape(part[:2]) for part in host.split(b"%")[1:])


def _is_escape(digits: bytes) -> bool:
    return len(digits) == 2 and not digits.translate(None, _HEX)


def _is_ip_literal(literal: bytes) -> bool:
    if literal[:1] in {b"v", b"V"}:
        # > RFC 3986 §3.2.2: IPvFuture = "v" 1*HEXDIG "." 1*( unreserved / sub-delims / ":" )
        version, _, address = literal[1:].partition(b".")
        return (
            version != b""
            and not version.translate(None, _HEX)
            and address != b""
            and not address.translate(None, _UNRESERVED + _SUB_DELIMS + b":")
        )
    if literal.translate(None, _HEX + b":."):  # also refuses zones, which are nobody's business beyond a link
        return False
    try:
        IPv6Address(literal.decode("ascii"))
    except AddressValueError:
        return False
    return True
