"""The tools that an agent of the fake Letta server has: what they do to its memory, and what they return."""

from __future__ import annotations

import json
from typing import Any, Literal, cast

from tests.rig.fake_run import Json
from tests.rig.fake_store import Agent, Block, Thread


def parsed(arguments: str) -> Json:
    """Arguments that are no JSON object are run as none."""
    try:
        value: Any = json.loads(arguments)
    except ValueError:
        return {}
    return cast("Json", value) if isinstance(value, dict) else {}


def use_tool(thread: Thread, name: str, arguments: Json) -> tuple[str, Literal["success", "error"], list[str] | None]:
    """Execute a tool: its return, its status, and what it wrote to stderr."""
    agent = thread.agent
    if name == "conversation_search":
        return search(agent, str(arguments.get("query", ""))), "success", None
    if name in agent.own_tools:
        return agent.own_tools[name], "success", None
    if name not in agent.tool_ids:
        text = f"[ToolConstraintError] Cannot call {name}, valid tools include: {list(agent.tool_ids)}."
        return text, "error", None
    label, new = str(arguments.get("label")), str(arguments.get("new_string"))
    block = block_of(thread, label)
    if block is None:
        problem = f"Block field {label} does not exist (available sections = {', '.join(agent.blocks)})"
        return problem, "error", [f"Error executing function {name}: KeyError: {problem}"]
    if name == "memory_insert":
        block.value = f"{block.value}\n{new}"
        return block.value, "success", None
    old = str(arguments.get("old_string"))
    if old not in block.value:
        problem = (
            f"No replacement was performed, old_string `{old}` did not appear verbatim "
            f"in memory block with label `{label}`."
        )
        return problem, "error", [f"Error executing function {name}: ValueError: {problem}"]
    block.value = block.value.replace(old, new)
    return block.value, "success", None


def block_of(thread: Thread, label: str) -> Block | None:
    """The block a memory tool writes: the conversation's own copy when it has one."""
    return thread.blocks.get(label) or thread.agent.blocks.get(label)


def search(agent: Agent, query: str) -> str:
    """Like the server's: over all conversations of the agent, newest first, at most five."""
    hits = [
        row
        for row in reversed(agent.rows)
        if row.role in ("user", "assistant") and query.lower() in row.model_text.lower()
    ]
    results = [
        {
            "timestamp": row.created.isoformat(),
            "time_ago": "0s ago",
            "role": row.role,
            "relevance": {"search_mode": "sql"},
            "content": row.model_text,
        }
        for row in hits[:5]
    ]
    message = f"Showing {len(results)} results:" if results else "No results found."
    return str({"message": message, "results": results})
