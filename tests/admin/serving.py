"""The admin application on a real socket (port 0), asked by a real client."""

import asyncio
import functools
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import ClientSession, web

from proxy.admin.app import runner
from proxy.config.compile import AdminSettings
from tests.admin.fake import FakeOperations

LOCAL = AdminSettings(listen="127.0.0.1:0", tokens=())


@dataclass
class Served:
    operations: FakeOperations
    session: ClientSession
    port: int
    run: web.AppRunner

    async def ask(self, method, path, *, status=200, **options):
        """Return the answer's object (or text) and the answer; errors must be problem+json."""
        async with self.session.request(method, f"http://127.0.0.1:{self.port}{path}", **options) as answer:
            assert answer.status == status, await answer.text()
            if answer.status >= 400 and method != "HEAD":
                assert answer.content_type == "application/problem+json"
                value = await answer.json(content_type=None)
                assert value["status"] == status
                assert value["title"]
                assert value["detail"]
            elif answer.content_type == "application/json":
                value = await answer.json()
            else:
                value = await answer.text()
            return value, answer


@asynccontextmanager
async def served(settings=LOCAL, names=("web",)):
    operations = FakeOperations(names)
    run = runner(operations, settings)
    await run.setup()
    site = web.TCPSite(run, "127.0.0.1", 0)
    await site.start()
    try:
        async with ClientSession() as session:
            yield Served(operations, session, run.addresses[0][1], run)
    finally:
        await run.cleanup()


def running(scenario):
    """Make a test of an async scenario; no task may be left behind."""

    async def whole(*args, **kwargs):
        await scenario(*args, **kwargs)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            await asyncio.wait(left, timeout=30)
        assert not asyncio.all_tasks() - {asyncio.current_task()}

    @functools.wraps(scenario)
    def test(*args, **kwargs):
        asyncio.run(whole(*args, **kwargs))

    return test
