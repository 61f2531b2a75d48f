"""TLS listeners of a worker: what a client sees with it is what one sees without, and nobody is fooled about an end."""

from __future__ import annotations

import contextlib
import random
import shutil
import ssl
import subprocess
import threading

import pytest
import trustme

from proxy.ipc import layout
from proxy.routing.table import RequestLimits, Sticky
from proxy.tls import Pair, read_pair
from tests.certificates import issue
from tests.dataplane.conftest import IDLE, Gate
from tests.dataplane.harness import LoneWorker, eventually, same
from tests.dataplane.test_small_chunks import BODY, CODED, POST, sizes
from tests.dataplane.wire import Client, Ended, holding, request, response

BIG = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture(scope="module")
def make(authority, tmp_path_factory):
    """Return a function that issues a certificate for names, and returns it as a worker gets it."""

    def pair(*names: str) -> Pair:
        files = issue(authority, tmp_path_factory.mktemp("pair"), *names)
        return read_pair(files.cert, files.key)

    return pair


class TlsGate(Gate):
    """A gate whose worker listens with TLS."""

    def __init__(self, worker: LoneWorker, authority: trustme.CA) -> None:
        super().__init__(worker)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(self.context)
        self.context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF

    def plain(self) -> Client:
        return super().client()

    def client(self, name: str = "shop.test", context: ssl.SSLContext | None = None, **options) -> Client:
        client = super().client(**options)
        client.sock = (context or self.context).wrap_socket(
            client.sock, server_hostname=name, suppress_ragged_eofs=False
        )
        return client


@pytest.fixture(scope="module")
def kept(authority, make):
    worker = LoneWorker(IDLE, pairs=[make("shop.test"), make("*.shop.test", "other.test"), make("a.shop.test")])
    yield worker
    worker.close()


@pytest.fixture
def tls(kept, authority):
    gate = TlsGate(kept, authority)
    yield gate
    gate.close()


@contextlib.contextmanager
def alone(authority, *pairs, **how):
    """Give a gate on a worker of its own."""
    worker = LoneWorker(IDLE, pairs=pairs, **how)
    gate = TlsGate(worker, authority)
    try:
        yield gate
        gate.close()
    finally:
        worker.close()


def shown(client: Client) -> set[str]:
    """Return the names of the certificate that a client was shown."""
    return {value for _, value in client.sock.getpeercert()["subjectAltName"]}


# ---------------------------------------------------------------- the same as without


def test_a_request_is_served_and_the_endpoint_is_told_that_it_came_encrypted(tls):
    backend = tls.backend()
    tls.serve(backend)
    answer = tls.client().request("GET", "/x?y")
    assert (answer.status, answer.body) == (200, b"stable")
    assert backend.requests[0].get("X-Forwarded-Proto") == "https"
    assert backend.requests[0].get("X-Forwarded-For") == "127.0.0.1"


def test_the_minted_cookie_is_for_encrypted_connections_only(tls):
    tls.serve(tls.backend(), tls.backend(), sticky=Sticky("cookie"))
    assert "; Secure" in tls.client().request().get("Set-Cookie")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_bodies_pass_whole_both_ways(tls, authority, version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    context.minimum_version = context.maximum_version = version

    def mirror(peer):
        while True:
            got = peer.request()
            peer.send(response(body=got.body))

    tls.serve(tls.backend(mirror))
    client = tls.client(context=context)
    for _ in range(2):
        client.send(request("POST", "/", body=BIG))  # not beside the reading: ssl sockets are not for two threads
        assert client.response().body == BIG
    assert client.sock.version() == version.name.replace("_", ".")


def test_pipelined_requests_are_answered_in_order(tls):
    def echo(peer):
        while True:
            got = peer.request()
            peer.send(response(body=got.target.encode()))

    tls.serve(tls.backend(echo))
    client = tls.client()
    client.send(b"".join(request("GET", f"/{number}") for number in range(20)))
    assert [client.response().body for _ in range(20)] == [b"/%d" % number for number in range(20)]


def test_a_client_may_send_its_bytes_one_by_one(tls):
    tls.serve(tls.backend())
    client = tls.client()
    for byte in request("POST", "/", body=b"slowly"):
        client.send(bytes([byte]))
    assert client.response().status == 200


def test_handshake_bytes_may_come_one_by_one(tls):
    tls.serve(tls.backend())
    sock = tls.plain().sock
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inner = tls.context.wrap_bio(incoming, outgoing, server_hostname="shop.test")
    while True:
        try:
            inner.do_handshake()
            break
        except ssl.SSLWantReadError:
            for byte in outgoing.read():
                sock.sendall(bytes([byte]))
            incoming.write(sock.recv(1))
    inner.write(request())
    sock.sendall(outgoing.read())
    got = b""
    while b"stable" not in got:
        try:
            got += inner.read(1000)
        except ssl.SSLWantReadError:
            incoming.write(sock.recv(1))


# ---------------------------------------------------------------- handshakes


@pytest.mark.parametrize(
    "asked,expected",
    [
        ("shop.test", {"shop.test"}),
        ("SHOP.test", {"shop.test"}),
        ("a.shop.test", {"a.shop.test"}),
        ("b.shop.test", {"*.shop.test", "other.test"}),
        ("other.test", {"*.shop.test", "other.test"}),
    ],
)
def test_the_name_asked_for_chooses_the_certificate(tls, asked, expected):
    tls.serve(tls.backend())
    client = tls.client(asked)
    assert shown(client) == expected
    assert client.request().status == 200


@pytest.mark.parametrize("asked", [None, "unknown.test", "c.b.shop.test"])
def test_the_first_certificate_serves_the_rest(tls, asked, authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    context.check_hostname = False
    tls.serve(tls.backend())
    assert shown(tls.client(asked, context)) == {"shop.test"}


def test_only_http_1_1_is_agreed_on(tls, authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    tls.serve(tls.backend())
    assert tls.client(context=context).sock.selected_alpn_protocol() == "http/1.1"


def test_tls_1_1_is_refused(tls):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"(?i)version"):
        tls.client(context=old)


@pytest.mark.parametrize("cipher", ["AES128-SHA", "AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA"])
def test_ciphers_without_forward_secrecy_or_authentication_are_refused(tls, cipher):
    weak = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    weak.check_hostname = False
    weak.verify_mode = ssl.CERT_NONE
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers(cipher)
    with pytest.raises(ssl.SSLError):
        tls.client(context=weak)


def test_plain_http_is_told_what_is_missing(tls):
    tls.serve(tls.backend())
    client = tls.plain()
    answer = client.request()
    assert answer.status == 400
    assert b"https://" in answer.body
    assert client.end() == "eof"
    same(tls.local_replies, {(400, "malformed"): 1})


@pytest.mark.parametrize("begin, length", [(b"HEAD", 0), (b"\r\n\r\nGET", None)])
def test_plain_http_is_read_as_far_as_it_is_answered(tls, begin, length):
    tls.serve(tls.backend())
    client = tls.plain()
    client.send(begin + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    with contextlib.suppress(Ended):
        client.until(b"never")
    head, _, body = client.buffer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert (len(body) == 0) is (length == 0)


@pytest.mark.parametrize("noise", [b"\x00" * 64, b"\x16\x03\x01\x00\x05hello", b"\x80.\x01\x00\x02".ljust(64, b"x")])
def test_what_is_no_tls_is_let_go(tls, noise):
    tls.serve(tls.backend())
    client = tls.plain()
    client.send(noise)
    with contextlib.suppress(Ended):
        client.until(b"never")
    tls.alone()
    same(tls.refused_connections, {"tls_handshake": 1})


def test_a_client_that_leaves_within_the_handshake_is_forgotten(tls):
    for _ in range(3):
        client = tls.plain()
        client.send(b"\x16\x03\x01")
        eventually(lambda: tls.worker.row(layout.ROW_CONNECTIONS), "the connection")
        client.close()
    tls.alone()


@pytest.mark.slow
def test_a_handshake_has_the_time_of_a_head(tls):
    tls.serve(tls.backend(), limits=RequestLimits(header_timeout_s=1.2))
    silent, begun = tls.plain(), tls.plain()
    begun.send(b"\x16\x03\x01\x02\x00")
    assert silent.end() == begun.end() == "eof"
    slow = tls.client()
    slow.send(b"GET / HT")
    assert slow.response().status == 408


def test_too_many_connections_get_their_503_behind_the_handshake(authority, make):
    with alone(authority, make("shop.test")) as gate:
        gate.serve(gate.backend(), limits=RequestLimits(connections=1))
        first = gate.client()
        assert first.request().status == 200
        second = gate.client()
        assert second.response().status == 503
        assert first.request().status == 200


# ---------------------------------------------------------------- ends


def test_close_notify_of_an_idle_client_is_answered_with_ours(tls):
    tls.serve(tls.backend())
    client = tls.client()
    client.request()
    client.sock.unwrap()
    assert client.sock.recv(1) == b""
    tls.alone()


@pytest.mark.parametrize("how", ["close_notify", "fin", "reset"])
def test_a_client_that_leaves_is_gone_for_the_endpoint(tls, release, how):
    backend = tls.backend(holding(release, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"))
    tls.serve(backend)
    client = tls.client()
    client.send(request())
    assert client.head().status == 200
    if how == "close_notify":
        client.sock.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLError):
            client.sock.unwrap()
    elif how == "fin":
        client.finish()
    else:
        client.reset()
    same(tls.aborts, 1)
    tls.finished(0)


class ByHand:
    """TLS whose bytes are carried by hand, so that it can end its own side alone."""

    def __init__(self, tls):
        self.sock = tls.plain().sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.inner = tls.context.wrap_bio(self.incoming, self.outgoing, server_hostname="shop.test")
        self.until(self.inner.do_handshake)

    def until(self, done):
        while True:
            try:
                return done()
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                got = self.sock.recv(65536)
                assert got
                self.incoming.write(got)
            finally:
                self.sock.sendall(self.outgoing.read())

    def read(self):
        return self.until(lambda: self.inner.read(4096))

    def end(self):
        with contextlib.suppress(ssl.SSLWantReadError):
            self.inner.unwrap()
        self.sock.sendall(self.outgoing.read())


def test_half_close_waits_for_the_answer(tls, release):
    tls.serve(tls.backend(holding(release, b"", response(body=b"late"))), half_close="allow")
    client = ByHand(tls)
    client.inner.write(request())
    client.end()
    tls.sweeps(3)
    release.set()
    got = b""
    while not got.endswith(b"late"):
        got += client.read()
    with pytest.raises(ssl.SSLZeroReturnError):
        client.read()


def test_half_close_right_behind_very_many_chunks_waits_for_the_answer(tls):
    seen = []

    def script(peer):
        peer.head()
        seen.append(sizes(peer)[1])
        peer.send(response())

    tls.serve(tls.backend(script), half_close="allow")
    client = ByHand(tls)
    client.inner.write(POST)
    client.inner.write(CODED + b"0\r\n\r\n")
    client.end()
    assert client.read().startswith(b"HTTP/1.1 200 ")
    assert seen == [BODY]


def test_an_answer_before_the_body_is_over_arrives_and_ends_cleanly(tls):
    tls.serve(tls.backend(), limits=RequestLimits(body=1000))
    client = tls.client()
    client.send(request("POST", "/", "Content-Length: 500000")[:-2] + b"\r\n")
    with contextlib.suppress(OSError):
        client.send(b"x" * 300_000)
    assert client.response().status == 413
    assert client.end() == "eof"


def test_connection_close_ends_with_close_notify(tls):
    tls.serve(tls.backend())
    client = tls.client()
    client.send(request("GET", "/", "Connection: close"))
    assert client.response().status == 200
    assert client.end() == "eof"


def test_an_answer_that_lasts_until_close_and_breaks_is_not_ended_by_close_notify(tls):
    def breaks(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        peer.close()

    tls.serve(tls.backend(breaks))
    client = tls.client()
    client.send(request(version="1.0"))
    client.head()
    assert client.drain() in {"reset", "cut"}


# ---------------------------------------------------------------- flow


@pytest.mark.slow
def test_a_client_that_does_not_read_holds_up_the_endpoint_and_costs_little(tls):
    size = 64 * 1024 * 1024
    sent = []

    def floods(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        piece = b"y" * 262_144
        for _ in range(size // len(piece)):
            peer.send(piece)
            sent.append(len(piece))

    tls.serve(tls.backend(floods))
    tls.client().request  # noqa: B018 -- the first handshake's memory is not what is measured
    before = tls.rss()
    client = tls.client(SO_RCVBUF=65536)
    client.send(request())
    client.head()
    eventually(lambda: sent, "the flood")
    count = -1
    while count != len(sent):  # until the endpoint is held up
        count = len(sent)
        tls.sweeps(6)
    assert sum(sent) < size / 2
    assert tls.rss() - before < 12 * 1024 * 1024
    body = client.exactly(size)
    assert body == b"y" * size


@pytest.mark.slow
def test_an_endpoint_that_does_not_read_holds_up_the_client(tls, release):
    def stalls(peer):
        peer.head()
        assert release.wait(30)
        peer.sock.settimeout(30)
        got = len(peer.buffer)
        while got < 32 * 1024 * 1024:
            got += len(peer.sock.recv(262_144))
        peer.send(response())

    tls.serve(tls.backend(stalls))
    client = tls.client()
    before = tls.rss()
    client.send(request("POST", "/", f"Content-Length: {32 * 1024 * 1024}"))
    sent = []

    def push():
        for _ in range(128):
            client.send(b"z" * 262_144)
            sent.append(1)

    sender = threading.Thread(target=push)
    sender.start()
    count = -1
    while count != len(sent) or not count:
        count = len(sent)
        tls.sweeps(6)
    assert count < 128
    assert tls.rss() - before < 12 * 1024 * 1024
    release.set()
    sender.join()
    assert client.response().status == 200


# ---------------------------------------------------------------- tunnels


def test_a_tunnel_passes_bytes_and_half_closes(tls):
    def tunnel(peer):
        peer.request()
        peer.send(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello")
        peer.send(peer.exactly(5).upper())
        peer.finish()
        peer.backend.heard = peer.rest()

    backend = tls.backend(tunnel)
    tls.serve(backend)
    client = tls.client()
    client.send(request("GET", "/", "Connection: upgrade", "Upgrade: echo") + b"world")
    assert client.head().status == 101
    assert client.exactly(10) == b"helloWORLD"
    assert client.end() == "eof"
    client.send(b"still here")
    client.sock.unwrap()
    eventually(lambda: getattr(backend, "heard", None), "the end")
    assert backend.heard == b"still here"
    tls.alone()


# ---------------------------------------------------------------- other certificates


def test_a_new_certificate_is_shown_to_new_connections_and_old_ones_live_on(authority, make):
    with alone(authority, make("shop.test", "old.test")) as gate:
        gate.serve(gate.backend())
        old = gate.client()
        old.request()
        gate.worker.certify([make("shop.test", "new.test")])

        def renewed():
            return shown(gate.client()) == {"shop.test", "new.test"}

        eventually(renewed, "the new certificate")
        assert old.request().status == 200


def test_certificates_that_cannot_be_used_change_nothing_and_are_told(authority, make):
    good = make("shop.test")
    with alone(authority, good) as gate:
        gate.serve(gate.backend())
        gate.worker.certify([Pair(("x",), 0, 0, "no certificate")])
        assert "stay as they were" in gate.worker.expect("notice")["text"]
        assert gate.client().request().status == 200


@pytest.mark.slow
def test_a_drain_ends_an_idle_connection_after_one_more_answer(authority, make):
    with alone(authority, make("shop.test")) as gate:
        gate.serve(gate.backend())
        client = gate.client()
        client.request()
        gate.worker.say({"type": "drain", "delay_s": 0, "timeout_s": 30})
        eventually(lambda: client.request().get("Connection") == "close", "the last answer")
        assert client.end() == "eof"
        gate.worker.process.wait(30)


# ---------------------------------------------------------------- other clients


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_s_client(tls, version):
    tls.serve(tls.backend())
    where = ["-connect", f"127.0.0.1:{tls.worker.port}", "-servername", "a.shop.test"]
    done = subprocess.run(
        ["openssl", "s_client", *where, version, "-ign_eof", "-quiet"],
        input=request("GET", "/", "Connection: close"),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert b"200" in done.stdout
    assert done.stdout.endswith(b"stable")


def test_a_session_is_taken_up_again(tls):
    tls.serve(tls.backend())
    first = tls.client()
    first.request()
    session = first.sock.session
    again = tls.context.wrap_socket(tls.plain().sock.dup(), server_hostname="shop.test", session=session)
    assert again.session_reused
    again.close()


@pytest.mark.slow
def test_a_client_that_leaves_while_nothing_is_read_from_it_is_gone_too(tls, release):
    def stalls(peer):
        peer.head()
        assert release.wait(30)

    backend = tls.backend(stalls)
    tls.serve(backend)
    client = tls.client()
    client.send(request("POST", "/", f"Content-Length: {64 * 1024 * 1024}"))
    client.sock.settimeout(0.5)
    with contextlib.suppress(TimeoutError, ssl.SSLError):
        while True:
            client.send(b"z" * 65536)
    client.reset()
    same(tls.aborts, 1)
    tls.finished(0)


def test_server_sent_events_pass_at_once(tls, release):
    events = [b"data: %d\n\n" % number for number in range(3)]

    def stream(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for event in events:
            peer.send(event)
            assert release.wait(30)
            release.clear()
        peer.close()

    tls.serve(tls.backend(stream))
    client = tls.client()
    client.send(request())
    client.head()
    for event in events:
        assert event in client.until(b"\n\n")
        release.set()
    client.until(b"0\r\n\r\n")


def test_a_renegotiation_is_not_taken_up(tls):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    tls.serve(tls.backend())
    where = ["-connect", f"127.0.0.1:{tls.worker.port}", "-servername", "shop.test"]
    done = subprocess.run(
        ["openssl", "s_client", *where, "-tls1_2", "-legacy_renegotiation"],
        input=b"R\nR\n",
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert b"no renegotiation" in done.stderr + done.stdout
    tls.alone()


@pytest.mark.parametrize("seed", range(8))
def test_a_connection_whose_bytes_are_changed_ends_and_harms_nobody(tls, seed):
    tls.serve(tls.backend())
    good = tls.client()
    draw = random.Random(seed)
    sock = tls.plain().sock
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inner = tls.context.wrap_bio(incoming, outgoing, server_hostname="shop.test")
    hit = draw.randrange(0, 4)
    with contextlib.suppress(ssl.SSLError, OSError):
        for turn in range(12):
            with contextlib.suppress(ssl.SSLWantReadError):
                inner.do_handshake()
                inner.write(request("GET", f"/{turn}"))
            data = bytearray(outgoing.read())
            if turn == hit and data:
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            sock.sendall(data)
            if turn > hit:
                break
            sock.settimeout(0.3)
            incoming.write(sock.recv(65536))
    sock.close()
    assert good.request().status == 200
    assert tls.worker.faults() == 0
