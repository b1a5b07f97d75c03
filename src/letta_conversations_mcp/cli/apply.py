"""`apply`: create the conversations that a fleet file declares and that are not there yet. Deletes and changes none.

A conversation is recognised by its agent and its exact summary, among all of the agent's conversations.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pydantic_core import to_json

from letta_conversations_mcp.cli.command import run_with_backend
from letta_conversations_mcp.cli.exit_status import CommandFailed
from letta_conversations_mcp.cli.fleet import DeclaredAgent, DeclaredConversation, Fleet, read_fleet
from letta_conversations_mcp.conversations.keys import without_mark
from letta_conversations_mcp.conversations.lookup import (
    check_blocks,
    conversations_with_summary,
    count_all_conversations,
    find_agent,
)
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError
from letta_conversations_mcp.core.model import Agent, Conversation, NewConversation
from letta_conversations_mcp.core.quoting import NAME_CHARS, quote
from letta_conversations_mcp.settings import BackendSettings

Status = Literal["created", "there already", "would create", "differs", "failed"]

RETRY = "Fix what failed or differs and apply the file again; whatever is as declared stays as it is."


@dataclass(frozen=True)
class Outcome:
    """The outcome for one declared conversation."""

    agent: str
    summary: str
    status: Status
    conversation_id: str = ""
    detail: str = ""

    def to_text(self) -> str:
        status = f"{self.status}: {self.detail}" if self.detail else self.status
        return " · ".join(
            filter(None, [quote(self.agent, NAME_CHARS), repr(self.summary), self.conversation_id, status])
        )


@dataclass(frozen=True)
class Total:
    """How many conversations an agent has, and will have; `at_least` when there are more than were counted."""

    agent: str
    has: int
    will_have: int
    at_least: bool = False

    def to_text(self) -> str:
        least = "at least " if self.at_least else ""
        return f"{quote(self.agent, NAME_CHARS)} has {least}{self.has} conversation(s), and will have {self.will_have}."


def apply(settings: BackendSettings, *, file: str, agent: str, dry_run: bool, as_json: bool) -> int:
    """Exit status: 0, or 1 when something failed or differs. Raises CommandFailed for a file that cannot be used."""
    fleet, warnings = read_fleet(file)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if agent and agent not in [each.name for each in fleet.agents]:
        raise CommandFailed(f"{file} declares no agent {quote(agent, NAME_CHARS)!r}.")
    chosen = Fleet(agents=[each for each in fleet.agents if agent in ("", each.name)])
    return run_with_backend(settings, partial(_apply, chosen, dry_run=dry_run, as_json=as_json))


async def _apply(fleet: Fleet, backend: Backend, *, dry_run: bool, as_json: bool) -> int:
    outcomes: list[Outcome] = []
    totals: list[Total] = []
    async for outcome in _outcomes(backend, fleet, dry_run=dry_run):
        if isinstance(outcome, Total):
            totals.append(outcome)
        else:
            outcomes.append(outcome)
        if not as_json:
            print(outcome.to_text(), flush=True)
    counts = Counter(each.status for each in outcomes)
    failed = bool(counts["failed"] or counts["differs"])
    if as_json:
        answer: dict[str, object] = {"conversations": outcomes, "ok": not failed}
        print(to_json(answer | {"agents": totals} if dry_run else answer).decode())
    else:
        said = ", ".join(f"{count} {status}" for status, count in counts.items())
        print(" ".join(filter(None, [f"{said or 'No conversations are declared'}.", RETRY if failed else ""])))
    return int(failed)


async def _outcomes(backend: Backend, fleet: Fleet, *, dry_run: bool) -> AsyncIterator[Outcome | Total]:
    """The outcome of every declared conversation and, of a dry run, the total of every agent after its own."""
    for declared in fleet.agents:
        if not declared.conversations:
            continue
        try:
            owner = await find_agent(backend, declared.name)
        except ConversationError as error:
            for outcome in _all_failed(declared, error):
                yield outcome
            continue
        new = 0
        for conversation in declared.conversations:
            outcome = await _ensure(backend, owner, declared.name, conversation, dry_run=dry_run)
            new += outcome.status == "would create"
            yield outcome
        if dry_run:
            with suppress(ConversationError):
                has, more = await count_all_conversations(backend, owner.id)
                yield Total(declared.name, has, has + new, at_least=more)


def _all_failed(declared: DeclaredAgent, error: ConversationError) -> Iterator[Outcome]:
    for conversation in declared.conversations:
        yield Outcome(declared.name, conversation.summary, "failed", detail=error.for_person)


async def _ensure(
    backend: Backend, owner: Agent, name: str, declared: DeclaredConversation, *, dry_run: bool
) -> Outcome:
    """Find the conversation, or create it. `name` is the agent's name in the file."""

    def outcome(status: Status, conversation_id: str = "", detail: str = "") -> Outcome:
        return Outcome(name, declared.summary, status, conversation_id, detail)

    made: Conversation | None = None
    summary = without_mark(declared.summary)
    try:
        matches = await conversations_with_summary(backend, owner.id, summary)
        conversation = next(iter(matches), None)
        if len(matches) > 1:
            return outcome("differs", detail=f"several have this summary: {', '.join(each.id for each in matches)}")
        if conversation is None:
            await check_blocks(backend, owner, declared.isolated_blocks)
            if dry_run:
                return outcome("would create")
            wanted = NewConversation(
                agent_id=owner.id, summary=summary, isolated_blocks=tuple(declared.isolated_blocks)
            )
            conversation = made = await backend.create_conversation(wanted)
        if lacking := await _lacking(backend, conversation, declared):
            return outcome("differs", conversation.id, f"{'it was created, and ' if made else ''}{lacking}")
    except ConversationError as error:
        return outcome("failed", made.id if made else "", error.for_person)
    return outcome("created" if made else "there already", conversation.id)


async def _lacking(backend: Backend, conversation: Conversation, declared: DeclaredConversation) -> str:
    """Which of the declared blocks the conversation shares with the others, in words: a server may ignore them."""
    if not declared.isolated_blocks:
        return ""
    own = [each.label for each in await backend.list_isolated_blocks(conversation)]
    lacking = [label for label in declared.isolated_blocks if label not in own]
    return f"it has no copy of its own of the memory block {', '.join(map(repr, lacking))}" if lacking else ""
