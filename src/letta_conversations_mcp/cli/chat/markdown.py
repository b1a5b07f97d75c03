"""Markdown of an agent on a terminal. The text is untrusted: nothing of it is an instruction to the terminal.

HTML is shown as the text it is, links with their address, and control characters as escapes. Those are replaced after
parsing, because an entity such as `&#27;` becomes one there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, cast

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich import box
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement, TableElement
from rich.style import Style
from rich.syntax import ANSISyntaxTheme, Syntax
from rich.table import Table
from rich.text import Text

from letta_conversations_mcp.core.untrusted import escaped

PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])


class _Heading(Heading):
    """Bold, without a frame and at the left, whatever its level."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.text.plain, style=Style(bold=True, underline=self.tag == "h1"))


class _Code(CodeBlock):
    """In the terminal's own colours, on its own background."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Syntax(
            str(self.text).rstrip(),
            self.lexer_name,
            theme=ANSISyntaxTheme({}) if console.no_color else "ansi_dark",
            background_color="default",
            word_wrap=True,
            padding=(0, 2),
        )


class _Table(TableElement):
    """Without lines; the header is bold."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, border_style="dim")
        header = self.header.row.cells if self.header and self.header.row else []
        for cell in header:
            table.add_column(cell.content, justify=cast("JustifyMethod", cell.justify))
        for row in self.body.rows if self.body else ():
            table.add_row(*(cell.content for cell in row.cells))
        yield table


class AgentMarkdown(Markdown):
    """A text of an agent."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _Code,
        "code_block": _Code,
        "table_open": _Table,
    }

    def __init__(self, text: str) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = PARSER.parse(text)
        _escape(self.parsed)


def _escape(tokens: Sequence[Token]) -> None:
    for token in tokens:
        token.content = escaped(token.content)
        token.info = escaped(token.info)
        token.attrs = {name: escaped(value) if isinstance(value, str) else value for name, value in token.attrs.items()}
        _escape(token.children or ())


def split_finished(text: str) -> tuple[str, str]:
    """The blocks of a growing text that will not change any more, and the one that may."""
    starts = [token.map[0] for token in PARSER.parse(text) if token.level == 0 and token.nesting >= 0 and token.map]
    if len(starts) < 2:
        return "", text
    # As the parser counts them: other separators of lines are none to it.
    lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)
    return "".join(lines[: starts[-1]]), "".join(lines[starts[-1] :])
