"""A stream that is silent has a sign of life every 15 seconds, so that no proxy takes it for dead."""

from __future__ import annotations

import json

import anyio
import httpx
import pytest

from letta_conversations_mcp.settings import Settings
from tests.http.team import modern_call
from tests.rig.clock import let_pass
from tests.rig.fake_letta import FakeLetta
from tests.rig.model import ScriptedModel
from tests.rig.servers import http_server
from tests.rig.waiting import Record

pytestmark = pytest.mark.asyncio(loop_scope="function")


async def test_a_call_whose_answer_takes_long_and_a_stream_of_changes_have_one() -> None:
    fake, gate = FakeLetta(ScriptedModel()), anyio.Event()
    fake.stall("GET", "/v1/models/*", gate)
    call = modern_call("tools/call", {"name": "list_models", "arguments": {}}, "list_models")
    listen = modern_call("subscriptions/listen", {"notifications": {"resourcesListChanged": True}})
    async with (
        fake.serve() as letta_url,
        http_server(Settings(base_url=letta_url)) as url,
        httpx.AsyncClient(trust_env=False, timeout=None) as http,  # noqa: S113  the clock jumps
    ):
        for body, headers in (call, listen):
            lines = Record[str]()

            async def read(content: str, headers: dict[str, str], lines: Record[str]) -> None:
                async with http.stream("POST", f"{url}/mcp", content=content, headers=headers) as stream:
                    async for line in stream.aiter_lines():
                        lines.append(line[:1])

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read, json.dumps(body), headers, lines)
                await (lines if body is listen[0] else fake.requests).until()
                for count in (1, 2):
                    assert lines.count(":") == count - 1
                    let_pass(15)
                    await lines.until(lambda line: line == ":", count)
                tasks.cancel_scope.cancel()
        gate.set()
