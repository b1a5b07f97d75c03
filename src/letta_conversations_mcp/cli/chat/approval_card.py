"""A tool call that waits for a decision, as exactly what would run: nothing is cut, and nothing is left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import indent
from typing import cast

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from letta_conversations_mcp.cli.chat.formatting import one_line
from letta_conversations_mcp.core.untrusted import escaped
from letta_conversations_mcp.tools.results.viewer import ViewedCall


class _Repeated(Exception):
    """A name occurs twice in an object, so that readers of it may disagree on its value."""


@dataclass(frozen=True)
class ShownCall:
    """A call in lines: what stands before its arguments, each argument's name and value, and what stands after."""

    head: str
    arguments: Sequence[tuple[str, str]] = ()
    foot: str = ""

    def __str__(self) -> str:
        lines = [f"  {name} = {value}," for name, value in self.arguments]
        return "\n".join(filter(None, [self.head, *lines, self.foot]))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.head, overflow="fold")
        if self.arguments:
            grid = Table.grid()
            grid.add_column(no_wrap=True)
            grid.add_column(overflow="fold")
            for name, value in self.arguments:
                grid.add_row(Text(f"  {name} = "), Text(f"{value},"))
            yield grid
        if self.foot:
            yield Text(self.foot)


def shown_call(name: str, arguments: str) -> ShownCall:
    """The call with its arguments, one a line; as the model wrote them if they are no plain JSON object."""
    title = escaped(name).replace("\n", "\\n")
    try:
        parsed: object = json.loads(arguments, object_pairs_hook=_unique) if arguments.strip() else {}
    except (ValueError, RecursionError, _Repeated):
        parsed = None
    if not isinstance(parsed, dict):
        return ShownCall(f"{title}, with arguments that are no plain JSON object:\n{indent(escaped(arguments), '  ')}")
    fields = cast("dict[str, object]", parsed)
    if not fields:
        return ShownCall(f"{title}()")
    width = max(len(_name(each)) for each in fields)
    shown = [(_name(each).ljust(width), _value(value)) for each, value in fields.items()]
    return ShownCall(f"{title}(", shown, ")")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise _Repeated
    return dict(pairs)


def _name(name: str) -> str:
    return escaped(name) if name.isidentifier() else escaped(json.dumps(name, ensure_ascii=False))


def _value(value: object) -> str:
    """JSON. Texts of several lines are broken after each `\\n`, which stays visible."""
    if isinstance(value, str) and "\n" in value.rstrip("\n"):
        lines = [escaped(json.dumps(line, ensure_ascii=False)[1:-1]) for line in value.split("\n")]
        return '"' + "\\n\n ".join(lines) + '"'
    return escaped(json.dumps(value, ensure_ascii=False, indent=2 if isinstance(value, dict | list) else None))


@dataclass(frozen=True)
class Card:
    """Tool calls that wait, each in a frame."""

    agent: str
    calls: Sequence[ViewedCall]

    @property
    def _title(self) -> str:
        what = "a tool" if len(self.calls) == 1 else f"{len(self.calls)} tools"
        return f"{one_line(self.agent, 60)} wants to run {what} and waits for you"

    @property
    def _ways(self) -> str:
        if any(call.client_side for call in self.calls):
            return "Only the client that offered this tool can run it.   /deny [reason] lets the agent go on without it"
        if len(self.calls) > 1:
            return "/approve [reason] for all   /approve #1 for some   /deny [reason]"
        return "/approve [reason]   /deny [reason]"

    def _shown(self) -> list[ShownCall]:
        return [shown_call(call.name, call.arguments) for call in self.calls]

    def __str__(self) -> str:
        numbered = len(self.calls) > 1
        framed = [
            "\n".join(f"  | {line}" for line in (f"#{number}  {shown}" if numbered else str(shown)).split("\n"))
            for number, shown in enumerate(self._shown(), 1)
        ]
        return "\n".join([f"\n{self._title}", *framed, f"  {self._ways}"])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text()
        yield Text(self._title, style="bold yellow")
        for number, shown in enumerate(self._shown(), 1):
            title = Text(f"#{number}") if len(self.calls) > 1 else None
            frame = Panel(
                shown,
                box=box.SQUARE,
                title=title,
                title_align="left",
                border_style="yellow",
                expand=False,
            )
            yield Padding(frame, (0, 0, 0, 2))
        yield Text(f"  {self._ways}", style="dim")
