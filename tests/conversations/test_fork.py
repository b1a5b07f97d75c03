"""Forking: what the branch is named and keyed, and what is said of it, by what the server did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from letta_conversations_mcp.conversations.fork import fork
from letta_conversations_mcp.conversations.keys import key_of
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError, InvalidArgument, ServerFault
from letta_conversations_mcp.core.model import Agent, Conversation, ConversationChanges, ConversationRef

SOURCE = ConversationRef(conversation_id="conv-1", agent_id="agent-1")
DEFAULT = ConversationRef(conversation_id="default", agent_id="agent-1")
BLOCKS = ("block-1",)


class Letta:
    """A server with one conversation, which does with a fork what it is made for: `cuts` it at the message, `hides` it,
    copies isolated blocks (`isolates`). `context` are the ids of messages in it, None for a server that tells none."""

    def __init__(
        self,
        context: Sequence[str] | None = ("m1", "m2", "m3"),
        *,
        cuts: bool = False,
        hides: bool = False,
        blocks: tuple[str, ...] = (),
        isolates: bool = False,
        keeps_tags: bool = False,
    ) -> None:
        self.keeps_tags = keeps_tags
        self.context = None if context is None else tuple(context)
        self.cuts, self.hides, self.blocks, self.isolates = cuts, hides, blocks, isolates
        self.branches: dict[str, Conversation] = {}
        self.fails = False

    async def get_agent(self, agent_id: str) -> Agent:
        return Agent(id=agent_id, name="x", in_context=self.context)

    async def get_conversation(self, conversation_id: str) -> Conversation:
        assert conversation_id == "conv-1"
        return Conversation(
            id="conv-1",
            agent_id="agent-1",
            in_context=self.context,
            isolated_block_ids=self.blocks,
            summary="the source",
        )

    async def fork(self, ref: ConversationRef, *, at_message: str = "", hidden: bool = False) -> Conversation:
        context = self.context
        if context is not None and self.cuts and at_message:
            context = context[: context.index(at_message) + 1]
        made = Conversation(
            id="conv-2",
            agent_id=ref.agent_id,
            in_context=context,
            hidden=hidden and self.hides,
            isolated_block_ids=self.blocks if self.isolates else (),
        )
        self.branches[made.id] = made
        return made

    async def update_conversation(self, conversation_id: str, changes: ConversationChanges) -> Conversation:
        if self.fails:
            raise ServerFault("update the conversation", 500, "", "It may have been changed.")
        changed = {name: value for name, value in changes.model_dump().items() if value is not None}
        self.branches[conversation_id] = self.branches[conversation_id].model_copy(update=changed)
        return self.branches[conversation_id]

    async def delete_conversation(self, conversation_id: str) -> None:
        del self.branches[conversation_id]


def backend(letta: Letta) -> Backend:
    return cast("Backend", letta)


@pytest.mark.parametrize("ref", [SOURCE, DEFAULT])
@pytest.mark.parametrize(
    ("letta", "at", "shared", "words"),
    [
        (Letta(), "", 3, ""),
        (Letta(), "m3", 3, ""),
        (Letta(), "m2", 3, "ignored at_message: the branch holds 1 newer"),
        (Letta(), "m1", 3, "ignored at_message: the branch holds 2 newer"),
        (Letta(cuts=True), "m1", 1, ""),
        (Letta(None), "", None, ""),
        (Letta(None), "m1", None, "does not tell where the branch ends"),
    ],
)
async def test_what_the_branch_begins_with_is_said(
    ref: ConversationRef, letta: Letta, at: str, shared: int | None, words: str
) -> None:
    branch = await fork(backend(letta), ref, at_message=at)

    assert branch.shared == shared
    assert len(branch.notes) == bool(words)
    assert words in " ".join(branch.notes)


@pytest.mark.parametrize("ref", [SOURCE, DEFAULT])
async def test_nothing_is_forked_at_a_message_that_is_not_there(ref: ConversationRef) -> None:
    letta = Letta()

    with pytest.raises(InvalidArgument, match="m9 is not in the context"):
        await fork(backend(letta), ref, at_message="m9")

    assert letta.branches == {}


@pytest.mark.parametrize(
    ("ref", "letta", "hidden", "words"),
    [
        (SOURCE, Letta(), False, []),
        (SOURCE, Letta(hides=True), True, []),
        (SOURCE, Letta(), True, ["ignored hidden"]),
        (SOURCE, Letta(blocks=BLOCKS), False, ["not the isolated ones"]),
        (SOURCE, Letta(blocks=BLOCKS, isolates=True), False, []),
        (SOURCE, Letta(blocks=BLOCKS), True, ["ignored hidden", "not the isolated ones"]),
        # The default conversation has none of its own.
        (DEFAULT, Letta(blocks=BLOCKS), False, []),
    ],
)
async def test_only_what_the_server_ignored_is_noted(
    ref: ConversationRef, letta: Letta, hidden: bool, words: list[str]
) -> None:
    branch = await fork(backend(letta), ref, hidden=hidden)

    assert len(branch.notes) == len(words)
    assert all(word in note for word, note in zip(words, branch.notes, strict=True))
    assert branch.conversation.hidden == (hidden and letta.hides)


@pytest.mark.parametrize("keeps_tags", [False, True])
async def test_a_branch_has_the_summary_and_the_key_that_it_is_given_and_no_other(keeps_tags: bool) -> None:
    made = Letta(keeps_tags=keeps_tags)
    plain = (await fork(backend(made), SOURCE)).conversation
    named = (await fork(backend(made), SOURCE, summary="mine [key: user:1]")).conversation
    keyed = (await fork(backend(made), SOURCE, key="branch:1")).conversation

    assert (plain.summary, key_of(plain)) == ("", "")
    # A text that a caller writes is no key.
    assert (named.summary, key_of(named)) == ("mine (key: user:1)", "")
    assert key_of(keyed) == "branch:1"
    assert (bool(keyed.summary), bool(keyed.tags)) == (not keeps_tags, keeps_tags)


async def test_a_branch_without_its_summary_is_kept_and_one_without_its_key_is_not() -> None:
    letta = Letta()
    letta.fails = True

    branch = await fork(backend(letta), SOURCE, summary="named")
    assert "could not be given its summary" in " ".join(branch.notes)
    assert letta.branches == {"conv-2": branch.conversation}

    with pytest.raises(ConversationError, match="Nothing was sent; the same call can be made again"):
        await fork(backend(letta), SOURCE, key="branch:1")
    assert letta.branches == {}
