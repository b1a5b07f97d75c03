"""The command line: which commands there are, their options, and how one ends.

`serve` is what a client's configuration starts when it names no command.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource

from letta_conversations_mcp import __version__
from letta_conversations_mcp.backends.open import check_backend
from letta_conversations_mcp.cli import loading
from letta_conversations_mcp.cli.failure import CommandFailed
from letta_conversations_mcp.core.errors import ConversationError, NotConfigured
from letta_conversations_mcp.settings import BackendSettings, Settings


@dataclass(frozen=True)
class Command:
    """One command. `settings` are its options beside those that `add_arguments` declares; `run` gives the exit
    status."""

    name: str
    help: str
    settings: type[BaseSettings]
    add_arguments: Callable[[argparse.ArgumentParser], object]
    run: Callable[[argparse.Namespace, Any], int]


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--http", action="store_true", help="serve over streamable HTTP instead of stdio")


def _serve(arguments: argparse.Namespace, settings: Settings) -> int:
    with loading():
        from letta_conversations_mcp.cli.serve import serve

    if arguments.http:
        check_backend(settings)
    return serve(settings, http=arguments.http)


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="answer with one JSON object")


def _doctor(arguments: argparse.Namespace, settings: BackendSettings) -> int:
    from letta_conversations_mcp.cli.doctor import doctor

    return doctor(settings, as_json=arguments.json)


def _apply_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--file", required=True, metavar="FILE", help="the fleet file; - is standard input")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be created")
    parser.add_argument("--agent", default="", metavar="NAME", help="only the conversations of this agent of the file")
    parser.add_argument("--json", action="store_true", help="answer with one JSON object at the end")


def _apply(arguments: argparse.Namespace, settings: BackendSettings) -> int:
    from letta_conversations_mcp.cli.apply import apply

    return apply(
        settings,
        file=arguments.file,
        agent=arguments.agent,
        dry_run=arguments.dry_run,
        as_json=arguments.json,
    )


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("conversation", metavar="CONVERSATION", help="a conversation's id, or default with --agent")
    parser.add_argument("--agent", default="", metavar="NAME", help="the agent whose default conversation is meant")
    parser.add_argument(
        "--format",
        choices=("md", "jsonl"),
        help="Markdown to read, or JSON lines with everything; left out: as FILE ends, else md",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the file to write; else standard output")
    parser.add_argument("--resume", action="store_true", help="go on in the file where an export ended")


def _export(arguments: argparse.Namespace, settings: BackendSettings) -> int:
    from letta_conversations_mcp.cli.export import Export, export

    named = "jsonl" if arguments.output and arguments.output.suffix == ".jsonl" else "md"
    wanted = Export(
        conversation=arguments.conversation,
        agent=arguments.agent,
        form=arguments.format or named,
        output=arguments.output,
        resume=arguments.resume,
    )
    return export(settings, wanted)


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agent", default="", help="talk with this agent of yours, by name or id, not with a new one")
    parser.add_argument("--model", default="", help="the new agent's model; without it, the first that is found here")
    parser.add_argument("--stand-in", action="store_true", help="the scripted model answers, even if there is another")


def _demo(arguments: argparse.Namespace, settings: BackendSettings) -> int:
    from letta_conversations_mcp.cli.demo.tour import Choice, demo

    check_backend(settings)
    return demo(settings, Choice(arguments.agent, arguments.model, arguments.stand_in))


def _token_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="whose it is; the log names it")
    parser.add_argument("--scopes", default="read,write", type=_parts, help="of read, write and delete (read,write)")
    parser.add_argument("--agents", type=_parts, help="ids of the only agents that exist for it (all)")
    parser.add_argument("--expires", default="", metavar="DAY", help="the first day on which it is refused (never)")
    parser.add_argument("--file", type=Path, metavar="FILE", help="the tokens file to add it to (standard output)")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _token(arguments: argparse.Namespace, _: BaseSettings) -> int:
    from letta_conversations_mcp.cli.token import token

    return token(arguments.name, arguments.scopes, arguments.agents, arguments.expires, arguments.file)


COMMANDS = (
    Command("serve", "serve MCP over stdio, or over HTTP with --http", Settings, _serve_arguments, _serve),
    Command(
        "demo", "show the main job, with an agent that is made on this machine", BackendSettings, _demo_arguments, _demo
    ),
    Command("doctor", "say what is connected, and what to mend", BackendSettings, _doctor_arguments, _doctor),
    Command("apply", "create the conversations that a fleet file declares", BackendSettings, _apply_arguments, _apply),
    Command("export", "write a whole conversation to a file", BackendSettings, _export_arguments, _export),
    Command("token", "make a token for a caller of serve --http", BaseSettings, _token_arguments, _token),
)

INTERRUPTED = 130
BROKEN_PIPE = 141
"""What a shell reports for a process that these signals ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the arguments default to the process's. Returns the exit status: 0, 2 for unusable options, and
    1 for a command that could not do all of its work."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments.insert(0, "serve")
    parser = argparse.ArgumentParser(
        prog="letta-conversations-mcp",
        description="An MCP server for the conversations of Letta agents. Without a command: serve over stdio.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    options: dict[str, CliSettingsSource[argparse.ArgumentParser]] = {}
    for command in COMMANDS:
        own = commands.add_parser(command.name, help=command.help, description=command.help)
        command.add_arguments(own)
        # Only the called one's, and only if some are given: deriving the options takes a part of the time to start.
        if command.name == arguments[0] and len(arguments) > 1:
            options[command.name] = CliSettingsSource(
                command.settings, root_parser=own, cli_kebab_case=True, cli_implicit_flags=True, cli_avoid_json=True
            )
    parsed = parser.parse_args(arguments)
    if parsed.command is None:
        parser.print_help()
        return 0
    command = next(each for each in COMMANDS if each.name == parsed.command)
    return _run(command, arguments, parsed, options.get(parsed.command))


def _run(
    command: Command,
    arguments: Sequence[str],
    parsed: argparse.Namespace,
    options: CliSettingsSource[argparse.ArgumentParser] | None,
) -> int:
    try:
        source = options and options(parsed_args=parsed)
        # The argument is pydantic-settings' own, and not among the fields that a type checker sees.
        settings = command.settings(_cli_settings_source=source)  # pyright: ignore[reportCallIssue]
        _warn_of_secrets(command.settings, arguments)
        return command.run(parsed, settings)
    except ValidationError as error:
        return _fail("\n".join(_option_problem(each) for each in error.errors(include_url=False, include_input=False)))
    except NotConfigured as error:
        return _fail(error.for_person)
    except CommandFailed as error:
        return _fail(str(error), error.status)
    except ConversationError as error:
        return _fail(error.for_person, 1)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Or Python would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _warn_of_secrets(settings: type[BaseSettings], arguments: Sequence[str]) -> None:
    """Say it when a secret was given as an argument."""
    given = {argument.partition("=")[0] for argument in arguments}
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        option = alias if isinstance(alias, str) else name
        flag = f"--{option.replace('_', '-')}"
        if flag in given and "SecretStr" in str(field.annotation):
            variable = _variable(option)
            print(
                f"letta-conversations-mcp: every user of this machine can read the value of {flag} in the list of "
                f"processes (ps). Set {variable} instead.",
                file=sys.stderr,
            )


def _variable(option: str) -> str:
    return option.upper() if option.startswith("letta_") else f"LETTA_MCP_{option.upper()}"


def _option_problem(problem: Any) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else ""
    place = f"--{name.replace('_', '-')} (or {_variable(name)})" if name else "options"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}"


def _fail(message: str, status: int = 2) -> int:
    print(f"letta-conversations-mcp: {message}", file=sys.stderr)
    return status
