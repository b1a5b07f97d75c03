"""All commands under one name: which there are, how they are found, and what the program says about itself."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property

import click
from click.shell_completion import CompletionItem, get_completion_class

from letta_conversations_mcp import __version__
from letta_conversations_mcp.cli import commands
from letta_conversations_mcp.cli.command import FILES, SECTIONS, SERVER, START
from letta_conversations_mcp.cli.exit_status import INTERRUPTED
from letta_conversations_mcp.cli.help import HelpContext
from letta_conversations_mcp.cli.lettactl import lettactl_commands
from letta_conversations_mcp.cli.program_name import COMPLETE_VARIABLE, PROGRAM, SHORT, program_name
from letta_conversations_mcp.cli.tool_commands import tool_command, tool_commands

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

TYPED = f"{__name__}.typed"
"""Where a context keeps the first words of a command of two words while the shell completes it."""

OWN: Sequence[tuple[str, click.Command]] = (
    (START, commands.CHAT),
    (START, commands.DEMO),
    (START, commands.DOCTOR),
    (START, COMPLETION),
    (FILES, commands.EXPORT),
    (FILES, commands.APPLY),
    (SERVER, commands.SERVE),
    (SERVER, commands.TOKEN),
)
"""The commands that are not tools, each with its section."""


class Program(click.Group):
    """The commands. A name may have two words, such as `get agents`."""

    context_class = HelpContext

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        for length in (2, 1):
            if len(args) >= length and (command := self.get_command(ctx, " ".join(args[:length]))):
                return command.name, command, args[length:]
        if ctx.resilient_parsing:
            ctx.meta[TYPED] = args
            return None, None, args
        names = self.list_commands(ctx)
        if seconds := [name.partition(" ")[2] for name in names if name.startswith(f"{args[0]} ")]:
            raise click.UsageError(f"'{args[0]}' needs one of these words after it: {', '.join(seconds)}.", ctx)
        if having := [repr(name) for name in names if args[0] in re.split("[ -]", name)]:
            raise click.UsageError(f"No such command {args[0]!r}. (Did you mean one of: {', '.join(having)}?)", ctx)
        raise click.exceptions.NoSuchCommand(args[0], possibilities=names, ctx=ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if own := next((command for _, command in OWN if command.name == cmd_name), None):
            return own
        return tool_command(cmd_name) or next((each for each in lettactl_commands() if each.name == cmd_name), None)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [str(command.name) for section in self.sections.values() for command in section]

    @cached_property
    def sections(self) -> Mapping[str, Sequence[click.Command]]:
        """All commands, as they are listed."""
        sections: dict[str, list[click.Command]] = {title: [] for title in SECTIONS}
        for title, command in [*OWN, *tool_commands()]:
            sections[title].append(command)
        return {**sections, "As in lettactl": lettactl_commands()}

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        typed = ctx.meta.get(TYPED, [])
        names = [name.split() for name in self.list_commands(ctx)]
        following = [words[len(typed)] for words in names if len(words) > len(typed) and words[: len(typed)] == typed]
        options = [] if typed else click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(word) for word in dict.fromkeys(following) if word.startswith(incomplete)] + options

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # The commands first: they are what a reader looks for.
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in self.sections.items():
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
            prog_name=program_name(),
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
