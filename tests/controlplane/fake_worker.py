"""A worker that speaks the channel and answers every connection with its pid: `fake_worker.py [KNOB…] FD`.

Knobs: mute=GENERATION (never acknowledges it), dead (exits at once), frozen (never beats), refuse=GENERATION,
slow (does not end in a drain).
"""

import contextlib
import os
import selectors
import socket
import sys
import time

from proxy.ipc import channel
from proxy.ipc.enclosure import enclosed
from proxy.ipc.layout import ROW_BEAT, ROW_GENERATION, ROW_PID, board_hash, control_layout, counters_layout, row
from proxy.ipc.segment import Segment
from proxy.routing.table import RoutingTable, from_plain

KNOBS = dict(knob.partition("=")[::2] for knob in sys.argv[1:-1])


class FakeWorker:
    def __init__(self, fd):
        self.selector = selectors.DefaultSelector()
        self.channel = socket.socket(fileno=fd)
        self.receiver = channel.Receiver()
        self.selector.register(self.channel, selectors.EVENT_READ, self.read_channel)
        self.listeners = []  # (described, socket)
        self.slot = None
        self.board = None
        self.counters = None
        self.handover = None
        self.visit = None
        self.orphan = False
        self.stop_at = None
        self.retired = None

    def run(self):
        while True:
            for key, _ in self.selector.select(0.05):
                key.data()
            if self.board is not None and "frozen" not in KNOBS:
                self.board.words[row(self.slot) + ROW_BEAT] += 1
            if self.orphan and self.visit is None and self.handover:
                self.look_for_a_successor()
            if self.stop_at is not None and time.monotonic() >= self.stop_at and "slow" not in KNOBS:
                self.empty_queues()
                sys.exit(0)

    def read_channel(self):
        try:
            messages = self.receiver.feed(self.channel)
        except EOFError:
            self.selector.unregister(self.channel)
            if not self.listeners:
                sys.exit(1)
            self.orphan = True
            return
        for message, fds in messages:
            getattr(self, "on_" + message["type"])(message, fds)

    def on_start(self, message, fds):
        self.slot = message["slot"]
        self.handover = message["handover"]
        self.board = Segment.attach(fds[0], board_hash(message["slots"]))
        self.board.words[row(self.slot) + ROW_PID] = os.getpid()
        self.listeners = [
            (described, socket.socket(fileno=fd)) for described, fd in zip(message["listeners"], fds[1:], strict=True)
        ]

    def on_table(self, message, fds):
        generation = message["generation"]
        if KNOBS.get("mute") == str(generation):
            return
        if KNOBS.get("refuse") == str(generation):
            self.say({"type": "refused", "generation": generation, "why": "does not please me"})
            return
        table = from_plain(enclosed(fds[2]), RoutingTable)
        Segment.attach(fds[0], control_layout(table).hash)
        first = self.counters is None
        self.layout = counters_layout(table)
        self.counters = Segment.attach(fds[1], self.layout.hash)
        self.board.words[row(self.slot) + ROW_GENERATION] = generation
        self.say({"type": "ack", "generation": generation})
        if not first:
            self.say({"type": "released", "generation": generation - 1})
            return
        for described, sock in self.listeners:
            if described["slot"] in (self.slot, None):
                self.selector.register(sock, selectors.EVENT_READ, lambda sock=sock: self.accept(sock))
        self.say({"type": "listening"})

    def say(self, message):
        with contextlib.suppress(OSError):  # the supervisor was killed: the next read says so
            channel.send(self.channel, message)

    def on_drain(self, message, fds):
        self.stop_at = time.monotonic() + message["delay_s"]

    def on_stop(self, message, fds):
        sys.exit(0)

    def accept(self, sock):
        try:
            connection, _ = sock.accept()
        except BlockingIOError:
            return False
        connection.settimeout(15)  # much less than its clients wait: a silent stranger holds everybody up
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            body = str(os.getpid()).encode()
            if self.counters is not None:
                self.counters.words[self.layout.process] += 1
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        return True

    def empty_queues(self):
        for described, sock in self.listeners:
            if described["slot"] in (self.slot, None):
                while self.accept(sock):
                    pass
                sock.close()

    def look_for_a_successor(self):
        visit = socket.socket(socket.AF_UNIX)
        try:
            visit.connect(self.handover)
        except OSError:
            visit.close()
            return
        orphan = {
            "type": "orphan",
            "slot": self.slot,
            "pid": os.getpid(),
            "listeners": [described for described, _ in self.listeners],
            "controls": [],
        }
        try:
            channel.send(visit, orphan, [sock.fileno() for _, sock in self.listeners])
        except OSError:  # it was the dying supervisor's own: a killed process closes one thing after the other
            visit.close()
            return
        self.visit = visit
        receiver = channel.Receiver()

        def read():
            try:
                messages = receiver.feed(visit)
            except EOFError:
                self.selector.unregister(visit)
                visit.close()
                self.visit = None
                return
            for message, _ in messages:
                assert message["type"] == "retire"
                if not message["adopted"]:
                    self.empty_queues()
                sys.exit(0)

        self.selector.register(visit, selectors.EVENT_READ, read)


if __name__ == "__main__":
    if "dead" in KNOBS:
        sys.exit(3)
    FakeWorker(int(sys.argv[-1])).run()
