"""Names a difference between our reading of a message and another's, so that a table can list it."""

from __future__ import annotations

import re
from typing import NamedTuple

from proxy.http1.head import UNTIL_CLOSE
from tests.http1.oracles import Opinion, by_h11, by_llhttp, ours
from tests.http1.reading import Reading

ORACLES = {"h11": by_h11, "llhttp": by_llhttp}
# What the parser writes anew, from what it understood.
REWRITTEN = {
    b"connection",
    b"content-length",
    b"cookie",
    b"host",
    b"max-forwards",
    b"te",
    b"transfer-encoding",
    b"upgrade",
}


class Disagreement(NamedTuple):
    """`kind`: stricter (we refuse what the oracle accepts), laxer, or framing (both accept, and differ)."""

    kind: str
    side: str
    oracle: str
    says: str


def disagreements(reading: Reading, data: bytes, method: bytes | None) -> list[Disagreement]:
    """Compare our `reading` of `data` with both oracles; `method` is `None` for requests."""
    mine = ours(reading)
    side = "request" if method is None else "response"
    found = []
    for name, oracle in ORACLES.items():
        if name == "llhttp" and method == b"HEAD":  # it cannot be told, and reads a body
            continue
        other = oracle(data, method)
        if mine.error:
            # An oracle that has not seen the end may still find the error; so may who stops at an upgrade.
            if other.whole and not other.error and not (other.upgrade and reading.open):
                found.append(Disagreement("stricter", side, name, _general(mine.error)))
        elif other.error:
            if mine.whole:
                found.append(Disagreement("laxer", side, name, _general(other.error)))
        elif difference := _difference(reading, mine, other, name, method):
            if re.search(rb"(?i)chunked *\t", data):
                difference += ", coding with a tab behind it"
            found.append(Disagreement("framing", side, name, difference))
    return found


def _general(message: str) -> str:
    """Cut what belongs to one message only: numbers, and what stands behind a colon."""
    return re.sub(r"[0-9]+", "#", message.partition(": bytearray")[0].partition(" b'")[0])


def _difference(reading: Reading, mine: Opinion, other: Opinion, oracle: str, method: bytes | None) -> str:
    if not mine.whole and not other.whole:
        return ""
    if oracle == "llhttp":
        if other.upgrade:  # it stops before the body, we do so when the endpoint has said 101
            return ""
        if method is not None:  # it is not told of the end of the connection
            message = reading.messages[0] if reading.messages else reading.open
            if message is None or message.head["length"] == UNTIL_CLOSE:
                return ""
    if mine.whole != other.whole:
        return f"whole: {mine.whole}"
    if mine.body != other.body:
        return "body"
    if mine.start != other.start and (method is not None or other.start[1][:1] in {b"/", b"*"}):
        return "start line"
    if any(line[0] not in REWRITTEN and line not in other.fields for line in mine.fields):
        return "fields"
    return ""
