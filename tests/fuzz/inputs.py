"""What the fuzzers begin with: the corpus, and how bytes name a case.

An input is two bytes and a message. First byte: bit 0 an answer instead of requests, bit 1 to an HTTP/1.0 client, bits
2 and 3 the method that it answers, bits 4 to 7 in how many pieces it comes. Second byte: where it is cut, and how the
endpoint frames its answers.
"""

from __future__ import annotations

from tests.fuzz.judge import judge_answer, judge_requests
from tests.fuzz.passage import Passage
from tests.http1.reading import corpus, is_response

METHODS = (b"GET", b"HEAD", b"POST", b"FOO")
LARGEST = 8192
MESSAGES = [case for case in [*corpus("accept"), *corpus("reject")] if len(case.send) < 1500 and not case.trusted]
REQUESTS = [case.send for case in MESSAGES if not is_response(case)]
ANSWERS = [(case.send, case.to) for case in MESSAGES if is_response(case)]


def seeds() -> list[bytes]:
    """Return the corpus as inputs."""
    numbers = {method: number << 2 for number, method in enumerate(METHODS)}
    return [b"\0\0" + data for data in REQUESTS] + [
        bytes([1 | numbers.get(method, 12), 0]) + data for data, method in ANSWERS
    ]


def places(kind: int, stride: int, size: int) -> list[int]:
    """Return where an input's message is cut."""
    return [(number + 1) * (stride + 1) % (size + 1) for number in range(kind >> 4)]


def judge(passage: Passage, data: bytes) -> None:
    """Run one input; an assertion or an unreadable message is a finding."""
    if len(data) < 2:
        return
    kind, stride, message = data[0], data[1], data[2 : 2 + LARGEST]
    cuts = places(kind, stride, len(message))
    if kind & 1:
        judge_answer(passage, message, METHODS[kind >> 2 & 3], cuts, old=bool(kind & 2))
    else:
        judge_requests(passage, message, cuts, stride)
