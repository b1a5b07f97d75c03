"""Whether a case is right itself: its calls fit the schemas, work on the fake server, and lead to what must hold."""

from __future__ import annotations

from pydantic import ValidationError

from evals.world import Case, open_world
from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings

TOOLS = build_server(Settings(base_url="http://127.0.0.1:9", create_agents=True)).specs


async def problems_of(case: Case) -> list[str]:
    """What is wrong with the case, nothing when it is right."""
    async with open_world() as world:
        calls = case.expected(world)
        for tool, arguments in calls:
            if tool not in TOOLS:
                return [f"there is no tool {tool}"]
            try:
                TOOLS[tool].build(0.0).fn_metadata.validate_arguments(arguments)
            except ValidationError as error:
                return [f"{tool}: {error}"]
        if case.only_checked:
            return []
        for tool, arguments in calls:
            answer = await world.caller.call(tool, **arguments)
            if answer.is_error != case.refused:
                return [f"{tool}: {answer.text}"]
        return await world.failed(case)
