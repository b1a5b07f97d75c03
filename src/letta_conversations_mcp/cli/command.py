"""A command: options of its own and those of its settings, help in sections, and the exit status of its function."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import anyio
import click
from pydantic_settings import BaseSettings

from letta_conversations_mcp.backends.open import check_backend, open_backend
from letta_conversations_mcp.cli.exit_status import run_to_status, warn
from letta_conversations_mcp.cli.help import Formatter, HelpContext
from letta_conversations_mcp.cli.options import LETTA, GroupedOption, SettingOption, read_settings, setting_options
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.settings import BackendSettings, unknown_variables

TALK = "Talk"
CONVERSATIONS = "Conversations"
AGENTS = "Agents"
FILES = "Files"
SERVER = "Server"
START = "Getting started"
SECTIONS = (START, TALK, CONVERSATIONS, AGENTS, FILES, SERVER)
"""Under which commands are listed."""

AnySettings = TypeVar("AnySettings", bound=BaseSettings)

Examples = Sequence[tuple[str, str]]
"""What to type after the program's name, and what it does."""


class Command(click.Command, Generic[AnySettings]):
    """`run` gets the settings and the values of `params` by name, and gives the exit status.

    Args:
        options: the base class of the settings whose fields are options; without it, all are. The others are variables.
        shows_all: whether `--help` shows all of these; otherwise it shows those which say where Letta is.
        reports_variables: whether `run` itself reports variables that no option reads.
    """

    context_class = HelpContext

    def __init__(
        self,
        name: str,
        run: Callable[..., int],
        settings: type[AnySettings],
        summary: str,
        *,
        params: Sequence[click.Parameter] = (),
        examples: Examples = (),
        options: type[BaseSettings] | None = None,
        shows_all: bool = False,
        reports_variables: bool = False,
    ) -> None:
        super().__init__(
            name, params=[*params, *setting_options(options or settings)], help=summary, short_help=summary
        )
        self._run = run
        self._settings = settings
        self._examples = examples
        self._shows_all = shows_all
        self._reports_variables = reports_variables

    def invoke(self, ctx: click.Context) -> int:
        return run_to_status(lambda: self._invoke(ctx))

    def _invoke(self, ctx: click.Context) -> int:
        given = {each.name: ctx.params[each.name] for each in self.params if isinstance(each, SettingOption)}
        own = {name: value for name, value in ctx.params.items() if name not in given}
        settings = read_settings(self._settings, {str(name): value for name, value in given.items()})
        if not self._reports_variables:
            for name, meant in unknown_variables(os.environ).items():
                warn(f"no option reads the variable {name}{f'; did you mean {meant}?' if meant else ''}")
        return self._run(settings, **own)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            if isinstance(option, click.Argument) or (record := option.get_help_record(ctx)) is None:
                continue
            group = (option.group if isinstance(option, GroupedOption) else "") or "Options"
            if self._shows_all or not isinstance(option, SettingOption) or group == LETTA:
                groups.setdefault(group, []).append(record)
        # The only one that is not a setting's, as Click adds it at the end.
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)
        if self._examples and isinstance(formatter, Formatter):
            formatter.write_examples(ctx.find_root().info_name or "", self._examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        program = ctx.find_root().info_name
        words = (
            "Every option is a variable too: --wait-seconds is LETTA_MCP_WAIT_SECONDS, --letta-api-key is "
            "LETTA_API_KEY. A flag wins."
            if self._shows_all
            else f"More options, such as for agents on this machine, time limits and the log: {program} serve --help"
        )
        if any(isinstance(each, SettingOption) for each in self.params):
            formatter.write_paragraph()
            formatter.write_text(words)


def run_with_backend(settings: BackendSettings, work: Callable[[Backend], Awaitable[int]]) -> int:
    """The exit status that `work` gives. Raises NotConfigured, and what `work` raises."""
    check_backend(settings)

    async def main() -> int:
        async with open_backend(settings) as backend:
            return await work(backend)

    return anyio.run(main)
