"""The language model of the tests: answers queued by the test, the same for the fake and the real Letta server.

A test says what the model will answer (`enqueue`), runs the behaviour, and looks at what the model was asked (`calls`).
Without a queued answer the model echoes the last user message, so that a test which does not care need not care.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio

from tests.rig.waiting import Record


@dataclass(frozen=True)
class Say:
    """A text answer.

    `reasoning` comes before it. `cut=True` ends it with finish reason "length".
    """

    text: str
    reasoning: str = ""
    cut: bool = False


@dataclass(frozen=True)
class Use:
    """One call of a tool. `arguments` may be a string, to send text that is no JSON. Without a `call_id` it gets one
    of its own."""

    name: str
    arguments: Mapping[str, object] | str = field(default_factory=dict[str, object])
    call_id: str = ""


@dataclass(frozen=True)
class CallTools:
    """One or more tool calls, with an optional text before them."""

    uses: tuple[Use, ...]
    text: str = ""


@dataclass(frozen=True)
class Refuse:
    """The provider answers with an HTTP error (400, 401, 429, 500)."""

    status: int
    message: str = "the provider said no"


@dataclass(frozen=True)
class Hold:
    """The model is silent until the test opens the gate, then gives `answer`."""

    answer: Say | CallTools | Refuse
    gate: anyio.Event = field(default_factory=anyio.Event)


Answer = Say | CallTools | Refuse | Hold


@dataclass(frozen=True)
class ModelCall:
    """What the model was asked: the last user text, every message as (role, text) in order, and the URLs of all images.
    The fake Letta shows its model no images."""

    text: str
    messages: tuple[tuple[str, str], ...]
    model: str
    images: tuple[str, ...] = ()


class UnusedAnswer(AssertionError):
    """The test queued an answer that no call asked for."""


@dataclass(frozen=True)
class _Queued:
    answer: Answer
    to: str
    after: str

    def fits(self, call: ModelCall) -> bool:
        return self.to in call.text and (not self.after or any(self.after in text for _, text in call.messages[:-1]))


class ScriptedModel:
    """Queued answers in order; an answer queued `to` a text waits for the call whose last user message contains it, and
    one queued `after` a text for the call that has it in an earlier message."""

    def __init__(self) -> None:
        self.calls = Record[ModelCall]()
        self._queue: list[_Queued] = []

    def enqueue(self, *answers: Answer, to: str = "", after: str = "") -> None:
        """Queue answers, one for each call of the model (a step of the agent is one call)."""
        self._queue.extend(_Queued(answer, to, after) for answer in answers)

    def take(self, call: ModelCall) -> Answer:
        """Record the call and return its answer: the first queued one that fits, else an echo."""
        self.calls.append(call)
        for index, queued in enumerate(self._queue):
            if queued.fits(call):
                del self._queue[index]
                return queued.answer
        return Say(f"echo: {call.text}")

    async def asked(self, times: int = 1) -> None:
        """Wait until the model has been asked so often."""
        await self.calls.until(times=times)

    def check_used(self) -> None:
        """Raise `UnusedAnswer` when answers are left over."""
        if self._queue:
            raise UnusedAnswer(f"queued but never asked for: {[queued.answer for queued in self._queue]}")

    def reset(self) -> None:
        self.calls.clear()
        self._queue.clear()
