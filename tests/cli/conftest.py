import asyncio
import contextlib
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from aiohttp import web
from typer.testing import CliRunner

from proxy.admin.app import runner
from proxy.cli.app import app
from proxy.config.compile import AdminSettings
from tests.admin.fake import FakeOperations


@contextlib.contextmanager
def admin_server(*, names=("web",), tokens=(), unix=None, tls=None):
    """Run a real admin API over the fake operations in a thread; yield where it is and how to reach into it."""
    loop = asyncio.new_event_loop()
    operations = FakeOperations(names)
    server = runner(operations, AdminSettings(listen="127.0.0.1:0", tokens=tokens))

    async def start():
        await server.setup()
        await (web.UnixSite(server, unix) if unix else web.TCPSite(server, "127.0.0.1", 0, ssl_context=tls)).start()
        return f"unix:{unix}" if unix else f"{'https' if tls else 'http'}://127.0.0.1:{server.addresses[0][1]}"

    url = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def call(function, *args):
        """Call a function in the server's loop and return its result."""

        async def work():
            result = function(*args)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(work(), loop).result(30)

    try:
        yield SimpleNamespace(url=url, operations=operations, call=call)
    finally:
        call(server.cleanup)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.fixture
def admin():
    with admin_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("TIDEGATE_ADMIN", "TIDEGATE_ADMIN_TOKEN", "NO_COLOR", "TIDEGATE_DEBUG"):
        monkeypatch.delenv(name, raising=False)


def tidegate(*args, **options):
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="tidegate", **options)


def command(*args, env=None, **options):
    """Run the command as a process of its own."""
    argv = [sys.executable, "-m", "proxy", *map(str, args)]
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ".", **(env or {})}
    return subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False, **options)
