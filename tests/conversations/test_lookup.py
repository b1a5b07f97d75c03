"""From what a caller wrote to where it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from letta_conversations_mcp.conversations.lookup import (
    CANDIDATES,
    check_agent_cursor,
    check_conversation_id,
    check_message_id,
    check_run_id,
    find_agent,
    locate,
)
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import Ambiguous, InvalidArgument, NotFound
from letta_conversations_mcp.core.model import Agent, ConversationRef, Page

UUID = "123e4567-e89b-42d3-a456-426614174000"
AGENT = f"agent-{UUID}"
OTHER_AGENT = "agent-00000000-0000-4000-8000-000000000000"
CONVERSATION = f"conv-{UUID}"


class Memory:
    """Agents and the owners of conversations in memory; counts what it is asked."""

    def __init__(self, agents: Sequence[Agent] = (), owners: dict[str, str] | None = None) -> None:
        self.agents = agents
        self.owners = owners or {}
        self.requests: list[str] = []

    async def list_agents(self, *, name: str = "", search: str = "", after: str = "", limit: int = 20) -> Page[Agent]:
        assert not after
        self.requests.append("list_agents")
        found = [
            each
            for each in self.agents
            if (not name or each.name == name) and search.casefold() in each.name.casefold()
        ]
        return Page(items=tuple(found[:limit]), more=len(found) > limit)

    async def get_agent(self, agent_id: str) -> Agent:
        self.requests.append("get_agent")
        for each in self.agents:
            if each.id == agent_id:
                return each
        raise NotFound.agent(agent_id)

    async def owner_of(self, conversation_id: str) -> str:
        self.requests.append("owner_of")
        if conversation_id not in self.owners:
            raise NotFound.conversation(conversation_id)
        return self.owners[conversation_id]


ANNA = Agent(id=AGENT, name="Anna")
BEN = Agent(id=OTHER_AGENT, name="Ben")


async def _find(memory: Memory, agent: str) -> Agent:
    return await find_agent(cast("Backend", memory), agent)


async def _locate(memory: Memory, conversation_id: str, agent: str = "") -> ConversationRef:
    return await locate(cast("Backend", memory), conversation_id, agent)


def _agent(number: int, name: str) -> Agent:
    return Agent(id=f"agent-00000000-0000-4000-8000-{number:012}", name=name)


HOSTILE = [
    "",
    "..",
    "../agents",
    "%2e%2e%2Fagents",
    "conv-..",
    f"conv-../{UUID}",
    f"{CONVERSATION}/messages",
    f"{CONVERSATION}%2Fmessages",
    f"{CONVERSATION}?agent_id=x",
    f"{CONVERSATION}#x",
    f"{CONVERSATION}\x00",
    f"\x00{CONVERSATION}",
    f"{CONVERSATION}\n{CONVERSATION}",
    f"conv-{UUID[:-1]}\n",
    f"conv-{UUID[:-1]}٣",
    f"conv-{UUID[:-1]}３",
    "local-conv-١٢",
    "local-conv-",
    "local-conv-1234567890123",
    f"CONV-{UUID}",
    f"conv-{UUID.upper()}",
    f"agent-{UUID}",
    f"message-{UUID}",
    UUID,
    "conversation",
    "\ud800",
]


@pytest.mark.parametrize("conversation_id", HOSTILE)
@pytest.mark.parametrize("agent", ["", AGENT])
async def test_what_is_no_conversation_id_is_refused_before_anything_is_asked(conversation_id: str, agent: str) -> None:
    memory = Memory([ANNA], {CONVERSATION: AGENT})

    with pytest.raises(InvalidArgument, match=r"^conversation_id: .*looks like conv-"):
        await _locate(memory, conversation_id, agent)

    assert memory.requests == []


@pytest.mark.parametrize("conversation_id", [CONVERSATION, "local-conv-1", "local-conv-123456789012"])
def test_a_conversation_id_is_taken_without_the_blanks_around_it(conversation_id: str) -> None:
    assert check_conversation_id(f" {conversation_id}\n") == conversation_id


def test_default_is_no_conversation_id() -> None:
    with pytest.raises(InvalidArgument, match="conv-… id"):
        check_conversation_id("default")


TAILS = ["..", "", "a/b", "a%2Fb", "a\x00", "a\nb", "a?b", "a b", "ä", "٣", "x" * 65]


@pytest.mark.parametrize("cursor", ["..", UUID, *(f"message-{tail}" for tail in TAILS), "ui-msg-..", f"run-{UUID}"])
def test_what_is_no_message_id_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^before: .*list_messages"):
        check_message_id("before", cursor)


@pytest.mark.parametrize("run_id", ["..", UUID, *(f"run-{tail}" for tail in TAILS), f"message-{UUID}"])
def test_what_is_no_run_id_is_refused(run_id: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^run_id: .*send_message"):
        check_run_id(run_id)


@pytest.mark.parametrize("agent_id", ["..", "Anna", UUID, f"agent-{UUID}/x", f"agent-{UUID}\x00", "agent-.."])
def test_what_is_no_agent_id_is_refused_as_a_cursor(agent_id: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^after: "):
        check_agent_cursor(agent_id)


@pytest.mark.parametrize("given", ["", "  ", f"message-{UUID}", "ui-msg-1"])
def test_a_cursor_may_be_left_out(given: str) -> None:
    assert check_message_id("before", f" {given} ") == given.strip()


@pytest.mark.parametrize("given", ["", "  ", f"run-{UUID}", "local-run-12ab"])
def test_a_run_may_be_left_out(given: str) -> None:
    assert check_run_id(f" {given} ") == given.strip()


@pytest.mark.parametrize("given", ["", AGENT, f"agent-local-{UUID}"])
def test_an_agent_id_is_a_cursor(given: str) -> None:
    assert check_agent_cursor(f" {given} ") == given


@pytest.mark.parametrize("check", [check_conversation_id, check_agent_cursor, check_run_id])
def test_a_refusal_never_repeats_a_large_argument(check: object) -> None:
    assert callable(check)
    with pytest.raises(InvalidArgument) as caught:
        check("x" * 100_000)

    assert len(str(caught.value)) < 500


async def test_an_agent_is_found_by_its_id_or_its_exact_name() -> None:
    memory = Memory([ANNA, BEN, _agent(1, "Anna the second")])

    assert await _find(memory, f" {AGENT}\n") == ANNA
    assert await _find(memory, " Anna ") == ANNA
    assert await _find(memory, "Ben") == BEN


@pytest.mark.parametrize("agent", ["", " ", "\n"])
async def test_an_empty_agent_is_refused_before_anything_is_asked(agent: str) -> None:
    memory = Memory([ANNA])

    with pytest.raises(InvalidArgument, match=r"id \(agent-…\) or name is needed"):
        await _find(memory, agent)

    assert memory.requests == []


@pytest.mark.parametrize("agent", [f"{AGENT}/x", f"{AGENT}\x00", "agent-..", f"{AGENT}%2F..", f"agent-{UUID[:-1]}٣"])
async def test_what_is_no_agent_id_can_only_be_a_name(agent: str) -> None:
    memory = Memory([ANNA])

    with pytest.raises(NotFound):
        await _find(memory, agent)

    assert "get_agent" not in memory.requests
    named = _agent(1, agent)
    assert await _find(Memory([ANNA, named]), agent) == named


@pytest.mark.parametrize(("written", "meant"), [("anna", "Anna"), ("Ann", "Anna"), ("Benn", "Ben"), ("Amna", "Anna")])
async def test_an_unknown_name_is_told_with_the_agents_that_come_close(written: str, meant: str) -> None:
    with pytest.raises(NotFound) as caught:
        await _find(Memory([ANNA, BEN]), written)

    close = ANNA if meant == "Anna" else BEN
    assert f"Closest: {close.name!r} ({close.id})." in str(caught.value)


async def test_a_name_like_no_other_is_told_with_how_to_see_all() -> None:
    with pytest.raises(NotFound, match="list_agents"):
        await _find(Memory([ANNA, BEN]), "Zacharias")


async def test_only_as_many_candidates_are_listed_as_a_reader_can_use() -> None:
    agents = [_agent(number, f"Anna {number}") for number in range(50)]

    for written in ("anna", "Amna 3"):
        with pytest.raises(NotFound) as caught:
            await _find(Memory(agents), written)
        assert 1 <= str(caught.value).count("agent-") <= CANDIDATES


async def test_an_ambiguous_name_is_told_with_the_ids() -> None:
    same = [_agent(1, "Anna"), _agent(2, "Anna")]

    with pytest.raises(Ambiguous) as caught:
        await _find(Memory([*same, BEN]), "Anna")

    assert caught.value.candidates == (same[0].id, same[1].id)
    assert "2 agents are called 'Anna'" in str(caught.value)
    assert [each.id for each in same if each.id not in str(caught.value)] == []


async def test_a_name_that_very_many_share_is_not_told_with_too_small_a_number() -> None:
    same = [_agent(number, "Anna") for number in range(CANDIDATES + 4)]

    with pytest.raises(Ambiguous) as caught:
        await _find(Memory(same), "Anna")

    assert not str(caught.value).startswith(f"{CANDIDATES} agents are called")


async def test_an_unknown_name_of_any_length_is_told_in_few_words() -> None:
    with pytest.raises(NotFound) as caught:
        await _find(Memory([ANNA]), "x" * 100_000)

    assert len(str(caught.value)) < 1_000


async def test_candidates_with_very_long_names_are_told_in_few_words() -> None:
    agents = [_agent(number, f"Anna {number} " + "y" * 5_000) for number in range(CANDIDATES)]

    with pytest.raises(NotFound) as caught:
        await _find(Memory(agents), "anna")

    assert agents[0].id in str(caught.value)
    assert len(str(caught.value)) < 5_000


async def test_a_conversation_is_located_with_its_owner() -> None:
    memory = Memory([ANNA, BEN], {CONVERSATION: AGENT})
    place = ConversationRef(conversation_id=CONVERSATION, agent_id=AGENT)

    assert await _locate(memory, f" {CONVERSATION} ") == place
    assert await _locate(memory, CONVERSATION, "Anna") == place
    assert await _locate(memory, CONVERSATION, AGENT) == place


async def test_a_conversation_of_another_agent_is_refused_with_its_owner() -> None:
    memory = Memory([ANNA, BEN], {CONVERSATION: AGENT})

    with pytest.raises(InvalidArgument, match=rf"{CONVERSATION} belongs to {AGENT}, not to {OTHER_AGENT}"):
        await _locate(memory, CONVERSATION, "Ben")


async def test_an_unknown_conversation_is_told() -> None:
    with pytest.raises(NotFound, match=CONVERSATION):
        await _locate(Memory([ANNA]), CONVERSATION)


async def test_default_is_a_place_of_the_agent_that_is_named() -> None:
    memory = Memory([ANNA, BEN])

    assert await _locate(memory, " default ", "Ben") == ConversationRef(conversation_id="default", agent_id=OTHER_AGENT)


async def test_default_without_an_agent_is_refused_before_anything_is_asked() -> None:
    memory = Memory([ANNA])

    with pytest.raises(InvalidArgument, match=r"^agent: .*default"):
        await _locate(memory, "default", " ")

    assert memory.requests == []


async def test_the_agents_that_come_close_are_listed_with_the_closest_first() -> None:
    names = ["the old support t-shirt", "support team", "support t of the shop"]
    agents = [_agent(number, name) for number, name in enumerate(names, 1)]

    with pytest.raises(NotFound) as caught:
        await _find(Memory(agents), "support t")

    assert "Closest: 'support team' (" in str(caught.value)
