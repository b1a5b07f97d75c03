"""What `--help` looks like: sections, two columns where there is room for them, examples as they are typed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

WIDEST = 100
"""Columns; longer lines are hard to read."""

NARROW = 72
"""Columns below which an option and its meaning stand on lines of their own."""


class Formatter(click.HelpFormatter):
    """Click's, with bold headings, and without a second column that would be too narrow to read."""

    def write_heading(self, heading: str) -> None:
        self.write(f"{'':>{self.current_indent}}{click.style(heading, bold=True)}\n")

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(click.style(prog, bold=True), args, prefix)

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 34, col_spacing: int = 2) -> None:
        rows = list(rows)
        longest = max((len(first) for first, _ in rows), default=0)
        if self.width >= NARROW or longest <= self.width * 2 // 5:
            super().write_dl(rows, col_max, col_spacing)
            return
        for first, second in rows:
            self.write(f"{'':>{self.current_indent}}{first}\n")
            self.indent()
            self.indent()
            if second:
                self.write_text(second)
            self.dedent()
            self.dedent()

    def write_examples(self, program: str, examples: Sequence[tuple[str, str]]) -> None:
        """What to type, each with what it does, "" for nothing to say."""
        with self.section("Examples"):
            for line, meaning in examples:
                if meaning:
                    self.write_text(click.style(f"# {meaning}", dim=True))
                self._write_command(f"{program} {line}")

    def _write_command(self, line: str) -> None:
        """A command as it can be pasted: a long one goes on in the next line, at an option."""
        indent = " " * self.current_indent
        first, *options = line.split(" --")
        lines = [first]
        for option in options:
            if len(lines[-1]) + len(option) + 5 > self.width - self.current_indent:
                lines.append(f"    --{option}")
            else:
                lines[-1] += f" --{option}"
        self.write(" \\\n".join(f"{indent}{each}" for each in lines) + "\n")


class HelpContext(click.Context):
    """Makes our formatter, as wide as the terminal up to WIDEST."""

    def make_formatter(self) -> click.HelpFormatter:
        return Formatter(max_width=WIDEST + 2)
