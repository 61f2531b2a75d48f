"""Answers that the proxy gives itself, and what it says between heads.

A local reply is `application/problem+json` (RFC 9457) with the reason word of the metrics and the request id, so
that what a person sees, the log and the counters can be matched.
"""

from __future__ import annotations

import json

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

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
