"""A client of the newer protocol that declares the tasks extension, and does by hand what such a client does."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from mcp import Client
from mcp.client import advertise
from mcp_types import CallToolRequest, CallToolRequestParams, Request, Result
from pydantic import ConfigDict

from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.server.tasks.extension import IDENTIFIER
from letta_conversations_mcp.settings import Settings
from tests.rig.servers import Transport, http_server, stdio_server
from tests.rig.waiting import until

ENDED = ("completed", "failed", "cancelled")


class RawResult(Result):
    """Whatever a server answers."""

    model_config = ConfigDict(extra="allow")


class TaskRequest(Request[dict[str, Any], str]):
    """Of one of the extension's methods."""


class TaskClient:
    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """What `tools/call` answers: a result, or a task."""
        params = CallToolRequestParams(name=tool, arguments=arguments)
        return _plain(await self.client.session.send_request(CallToolRequest(params=params), RawResult))

    async def task(self, tool: str, **arguments: Any) -> str:
        """The id of the task that a call becomes."""
        answer = await self.call(tool, **arguments)
        assert answer["resultType"] == "task", answer
        return answer["taskId"]

    async def ask(self, method: str, task_id: str, **params: Any) -> dict[str, Any]:
        request = TaskRequest(method=method, params={"taskId": task_id, **params})
        return _plain(await self.client.session.send_request(request, RawResult))

    async def get(self, task_id: str) -> dict[str, Any]:
        return await self.ask("tasks/get", task_id)

    async def end(self, task_id: str) -> dict[str, Any]:
        """The task when it has ended."""

        async def ended() -> dict[str, Any] | None:
            task = await self.get(task_id)
            return task if task["status"] in ENDED else None

        return await until(ended)


def _plain(result: RawResult) -> dict[str, Any]:
    return result.model_dump(by_alias=True, mode="json", exclude_unset=True)


@asynccontextmanager
async def task_client_of(url: str, *, declares: bool = True) -> AsyncGenerator[TaskClient]:
    """A client of a server that runs."""
    async with Client(url, extensions=[advertise(IDENTIFIER)] if declares else []) as client:
        yield TaskClient(client)


@asynccontextmanager
async def task_client(
    settings: Settings, transport: Transport = "memory", *, declares: bool = True
) -> AsyncGenerator[TaskClient]:
    """A client of a server of its own with these settings."""
    extensions = [advertise(IDENTIFIER)] if declares else []
    if transport == "http":
        async with http_server(settings) as url, task_client_of(f"{url}/mcp", declares=declares) as client:
            yield client
    else:
        target = build_server(settings) if transport == "memory" else stdio_server(settings)
        async with Client(target, extensions=extensions) as client:
            yield TaskClient(client)
