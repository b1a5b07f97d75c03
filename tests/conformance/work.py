"""Fixtures of the conformance suite that take their time, to be made tasks of by our extension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, CallToolResult

from letta_conversations_mcp.core.errors import NotFound
from letta_conversations_mcp.server.tasks.extension import GRACE_SECONDS
from letta_conversations_mcp.server.tasks.handlers import TaskState, Trace
from letta_conversations_mcp.tools.base import Services

LONGER = GRACE_SECONDS + 0.2
"""What takes less makes no task, and the suite wants one."""


class OnlyHere:
    """A call that only the process knows of that carries it on."""

    goes_on_here = True

    def suits(self, arguments: Mapping[str, Any]) -> bool:
        return True

    async def trace(self, services: Services, arguments: Mapping[str, Any], result: CallToolResult | None) -> Trace:
        return {}

    async def check(self, services: Services, trace: Trace) -> None:
        """There is nothing that somebody may not see."""

    async def find(self, services: Services, trace: Trace, since: datetime) -> TaskState:
        raise NotFound("task", "of a fixture", "Its process has ended.")

    def stoppable(self, trace: Trace) -> Sequence[Mapping[str, str]]:
        return ()


TASKED_FIXTURES = {name: OnlyHere() for name in ("slow_compute", "failing_job", "protocol_error_job")}


def add_work(server: MCPServer[Any]) -> None:
    @server.tool(name="greet", structured_output=False)
    async def greet(name: str) -> str:
        """A fixture: answers at once."""
        return f"Hello, {name}!"

    @server.tool(name="slow_compute")
    async def slow(seconds: float, label: str = "") -> str:
        """A fixture: takes its time."""
        await anyio.sleep(seconds + LONGER if seconds else 0)
        return f"{label} took {seconds} seconds"

    @server.tool(name="failing_job")
    async def failing() -> None:
        """A fixture: takes its time, and fails as a tool does."""
        await anyio.sleep(LONGER)
        raise ToolError("This job fails, as it should.")

    @server.tool(name="protocol_error_job")
    async def protocol_error() -> None:
        """A fixture: takes its time, and fails as a request does."""
        await anyio.sleep(LONGER)
        raise MCPError(code=INTERNAL_ERROR, message="This request fails, as it should.")
