"""Real WebSocket peers (`websockets`): both see the same with the product between them as without it.

*Seen*: what a scenario's client and its server noted. It is played twice, straight and through the product, and what
was seen must be equal.
"""

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import struct
import threading
from collections import deque
from http import HTTPStatus

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response

from tests.controlplane.waiting import until_now
from tests.e2e.product import CONFIG, Product

pytestmark = pytest.mark.e2e

MIB = 1024 * 1024
LIMIT_S = 120
SENDABLE = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
RESERVED = [1004, 1005, 1006, 1015, 999, 2999]  # must not be on the wire: what a peer makes of one that is
WS_CONFIG = CONFIG.replace("drain: {{delay: 0s, timeout: 5s}}", "drain: {{delay: 0s, timeout: {drain}}}").replace(
    "{more}", "on_rollback: {{tunnels: {tunnels}}}\n    {more}"
)


def ended(closed):
    """Return how a peer saw the end: (code and reason received, code and reason sent), `None` where no frame came."""
    frames = (closed.rcvd, closed.sent)
    return tuple((frame.code, frame.reason) if frame else None for frame in frames)


class Server:
    """WebSocket servers `stable` and `new` on a loop in a thread; `seen` is what they noted."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.ports = {}
        self.seen = deque()
        self._stop = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._run(),))

    async def _run(self):
        self._stop = asyncio.Event()
        options = {
            "process_request": self._judge,
            "select_subprotocol": lambda _, offered: "chat.v1" if "chat.v1" in offered else None,
            "max_size": None,
            "ping_interval": None,
            "open_timeout": 30,
            "close_timeout": 30,
        }
        async with contextlib.AsyncExitStack() as stack:
            for name in ("stable", "new"):
                handler = self._named(name)
                server = await stack.enter_async_context(serve(handler, "127.0.0.1", 0, **options))
                self.ports[name] = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._stop.wait()

    def _judge(self, connection, request):
        if request.path == "/forbidden":
            return connection.respond(HTTPStatus.FORBIDDEN, "not you\n")
        if request.path == "/elsewhere":
            headers = connection.respond(HTTPStatus.OK, "").headers
            headers["Upgrade"] = "chat/9"
            return Response(426, "Upgrade Required", headers, b"")
        return None

    def _named(self, name):
        async def handle(ws):
            try:
                await self._serve(ws, name)
            except ConnectionClosed as closed:
                self.seen.append(("server", ended(closed)))
                return
            await ws.wait_closed()
            self.seen.append(("server", ended(ws.protocol.close_exc)))

        return handle

    async def _serve(self, ws, name):
        path, _, argument = ws.request.path[1:].partition("/")
        if path == "first":
            await ws.send("I begin")
        elif path == "who":
            await ws.send(name)
        elif path == "fragments":
            parts = [part async for part in ws.recv_streaming()]
            self.seen.append(parts)
            await ws.send(["in ", "several ", "parts"])
        elif path == "ping":
            await (await ws.ping(b"from the server"))
            self.seen.append("the client answered")
        elif path == "big":
            await ws.send(os.urandom(1024) * (int(argument) // 1024))
        elif path == "close":
            await ws.close(int(argument), "the server's reason")
        elif path == "raw":
            ws.transport.write(bytes.fromhex(argument))
        elif path == "abort":
            ws.transport.abort()
        else:
            self.seen.append((ws.subprotocol, ws.request.headers.get("Origin")))
        async for message in ws:
            self.seen.append(("got", len(message), hash(message)))
            await ws.send(message)

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self.loop.close()


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tunnels")


@pytest.fixture(scope="module")
def through(server, folder):
    """Return a product in front of the servers, for tests that leave it as it is."""
    product = product_of(folder, server)
    try:
        yield product.start()
    finally:
        product.sweep_up()
        assert "internal error" not in product.log.read_text()


def product_of(folder, server, *, tunnels="0s", drain="5s", more=""):
    config = WS_CONFIG.replace("{tunnels}", tunnels).replace("{drain}", drain)
    return Product(folder, server, more, config=config)


@pytest.fixture
def own(server, tmp_path):
    """Make a product that the test may end."""
    made = []

    def make(**options):
        made.append(product_of(tmp_path, server, **options))
        return made[-1].start()

    yield make
    for one in made:
        one.sweep_up()
        assert "internal error" not in one.log.read_text()


def play(scenario):
    """Run a coroutine to its end, in good time."""
    return asyncio.run(asyncio.wait_for(scenario, LIMIT_S))


def dial(port, path="/", **options):
    patience = {"open_timeout": 30, "close_timeout": 30}
    options = {"max_size": None, "ping_interval": None, "proxy": None, **patience, **options}
    return connect(f"ws://127.0.0.1:{port}{path}", **options)


def both_ways(server, through, scenario, *, ends=1):
    """Play `scenario(port)` straight and through the product; return what was seen, which must be the same."""
    seen = []
    for port in (server.ports["stable"], through.port):
        server.seen.clear()
        said = play(scenario(port))
        until_now(lambda: sum(isinstance(one, tuple) and one[0] == "server" for one in server.seen) >= ends)
        seen.append((said, list(server.seen)))
    assert seen[0] == seen[1]
    return seen[0]


def test_messages_fragments_and_compression(server, through):
    async def scenario(port):
        async with dial(port, "/fragments") as ws:
            extensions = ws.response.headers.get("Sec-WebSocket-Extensions")
            await ws.send(["one ", "two ", "", "three"])
            parts = [part async for part in ws.recv_streaming()]
            echoes = []
            for message in ("", "ü" * 5000, b"\0" * 100_000, b""):
                await ws.send(message)
                echoes.append(await ws.recv() == message)
            return extensions, parts, echoes

    (extensions, parts, echoes), seen = both_ways(server, through, scenario)
    assert "permessage-deflate" in extensions
    assert parts == ["in ", "several ", "parts", ""]
    assert all(echoes)
    assert "".join(seen[0]) == "one two three"
    assert len(seen[0]) >= 4


def test_pings_and_pongs(server, through):
    async def scenario(port):
        async with dial(port, "/ping") as ws:
            await (await ws.ping(b"from the client"))
            await ws.send("after")
            return await ws.recv()

    said, seen = both_ways(server, through, scenario)
    assert (said, seen[0]) == ("after", "the client answered")


@pytest.mark.slow
def test_64_mib_both_ways(server, through):
    size = 64 * MIB
    message = os.urandom(MIB) * 64

    async def scenario(port):
        async with dial(port, f"/big/{size}", compression=None) as ws:
            got = len(await ws.recv())
            await ws.send(message)
            return got, await ws.recv() == message

    assert both_ways(server, through, scenario)[0] == (size, True)


@pytest.mark.parametrize("code", SENDABLE)
def test_every_close_code(server, through, code):
    async def from_the_client(port):
        async with dial(port) as ws:
            await ws.close(code, "the client's reason")
            return ended(ws.protocol.close_exc)

    async def from_the_server(port):
        async with dial(port, f"/close/{code}") as ws:
            with pytest.raises(ConnectionClosed) as closed:
                await ws.recv()
            return ended(closed.value)

    _, seen = both_ways(server, through, from_the_client)
    assert seen[-1][1][0] == (code, "the client's reason")
    said, _ = both_ways(server, through, from_the_server)
    assert said[0] == (code, "the server's reason")


@pytest.mark.parametrize("code", [None, *RESERVED])
def test_close_frames_without_a_code_and_with_one_that_must_not_be_sent(server, through, code):
    data = b"" if code is None else struct.pack("!H", code)
    frame = Frame(Opcode.CLOSE, data)

    async def from_the_client(port):
        async with dial(port, "/first") as ws:
            await ws.recv()
            ws.transport.write(frame.serialize(mask=True))
            await ws.wait_closed()
            return ended(ws.protocol.close_exc)

    async def from_the_server(port):
        async with dial(port, f"/raw/{frame.serialize(mask=False).hex()}") as ws:
            with pytest.raises(ConnectionClosed) as closed:
                await ws.recv()
            return ended(closed.value)

    both_ways(server, through, from_the_client)
    both_ways(server, through, from_the_server)


def test_a_break_is_1006_on_the_other_side(server, through):
    async def by_the_client(port):
        async with dial(port, "/first") as ws:
            await ws.recv()
            sock = ws.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            ws.transport.abort()

    async def by_the_server(port):
        async with dial(port, "/abort") as ws:
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            return ws.close_code

    both_ways(server, through, by_the_client)
    assert both_ways(server, through, by_the_server)[0] == 1006


def test_subprotocols_and_fields_of_the_handshake(server, through):
    async def scenario(port):
        async with dial(port, subprotocols=["chat.v1", "chat.v9"], origin="http://shop.test") as ws:
            return ws.subprotocol

    said, seen = both_ways(server, through, scenario)
    assert said == "chat.v1"
    assert seen[0] == ("chat.v1", "http://shop.test")


@pytest.mark.parametrize("path,status", [("/forbidden", 403), ("/elsewhere", 426)])
def test_refused_handshakes(server, through, path, status):
    async def scenario(port):
        with pytest.raises(InvalidStatus) as refused:
            await dial(port, path)
        answer = refused.value.response
        return answer.status_code, answer.body, answer.headers.get("Upgrade"), answer.headers.get("Content-Type")

    said, _ = both_ways(server, through, scenario, ends=0)
    assert said[0] == status
    line = f'tidegate_requests_total{{code="{status}",service="web",version="stable"}}'
    until_now(lambda: through.metric(line))


def test_the_server_may_speak_first(server, through):
    async def scenario(port):
        async with dial(port, "/first") as ws:
            return await ws.recv()

    assert both_ways(server, through, scenario)[0] == "I begin"


def test_frames_that_come_with_the_handshake(server, through):
    """A client that does not wait: what is behind its handshake is passed on once the server has agreed."""
    frames = b"".join(Frame(Opcode.TEXT, text).serialize(mask=True) for text in (b"early", b"birds"))
    goodbye = Frame(Opcode.CLOSE, struct.pack("!H", 1000)).serialize(mask=True)
    ask = (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )

    async def scenario(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ask + frames)
        await reader.readuntil(b"\r\n\r\n")
        echoes = await reader.readexactly(len(b"\x81\x05early\x81\x05birds"))
        writer.write(goodbye)  # behind the echoes: a server that reads it before its own turn sends no more
        rest = await reader.read()
        writer.close()
        return echoes + rest

    said, _ = both_ways(server, through, scenario)
    assert said == b"\x81\x05early\x81\x05birds\x88\x02\x03\xe8"


def test_many_at_once(server, through):
    async def one(port, number):
        async with dial(port) as ws:
            for turn in range(3):
                await ws.send(f"{number}.{turn}")
                assert await ws.recv() == f"{number}.{turn}"

    async def scenario(port):
        await asyncio.gather(*(one(port, number) for number in range(100)))

    server.seen.clear()
    play(scenario(through.port))
    until_now(lambda: sum(one[0] == "server" for one in server.seen) == 100)
    assert {one[1][0] for one in server.seen if one[0] == "server"} == {(1000, "")}


# ---------------------------------------------------------------- the split, and moments of change


def test_split_and_stickiness_hold_for_handshakes(through):
    async def who(cookie=None):
        headers = {} if cookie is None else {"Cookie": cookie}
        async with dial(through.port, "/who", additional_headers=headers) as ws:
            minted = ws.response.headers.get("Set-Cookie", "").partition(";")[0]
            return await ws.recv(), minted

    async def scenario():
        visitors = [await who() for _ in range(20)]
        assert {name for name, _ in visitors} == {"stable", "new"}
        for name, cookie in visitors:
            assert cookie.startswith("tidegate=")
            assert await who(cookie) == (name, "")

    through.set_weight(50)
    try:
        play(scenario())
    finally:
        through.set_weight(0)


class EventStreams:
    """An endpoint of event streams, one event each 20 ms, that says which version it is."""

    def __init__(self):
        self.ports = {}
        self.loop = asyncio.new_event_loop()
        self._stop = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._run(),))

    async def _run(self):
        self._stop = asyncio.Event()
        tasks = set()
        servers = []

        def of(name):
            async def serve_one(reader, writer):
                tasks.add(asyncio.current_task())
                try:
                    with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                        while True:
                            await reader.readuntil(b"\r\n\r\n")
                            await stream(writer)
                finally:
                    writer.transport.abort()

            async def stream(writer):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
                writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
                event = f"data: {name}\n\n".encode()
                while not writer.is_closing():
                    writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                    await writer.drain()
                    await asyncio.sleep(0.02)  # its pace

            return serve_one

        for name in ("stable", "new"):
            servers.append(await asyncio.start_server(of(name), "127.0.0.1", 0))
            self.ports[name] = servers[-1].sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        for server in servers:
            server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in servers:
            await server.wait_closed()
        await asyncio.sleep(0)  # transports that were aborted close their sockets one turn later

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self.loop.close()


def test_a_rollback_sends_websockets_to_stable(own):
    product = own()
    product.set_weight(100)

    async def scenario():
        async with dial(product.port, "/who") as ws:
            assert await ws.recv() == "new"
            cookie = ws.response.headers["Set-Cookie"].partition(";")[0]
            await asyncio.to_thread(until_now, lambda: product.web()["versions"]["new"]["tunnels"] == 1)
            assert product.metric('tidegate_tunnels{service="web",version="new"}') == 1
            await asyncio.to_thread(product.set_weight, 1)
            await ws.send("still here")  # lowered is not rolled back
            assert await ws.recv() == "still here"
            await asyncio.to_thread(product.call, "POST", "/api/v1/services/web/rollback", {})
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            assert ws.close_code == 1006
        async with dial(product.port, "/who", additional_headers={"Cookie": cookie}) as ws:
            assert await ws.recv() == "stable"

    play(scenario())


def test_a_rollback_by_the_limits_ends_event_streams_in_good_order(tmp_path):
    """As an EventSource reads them: the body ends, and the same client comes again and is at stable."""
    with EventStreams() as backends:
        product = product_of(tmp_path, backends)
        try:
            product.start()
            product.set_weight(100)
            connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=30)
            connection.request("GET", "/events", headers={"Cookie": "session=one"})
            answer = connection.getresponse()
            assert answer.readline() == b"data: new\n"
            product.call("POST", "/api/v1/services/web/rollback", {})
            rest = answer.read()  # raises IncompleteRead if it is broken off
            assert set(rest.split(b"\n")) <= {b"data: new", b""}
            connection.request("GET", "/events", headers={"Cookie": "session=one"})
            assert connection.getresponse().readline() == b"data: stable\n"
            connection.close()
        finally:
            product.sweep_up()


def test_a_silent_supervisor_is_no_rollback(own):
    """Killed: its workers send new requests to stable, and keep what is open, until the next one has retired them."""
    product = own()
    product.set_weight(100)

    async def scenario():
        async with dial(product.port, "/who") as ws:
            assert await ws.recv() == "new"
            product.process.kill()
            product.process.wait()

            async def answering():
                async with dial(product.port, "/who") as other:
                    return await other.recv()

            while await answering() != "stable":
                pass
            await ws.send("still here")
            assert await ws.recv() == "still here"
            # The next supervisor retires that worker, which keeps the tunnel until its drain is over (5 s).
            await asyncio.to_thread(product.start)
            await ws.send("and here")
            assert await ws.recv() == "and here"
            with pytest.raises(ConnectionClosed):
                await ws.recv()

    play(scenario())


def test_a_drain_keeps_tunnels_until_its_timeout(own):
    product = own(drain="5s")

    async def scenario():
        async with dial(product.port) as ws:
            product.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(until_now, lambda: "draining" in product.log.read_text())
            for _ in range(10):
                await ws.send("still here")
                assert await ws.recv() == "still here"
            assert product.process.poll() is None
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            assert ws.close_code == 1006

    play(scenario())
    assert product.process.wait(30) == 0


def test_a_second_signal_ends_tunnels_now(own):
    product = own(drain="60s")

    async def scenario():
        async with dial(product.port) as ws:
            product.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(until_now, lambda: "draining" in product.log.read_text())
            await ws.send("still here")
            assert await ws.recv() == "still here"
            product.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                await ws.recv()

    play(scenario())
    assert product.process.wait(30) == 0
