"""All commands under one name: which there are, how they are found, and what the program says of itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from letta_conversations_mcp import __version__
from letta_conversations_mcp.cli import commands
from letta_conversations_mcp.cli.failure import INTERRUPTED, PROGRAM
from letta_conversations_mcp.cli.help import HelpContext
from letta_conversations_mcp.cli.main import COMPLETE_VARIABLE

SHORT = "lcm"

INTRODUCTION = (
    "Talk with Letta agents, at a terminal and from any MCP client. Without a command it serves MCP over stdio, which "
    "is what a client's configuration starts."
)

SHELLS = ("bash", "zsh", "fish")


def _completion(shell: str) -> int:
    """Print what the shell has to read to complete both names of the program."""
    source = get_completion_class(shell)
    assert source is not None  # noqa: S101 - the shells are Click's own
    for name in (SHORT, PROGRAM):
        print(source(click.Command(name), {}, name, COMPLETE_VARIABLE).source())
    return 0


COMPLETION = click.Command(
    "completion",
    params=[click.Argument(["shell"], type=click.Choice(SHELLS), metavar="|".join(SHELLS))],
    callback=_completion,
    help=f"Print the script that completes commands in a shell.\n\n    source <({SHORT} completion bash)",
    short_help="Print the script that completes commands in a shell.",
)

SECTIONS: Mapping[str, Sequence[click.Command]] = {
    "Server": (
        commands.SERVE,
        commands.TOKEN,
        commands.DOCTOR,
        commands.DEMO,
    ),
    "Files": (commands.APPLY, commands.EXPORT),
    "This program": (COMPLETION,),
}


class Program(click.Group):
    """The commands. A name may have two words, such as `get agents`."""

    context_class = HelpContext

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if len(args) > 1 and (command := self.get_command(ctx, " ".join(args[:2]))):
            return command.name, command, args[2:]
        if command := self.get_command(ctx, args[0]):
            return command.name, command, args[1:]
        if ctx.resilient_parsing:
            return None, None, args
        raise click.exceptions.NoSuchCommand(args[0], possibilities=self.list_commands(ctx), ctx=ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return next((each for each in self._all() if each.name == cmd_name), None)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [str(each.name) for each in self._all()]

    def _all(self) -> Iterator[click.Command]:
        for section in SECTIONS.values():
            yield from section

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(each.name), each.get_short_help_str(200)) for each in section])


def run_program(arguments: list[str]) -> int:
    """Run the command that the arguments name. Returns its exit status."""
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version"):
        arguments = ["serve", *arguments]
    program = Program(
        help=INTRODUCTION,
        params=[_version_option()],
        subcommand_metavar="COMMAND [ARGUMENTS]",
        options_metavar="",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    try:
        return program.main(
            arguments,
            prog_name=_name(),
            complete_var=COMPLETE_VARIABLE,
            standalone_mode=False,
            color=False if os.environ.get("NO_COLOR") else None,
        )
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code


def _version_option() -> click.Option:
    def show(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted:
            click.echo(__version__)
            ctx.exit()

    return click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=show, help="Show the version and exit."
    )


def _name() -> str:
    """As the program was called."""
    called = Path(sys.argv[0]).name
    return called if called in (SHORT, PROGRAM) else PROGRAM
