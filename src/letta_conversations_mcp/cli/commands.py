"""The commands that are not tools: their arguments and options, and the function that each calls.

What a command works with is imported when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
from pydantic_settings import BaseSettings

from letta_conversations_mcp.backends.open import check_backend
from letta_conversations_mcp.cli import loading
from letta_conversations_mcp.cli.command import Command
from letta_conversations_mcp.cli.options import GroupedOption
from letta_conversations_mcp.settings import BackendSettings, Settings

JSON = GroupedOption("--json", "as_json", is_flag=True, help="answer with one JSON object")


class CommaSeparated(click.ParamType[list[str]]):
    """Texts between commas."""

    name = "list"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        return [part.strip() for part in str(value).split(",") if part.strip()]


def _serve(settings: Settings, *, http: bool) -> int:
    with loading():
        from letta_conversations_mcp.cli.serve import serve

    if http:
        check_backend(settings)
    return serve(settings, http=http)


def _doctor(settings: BackendSettings, *, as_json: bool) -> int:
    from letta_conversations_mcp.cli.doctor import doctor

    return doctor(settings, as_json=as_json)


def _apply(settings: BackendSettings, *, file: str, dry_run: bool, agent: str, as_json: bool) -> int:
    from letta_conversations_mcp.cli.apply import apply

    return apply(settings, file=file, agent=agent, dry_run=dry_run, as_json=as_json)


def _export(
    settings: BackendSettings,
    *,
    conversation: str,
    agent: str,
    form: Literal["md", "jsonl"] | None,
    output: Path | None,
    resume: bool,
) -> int:
    from letta_conversations_mcp.cli.export import Export, export

    named: Literal["md", "jsonl"] = "jsonl" if output and output.suffix == ".jsonl" else "md"
    return export(settings, Export(conversation, agent, form or named, output, resume))


def _chat(settings: BackendSettings, *, conversation: str, agent: str) -> int:
    from letta_conversations_mcp.cli.chat.start import chat

    return chat(settings, conversation, agent)


def _demo(settings: BackendSettings, *, agent: str, model: str, stand_in: bool) -> int:
    from letta_conversations_mcp.cli.demo.tour import Choice, demo

    check_backend(settings)
    return demo(settings, Choice(agent, model, stand_in))


def _token(
    _: BaseSettings, *, name: str, scopes: list[str], agents: list[str] | None, expires: str, file: Path | None
) -> int:
    from letta_conversations_mcp.cli.token import token

    return token(name, scopes, agents, expires, file)


SERVE = Command(
    "serve",
    _serve,
    Settings,
    "Serve MCP over stdio, or over HTTP with --http.",
    params=[GroupedOption("--http", is_flag=True, help="serve over streamable HTTP instead of stdio")],
    examples=[
        ("serve", "what a client's configuration starts"),
        ("serve --http", "for this machine, at http://127.0.0.1:8000/mcp"),
        ("serve --http --tokens-file tokens.toml --public-url https://letta.example.org/mcp", "for a team"),
    ],
    shows_all=True,
    reports_variables=True,
)

CHAT = Command(
    "chat",
    _chat,
    BackendSettings,
    "Talk with an agent in this terminal, or line by line through a pipe.",
    params=[
        click.Argument(["conversation"], default="", help="its id or name (default: the latest of the agent)"),
        GroupedOption("--agent", default="", metavar="NAME", help="the agent to talk with, by name or id"),
    ],
    examples=[("chat --agent bookkeeper", ""), ("chat conv-…", ""), ("chat --agent bookkeeper 'invoice 4711'", "")],
)

DEMO = Command(
    "demo",
    _demo,
    BackendSettings,
    "A quick tour of 15 seconds, with an agent made for it on this machine.",
    params=[
        GroupedOption("--agent", default="", metavar="NAME", help="talk with this agent of yours instead"),
        GroupedOption("--model", default="", metavar="HANDLE", help="the new agent's model (default: the first found)"),
        GroupedOption("--stand-in", is_flag=True, help="a scripted model answers, even if there is another"),
    ],
    examples=[("demo", ""), ("demo --agent bookkeeper", "")],
)

DOCTOR = Command(
    "doctor",
    _doctor,
    BackendSettings,
    "Say what is connected, what to fix, and the configuration to paste.",
    params=[JSON],
    examples=[("doctor", ""), ("doctor --letta-base-url http://localhost:8283", "")],
    reports_variables=True,
)

APPLY = Command(
    "apply",
    _apply,
    BackendSettings,
    "Create the conversations that a lettactl fleet file declares and that are not there.",
    params=[
        GroupedOption("-f", "--file", required=True, metavar="FILE", help="the fleet file; - is standard input"),
        GroupedOption("--dry-run", is_flag=True, help="only say what would be created"),
        GroupedOption("--agent", default="", metavar="NAME", help="only the conversations of this agent of the file"),
        GroupedOption("--json", "as_json", is_flag=True, help="answer with one JSON object at the end"),
    ],
    examples=[("apply -f fleet.yaml --dry-run", ""), ("apply -f fleet.yaml --agent bookkeeper", "")],
)

EXPORT = Command(
    "export",
    _export,
    BackendSettings,
    "Write a whole conversation to a file, as Markdown or as JSON lines.",
    params=[
        click.Argument(["conversation"], help="a conversation's id, or default with --agent"),
        GroupedOption("--agent", default="", metavar="NAME", help="the agent whose default conversation is meant"),
        GroupedOption(
            "--format",
            "form",
            type=click.Choice(["md", "jsonl"]),
            metavar="md|jsonl",
            help="Markdown to read, or JSON lines with everything (default: as FILE ends, else md)",
        ),
        GroupedOption(
            "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="default: standard output"
        ),
        GroupedOption("--resume", is_flag=True, help="go on in the file where an export ended"),
    ],
    examples=[("export conv-… -o talk.md", ""), ("export default --agent bookkeeper -o history.jsonl", "")],
)

TOKEN = Command(
    "token",
    _token,
    BaseSettings,
    "Make a token for a caller of serve --http.",
    params=[
        GroupedOption("--name", required=True, metavar="NAME", help="whose it is; the log names it"),
        GroupedOption(
            "--scopes",
            default="read,write",
            type=CommaSeparated(),
            metavar="SCOPE,…",
            help="of read, write and delete (default: read,write)",
        ),
        GroupedOption(
            "--agents", type=CommaSeparated(), metavar="ID,…", help="the only agents that exist for it (default: all)"
        ),
        GroupedOption(
            "--expires", default="", metavar="DAY", help="the first day on which it is refused (default: never)"
        ),
        GroupedOption(
            "--file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="the tokens file to add it to (default: standard output)",
        ),
    ],
    examples=[("token --name ann --scopes read --expires 2027-01-31 --file tokens.toml", "")],
)
