"""A worker whose descriptors are all taken: nobody else is charged for it, and it can still be led."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from proxy.ipc import layout
from tests.dataplane.harness import eventually, same
from tests.dataplane.wire import answers, response


@pytest.fixture
def crowded(gate):
    """Let clients take every descriptor that the gate's worker may have; the last one comes with the fixture."""
    pid = gate.worker.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)

    def crowd():
        def taken():
            return {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}

        gate.worker.expect("released", generation=gate.worker.generation - 1)  # it would give descriptors back
        allowed = max(taken()) + 1
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (allowed, hard))
        while len(before := taken()) < allowed:
            gate.client()
            eventually(lambda before=before: len(taken()) > len(before))

    yield crowd
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_for_an_endpoint_is_our_own_fault(gate, crowded):
    gate.serve(gate.refused(), gate.backend(answers(response())), weight=10_000)
    client = gate.client()
    eventually(lambda: gate.worker.row(layout.ROW_CONNECTIONS))
    crowded()
    answer = client.request()
    assert (answer.status, answer.get("x-tidegate-version")) == (503, None)
    same(gate.local_replies, {(503, "overload"): 1})
    assert gate.judged(0) == gate.judged(1) == (0, {})
    assert gate.in_flight(1) == 0


def test_a_worker_without_descriptors_takes_the_next_generation(gate, crowded):
    backend = gate.backend(answers(response(), response()))
    gate.serve(backend)
    client = gate.client()
    assert client.request().status == 200
    crowded()
    for _ in range(3):
        gate.serve(backend)
    beat = gate.worker.row(layout.ROW_BEAT)
    eventually(lambda: gate.worker.row(layout.ROW_BEAT) > beat + 25)  # it looks at itself every second
    assert gate.worker.process_count(layout.PROCESS_INTERNAL_ERRORS) == 0
    assert client.request().status == 200
