"""The commands of the chat: their names, what they are for, and running one.

`conversation_commands` has those about the current conversation, `navigation_commands` those that go to another one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from letta_conversations_mcp.cli.chat import conversation_commands as conversation
from letta_conversations_mcp.cli.chat import navigation_commands as navigation
from letta_conversations_mcp.cli.chat.connection import ToolFailed
from letta_conversations_mcp.cli.chat.entries import Facts
from letta_conversations_mcp.cli.chat.session import Session


@dataclass(frozen=True)
class Command:
    """`run` gets what follows the name. `completes` says what that is, for the completion."""

    name: str
    arguments: str
    help: str
    run: Callable[[Session, str], Awaitable[None]]
    completes: str = ""
    needs: str = ""
    """"agent" or "conversation", if there has to be one."""


async def _help(session: Session, argument: str) -> None:
    await session.show(Facts([(f"/{each.name} {each.arguments}".rstrip(), each.help) for each in COMMANDS]))
    await session.note(
        "Everything else is a message to the agent; one that begins with / is written with //. Enter sends, Alt-Enter "
        "begins a new line. Ctrl-O shows reasoning and tool calls, Ctrl-C stops waiting, Ctrl-D leaves."
    )


async def _quit(session: Session, argument: str) -> None:
    session.leaving.set()


COMMANDS: Sequence[Command] = (
    Command("new", "[NAME]", "start another conversation", navigation.new, needs="agent"),
    Command("list", "[WORDS]", "this agent's conversations, the latest first", navigation.list_, needs="agent"),
    Command("switch", "NUMBER|NAME|ID", "go to another conversation", navigation.switch, "conversation"),
    Command("history", "[COUNT]", "the newest messages (20)", conversation.history, needs="conversation"),
    Command("search", "WORDS", "find messages of this agent", navigation.search, needs="agent"),
    Command("info", "", "all about this conversation", conversation.info, needs="conversation"),
    Command("show", "[on|off]", "what the latest reasoning and tool calls hide; on: always", conversation.show),
    Command("approve", "[#N …] [REASON]", "let the waiting tool calls run", conversation.approve, needs="conversation"),
    Command("deny", "[REASON]", "do not let them run", conversation.deny, needs="conversation"),
    Command("cancel", "", "stop the running turn, take back waiting messages", conversation.cancel),
    Command("fork", "[NAME]", "branch this conversation and go there", conversation.fork, needs="conversation"),
    Command("compact", "[MODE]", "replace older messages by a summary", conversation.compact, "mode", "conversation"),
    Command("rename", "NAME", "name this conversation", conversation.rename, needs="conversation"),
    Command(
        "memory",
        "[refresh]",
        "is its copy of the memory up to date?",
        conversation.memory,
        needs="conversation",
    ),
    Command("export", "[FILE]", "write the whole conversation to a file", conversation.export, needs="conversation"),
    Command("delete", "", "delete this conversation, after asking", conversation.delete, needs="conversation"),
    Command("agents", "[WORDS]", "the agents there are", navigation.agents),
    Command("agent", "NUMBER|NAME|ID", "talk with another agent", navigation.agent, "agent"),
    Command("help", "", "these commands", _help),
    Command("quit", "", "leave; a running turn goes on", _quit),
)

ALIASES = {"exit": "quit", "q": "quit", "?": "help", "h": "help"}


def is_command(text: str) -> bool:
    return text.startswith("/") and not text.startswith("//")


async def run(session: Session, text: str) -> None:
    """Run what was entered after a `/`. Errors are shown."""
    name, _, argument = text.removeprefix("/").partition(" ")
    name = ALIASES.get(name, name)
    command = next((each for each in COMMANDS if each.name == name), None)
    if command is None:
        close = get_close_matches(name, [each.name for each in COMMANDS], 1)
        await session.fail(
            f"There is no command /{name[:40]}. " + (f"Did you mean /{close[0]}?" if close else "/help lists them.")
        )
        return
    if command.needs and not session.place.agent_id:
        await session.fail("Choose an agent first: /agents lists them, /agent NAME chooses one.")
        return
    if command.needs == "conversation" and not session.place.conversation_id:
        await session.fail("The conversation begins with your first message; there is nothing in it yet.")
        return
    if command.name != "delete":
        session.to_delete = ""
    try:
        await command.run(session, argument.strip())
    except ToolFailed as error:
        await session.fail(error)
