"""Bodies in chunked coding, both ways.

The problem: chunk sizes are where the two ends of a connection most easily disagree, so every one is read by the
letter of RFC 9112 §7.1 (1 to 16 hexadecimal digits, CRLF) and written again in canonical form; what was between payload
and payload never passes. That is why spaces behind a size, and extensions that keep to no grammar, do no harm: there is
one place where such a line can end, and nobody sees it after us.

Nouns: *payload* (the bytes inside chunks), *extension* (what may follow a size; dropped, as §7.1.1 allows),
*trailers* (fields after the last chunk; those that frame, route or authenticate are dropped, RFC 9110 §6.5.1).

Limits: a line of a chunk 4 KiB; extensions of a body 16 KiB beyond what its payload pays for; trailers 16 KiB and
64 fields.

Cost: a chunk 1 µs, in a run of chunks below 16 bytes 0.25 µs, with an unusual line 2 µs. A read of chunks of one byte
has 40,000 of them, so that one call of `feed` does no more than a millisecond's work, and leaves the rest to another.
"""

from __future__ import annotations

import re

from proxy.http1.fields import DIGITS, FIELD_BYTES, LENGTH_MAX, OWS, is_token
from proxy.http1.head import Refusal

LAST_CHUNK = b"0\r\n\r\n"

_HEX = DIGITS + b"abcdefABCDEF"
_SIZE_DIGITS_MAX = 16
_LINE_MAX = 4096
_EXTENSIONS_MAX = 16 * 1024
_EXTENSIONS_FREE = 16  # bytes of extension per chunk that no limit counts; so are two per byte of payload
_TRAILERS_MAX = 16 * 1024
_TRAILER_FIELDS_MAX = 64
_SIZE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)

_STEPS = 1024  # of one call: about a millisecond
_RUN = 6 * 1024  # bytes at most in which small chunks are taken at once: 1024 of them,
_PER_STEP = 4  # of which so many are a step

_SMALL_BELOW = 16  # bytes
# A whole chunk of so few bytes. What may stand behind its size is what `_is_extension` lets pass, `_EXTENSIONS_FREE`
# bytes of it. A chunk can be read in one way only and all of it is bounded, so that nothing here can go back far; what
# forbids going back (possessive quantifiers) is wrong in Python before 3.11.5 (gh-106052).
_LINE_END = rb"(?:\r\n|;%b{0,15}\r\n|[ \t]{1,8}(?:;%b{0,7})?\r\n)".replace(b"%b", b"[%b]" % re.escape(FIELD_BYTES))
_SMALL = rb"0{0,7}(?:%b)" % b"|".join(
    rb"[%x%X]%b.{%d}\r\n" % (size, size, _LINE_END, size) for size in range(1, _SMALL_BELOW)
)
_SMALL_CHUNK = re.compile(_SMALL, re.DOTALL)
_SMALL_CHUNKS = re.compile(_SMALL + rb"|.+", re.DOTALL)  # chunk by chunk, and in one piece what begins with none

# > RFC 9110 §6.5.1: fields necessary for message framing, routing, request modifiers, authentication, response
# > control data, or to determine how to process the content.
_NOT_IN_TRAILERS = frozenset(
    {
        b"age",
        b"authorization",
        b"cache-control",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"date",
        b"expect",
        b"expires",
        b"forwarded",
        b"host",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"keep-alive",
        b"location",
        b"max-forwards",
        b"pragma",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"range",
        b"retry-after",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"vary",
        b"via",
        b"warning",
        b"www-authenticate",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-real-ip",
        b"x-request-id",
    }
)


def chunk(payload: bytes) -> bytes:
    """Return `payload` as one chunk; it must not be empty, because an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


class ChunkedBody:
    """Decoder of one chunked body.

    `done`: the end of the body was seen. `trailers`: the trailer lines that may be forwarded, each ended by CRLF,
    complete once `done`. `refusal`: what is wrong, if anything; nothing more may be fed then. `status` and `reason`
    of refusals are given by the caller: 400 malformed for requests, 502 protocol for responses.
    """

    __slots__ = ("_excess", "_held", "_reason", "_remaining", "_state", "_status", "done", "refusal", "trailers")

    def __init__(self, status: int = 400, reason: str = "malformed") -> None:
        self.done = False
        self.trailers = b""
        self.refusal: Refusal | None = None
        self._status = status
        self._reason = reason
        self._state = _SIZE
        self._remaining = 0
        self._held = b""  # the beginning of a line whose end has not arrived
        self._excess = 0

    def feed(self, data: bytes, start: int = 0) -> tuple[bytes, int]:
        """Return the payload in `data` from `start` on, and the index just after what was consumed.

        Everything is consumed unless the body ends (`done`) or is wrong (`refusal`); the payload before that is
        returned all the same. Or it is in so many chunks that the rest is for another call.
        """
        parts: list[bytes] = []
        position = start
        size = len(data)
        steps = _STEPS
        small = True  # whether a run of small chunks may begin here
        while position < size and steps > 0:
            steps -= 1
            state = self._state
            if state == _DATA:
                part = data[position : position + self._remaining]
                parts.append(part)
                position += len(part)
                self._remaining -= len(part)
                if self._remaining:
                    break
                self._state = _DATA_END
            elif state == _SIZE:
                if not self._held and not self._excess:
                    if small and _SMALL_CHUNK.match(data, position):
                        end = min(position + _RUN, size)
                        chunks = _SMALL_CHUNKS.findall(data, position, end)
                        if not _SMALL_CHUNK.fullmatch(chunks[-1]):
                            end -= len(chunks.pop())
                        parts += [one[one.index(b"\n") + 1 : -2] for one in chunks]
                        position = end
                        steps -= 1 + len(chunks) // _PER_STEP
                        continue
                    # The usual chunk, whole and without extension, in one go.
                    end = data.find(b"\r\n", position, position + _SIZE_DIGITS_MAX + 2)
                    digits = data[position : max(end, position)]
                    if digits and not digits.translate(None, _HEX):
                        begin = end + 2
                        end = begin + int(digits, 16)
                        if begin < end <= size - 2 and data[end : end + 2] == b"\r\n":
                            parts.append(data[begin:end])
                            position = end + 2
                            small = end - begin < _SMALL_BELOW
                            continue
                end = data.find(b"\n", position)
                if end < 0:
                    self._held += data[position:]
                    position = size
                    self._judge_held_size()
                    break
                line = data[position : end + 1]
                if self._held:
                    line = self._held + line
                    self._held = b""
                position = end + 1
                if not self._size_line(line):
                    break
                small = self._remaining < _SMALL_BELOW
            elif state == _DATA_END:
                piece = self._held + data[position : position + 2 - len(self._held)]
                position += len(piece) - len(self._held)
                if not b"\r\n".startswith(piece):
                    self._refuse("A chunk is not followed by CRLF.")
                    break
                self._held = piece if len(piece) == 1 else b""
                if len(piece) == 2:
                    self._state = _SIZE
            elif state == _TRAILERS:
                position = self._feed_trailers(data, position)
                if self.refusal is not None:
                    break
            else:
                break
        return (parts[0] if len(parts) == 1 else b"".join(parts)), position

    def _refuse(self, detail: str) -> None:
        self.refusal = Refusal(self._status, self._reason, detail)

    def _judge_held_size(self) -> None:
        """Refuse the beginning of a chunk's line that cannot become one."""
        held = self._held
        if len(held) > _LINE_MAX:
            self._refuse(f"The line of a chunk is longer than {_LINE_MAX} bytes.")
        elif b"\r" in held[:-1] or held[:1].translate(None, _HEX):
            self._refuse("A chunk does not begin with a hexadecimal size.")

    def _size_line(self, line: bytes) -> bool:
        """Judge the first line of a chunk, LF included; tell whether to go on."""
        digits = line[:-2]
        if line[-2:] != b"\r\n":
            self._refuse("The line of a chunk does not end in CRLF.")
            return False
        extension = 0
        if digits.translate(None, _HEX):
            if len(line) > _LINE_MAX:
                self._refuse(f"The line of a chunk is longer than {_LINE_MAX} bytes.")
                return False
            end = len(digits) - len(digits.lstrip(_HEX))
            if not _is_extension(digits[end:]):
                self._refuse("A chunk's line is not a hexadecimal size with or without an extension.")
                return False
            extension = len(digits) - end
            digits = digits[:end]
        if not 0 < len(digits) <= _SIZE_DIGITS_MAX:
            self._refuse(f"The size of a chunk does not have 1 to {_SIZE_DIGITS_MAX} hexadecimal digits.")
            return False
        size = int(digits, 16)
        if size > LENGTH_MAX:
            self._refuse("The size of a chunk is not below 2^63.")
            return False
        if extension or self._excess:
            self._excess = max(0, self._excess + extension - _EXTENSIONS_FREE - 2 * size)
            if self._excess > _EXTENSIONS_MAX:
                self._refuse("The body has more chunk extensions than payload.")
                return False
        self._remaining = size
        self._state = _DATA if size else _TRAILERS
        return True

    def _feed_trailers(self, data: bytes, position: int) -> int:
        """Take what belongs to the trailer section; return the index after it."""
        held = self._held + data[position:]
        offset = position - len(self._held)  # index in `data` of the first byte of `held`
        if held.startswith(b"\r\n"):
            self._end(b"")
            return offset + 2
        end = held.find(b"\r\n\r\n")
        if end >= 0:
            section = held[: end + 2]
            if len(section) > _TRAILERS_MAX:
                self._refuse(f"The trailers are larger than {_TRAILERS_MAX} bytes.")
            elif self._judge_trailers(section):
                self._end(self.trailers)
            return offset + end + 4
        self._held = held
        pairs = held.count(b"\r\n")
        if len(held) > _TRAILERS_MAX:
            self._refuse(f"The trailers are larger than {_TRAILERS_MAX} bytes.")
        elif held.count(b"\n") != pairs or held.count(b"\r") - (held[-1] == 13) != pairs:
            self._refuse("A trailer does not end in CRLF.")
        return len(data)

    def _judge_trailers(self, section: bytes) -> bool:
        """Judge a whole trailer section and keep what may be forwarded."""
        lines = section.split(b"\r\n")
        lines.pop()
        if len(section.translate(None, FIELD_BYTES)) != 2 * len(lines):
            self._refuse("The trailers have a control character, or a line that does not end in CRLF.")
            return False
        if len(lines) > _TRAILER_FIELDS_MAX:
            self._refuse(f"There are more than {_TRAILER_FIELDS_MAX} trailers.")
            return False
        kept: list[bytes] = []
        for line in lines:
            name, colon, _ = line.partition(b":")
            if not colon or not is_token(name):
                self._refuse("A trailer has no name that is a token, directly followed by a colon.")
                return False
            if name.lower().replace(b"_", b"-") not in _NOT_IN_TRAILERS:
                kept.append(line + b"\r\n")
        self.trailers = b"".join(kept)
        return True

    def _end(self, trailers: bytes) -> None:
        self.trailers = trailers
        self._held = b""
        self._state = _DONE
        self.done = True


def _is_extension(text: bytes) -> bool:
    """Tell whether `text` may stand between a chunk's size and its CRLF.

    > RFC 9112 §7.1.1: A recipient MUST ignore unrecognized chunk extensions.
    None is recognized here, so that what is behind the semicolon need not keep to their grammar.
    """
    return text.lstrip(OWS)[:1] in {b"", b";"} and not text.translate(None, FIELD_BYTES)
