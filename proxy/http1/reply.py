"""Answers that the proxy gives itself.

A local reply is `application/problem+json` (RFC 9457) with the reason word of the metrics and the request id, so
that what a person sees, the log and the counters can be matched.
"""

from __future__ import annotations

import json

TITLES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}

# (status, reason) of every local reply → when it is given, for the documentation.
MEANINGS = {
    (200, "max_forwards"): "OPTIONS with `Max-Forwards: 0` ends here.",
    (400, "malformed"): "The request cannot be read, or in two ways; HTTP came to a port that takes TLS.",
    (404, "no_service"): "No service has this host and path.",
    (405, "max_forwards"): "TRACE with `Max-Forwards: 0` ends here, and is not answered.",
    (408, "head_timeout"): "The head was not whole within `request_limits.header_timeout`.",
    (408, "body_timeout"): "The client sent nothing of its body for `request_limits.body_idle_timeout`.",
    (413, "body_too_large"): "The body is larger than `request_limits.body`.",
    (414, "target_too_long"): "The target is longer than `request_limits.target`.",
    (417, "expectation"): "An expectation other than `100-continue`.",
    (
        431,
        "head_too_large",
    ): "The head is larger than `request_limits.head`, or has more than `request_limits.headers` fields.",
    (500, "internal"): "A fault of the proxy itself: please report it.",
    (501, "coding"): "A transfer coding other than `chunked`.",
    (501, "connect"): "CONNECT: this is no forward proxy.",
    (502, "connect"): "No connection to the endpoint: refused, unreachable, or TLS with it failed.",
    (502, "protocol"): "The endpoint answered what is no HTTP, or in two ways.",
    (502, "reset"): "The endpoint closed the connection before it answered.",
    (503, "no_endpoint"): "No endpoint of the version is ready.",
    (
        503,
        "overload",
    ): "More than `in_flight` or `request_limits.connections` allow, or the proxy has no ports or files left.",
    (504, "timeout"): "The endpoint took longer than one of `timeouts`.",
    (505, "http_version"): "A major version other than HTTP/1.",
}


def local_reply(
    status: int,
    reason: str,
    detail: str,
    request_id: bytes,
    *,
    date: bytes,
    head_only: bool,
    close: bool,
    fields: bytes = b"",
) -> bytes:
    """Return a whole response with a problem+json body.

    `reason` is a word of `LOCAL_REPLIES`. `request_id` may be empty when there was no request to name. `date` is an
    IMF-fixdate (RFC 9110 §6.6.1 wants one from whoever has a clock). `head_only`: the answer to HEAD, with the length
    that GET would have got. `close` adds `Connection: close`. `fields` are more field lines, each ended by CRLF.
    """
    title = TITLES[status]
    problem = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "reason": reason,
        "request_id": request_id.decode("ascii"),
    }
    body = json.dumps(problem).encode("ascii") + b"\n"
    head = [
        b"HTTP/1.1 %d %b" % (status, title.encode("ascii")),
        b"Date: " + date,
        b"Content-Type: application/problem+json",
        b"Content-Length: %d" % len(body),
        b"Cache-Control: no-store",
    ]
    if status in {200, 405}:
        head.append(b"Allow: OPTIONS")  # RFC 9110 §9.3.7, §15.5.6: what can be asked of the proxy itself
    if request_id:
        head.append(b"X-Request-Id: " + request_id)
    if close:
        head.append(b"Connection: close")
    return b"\r\n".join(head) + b"\r\n" + fields + b"\r\n" + (b"" if head_only else body)
