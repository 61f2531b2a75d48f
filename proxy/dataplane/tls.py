"""TLS between a TCP connection and what serves it.

A `TlsLayer` is the protocol of a plain transport, and the transport of a `Downstream` or an `Upstream`, which know
nothing of it. uvloop has such a layer of its own; this one is here because a proxy needs what that cannot do:

* An end is told apart: `close_notify` is the peer's own end, and only the one direction's (RFC 8446 §6.1), so that
  `half_close: allow`, tunnels and the lingering close work as without TLS. A TCP end without it is a break: whoever
  is on the way can make one, and an answer that lasts until close must not pass for whole (RFC 9112 §9.8).
* A client's connection is known from its first byte: it counts, and the time for the first head is running during
  its handshake.
* What waits is bounded by one read and one write, as without TLS: while the application reads nothing, nothing is
  read from the socket, and a write that the kernel does not take whole pauses the application at once.
* Who speaks HTTP to a TLS port is told so.
* Messages of TLS itself are bounded. A KeyUpdate has 27 bytes, costs 20 µs and may ask for an answer; new session
  tickets, empty records and requests to negotiate anew are alike, and OpenSSL takes as many as come. So it is given
  one record after the other, and one without data is *unpaid*: whoever sends 64 small ones is cut off. Every record
  with data pays for a 64th of one, except while we cannot send: answers that nobody reads must not pile up. A
  handshake has 64 records, too.
* Records of one byte cost nearly as much as those of 16 KiB. A read that brings very many is taken a bit at a time,
  between the events of all others (`Turns`), and nothing more is read until it is done.

Cost per read and write, beside OpenSSL's own: 1 to 2 µs. Plain connections do not come here.

Sources: RFC 8446 §4.6 (messages after the handshake), §5.1 (the form of a record). Go's crypto/tls gives up after 16
records without data in a row, BoringSSL after 32 KeyUpdates; in a row, for one byte of data then pays for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable
from errno import ECONNRESET
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from proxy.dataplane.turns import Turns

_RECORD = 16 * 1024  # the longest plaintext of a record (RFC 8446 §5.1)
_RECORD_HEAD = 5
_RECORD_MOST = _RECORD + 2048  # what may follow its head (RFC 5246 §6.2.3); longer ones are for OpenSSL to refuse
_UNPAID_LEAST = 512  # bytes that a record without data counts for, however short
_UNPAID_MOST = 64 * _UNPAID_LEAST
_PAYS = _UNPAID_LEAST // 64
_AT_ONCE = 256  # records: about a millisecond
_HANDSHAKE = 22  # the first byte of every handshake; no HTTP method begins with it
_SHAKING, _OPEN, _CLOSING, _ENDED = range(4)


class TlsLayer(asyncio.Transport, asyncio.Protocol):
    """One connection. `opened`: what waits for a client's handshake to be over, or for why it failed."""

    __slots__ = (
        "_app",
        "_app_paused",
        "_behind",
        "_early",
        "_eof_wanted",
        "_error",
        "_fin_sent",
        "_heard",
        "_incoming",
        "_known",
        "_missing",
        "_object",
        "_outgoing",
        "_peer_ended",
        "_phase",
        "_plain",
        "_record",
        "_refused",
        "_rest",
        "_said_goodbye",
        "_turns",
        "_unpaid",
        "_writing_paused",
        "opened",
        "raw",
    )

    raw: asyncio.Transport

    def __init__(
        self,
        app: Any,
        context: ssl.SSLContext,
        turns: Turns,
        *,
        plain: Callable[[asyncio.Transport, bytes], None] | None = None,
        refused: Callable[[str], None] | None = None,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
        opened: asyncio.Future[None] | None = None,
    ) -> None:
        """`plain` makes it a server's side: it gets the transport of a client that speaks plain HTTP, and its words.

        `refused` hears why a client's connection was ended here, as one of `layout.REFUSED_CONNECTIONS`.

        Else it is a client's: `server_name` is asked for and, if the context verifies, verified; a `session` of the
        same context makes the handshake short.
        """
        self._app = app
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        server = plain is not None
        self._object: Any = context.wrap_bio(self._incoming, self._outgoing, server, server_name, session)
        self._plain = plain
        self._refused = refused
        self.opened = opened
        self._phase = _SHAKING
        self._known = False  # whether the application has its transport
        self._heard = False
        self._rest = b""  # a part of a record's head; all that is not taken yet while `_behind`
        self._behind = False  # nothing is read until `_turns` let us take the rest
        self._app_paused = False
        self._turns = turns
        self._record = 0  # bytes of the record that is coming in
        self._missing = 0  # of these, those that are not here yet
        self._unpaid = 0
        self._early: list[bytes] = []  # written before the handshake was over
        self._eof_wanted = False
        self._peer_ended = False
        self._said_goodbye = False
        self._fin_sent = False
        self._writing_paused = False
        self._error: Exception | None = None

    # ---------------------------------------------------------------- asyncio.Protocol: from the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake. A server's application knows the connection from here on."""
        self.raw = cast("asyncio.Transport", transport)
        self.raw.set_write_buffer_limits(high=0)
        if self._plain is not None:
            self._known = True
            self._app.connection_made(self)
        else:
            self._shake()

    def data_received(self, data: bytes) -> None:
        """Take bytes of the handshake, or of records."""
        if self._peer_ended or self._phase >= _CLOSING:
            return
        if not self._heard:
            self._heard = True
            words = data.lstrip(b"\r\n")  # empty lines before a request are nothing (RFC 9112 §2.2)
            if self._plain is not None and data[0] != _HANDSHAKE and not self._early and words[:1].isalpha():
                self._let_go(self._plain, words)
                return
        if self._rest:
            data = self._rest + data
        # The last words of a connection that is lost are taken at once: there is no turn after them.
        if self._give(data, len(data) if self.raw.is_closing() else _AT_ONCE):
            self._behind = True
            self.raw.pause_reading()
            self._turns.add(self)

    def take_turn(self) -> bool:
        """Take a bit of what was read; return whether some is left."""
        if self._app_paused or self._phase >= _CLOSING:
            return False
        if self._give(self._rest, _AT_ONCE):
            return True
        self._behind = False
        if not (self._app_paused or self.is_closing()):
            self.raw.resume_reading()
        return False

    def _give(self, data: bytes, most: int) -> bool:
        """Let OpenSSL take so many records, one after the other; return whether there are more."""
        pieces: list[bytes] = []
        size = len(data)
        at = 0
        while at < size and not self._peer_ended and self._phase < _CLOSING:
            if not self._missing:
                if size - at < _RECORD_HEAD or not most:
                    break
                most -= 1
                content = data[at + 3] << 8 | data[at + 4]
                self._record = self._missing = _RECORD_HEAD + (content if content <= _RECORD_MOST else 0)
            end = min(at + self._missing, size)
            self._incoming.write(data[at:end])
            self._missing -= end - at
            at = end
            if not self._missing:
                self._take(pieces)
        self._rest = data[at:]
        self._hand_on(pieces)
        return not most and len(self._rest) >= _RECORD_HEAD and not self._peer_ended and self._phase < _CLOSING

    def eof_received(self) -> bool:
        """Take the end of TCP: after `close_notify` it says nothing new, without it the connection is broken."""
        if self._peer_ended and self._phase == _OPEN:
            return True
        if self._phase < _CLOSING:
            self._error = ConnectionResetError(ECONNRESET, "the connection ended without the end of TLS")
            self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the connection."""
        error = exc or self._error
        if self._known:
            # What the endpoint said before it broke off may still be read: see Upstream.
            self._app.connection_lost(error)
        self._phase = _ENDED
        self._settle(error or ConnectionResetError(ECONNRESET, "the connection was closed within the handshake"))
        self._forget()

    def _forget(self) -> None:
        # The application holds this object, and the wheel the application until its time is over: without this the
        # memory of OpenSSL (40 kB) would wait for that, or for the collector.
        self._object = None
        self._app = None
        self._plain = None
        self._refused = None
        self._error = None
        self._early = []
        self._rest = b""

    def pause_writing(self) -> None:
        """Let the application wait."""
        self._writing_paused = True
        if self._known:
            self._app.pause_writing()

    def resume_writing(self) -> None:
        """Let the application go on."""
        self._writing_paused = False
        if self._known:
            self._app.resume_writing()

    # ---------------------------------------------------------------- asyncio.Transport: from the application

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, after the handshake where that is not over."""
        if self._phase == _OPEN:
            size = len(data)
            if not size or self._said_goodbye:
                return
            try:
                sent = self._object.write(data)
                while sent < size:
                    sent += self._object.write(memoryview(data)[sent:])
            except ssl.SSLError as error:
                self._break(error)
                return
            self.raw.write(self._outgoing.read())
        elif self._phase == _SHAKING:
            self._early.append(bytes(data))

    def writelines(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send several pieces, in as few records as they fit."""
        self.write(b"".join(pieces))

    def write_eof(self) -> None:
        """End our direction; the peer's goes on."""
        if self._phase == _OPEN:
            self._say_goodbye()
            self._fin_sent = True
            self.raw.write_eof()
        elif self._phase == _SHAKING:
            self._eof_wanted = True

    def close(self) -> None:
        """Close after everything written has gone out; in a handshake, at once."""
        if self._phase == _OPEN:
            self._say_goodbye()
            self._phase = _CLOSING
            self.raw.close()
        elif self._phase == _SHAKING:
            self.abort()

    def abort(self) -> None:
        """Close now."""
        self._phase = max(self._phase, _CLOSING)
        self.raw.abort()

    def give_up(self) -> None:
        """Close a connection that is not made yet, whose application need not hear of it.

        uvloop does not tell of its end either when it was cancelled while it connected.
        """
        self._known = False
        self.opened = None
        if hasattr(self, "raw"):
            self.abort()
            del self.raw
        self._forget()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._phase >= _CLOSING or self.raw.is_closing()

    def pause_reading(self) -> None:
        """Read nothing more from the socket. Little waits here: what was read in one go is handed on, or `_behind`."""
        self._app_paused = True
        self.raw.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._app_paused = False
        if self._behind:
            self._turns.add(self)
        else:
            self.raw.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the application is paused: what waits, waits encrypted in the transport below."""
        self.raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the kernel has not taken yet."""
        return self.raw.get_write_buffer_size() + sum(map(len, self._early))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection: "ssl_object", or what the transport below knows."""
        return self._object if name == "ssl_object" else self.raw.get_extra_info(name, default)

    # ---------------------------------------------------------------- inside

    @property
    def session(self) -> ssl.SSLSession | None:
        """What makes the next handshake with this server short, `None` when the connection is gone."""
        return None if self._object is None else cast("ssl.SSLSession", self._object.session)

    def _shake(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._break(error)
            return
        self._phase = _OPEN
        self._unpaid = 0
        self._flush()
        if not self._known:
            self._known = True
            self._app.connection_made(self)
            if self._writing_paused:
                self._app.pause_writing()
        self._settle(None)
        if self._early:
            early, self._early = self._early, []
            self.writelines(early)
        if self._eof_wanted:
            self.write_eof()

    def _take(self, pieces: list[bytes]) -> None:
        """Let OpenSSL take a whole record, and add what was in it to `pieces`."""
        if self._phase == _SHAKING:
            self._shake()
            if self._phase == _SHAKING:
                self._owe(_UNPAID_LEAST)
            return
        known = len(pieces)
        try:
            while self._incoming.pending or self._object.pending():
                piece = self._object.read(_RECORD)
                if not piece:
                    self._peer_ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass  # something of the protocol's own
        except ssl.SSLZeroReturnError:
            self._peer_ended = True
        except ssl.SSLError as error:
            self._break(error)
            return
        if len(pieces) == known:
            self._owe(max(self._record, _UNPAID_LEAST))
        elif self._unpaid > 0 and not self._writing_paused:
            self._unpaid -= _PAYS

    def _owe(self, size: int) -> None:
        """Take note of a record without data, and end the connection at the first that is too much."""
        self._unpaid += size
        if self._unpaid > _UNPAID_MOST:
            self._error = ConnectionResetError(ECONNRESET, "too many messages of TLS without data")
            if self._refused is not None:
                self._refused("tls_messages")
            self.abort()

    def _hand_on(self, pieces: list[bytes]) -> None:
        """Send what OpenSSL has to say to what came, and give the application what was in it, in one piece."""
        if self._phase != _OPEN:
            return
        self._flush()
        if pieces:
            self._app.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._peer_ended and self._phase == _OPEN and not self._app.eof_received():
            self.close()

    def _flush(self) -> None:
        """Send what the protocol itself has to say: handshakes, alerts, new keys."""
        if self._outgoing.pending:
            data = self._outgoing.read()
            if not self._fin_sent and not self.raw.is_closing():
                self.raw.write(data)

    def _say_goodbye(self) -> None:
        if not self._said_goodbye:
            self._said_goodbye = True
            with contextlib.suppress(ssl.SSLError):  # usually: theirs has not come yet
                self._object.unwrap()
            self._flush()

    def _break(self, error: ssl.SSLError) -> None:
        """End a connection on which TLS failed; the alert that says why goes out."""
        # Its traceback leads back to this object, by a way that the collector does not see.
        self._error = error.with_traceback(None)
        if self._refused is not None and self._phase == _SHAKING:
            self._refused("tls_handshake")
        self._flush()
        self._phase = _CLOSING
        self._settle(error)
        self.raw.close()

    def _settle(self, error: Exception | None) -> None:
        opened, self.opened = self.opened, None
        if opened is not None and not opened.done():
            if error is None:
                opened.set_result(None)
            else:
                opened.set_exception(error)

    def _let_go(self, plain: Callable[[asyncio.Transport, bytes], None], data: bytes) -> None:
        """Leave the connection to the application as it is, without TLS."""
        self._phase = _ENDED
        self.raw.set_protocol(self._app)
        self._app = None
        self._plain = None
        plain(self.raw, data)
