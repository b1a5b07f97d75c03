"""Messages between agents: who speaks is said, and a chain of agents that send to each other comes to an end."""

from __future__ import annotations

from letta_conversations_mcp.settings import Settings
from tests.rig.letta_server import Letta
from tests.rig.model import Hold, Say
from tests.rig.servers import Caller, Way


async def test_the_receiver_is_told_who_speaks_in_lettas_own_words(mcp: Caller, letta: Letta) -> None:
    asking, _ = await letta.new_agent()
    asked, _ = await letta.new_agent()

    sent = await mcp.ok("send_message", agent=asked, message="What is due?", sender=asking)

    [text] = await letta.stored_texts(asked, sent.data["conversation_id"])
    assert text.startswith(f"[Incoming message from agent with ID '{asking}' - your response will be delivered")
    assert text.endswith("] What is due?")
    assert f"sender='{sent.data['conversation_id']} hop 1'" in text


async def test_without_a_sender_nothing_is_added(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    sent = await mcp.ok("send_message", agent=agent_id, message="Just me.")

    assert await letta.stored_texts(agent_id, sent.data["conversation_id"]) == ["Just me."]


async def test_another_program_speaks_by_its_name(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()

    sent = await mcp.ok("send_message", agent=agent_id, message="hello", sender="the night watch")

    [text] = await letta.stored_texts(agent_id, sent.data["conversation_id"])
    assert text.startswith("[Incoming message from agent 'the night watch' - ")


async def test_two_agents_that_answer_each_other_come_to_an_end(mcp: Caller, letta: Letta) -> None:
    """As they do what the introduction says, with the conversation alone, or with the hop too."""
    first, _ = await letta.new_agent()
    second, _ = await letta.new_agent()
    places = [await letta.new_conversation(agent) for agent in (first, second)]
    refusal = ""

    for number in range(1, 8):
        here, there = places[number % 2], places[(number + 1) % 2]
        answer = await mcp.call("send_message", conversation_id=there, message=f"and you? {number}", sender=here)
        if answer.is_error:
            refusal = answer.text
            break

    assert "message 6 in a chain" in refusal
    assert "Nothing was sent" in refusal
    stored = [
        text
        for agent, place in zip((first, second), places, strict=True)
        for text in await letta.stored_texts(agent, place)
    ]
    assert len(stored) == 5


async def test_a_new_conversation_is_not_opened_for_a_chain_that_is_too_long(mcp: Caller, letta: Letta) -> None:
    sender, _ = await letta.new_agent()
    agent_id, _ = await letta.new_agent()

    refusal = await mcp.refused("send_message", agent=agent_id, message="go on", sender=f"{sender} hop 5")

    assert "--max-depth" in refusal
    assert (await mcp.ok("list_conversations", agent=agent_id)).data.get("conversations", []) == []


async def test_the_hop_that_a_sender_names_counts_and_so_does_one_in_the_text(mcp: Caller, letta: Letta) -> None:
    sender, _ = await letta.new_agent()
    agent_id, _ = await letta.new_agent()

    named = await mcp.ok("send_message", agent=agent_id, message="go on", sender=f"{sender}, hop 2")
    [text] = await letta.stored_texts(agent_id, named.data["conversation_id"])
    passed_on = await mcp.ok("send_message", agent=agent_id, message=text, sender=sender)
    [longer] = await letta.stored_texts(agent_id, passed_on.data["conversation_id"])

    assert "[hop 3 of 5;" in text
    assert longer.count("[hop 4 of 5;") == 1


async def test_what_an_agent_is_answering_now_counts_before_letta_has_stored_it(mcp: Caller, letta: Letta) -> None:
    first, _ = await letta.new_agent()
    second, _ = await letta.new_agent()
    held = Hold(Say("done"))
    letta.model.enqueue(held, to="think")

    running = await mcp.ok("send_message", agent=second, message="think", sender=f"{first} hop 3", wait_seconds=0.2)
    await letta.model.asked()
    back = await mcp.ok("send_message", agent=first, message="a question", sender=second)
    held.gate.set()
    await mcp.ok("wait_for_reply", conversation_id=running.data["conversation_id"])

    [text] = await letta.stored_texts(first, back.data["conversation_id"])
    assert "[hop 5 of 5;" in text


async def test_a_person_who_joins_begins_a_new_chain(mcp: Caller, letta: Letta) -> None:
    first, _ = await letta.new_agent()
    second, _ = await letta.new_agent()
    place = (await mcp.ok("send_message", agent=first, message="deep", sender=f"{second} hop 4")).data
    await mcp.ok("send_message", conversation_id=place["conversation_id"], message="I am a person")

    sent = await mcp.ok("send_message", agent=second, message="fresh", sender=place["conversation_id"])

    [text] = await letta.stored_texts(second, sent.data["conversation_id"])
    assert "[hop 1 of 5;" in text


async def test_the_length_of_chains_is_a_setting(letta: Letta, way: Way) -> None:
    agent_id, _ = await letta.new_agent()

    async with way.to(Settings(base_url=letta.base_url, max_depth=1)) as mcp:
        await mcp.ok("send_message", agent=agent_id, message="one", sender="caller")
        refusal = await mcp.refused("send_message", agent=agent_id, message="two", sender="caller hop 1")

    assert "at most 1" in refusal


async def test_a_sender_that_cannot_be_is_refused(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    place = {"conversation_id": await letta.new_conversation(agent_id)}
    nowhere = "conv-00000000-0000-4000-8000-000000000000"

    assert "sender" in await mcp.refused("send_message", **place, message="x", sender="a 'quoted' [name]")
    assert "no conversation" in await mcp.refused("send_message", **place, message="x", sender=nowhere)
    assert "just answer" in await mcp.refused("send_message", **place, message="x", sender=place["conversation_id"])
    assert letta.model.calls == []
