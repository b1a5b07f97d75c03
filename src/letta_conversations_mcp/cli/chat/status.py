"""The line below the input: where the person is, and what happens there. It says more the wider the terminal is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from letta_conversations_mcp.cli.chat.formatting import one_line

BAR_CELLS = 8
EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Status:
    """`conversation` is its name or short id, `doing` what happens now, `hint` what the person can do about it.
    `used` and `limit` are the tokens of the context, None where they are not known."""

    agent: str = ""
    conversation: str = ""
    model: str = ""
    used: int | None = None
    limit: int | None = None
    doing: str = ""
    hint: str = ""
    urgent: bool = False

    def line(self, width: int) -> str:
        """The fullest form that fits into `width` cells, filled up to it."""
        forms = list(self._forms())
        best = next((form for form in forms if cell_len(form) <= width), forms[-1])
        return set_cell_size(best, width)

    def _forms(self) -> Iterator[str]:
        agent, conversation = one_line(self.agent, 30), one_line(self.conversation, 32)
        model = one_line(self.model.rpartition("/")[2], 30)
        short = one_line(self.conversation, 16)
        for where, with_hint in (
            ([agent, conversation, model, self._context(bar=True)], True),
            ([agent, conversation, model, self._context(bar=False)], True),
            ([agent, conversation, self._context(bar=False)], True),
            ([agent, short, self._context(bar=False)], True),
            ([agent, short, self._percent()], True),
            ([one_line(self.agent, 16), short], True),
            ([one_line(self.agent, 16), short, self._percent()], False),
            ([one_line(self.agent, 16)], False),
        ):
            yield self._form(" · ".join(filter(None, where)), with_hint=with_hint)

    def _form(self, where: str, *, with_hint: bool) -> str:
        now = "   ".join(filter(None, [self.doing, self.hint if with_hint or not self.doing else ""]))
        return f" {where or 'no agent yet'}" + (f"  │ {now}" if now else "") + " "

    def _percent(self) -> str:
        if self.used is None or not self.limit:
            return ""
        return f"{min(round(100 * self.used / self.limit), 100)} %"

    def _context(self, *, bar: bool) -> str:
        if self.used is None:
            return ""
        if not self.limit:
            return f"context {tokens(self.used)}"
        return f"context {self._percent()}" + (f" {_bar(self.used / self.limit)}" if bar else "")


def tokens(count: int) -> str:
    """A count of tokens: 950 tokens, 8.1k tokens."""
    return f"{count / 1000:.1f}k tokens" if count >= 1000 else f"{count} tokens"


def _bar(share: float) -> str:
    eighths = round(min(max(share, 0), 1) * BAR_CELLS * 8)
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (EIGHTHS[rest] if rest else "")
    return f"▕{filled.ljust(BAR_CELLS)}▏"
