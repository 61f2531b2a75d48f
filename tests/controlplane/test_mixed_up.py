"""Plain HTTP to a server with TLS."""

import asyncio
import json
import socket
import ssl

import pytest

from proxy.controlplane.mixed_up import ANSWER, Told
from tests.certificates import issue


class Greeter(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(b"hello, " + data)


async def serve(context, ask):
    server = await asyncio.get_running_loop().create_server(Greeter, "127.0.0.1", 0, ssl=context)
    async with server:
        return await asyncio.to_thread(ask, server.sockets[0].getsockname())


@pytest.fixture
def context(authority, tmp_path):
    files = issue(authority, tmp_path, "localhost")
    context = Told(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    return context


@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH", "POST"])
def test_it_is_answered_once_and_what_comes_then_ends_it(context, method):
    def ask(address):
        with socket.create_connection(address, 30) as sock:
            sock.sendall(f"{method} /livez HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            said = b""
            while len(said) < len(ANSWER):
                said += sock.recv(4096)
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            try:
                return said + sock.recv(4096)
            except ConnectionError:
                return said

    said = asyncio.run(serve(context, ask))
    assert said == ANSWER
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert head.endswith(f"Content-Length: {len(body)}".encode())
    assert json.loads(body)["title"] == "TlsRequired"


def test_tls_is_what_it_is_without(context, authority):
    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    def ask(address):
        with (
            socket.create_connection(address, 30) as plain,
            trust.wrap_socket(plain, server_hostname="localhost") as sock,
        ):
            sock.sendall(b"anybody?")
            return sock.recv(4096)

    assert asyncio.run(serve(context, ask)) == b"hello, anybody?"
