"""What has to be reached beside CPU per request (that is `make bench`): memory, shutting, restarts, being looked at.

`python -m loadtests.reach [memory] [stall] [gone] [shut] [hung] [restarts] [polling] [long] [many]` measures on a real
`tidegate run` with two workers (`long`: on its control plane, in pressed time; it takes ten minutes of one core) and
prints a line per figure. It is no test and has no pass mark; the figures go into notes with the command beside them.
Every part is bounded in time and ends what it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import mmap
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Self, cast

from loadtests.bench.measure import pss_kib, tree
from loadtests.reach import gone, hung, idle, long, many, restarts, spread
from loadtests.reach.stream import SIZE
from proxy.cli.demo.parts import Proxy, started
from proxy.ipc.layout import BOARD_BEAT, WORD

CONNECTIONS = 5_000
STALL_S = 10.0
ROUNDS = 20
ROUNDS_GONE = 100
ROUNDS_PAUSED = 20
HOURS = (1, 6, 12, 24, 48)
POLLED_S = 15.0
MANY, MANY_RATES, MANY_S = 20, (0.0, 5.0, 20.0), 60.0
RATE = 2_000


def say(what: str, value: str) -> None:
    """Print one figure."""
    print(f"{what:<62} {value}", flush=True)


def memory() -> None:
    """Measure what idle processes and idle client connections hold."""
    with started(10) as (_, proxy):
        time.sleep(3)
        pids = tree(proxy.pid)
        before = pss_kib(pids)
        say("supervisor + 2 workers, idle (PSS)", f"{before / 1024:.0f} MiB")
        clients = []
        for number in range(CONNECTIONS):
            client = socket.create_connection(("127.0.0.1", proxy.port))
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: session=%d\r\n\r\n" % number)
            client.recv(4096)
            clients.append(client)
        time.sleep(2)
        each = (pss_kib(tree(proxy.pid)) - before) / CONNECTIONS
        say(f"an idle client connection, of {CONNECTIONS} that each had an answer", f"{each:.1f} KiB")
        for client in clients:
            client.close()


def stall() -> None:
    """Measure how a worker grows when a client, or an endpoint, stands still in the middle of 2 GiB."""
    with streaming(STALL_S) as port, tempfile.TemporaryDirectory(prefix="tidegate-reach-") as folder:
        proxy = Proxy(Path(folder), {"stable": port, "new": port}, 0)
        try:
            proxy.wait_ready()
            say(f"2 GiB down, client still for {STALL_S:.0f} s: growth", grown(proxy, download))
            say(f"2 GiB up, endpoint still for {STALL_S:.0f} s: growth", grown(proxy, upload))
        finally:
            proxy.close()


@contextlib.contextmanager
def streaming(pause_s: float) -> Iterator[int]:
    """Run the endpoint of `stream.py`; yields its port."""
    endpoint = subprocess.Popen(
        [sys.executable, "-m", "loadtests.reach.stream", str(pause_s)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield int(cast("IO[str]", endpoint.stdout).readline())
    finally:
        endpoint.kill()
        endpoint.wait()


def grown(proxy: Proxy, transfer: Callable[[socket.socket], int]) -> str:
    """Return how much the processes grew at most while `transfer` ran."""
    pids = tree(proxy.pid)
    before = resident_kib(pids)
    most = before
    ended = threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.05):
            most = max(most, resident_kib(pids))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            moved = transfer(client)
    finally:
        ended.set()
        watcher.join()
    return f"{(most - before) / 1024:.1f} MiB ({moved} bytes arrived)"


def resident_kib(pids: list[int]) -> int:
    """Return the resident memory of the processes together; cheaper to read than the PSS."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * resource.getpagesize() // 1024


def download(client: socket.socket) -> int:
    """Take 2 GiB, with a long pause after the first half."""
    client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    buffer = bytearray(1 << 20)
    taken = 0
    paused = False
    while size := client.recv_into(buffer):
        taken += size
        if taken > SIZE // 2 and not paused:
            paused = True
            time.sleep(STALL_S)
    return taken


def upload(client: socket.socket) -> int:
    """Send 2 GiB and return how much the endpoint says it got."""
    client.sendall(b"POST /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % SIZE)
    piece = bytes(1 << 20)
    for _ in range(SIZE // len(piece)):
        client.sendall(piece)
    said = b""
    while data := client.recv(4096):
        said += data
    return int(said.rpartition(b"\r\n\r\n")[2])


def shut() -> None:
    """Measure how soon the gate shuts when `new` turns all bad at 200 requests/s, and who comes to it afterwards."""
    delays, late, errors = [], 0, 0
    for _ in range(ROUNDS):
        # 400 requests/s, half of them to `new`; the round begins healthy and then fails.
        argv = [
            sys.executable,
            "-m",
            "proxy",
            "demo",
            "--headless",
            "--seconds",
            "4",
            "--rate",
            "400",
            "--weight",
            "50",
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        story = json.loads(done.stdout)
        if not story["rolled_back"]:
            raise RuntimeError(f"a round did not shut the gate: {story}")
        delays.append(story["decided_s"] - story["first_bad_s"])
        late += story["requests_to_new_after"]
        errors += story["client_errors"]
    delays.sort()
    middle = statistics.median(delays)
    say(f"first bad answer to weight 0, {ROUNDS} rounds (median, most)", f"{middle:.3f} s, {delays[-1]:.3f} s")
    say("requests sent to `new` after the decision, all rounds", str(late))
    say("errors that clients saw, all rounds", str(errors))


def hung_endpoint() -> None:
    """Measure how soon the gate shuts when `new` takes requests and never answers (`hung.py`)."""
    delays = sorted(hung.delays(ROUNDS))
    middle = statistics.median(delays)
    say(
        f"first hung request's crossing to weight 0, {ROUNDS} rounds (median, most)",
        f"{middle:.3f} s, {delays[-1]:.3f} s",
    )


def restarted() -> None:
    """Measure what clients see of a supervisor that is killed and started again (`restarts.py`)."""
    for name, fresh in (("connections kept", 0.0), ("a connection per request", 1.0)):
        seen = restarts.killed(ROUNDS, fresh=fresh)
        say(f"{ROUNDS} × kill -9 and restart, {name}: failed requests", f"{sum(seen.failed.values())} of {seen.sent}")
        say(f"{ROUNDS} × kill -9 and restart, {name}: longest wait", f"{seen.longest_s:.2f} s")


def long_rollout() -> None:
    """Measure what a rollout of 48 hours holds beside one of an hour (`long.py`)."""
    for held in asyncio.run(long.measure(HOURS[-1], HOURS)):
        say(
            f"a rollout of {held.hours} h: objects, resident memory",
            f"{held.objects}, {held.resident_kib / 1024:.1f} MiB",
        )


def polling() -> None:
    """Measure beats and the proxy's own time per request without and with an admin API that is asked all the time."""
    for asked in (False, True):
        with started(50) as (traffic, proxy):
            traffic.tell({"load": {"host": "127.0.0.1", "port": proxy.port, "rate": RATE}})
            pollers = Pollers(proxy.admin)
            with pollers if asked else contextlib.nullcontext():
                gaps = beats(proxy.pid, POLLED_S)
            name = "status 50/s, /metrics 5/s" if asked else "not asked"
            say(f"{name}: time between beats (median, most)", f"{statistics.median(gaps):.0f} ms, {max(gaps):.0f} ms")
            say(f"{name}: the proxy's own time in a request, p99.9", overhead(proxy))
            if asked:
                say(f"{name}: answers of the admin API", str(pollers.answers))


def beats(pid: int, seconds: float) -> list[float]:
    """Return the times between the controller's beats in ms, read where the workers read them."""
    board = next(path for path in Path(f"/proc/{pid}/fd").iterdir() if "tidegate-board" in str(path.readlink()))
    gaps: list[float] = []
    with board.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        words = memoryview(mapped).cast("B")[: len(mapped) // WORD * WORD].cast("Q")
        end = time.monotonic() + seconds
        last, since = words[BOARD_BEAT], 0.0
        while (now := time.monotonic()) < end:
            if (beat := words[BOARD_BEAT]) != last:
                if since:
                    gaps.append((now - since) * 1000 / (beat - last))
                last, since = beat, now
            time.sleep(0.002)
        words.release()
    return gaps


def overhead(proxy: Proxy) -> str:
    """Return the upper edge of the bucket that holds the 99.9th percentile of `tidegate_overhead_seconds`."""
    connection = http.client.HTTPConnection(proxy.admin.removeprefix("http://"))
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    edges = [line.split('"') for line in lines if line.startswith("tidegate_overhead_seconds_bucket")]
    counts = [(parts[1], float(parts[2].split()[-1])) for parts in edges]
    total = counts[-1][1]
    edge = next(edge for edge, count in counts if count >= 0.999 * total)
    return f"<= {float(edge) * 1000:g} ms ({total:.0f} samples)"


class Pollers:
    """Asks for the status 50 times and for the metrics 5 times per second, in two threads."""

    def __init__(self, admin: str) -> None:
        self.answers = 0
        self._host = admin.removeprefix("http://")
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=("/api/v1/status", 50)),
            threading.Thread(target=self._ask, args=("/metrics", 5)),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, path: str, per_second: int) -> None:
        connection = http.client.HTTPConnection(self._host)
        while not self._ended.wait(1 / per_second):
            connection.request("GET", path)
            connection.getresponse().read()
            self.answers += 1
        connection.close()


def left() -> None:
    """Measure how soon an endpoint sees that a client has left (`gone.py`)."""
    for phase, end, found in gone.delays(ROUNDS_GONE, ROUNDS_PAUSED):
        at = [statistics.median(found), found[round(0.99 * (len(found) - 1))], found[-1]]
        what = f"a client that leaves by {end}, phase {phase}, {len(found)} rounds (median, p99, most)"
        say(what, ", ".join(f"{1000 * seconds:.1f} ms" for seconds in at))


def idle_beside() -> None:
    """Measure what small requests cost beside idle connections and a download (`idle.py`; it takes nine minutes)."""
    with streaming(0) as port:
        found = idle.measure(port)
    what = f"{idle.IDLE} idle connections and a download"
    say(f"without {what}: CPU per request, {idle.ROUNDS} rounds", f"{statistics.median(found.without_us):.1f} µs")
    say(f"with {what}", f"{statistics.median(found.with_us):.1f} µs")
    say("ratio of the medians; failed requests", f"{found.ratio:.2f}; {found.failed}")
    say(f"{found.taken >> 20} MiB in {found.took_s:.0f} s: growth of the workers", f"{found.growth_kib / 1024:.1f} MiB")


def spread_out() -> None:
    """Measure how evenly connections lie on the workers (`spread.py`)."""
    for workers in (2, 4, 8):
        for over_s in (0.0, 1.0):
            found = sorted(spread.spread(workers, ROUNDS, over_s))
            say(
                f"{spread.CONNECTIONS} connections over {over_s:g} s, {workers} workers: most loaded (median, most)",
                f"{statistics.median(found):.2f}, {found[-1]:.2f}",
            )


def many_services() -> None:
    """Measure what the supervisor of 20 services costs (`many.py`)."""
    for rate in MANY_RATES:
        what = f"{rate:g} requests/s of each, all in a rollout" if rate else "idle, no rollout"
        say(f"supervisor of {MANY} services, {what}: of a core", f"{many.cost(MANY, rate, MANY_S):.2%}")


PARTS: dict[str, Callable[[], None]] = {
    "memory": memory,
    "stall": stall,
    "gone": left,
    "shut": shut,
    "hung": hung_endpoint,
    "restarts": restarted,
    "polling": polling,
    "long": long_rollout,
    "idle": idle_beside,
    "spread": spread_out,
    "many": many_services,
}


def main(names: list[str]) -> int:
    """Run the named parts, or all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 3 * CONNECTIONS)), hard))
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(PARTS)}")
        return 2
    for name in names or list(PARTS):
        PARTS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
