"""The commands of lettactl that concern conversations, for people who are used to them. Each calls a tool.

Without `--conversation-id` they are about an agent's `default` conversation, as in lettactl.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from letta_conversations_mcp.cli.command import Command, Examples
from letta_conversations_mcp.cli.command_lines import for_person
from letta_conversations_mcp.cli.exit_status import warn
from letta_conversations_mcp.cli.options import GroupedOption
from letta_conversations_mcp.cli.tool_arguments import METAVARS, Message, commands_of_tools, given
from letta_conversations_mcp.cli.tool_commands import call_tool, text_of, use_tools
from letta_conversations_mcp.core.untrusted import escaped
from letta_conversations_mcp.settings import BackendSettings, Settings

if TYPE_CHECKING:
    from letta_conversations_mcp.cli.tool_calls import Answer, Tools

Output = Literal["table", "json", "yaml"]

PAGE = 100
"""Rows that are asked for at a time."""

VISIBLE_KINDS = ("user", "assistant", "approval", "summary")
ALL_KINDS = (*VISIBLE_KINDS, "reasoning", "tool", "system", "other")
"""The messages that `get messages` shows without and with --system."""

Row = Mapping[str, Any]

AGENT_COLUMNS = {"NAME": "name", "ID": "id", "MODEL": "model", "DESCRIPTION": "description"}
CONVERSATION_COLUMNS = {"ID": "id", "SUMMARY": "summary", "LAST MESSAGE": "last_message_at", "MODEL": "model"}


def _answered(
    tool: str, names: Mapping[str, str], settings: Settings, *, output: Output = "table", **values: Any
) -> int:
    """Call a tool and print its answer. `names` says which argument of it each of `values` is, where that differs."""
    arguments = {names.get(name, name): value for name, value in given(values).items()}
    if tool in ("send_message", "compact"):
        arguments.setdefault("conversation_id", "default")

    async def work(tools: Tools) -> int:
        return _print(await call_tool(tools, tool, arguments), output)

    return use_tools(settings, work)


def _print(answer: Answer, output: Output) -> int:
    if answer.is_error:
        warn(for_person(answer.text).replace("add --confirm", "add --force"))
    else:
        print(text_of(answer) if output == "table" else _dump(answer.data, output))
    return answer.exit_status


def _messages(
    settings: Settings, *, agent: str, conversation_id: str | None, system: bool, output: Output, **values: Any
) -> int:
    arguments = {
        "agent": agent,
        "conversation_id": conversation_id or "default",
        "kinds": list(ALL_KINDS if system else VISIBLE_KINDS),
        **given(values),
    }

    async def work(tools: Tools) -> int:
        answer = await call_tool(tools, "list_messages", arguments)
        if answer.is_error or output == "table":
            return _print(answer, "table")
        print(_dump(answer.data.get("messages", []), output))
        return 0

    return use_tools(settings, work)


def _listed(
    tool: str, key: str, columns: Mapping[str, str], settings: Settings, *, output: Output, **values: Any
) -> int:
    """Print all rows that a tool lists, page by page."""

    async def work(tools: Tools) -> int:
        rows: list[Row] = []
        cursor: dict[str, str] = {}
        while True:
            answer = await call_tool(tools, tool, {**given(values), **cursor, "limit": PAGE})
            if answer.is_error:
                return _print(answer, output)
            page = cast("list[Row]", answer.data.get(key, []))
            rows += page
            if not (page and "after=" in answer.data.get("next", "")):
                break
            cursor = {"after": page[-1]["id"]}
        print(_table(rows, columns) if output == "table" else _dump(rows, output))
        return 0

    return use_tools(settings, work)


def _dump(data: object, output: Output) -> str:
    if output == "json":
        return json.dumps(data, ensure_ascii=False, indent=2)
    import yaml

    return yaml.safe_dump(data, allow_unicode=True, sort_keys=False).rstrip()


def _table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Columns as wide as their widest cell, so that nothing is cut; those without any value are left out."""
    from rich.cells import cell_len

    used = {title: key for title, key in columns.items() if any(row.get(key) for row in rows)}
    cells = [list(used), *([escaped(" ".join(str(row.get(key, "")).split())) for key in used.values()] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _argument(name: str, help_text: str) -> click.Argument:
    kind = Message() if name == "message" else click.STRING
    return click.Argument([name], type=kind, metavar=METAVARS.get(name, name.upper()), help=help_text)


def _output(*formats: Output) -> GroupedOption:
    return GroupedOption(
        "-o",
        "--output",
        type=click.Choice(formats),
        default="table",
        metavar="|".join(formats),
        help="the format of the answer (default: table)",
    )


def _conversation(what: str) -> GroupedOption:
    return GroupedOption("--conversation-id", metavar="CONVERSATION", help=f"{what} (default: the agent's default one)")


AGENT = _argument("agent", "an agent's name or id")
CONVERSATION = _argument("conversation_id", "a conversation's id")
FORCE = GroupedOption("--force", is_flag=True, default=None, help="do it without asking")


def _commands() -> Iterator[tuple[str, Any, str, list[click.Parameter], Examples]]:
    confirm = {"force": "confirm"}
    yield (
        "send",
        partial(_answered, "send_message", {}),
        "Send a message to an agent and wait for the reply.",
        [
            AGENT,
            _argument("message", "the text; - reads it from standard input"),
            _conversation("where"),
            _output("table", "json"),
        ],
        [('send bookkeeper "When is it due?"', ""), ('send bookkeeper "And now?" --conversation-id conv-…', "")],
    )
    yield (
        "create conversation",
        partial(_answered, "create_conversation", {}),
        "Open a conversation with an agent.",
        [AGENT],
        [("create conversation bookkeeper", "")],
    )
    yield (
        "get agents",
        partial(_listed, "list_agents", "agents", AGENT_COLUMNS),
        "List all agents.",
        [_output("table", "json", "yaml")],
        [("get agents -o json", "")],
    )
    yield (
        "get conversations",
        partial(_listed, "list_conversations", "conversations", CONVERSATION_COLUMNS),
        "List all conversations of an agent.",
        [AGENT, _output("table", "json", "yaml")],
        [("get conversations bookkeeper", "")],
    )
    yield (
        "get messages",
        _messages,
        "Show the newest messages of an agent's conversation.",
        [
            AGENT,
            _conversation("which"),
            GroupedOption("--system", is_flag=True, help="also the agent's thinking, its tool calls and the system's"),
            GroupedOption(
                "-l", "--limit", type=click.IntRange(1, 100), metavar="N", default=10, help="how many (default: 10)"
            ),
            GroupedOption("--order", type=click.Choice(["asc", "desc"]), metavar="asc|desc", help="from which end"),
            GroupedOption("--before", metavar="ID", help="only messages older than this one"),
            GroupedOption("--after", metavar="ID", help="only messages newer than this one"),
            _output("table", "json"),
        ],
        [("get messages bookkeeper --conversation-id conv-…", "")],
    )
    yield (
        "describe conversation",
        partial(_answered, "describe", {}),
        "Show all about a conversation.",
        [CONVERSATION, _output("table", "json")],
        [("describe conversation conv-…", "")],
    )
    yield (
        "compact-messages",
        partial(_answered, "compact", {}),
        "Replace older messages in a conversation's context by a summary.",
        [AGENT, _conversation("which"), GroupedOption("--model", metavar="MODEL", help="writes the summary")],
        [("compact-messages bookkeeper --conversation-id conv-…", "")],
    )
    yield (
        "delete conversation",
        partial(_answered, "delete", confirm),
        "Delete a conversation, for everybody and for good.",
        [CONVERSATION, FORCE],
        [("delete conversation conv-…", "")],
    )
    if "delete_agent" not in commands_of_tools():
        return
    yield (
        "delete agent",
        partial(_answered, "delete_agent", confirm),
        "Delete an agent with its memory and conversations, for good.",
        [AGENT, FORCE],
        [("delete agent bookkeeper --force", "")],
    )


def lettactl_commands() -> list[click.Command]:
    return [
        Command(name, run, Settings, summary, params=params, examples=examples, options=BackendSettings)
        for name, run, summary, params, examples in _commands()
    ]
