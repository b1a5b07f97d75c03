"""Every tool as a command of the same name: `send_message` is `send-message`.

Its arguments come from its schema (`tool_arguments`), its answer goes to stdout (`tool_calls`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import click

from letta_conversations_mcp.cli import loading
from letta_conversations_mcp.cli.command import AGENTS, CONVERSATIONS, TALK, Command, Examples
from letta_conversations_mcp.cli.command_lines import for_person
from letta_conversations_mcp.cli.exit_status import warn
from letta_conversations_mcp.cli.options import GroupedOption
from letta_conversations_mcp.cli.tool_arguments import commands_of_tools, given, parameters, schema_of
from letta_conversations_mcp.settings import BackendSettings, Settings

if TYPE_CHECKING:
    from letta_conversations_mcp.cli.tool_calls import Answer, Tools, Work


@dataclass(frozen=True)
class Presentation:
    """Where a tool stands in the list of commands, what to type, and what it does, if not in the words that models
    read."""

    section: str = CONVERSATIONS
    examples: Examples = ()
    summary: str = ""


PRESENTATIONS: Mapping[str, Presentation] = {
    "send_message": Presentation(
        TALK,
        [
            ('send-message "When is it due?" --conversation-id conv-…', "continue a conversation"),
            ('send-message "Good morning!" --agent bookkeeper', "open one"),
            ("send-message - --conversation-id conv-… < letter.txt", "a longer text"),
        ],
        "Send a message to an agent and wait for the reply.",
    ),
    "wait_for_reply": Presentation(
        TALK, [("wait-for-reply conv-…", "")], "Wait for a reply, or fetch it again, without sending anything."
    ),
    "ask_many": Presentation(
        TALK,
        [('ask-many "What is new?" --agents bookkeeper --agents archivist', "")],
        "Send one message to several agents or conversations at once.",
    ),
    "respond_to_approval": Presentation(
        TALK,
        [
            ("respond-to-approval conv-… --approve", ""),
            ('respond-to-approval conv-… --deny --reason "Not on a Sunday."', ""),
        ],
        "Approve or deny the tool calls that a turn waits for.",
    ),
    "cancel": Presentation(TALK, [("cancel conv-…", "")], "Stop the running turn of a conversation."),
    "create_conversation": Presentation(
        examples=[('create-conversation bookkeeper --summary "invoice 4711"', "")],
        summary="Open a conversation with an agent.",
    ),
    "list_conversations": Presentation(
        examples=[
            ("list-conversations bookkeeper", ""),
            ("list-conversations --order-by last_message_at --limit 5", ""),
        ],
        summary="List the conversations of one agent, or of all.",
    ),
    "list_messages": Presentation(
        examples=[("list-messages conv-…", ""), ("list-messages default --agent bookkeeper --limit 50", "")],
        summary="Read a conversation, a page at a time.",
    ),
    "search_messages": Presentation(
        examples=[('search-messages "invoice 4711" --agent bookkeeper', "")],
        summary="Find messages by words or meaning.",
    ),
    "describe": Presentation(
        examples=[("describe conv-…", "")],
        summary="Show all about a conversation: model, context, memory, running turn.",
    ),
    "update": Presentation(
        examples=[('update conv-… --summary "invoice 4712"', ""), ("update conv-… --archived yes", "")],
        summary="Rename, describe or archive a conversation, or change its model.",
    ),
    "fork": Presentation(
        examples=[('fork conv-… --summary "what if"', "")],
        summary="Branch a conversation, to try something from there.",
    ),
    "compact": Presentation(
        examples=[("compact conv-… --mode all", "")],
        summary="Replace older messages in the context by a summary. This cannot be undone.",
    ),
    "recompile": Presentation(
        examples=[("recompile conv-… --dry-run", "")], summary="Refresh a conversation's copy of the agent's memory."
    ),
    "delete": Presentation(
        examples=[("delete conv-…", "asks first")], summary="Delete a conversation, for everybody and for good."
    ),
    "show_conversation": Presentation(
        examples=[("show-conversation conv-…", "")], summary="Show the newest messages of a conversation."
    ),
    "list_agents": Presentation(AGENTS, [("list-agents", ""), ("list-agents support", "")], "Find agents by name."),
    "create_agent": Presentation(
        AGENTS, [('create-agent bookkeeper --human "Ann, who runs a shop."', "")], "Create an agent that remembers."
    ),
    "delete_agent": Presentation(AGENTS, [("delete-agent bookkeeper", "asks first")], "Delete an agent, for good."),
    "list_models": Presentation(
        AGENTS, [("list-models", ""), ("list-models sonnet", "")], "List the models that an agent can have."
    ),
}

JSON = GroupedOption("--json", "as_json", is_flag=True, help="print the result as JSON")


def tool_commands() -> Iterator[tuple[str, click.Command]]:
    """Every tool's command, with its section of the list of commands."""
    for name in commands_of_tools():
        yield _presentation(name).section, _command(name)


def tool_command(name: str) -> click.Command | None:
    """The command of this name; None if no tool has it."""
    tool = name.replace("-", "_")
    return _command(tool) if tool in commands_of_tools() and "_" not in name else None


def _presentation(tool: str) -> Presentation:
    return PRESENTATIONS.get(tool, Presentation())


def _command(tool: str) -> click.Command:
    shown = _presentation(tool)
    return Command(
        tool.replace("_", "-"),
        partial(_run, tool),
        Settings,
        shown.summary or f"{commands_of_tools()[tool]['title']}.",
        params=[*parameters(tool), JSON],
        examples=shown.examples,
        options=BackendSettings,
    )


def _run(tool: str, settings: Settings, *, as_json: bool, **values: Any) -> int:
    return run_tool(settings, tool, given(values), as_json=as_json)


def use_tools(settings: Settings, work: Work) -> int:
    """The exit status that `work` gives. Raises NotConfigured."""
    # Late: help, and what the shell completes, need no server.
    with loading():
        from letta_conversations_mcp.cli.tool_calls import run_with_tools

    return run_with_tools(settings, work)


def run_tool(settings: Settings, tool: str, arguments: Mapping[str, Any], *, as_json: bool = False) -> int:
    """Call a tool and print its answer. Returns the exit status."""

    async def work(tools: Tools) -> int:
        answer = await call_tool(tools, tool, arguments)
        if answer.is_error:
            warn(for_person(answer.text))
        elif as_json:
            print(json.dumps(answer.data, ensure_ascii=False, indent=2))
        else:
            print(text_of(answer))
        return answer.exit_status

    return use_tools(settings, work)


async def call_tool(tools: Tools, tool: str, arguments: Mapping[str, Any]) -> Answer:
    """The answer of a tool: to the end of the turn, and after a question at a terminal if it wants to be confirmed."""
    properties = schema_of(tool)["properties"]
    if "wait_seconds" in properties:
        return await tools.call_to_end(tool, arguments)
    answer = await tools.call(tool, arguments)
    is_asked = "confirm" in properties and "confirm" not in arguments and sys.stdin.isatty()
    if not (answer.is_error and is_asked and "confirm=true" in answer.text):
        return answer
    consequence = answer.text.removeprefix("Nothing was done. ").partition(" If that is wanted")[0]
    if click.confirm(f"{consequence} Go on?", err=True):
        return await tools.call(tool, {**arguments, "confirm": True})
    return replace(answer, text="Nothing was done.")


def text_of(answer: Answer) -> str:
    """The text of an answer, with the advice in it as command lines. What others wrote is left as it is."""
    text = answer.text
    if answer.tool == "show_conversation":
        # Its note is no field: it stands between the conversation's name and its messages.
        named, note, *messages = text.split("\n\n", 2)
        note = note.removeprefix("This client shows no viewer").lstrip(".; ")
        text = "\n\n".join([named, for_person(note), *messages])
    for advice in _advice(answer.data):
        text = text.replace(advice, for_person(advice))
    return text


def _advice(data: object) -> Iterator[str]:
    if isinstance(data, dict):
        for name, value in cast("dict[str, object]", data).items():
            if name in ("note", "next", "error") and isinstance(value, str) and value:
                yield value
            else:
                yield from _advice(value)
    elif isinstance(data, list):
        for each in cast("list[object]", data):
            yield from _advice(each)
