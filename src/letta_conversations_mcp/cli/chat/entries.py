"""What the chat shows: each entry as a person sees it on a terminal, and as plain text (`str`).

Only headings, cards and notes of the chat begin in the first column. Whatever somebody else wrote is indented or
quoted, so that no message can imitate them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from letta_conversations_mcp.cli.chat.formatting import one_line
from letta_conversations_mcp.cli.chat.markdown import AgentMarkdown
from letta_conversations_mcp.core.untrusted import escaped

INDENT = 2
PROMPT = "you ▸ "
CURSOR = "▌"
"""Ends a text that still grows."""


def _indented(text: str, by: int = INDENT) -> str:
    return "\n".join(" " * by + line if line else "" for line in text.split("\n"))


@dataclass(frozen=True)
class Said:
    """What a user said: the person here, another client, or another agent."""

    text: str
    at: str = ""

    def __str__(self) -> str:
        return f"\n{PROMPT}{_indented(escaped(self.text), len(PROMPT)).lstrip(' ')}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text()
        table = Table.grid(expand=True)
        table.add_column(width=len(PROMPT))
        table.add_column(ratio=1)
        row = [Text(PROMPT, style="bold cyan"), Text(escaped(self.text), overflow="fold")]
        if self.at:
            table.add_column(justify="right", width=cell_len(self.at) + 1)
            row.append(Text(self.at, style="dim"))
        table.add_row(*row)
        yield table


@dataclass(frozen=True)
class Heading:
    """Begins what an agent says."""

    name: str
    at: str = ""

    def __str__(self) -> str:
        return f"\n{one_line(self.name, 60)}" + (f" · {self.at}" if self.at else "")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text()
        name = Text(one_line(self.name, max(options.max_width - len(self.at) - 2, 8)), style="bold magenta")
        gap = options.max_width - name.cell_len - cell_len(self.at)
        yield Text.assemble(name, " " * max(gap, 1), (self.at, "dim")) if self.at else name


@dataclass(frozen=True)
class AgentText:
    """A text of an agent, or some blocks of it. `spaced` if blocks of the same text stand before it."""

    text: str
    spaced: bool = False
    growing: bool = False

    def __str__(self) -> str:
        return ("\n" if self.spaced else "") + _indented(escaped(self.text).strip("\n"))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.spaced:
            yield Text()
        text = self.text.rstrip() + CURSOR if self.growing else self.text
        yield Padding(AgentMarkdown(text), (0, 0, 0, INDENT))


@dataclass(frozen=True)
class Fold:
    """Reasoning or a tool call, folded: its title, and the text that it hides."""

    title: str
    body: str = ""
    failed: bool = False

    @property
    def text(self) -> Text:
        return Text(f"▸ {self.title}", style="red" if self.failed else "dim", overflow="fold")


@dataclass(frozen=True)
class Folds:
    """Several, side by side if they fit into a line."""

    folds: Sequence[Fold]

    def __str__(self) -> str:
        return "\n".join(_indented(f"▸ {fold.title}") for fold in self.folds)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width - INDENT
        texts = [fold.text for fold in self.folds]
        if sum(text.cell_len + 3 for text in texts) - 3 <= room:
            texts = [Text("   ").join(texts)]
        for text in texts:
            yield Padding(text, (0, 0, 0, INDENT))


@dataclass(frozen=True)
class Unfolded:
    """The same, with what it hides."""

    fold: Fold

    def __str__(self) -> str:
        return _indented(f"▾ {self.fold.title}\n{_indented(escaped(self.fold.body))}")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        style = "red" if self.fold.failed else "dim"
        yield Padding(Text(f"▾ {self.fold.title}", style=style), (0, 0, 0, INDENT))
        yield Padding(Text(escaped(self.fold.body), style="dim", overflow="fold"), (0, 0, 0, 2 * INDENT))


@dataclass(frozen=True)
class Break:
    """Where a summary replaced older messages."""

    title: str
    text: str = ""

    def __str__(self) -> str:
        return f"\n── {self.title}" + (f"\n{_indented(escaped(self.text))}" if self.text else "")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text()
        yield Text(f"── {self.title} ".ljust(options.max_width, "─"), style="dim", overflow="crop", no_wrap=True)
        if self.text:
            yield Padding(Text(escaped(self.text), style="dim italic"), (0, 0, 0, INDENT))


@dataclass(frozen=True)
class Title:
    """The first line of a chat, or of another agent's: where one is, and at the right what one can do."""

    text: str
    hint: str

    def __str__(self) -> str:
        return f"{escaped(self.text)}\n{self.hint}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = Text(escaped(self.text), style="bold")
        gap = options.max_width - text.cell_len - cell_len(self.hint)
        yield Text.assemble(text, " " * gap, (self.hint, "dim")) if gap >= 2 else text
        if gap < 2:
            yield Text(self.hint, style="dim")


Tone = Literal["quiet", "plain", "warning", "error"]
_STYLES: dict[Tone, str] = {"quiet": "dim", "plain": "", "warning": "yellow", "error": "red"}


@dataclass(frozen=True)
class Note:
    """What the chat itself says. Text of others in it has been through `one_line`, or is escaped here."""

    text: str
    tone: Tone = "quiet"
    spaced: bool = True

    def __str__(self) -> str:
        return ("\n" if self.spaced else "") + escaped(self.text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.spaced:
            yield Text()
        mark = {"warning": "! ", "error": "✗ "}.get(self.tone, "")
        yield Text(mark + escaped(self.text), style=_STYLES[self.tone], overflow="fold")


@dataclass(frozen=True)
class Row:
    """A line of a list: number, name, and details that matter less the later they come."""

    number: str
    name: str
    details: Sequence[str] = ()
    marked: bool = False


@dataclass(frozen=True)
class Rows:
    """A list, with a title in the words of the chat. Narrow terminals get the details below the names."""

    title: str
    rows: Sequence[Row]

    def __str__(self) -> str:
        lines = [
            f"{'*' if row.marked else ' '} {row.number:>3}  {' · '.join(filter(None, [row.name, *row.details]))}"
            for row in self.rows
        ]
        return "\n".join([f"\n{self.title}", *lines])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text()
        yield Text(self.title, style="bold")
        number = max((len(row.number) for row in self.rows), default=1) + 2
        name = max((cell_len(row.name) for row in self.rows), default=0)
        details = max((cell_len(" · ".join(filter(None, row.details))) for row in self.rows), default=0)
        side_by_side = number + name + 2 + details <= options.max_width
        for row in self.rows:
            mark = Text(("● " if row.marked else "  ") + row.number.rjust(number - 2) + "  ", style="cyan")
            label = Text(row.name, style="bold" if row.marked else "", overflow="ellipsis", no_wrap=True)
            details_text = Text(" · ".join(filter(None, row.details)), style="dim", overflow="ellipsis", no_wrap=True)
            grid = Table.grid(expand=False)
            grid.add_column(width=mark.cell_len)
            grid.add_column(width=name + 2 if side_by_side else None)
            if side_by_side:
                grid.add_column()
                grid.add_row(mark, label, details_text)
            else:
                grid.add_row(mark, label)
                if details_text:
                    grid.add_row("", details_text)
            yield grid


@dataclass(frozen=True)
class Facts:
    """Names and values, of which the values may be others' words."""

    facts: Sequence[tuple[str, str]]

    def _given(self) -> Iterable[tuple[str, str]]:
        return ((name, escaped(value)) for name, value in self.facts if value)

    def __str__(self) -> str:
        return "\n" + "\n".join(f"{name}: {value}" for name, value in self._given())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text()
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold", ratio=1)
        for name, value in self._given():
            table.add_row(Text(name), Text(value))
        yield table
