"""A turn on the screen: from what is known of it, again and again, to what is shown for good and what still grows.

Pure. What was shown for good is never shown twice: each look at the turn adds only what is new, in the order in which
it came. Finished blocks of a reply are shown for good; the last one grows until it is followed by something else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import cast

from rich.console import Group, RenderableType

from letta_conversations_mcp.cli.chat.entries import AgentText, Fold, Folds, Heading, Note
from letta_conversations_mcp.cli.chat.formatting import lasted, one_line
from letta_conversations_mcp.cli.chat.markdown import split_finished
from letta_conversations_mcp.core.model import ToolCall

TITLE_CHARS = 40
"""Characters shown of the arguments of a tool call in its title."""

LEAST_SECONDS = 0.05
"""Shorter durations are not shown."""

REWRITTEN = "From here on the stored reply differs from what was shown; the stored one follows."


@dataclass(frozen=True)
class Seen:
    """A turn as it stands, without the calls that wait for a decision."""

    reply: str = ""
    reasoning: str = ""
    calls: Sequence[ToolCall] = ()


@dataclass
class _Timed:
    """When something of the turn began and ended, in seconds; None if that was not watched."""

    began: float | None
    ended: float | None = None

    @property
    def words(self) -> str:
        if self.began is None or self.ended is None or self.ended - self.began < LEAST_SECONDS:
            return ""
        return f", {lasted(self.ended - self.began)}"


@dataclass
class Growth:
    """What is new: entries for good, and what stands below them for now."""

    entries: list[RenderableType] = field(default_factory=list[RenderableType])
    live: RenderableType | None = None


class TurnDisplay:
    """One turn. `at` is its time in the heading, `clock` gives seconds."""

    def __init__(self, agent: str, at: str, clock: Callable[[], float]) -> None:
        self._heading = Heading(agent, at)
        self._clock = clock
        self._has_heading = False
        self._shown = ""
        self._spaced = False
        self._folds: list[Fold] = []
        """Finished, and not shown yet."""
        self.unfolded: list[Fold] = []
        """All of the turn, for /show."""
        self._last = Seen()
        self._thought = 0
        """Characters of the reasoning that have been folded."""
        self._thinking: _Timed | None = None
        self._calls: list[_Timed] = []
        self._folded_calls = 0

    def look(self, seen: Seen) -> Growth:
        """What is new since the last look at a turn that runs."""
        growth = self._advance(seen, watched=True)
        grows = seen.reply[len(self._shown) :]
        parts: list[RenderableType] = [] if self._has_heading else [self._heading]
        if running := [*self._folds, *self._running(seen)]:
            parts.append(Folds(running))
        if grows.strip():
            finished, grows = split_finished(grows)
            if finished.strip():
                self._text(growth, finished)
                parts = []
            parts.append(AgentText(grows.lstrip("\n"), spaced=self._spaced, growing=True))
        growth.live = Group(*parts) if running or grows.strip() else None
        return growth

    def finish(self, seen: Seen) -> list[RenderableType]:
        """Everything that was not shown yet of a turn that has ended."""
        watched = self._last != Seen()
        growth = self._advance(seen, watched=watched)
        self._end_thinking(seen, self._clock() if watched else None)
        for call in seen.calls[self._folded_calls :]:
            self._fold_call(call)
        self._text(growth, seen.reply[len(self._shown) :])
        self._flush_folds(growth)
        return growth.entries

    def _advance(self, seen: Seen, *, watched: bool) -> Growth:
        growth = Growth()
        now = self._clock() if watched else None
        if not seen.reply.startswith(self._shown):
            self._shown = commonprefix([self._shown, seen.reply])  # noqa: RUF071 - no paths
            if len(seen.reply) > len(self._shown):
                growth.entries.append(Note(REWRITTEN))
        last, self._last = self._last, seen
        thinks_on = len(seen.reasoning) > len(last.reasoning)
        new_calls = seen.calls[len(last.calls) :]
        speaks_on = len(seen.reply) > len(last.reply)
        if watched and (thinks_on or new_calls):
            # What was said before the agent went on to think or to call a tool stands above that.
            before = seen.reply if any(call.status == "pending" for call in new_calls) else last.reply
            if (said := before[len(self._shown) :]).strip():
                self._end_thinking(last, now)
                self._text(growth, said)
        if thinks_on and self._thinking is None:
            self._thinking = _Timed(now)
        if new_calls or speaks_on:
            self._end_thinking(seen, now)
        self._calls += [_Timed(now) for _ in new_calls]
        for call, timed in zip(seen.calls, self._calls, strict=False):
            if call.status != "pending" and timed.ended is None:
                timed.ended = now
        while self._folded_calls < len(seen.calls) and seen.calls[self._folded_calls].status != "pending":
            self._fold_call(seen.calls[self._folded_calls])
        return growth

    def _end_thinking(self, seen: Seen, now: float | None) -> None:
        if self._thinking is not None:
            self._thinking.ended = now
            self._fold(Fold(f"reasoning{self._thinking.words}", seen.reasoning[self._thought :].strip()))
            self._thought, self._thinking = len(seen.reasoning), None

    def _fold_call(self, call: ToolCall) -> None:
        self._fold(fold_call(call, self._calls[self._folded_calls].words))
        self._folded_calls += 1

    def _fold(self, fold: Fold) -> None:
        self._folds.append(fold)
        self.unfolded.append(fold)

    def _running(self, seen: Seen) -> list[Fold]:
        """What the agent does now, for the part that still changes."""
        now = self._clock()
        running = [
            Fold(f"{title_of(call)} running, {lasted(now - (self._calls[index].began or now))}")
            for index, call in enumerate(seen.calls)
            if call.status == "pending" and index >= self._folded_calls
        ]
        if self._thinking is not None:
            running.insert(0, Fold(f"reasoning, {lasted(now - (self._thinking.began or now))}"))
        return running

    def _text(self, growth: Growth, text: str) -> None:
        self._flush_folds(growth)
        if text.strip():
            self._head(growth)
            growth.entries.append(AgentText(text.strip("\n"), spaced=self._spaced))
            self._spaced = True
        self._shown += text

    def _flush_folds(self, growth: Growth) -> None:
        if self._folds:
            self._head(growth)
            growth.entries.append(Folds(self._folds))
            self._folds = []
            self._spaced = False

    def _head(self, growth: Growth) -> None:
        if not self._has_heading:
            growth.entries.insert(0, self._heading)
            self._has_heading = True


def fold_call(call: ToolCall, took: str = "") -> Fold:
    """A tool call and its result, folded."""
    outcome = {"pending": "no result", "success": "done", "error": "failed", "denied": "denied"}[call.status]
    body = "\n".join(filter(None, [call.arguments, f"→ {call.result}" if call.result else ""]))
    return Fold(f"{title_of(call)} {outcome}{took}", body, failed=call.status == "error")


def title_of(call: ToolCall) -> str:
    """A call in a few words: `conversation_search("4711")`."""
    try:
        parsed: object = json.loads(call.arguments) if call.arguments.strip() else {}
    except (ValueError, RecursionError):
        parsed = call.arguments
    if isinstance(parsed, dict):
        values = cast("dict[str, object]", parsed)
        shown = [json.dumps(value, ensure_ascii=False) for value in values.values()]
        named = [f"{name}={value}" for name, value in zip(values, shown, strict=True)]
        given = shown[0] if len(shown) == 1 else ", ".join(named)
    else:
        given = str(parsed)
    return f"{one_line(call.name or 'tool', 60)}({one_line(given, TITLE_CHARS)})"
