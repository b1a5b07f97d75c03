"""Decides which calls are the same message: by a key that the caller chose, or by evidence that the caller never
received an answer.

With a `message_key` a message has the same otid in every process, so Letta itself recognises it. Without one, a
repeated call is a retry only in these cases:

(a) the earlier call was cancelled, or its connection ended, before it was answered;
(b) the same session makes the identical call while the first is unanswered and at least two seconds old;
(c) a session that has shown by (b) that it gives up silently repeats the call within a minute of the answer.

In all of these both calls must come from the same origin: callers without a token are told apart by their address and
program.

Processes do not know each other's calls, so across processes the otid identifies a message. A request with an id of its
own always yields the same otid, so a copy of it made by a proxy is the same message wherever it arrives. For other
messages the first 48 bits of the otid hold the time, and the last 48 a hash of the caller and the call: an identical
call to a process that started later is the same message. Replicas that share a Redis know more (`replicas`).

No evidence, no merging. What is remembered here is only a hint: everything can be found at Letta without it.
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b

import anyio

from letta_conversations_mcp.core.errors import InvalidArgument
from letta_conversations_mcp.core.model import ConversationRef
from letta_conversations_mcp.turns.turn import EndReason, State, TrackedTurn

SILENT_AFTER_SECONDS = 2.0
"""How old an unanswered call must be for a repetition to count as a retry. A program that means to send the same
message twice calls at once; a client that gives up does so after five seconds or more."""

REPEATED_WITHIN_SECONDS = 60.0
"""How long after an answer a repeated call counts as a retry, in a session that gives up silently: its model decides
within seconds."""

NOTICE_SECONDS = 0.5
"""How long an identical call waits for the one before it to be given up. A client that cancels, or drops its
connection, calls again at once, and over HTTP the second request can arrive first."""

KEPT_SECONDS = 600.0
"""How long an abandoned call is remembered. A client retries at once, a model a few calls later."""

MAX_KEPT = 1_000
"""How many calls are remembered before old ones are forgotten."""

OTID_PREFIX = "otid:"
"""Prefix of the key made up for a message that was sent without one. Returned when there is no run id to ask for."""

WORTH_JOINING = ("completed", "empty", "needs_approval", "unknown")
"""The outcomes that answer a retry too. After any other, the message has to be sent again."""


@dataclass(frozen=True)
class CallIdentity:
    """A call as its caller made it, before anything was derived from it.

    `caller` is the name of the token, "" where there are none. `origin` hashes the address and the program that call.
    `session` is one stdio process or one session of the older protocol, "" where calls have none. `request` is an id
    that no other client's request has, "" if there is none: the ids of JSON-RPC are counted from 0 by every client.
    `target` is the conversation or agent as the caller named it. `call` is a hash of the tool and its arguments as
    given. `key` is the caller's `message_key`.
    """

    caller: str = ""
    origin: str = ""
    session: str = ""
    request: str = ""
    target: str = ""
    call: str = ""
    key: str = ""

    def otid(self, ref: ConversationRef, attempt: int = 0) -> str:
        """The id under which Letta receives the message: in the form of a version 4 UUID.

        The same for the same key, and for the same request. `attempt` counts the runs of a keyed message that failed:
        Letta answers an otid that it knows with the old run, for three hours.
        """
        given = self.key.removeprefix(OTID_PREFIX)
        if given != self.key and not attempt and _node(given) != NO_UUID:
            return given
        if self.key:
            parts = ["key", self.caller, str(ref), self.key, *([str(attempt)] if attempt else [])]
            return str(uuid.UUID(bytes=_hash(*parts, size=16), version=4))
        if not self.call:
            return str(uuid.uuid4())
        if self.request:
            made = _hash("request", self.caller, self.session, self.request, self.call, size=10)
        else:
            # Rounded up, so that no message looks older than a process that was there before it.
            made = (int(time.time() * 1000) + 1).to_bytes(6, "big") + os.urandom(4)
        call = _hash("call", self.caller, self.origin, self.call, size=6)
        return str(uuid.UUID(bytes=made + call, version=4))

    def is_same_call(self, otid: str) -> bool:
        """True if the message of this otid was sent by the same caller, from the same place, with an identical call."""
        return bool(self.call) and not self.key and _node(otid) == _node(self._bare())

    def _bare(self) -> str:
        return self.otid(ConversationRef(conversation_id="", agent_id=""))


def was_made_before(otid: str, moment: datetime) -> bool:
    """True if the time in an otid lies within the day before `moment`. The otid of a request with an id of its own
    holds no time, but one in three million looks as if it did."""
    try:
        age = moment.timestamp() - (uuid.UUID(otid).int >> 80) / 1000
    except ValueError:
        return False
    return 0 < age < timedelta(days=1).total_seconds()


def key_was_used() -> InvalidArgument:
    """The error for a key that was used for another message."""
    return InvalidArgument(
        "message_key",
        "it was used for another message to the same target. A new message needs a new key.",
    )


def fingerprint(*parts: object) -> str:
    """A hash of a call as it was made, for comparison with other calls."""
    return _hash(*(repr(each) for each in parts), size=16).hex()


def _hash(*parts: str, size: int) -> bytes:
    joined = "\0".join(f"{len(each)}:{each}" for each in parts)
    return blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=size).digest()


NO_UUID = -1


def _node(otid: str) -> int:
    """The last 48 bits of a UUID, or NO_UUID."""
    try:
        return uuid.UUID(otid).node
    except ValueError:
        return NO_UUID


@dataclass(eq=False)
class _Call:
    """A remembered call. Times are in seconds on the event loop's clock."""

    identity: CallIdentity
    turn: TrackedTurn
    made_at: float = field(default_factory=anyio.current_time)
    waiting: int = 0
    """Requests that wait for it: the first, and those recognised as its retries."""
    abandoned: bool = False
    """True if a request for it ended without an answer and none has been answered since."""
    answered_at: float | None = None
    given_up: anyio.Event = field(default_factory=anyio.Event)


class RecentCalls:
    """The calls to this process that may be repeated. For one event loop."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str, str], list[_Call]] = {}
        self._count = 0
        self._forget_at = MAX_KEPT
        self._silent: set[tuple[str, str]] = set()
        """Sessions that have given up calls without cancelling them."""

    async def find(self, identity: CallIdentity) -> TrackedTurn | None:
        """The turn of an earlier call that this one repeats; None if no evidence of that turns up within
        NOTICE_SECONDS.

        Raises:
            InvalidArgument: the key was used for another message.
        """
        if (found := self._find(identity)) is not None or identity.key:
            return found
        unanswered = [each for each in self._calls.get(_name(identity), []) if each.waiting]
        if not unanswered:
            return None
        with anyio.move_on_after(NOTICE_SECONDS):
            await unanswered[-1].given_up.wait()
        return self._find(identity)

    def _find(self, identity: CallIdentity) -> TrackedTurn | None:
        """The turn of an earlier call that this one repeats, as far as is known now.

        Raises:
            InvalidArgument: the key was used for another message.
        """
        now = anyio.current_time()
        for call in reversed(self._calls.get(_name(identity), [])):
            if may_be_joined(call.turn) and self._repeats(identity, call, now):
                if call.identity.call != identity.call:
                    raise key_was_used()
                return call.turn
        return None

    def _repeats(self, identity: CallIdentity, call: _Call, now: float) -> bool:
        if identity.key:
            return True
        if identity.origin != call.identity.origin:
            return False
        if call.abandoned:
            return now - call.made_at < KEPT_SECONDS + REPEATED_WITHIN_SECONDS
        session = identity.caller, identity.session
        if not identity.session or identity.session != call.identity.session:
            return False
        if call.waiting and now - call.made_at >= SILENT_AFTER_SECONDS:
            if len(self._silent) >= MAX_KEPT:
                self._silent.clear()
            self._silent.add(session)
            return True
        answered = call.answered_at
        return answered is not None and session in self._silent and now - answered < REPEATED_WITHIN_SECONDS

    def add(self, identity: CallIdentity, turn: TrackedTurn) -> None:
        """Remember a call that begins a turn."""
        if identity.call or identity.key:
            self._forget_old()
            self._calls.setdefault(_name(identity), []).append(_Call(identity, turn))
            self._count += 1

    def waits(self, turn: TrackedTurn, identity: CallIdentity) -> None:
        """Note that one more request waits for the turn of this call."""
        for call in self._of(turn, identity):
            call.waiting += 1

    def answered(self, turn: TrackedTurn, identity: CallIdentity) -> None:
        """Note that a request for the turn of this call was answered."""
        for call in self._of(turn, identity):
            call.waiting -= 1
            call.abandoned = False
            call.answered_at = anyio.current_time()
            if not (call.waiting or call.identity.session or call.identity.key):
                # Only a key, or a session that gives up silently, makes a repetition of an answered call a retry.
                self._forget(call)

    def abandoned(self, turn: TrackedTurn, identity: CallIdentity) -> None:
        """Note that a request for the turn of this call ended without an answer."""
        for call in self._of(turn, identity):
            call.waiting -= 1
            call.abandoned = not call.waiting
            if call.abandoned:
                call.given_up.set()
                call.given_up = anyio.Event()

    def _of(self, turn: TrackedTurn, identity: CallIdentity) -> list[_Call]:
        return [each for each in self._calls.get(_name(identity), []) if each.turn is turn]

    def _forget(self, call: _Call) -> None:
        name = _name(call.identity)
        self._calls[name].remove(call)
        self._count -= 1
        if not self._calls[name]:
            del self._calls[name]

    def _forget_old(self) -> None:
        """Forget calls that are too old to be repeated and, if too many are left, all that nobody waits for."""
        if self._count < self._forget_at:
            return
        limit = anyio.current_time() - KEPT_SECONDS
        for name, calls in list(self._calls.items()):
            kept = [each for each in calls if each.waiting or each.made_at > limit]
            if self._count - len(calls) + len(kept) >= MAX_KEPT // 2:
                kept = [each for each in kept if each.waiting]
            self._count -= len(calls) - len(kept)
            if kept:
                self._calls[name] = kept
            else:
                del self._calls[name]
        # Calls that somebody waits for are never forgotten, and may be too many to scan for every new call.
        self._forget_at = max(MAX_KEPT, 2 * self._count)


def _name(identity: CallIdentity) -> tuple[str, str, str]:
    return identity.caller, identity.target, f"key {identity.key}" if identity.key else identity.call


def may_be_joined(turn: TrackedTurn) -> bool:
    """False if the message has to be sent again: it was not taken, or its turn failed or was cancelled."""
    if turn.state is not State.ENDED:
        return True
    return turn.end_reason is EndReason.FINISHED and turn.ending in WORTH_JOINING
