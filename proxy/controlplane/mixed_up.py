"""Plain HTTP to an admin API with TLS: it is answered with what is wrong, where others see an empty reply.

A context that is *told* gives handshakes which, when the first bytes are no TLS, let the transport carry an answer in
clear text before they fail. It is said once per connection, and whatever comes then ends it, as does the time for a
handshake.
"""

from __future__ import annotations

import json
import ssl
from typing import Any

NO_TLS = frozenset({"HTTP_REQUEST", "WRONG_VERSION_NUMBER"})  # what OpenSSL calls it
_WHAT = "the admin API speaks TLS, and this request did not"
_PROBLEM = json.dumps(
    {
        "type": "about:blank",
        "title": "TlsRequired",
        "status": 400,
        "detail": f"{_WHAT} (write https:// for http://)",
        "command_line": f"{_WHAT} (write https:// in --admin, and name who signed its certificate with --ca)",
    }
).encode()
ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nServer: tidegate\r\nContent-Type: application/problem+json\r\n"
    b"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_PROBLEM), _PROBLEM)
)


class Told(ssl.SSLContext):
    """A server's context whose handshakes answer plain HTTP."""

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **options: Any) -> Any:
        """Return what a transport takes for an SSLObject."""
        return _Handshake(super().wrap_bio(incoming, outgoing, *args, **options), outgoing)


class _Handshake:
    """An SSLObject that answers plain HTTP, once."""

    def __init__(self, wrapped: ssl.SSLObject, outgoing: ssl.MemoryBIO) -> None:
        self._wrapped = wrapped
        self._outgoing = outgoing
        self._answered = False

    def do_handshake(self) -> None:
        """Shake hands, or give the transport the answer; raise `SSLError`."""
        if self._answered:
            raise ssl.SSLError("this is no TLS")
        try:
            self._wrapped.do_handshake()
        except ssl.SSLError as error:
            if error.reason not in NO_TLS:
                raise
            self._answered = True
            self._outgoing.read()  # an alert, which nobody would understand
            self._outgoing.write(ANSWER)
            raise ssl.SSLWantReadError from None  # so that it is sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)
