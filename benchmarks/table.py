"""The printed table: groups of rows, each of which says what, ours, the other, their ratio, and the goal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from textwrap import wrap
from typing import Literal

from benchmarks.pairs import ratio_of_pairs

Unit = Literal["ms", "MB", "kB", "chars", "count", "share"]

WIDTH = 98
COLUMNS = "{what:<45}{ours:>13}{other:>13}{ratio:>8}{goal:>10}  {met}"


@dataclass(frozen=True)
class Row:
    """One comparison. Without a goal it is there to be read, not judged."""

    what: str
    ours: float
    other: float
    ratio: float
    unit: Unit
    goal: float | None = None

    @classmethod
    def of_pairs(
        cls, what: str, ours: Sequence[float], others: Sequence[float], unit: Unit, goal: float | None = None
    ) -> Row:
        """Medians of both sides, and the median of the ratios of each pair."""
        return cls(what, median(ours), median(others), ratio_of_pairs(ours, others), unit, goal)

    @property
    def missed(self) -> bool:
        return self.goal is not None and self.ratio > self.goal

    def line(self) -> str:
        met = "" if self.goal is None else "missed" if self.missed else "met"
        return COLUMNS.format(
            what=self.what,
            ours=_amount(self.ours, self.unit),
            other=_amount(self.other, self.unit),
            ratio=f"{self.ratio:.3f}",
            goal="" if self.goal is None else f"<= {self.goal:.2f}",
            met=met,
        ).rstrip()


@dataclass(frozen=True)
class Group:
    """Rows of one subject. `other` says what the other side is; the notes what a reader has to know beside it."""

    subject: str
    other: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def lines(self) -> Iterator[str]:
        yield from wrap(f"{self.subject}; other: {self.other}", WIDTH)
        for row in self.rows:
            yield "  " + row.line()
        for note in self.notes:
            yield from wrap(note, WIDTH, initial_indent="    ", subsequent_indent="    ")


def heading() -> str:
    columns = COLUMNS.format(what="", ours="ours", other="other", ratio="ratio", goal="goal", met="")
    return "  " + columns.rstrip() + "\n" + "-" * WIDTH


def _amount(value: float, unit: Unit) -> str:
    match unit:
        case "ms":
            return f"{value * 1000:,.{2 if value < 0.1 else 0}f} ms"
        case "MB":
            return f"{value / 1e6:.1f} MB"
        case "kB":
            return f"{value / 1e3:.1f} kB"
        case "share":
            return f"{value:.0%}"
        case "chars" | "count":
            return f"{value:,.0f}"
