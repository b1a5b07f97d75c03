"""The person is asked about a tool call through the client, in both eras: `approvals=elicit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from mcp.client.context import ClientRequestContext
from mcp_types import INVALID_PARAMS, ElicitRequestFormParams, ElicitRequestParams, ElicitResult, ErrorData

from letta_conversations_mcp.settings import Settings
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Say, ScriptedModel, Use
from tests.rig.servers import ERAS, Era, Way

REMEMBER = CallTools((Use("memory_insert", {"label": "human", "new_string": "Likes tea"}),))


class Person:
    """Answers the questions of a client, one after the other, and remembers them."""

    def __init__(self, *answers: ElicitResult | ErrorData) -> None:
        self.answers: Sequence[ElicitResult | ErrorData] = answers
        self.questions: list[str] = []

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult | ErrorData:
        assert isinstance(params, ElicitRequestFormParams)
        self.questions.append(params.message)
        return self.answers[len(self.questions) - 1]


def yes(reason: str = "") -> ElicitResult:
    return ElicitResult(action="accept", content={"approve": True, "reason": reason})


def says(content: dict[str, Any] | None) -> ElicitResult:
    return ElicitResult(action="accept", content=content)


def asking(letta: Letta) -> Settings:
    return Settings(base_url=letta.base_url, approvals="elicit")


@pytest.mark.all_ways
async def test_a_yes_lets_the_call_run_within_the_same_call(letta: Letta, way: Way) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER, Say("Noted."))
    person = Person(yes())

    async with way.to(asking(letta), person=person) as mcp:
        answer = await mcp.ok("send_message", agent=agent_id, message="I like tea")

    assert (answer.data["status"], answer.data["reply"]) == ("completed", "Noted.")
    [question] = person.questions
    assert "memory_insert" in question
    assert "Likes tea" in question
    assert await letta.stored_texts(agent_id, answer.data["conversation_id"]) == ["I like tea"]


@pytest.mark.all_ways
async def test_every_call_of_a_turn_is_asked_about(letta: Letta, way: Way) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER, REMEMBER, Say("Once."))
    person = Person(yes(), ElicitResult(action="decline"))

    async with way.to(asking(letta), person=person) as mcp:
        answer = await mcp.ok("send_message", agent=agent_id, message="I like tea, twice")

    assert len(person.questions) == 2
    assert answer.data["reply"] == "Once."
    assert "The user declined" in letta.model.calls[-1].messages[-1][1]


@pytest.mark.parametrize(
    "answer",
    [
        says({"approve": False, "reason": "no tea"}),
        ElicitResult(action="decline"),
        says({"approve": "yes"}),
        says({"approve": 1}),
        says({}),
        says({"reason": "go on"}),
    ],
    ids=["no", "declined", "a word", "a number", "empty", "reason only"],
)
@pytest.mark.parametrize("era", ERAS)
async def test_a_no_and_what_cannot_be_understood_deny_the_call(letta: Letta, answer: ElicitResult, era: Era) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER, Say("Then not."))

    async with Way("memory", era).to(asking(letta), person=Person(answer)) as mcp:
        reply = await mcp.ok("send_message", agent=agent_id, message="I like tea", kinds=["tool"])

    assert reply.data["reply"] == "Then not."
    assert [call["status"] for call in reply.data["tool_calls"]] == ["denied"]


@pytest.mark.all_ways
async def test_a_question_that_is_closed_decides_nothing(letta: Letta, way: Way) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER)
    person = Person(ElicitResult(action="cancel"))

    async with way.to(asking(letta), person=person) as mcp:
        answer = await mcp.ok("send_message", agent=agent_id, message="I like tea")

    assert answer.data["status"] == "needs_approval"
    assert answer.data["approvals"][0]["name"] == "memory_insert"
    assert len(person.questions) == 1


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_cannot_ask_gets_the_state(letta: Letta, era: Era) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER)

    async with Way("memory", era).to(asking(letta)) as mcp:
        answer = await mcp.ok("send_message", agent=agent_id, message="I like tea")

    assert answer.data["status"] == "needs_approval"


@pytest.mark.parametrize("era", ERAS)
async def test_nobody_is_asked_without_the_option(letta: Letta, era: Era) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER)
    person = Person(yes())

    async with Way("memory", era).to(Settings(base_url=letta.base_url), person=person) as mcp:
        answer = await mcp.ok("send_message", agent=agent_id, message="I like tea")

    assert answer.data["status"] == "needs_approval"
    assert person.questions == []


@pytest.mark.fake_only
@pytest.mark.parametrize("era", ERAS)
async def test_a_person_is_not_asked_about_a_call_that_only_another_client_can_run(era: Era) -> None:
    """A tool that the agent does not have was brought along by the client that sent a message."""
    model = ScriptedModel()
    fake = FakeLetta(model)
    agent_id = fake.add_agent("browsing", tools_needing_approval=["open_page"])
    model.enqueue(CallTools((Use("open_page", {"url": "https://tea.example"}),)))
    person = Person(yes())
    async with (
        fake.serve() as url,
        Way("memory", era).to(Settings(base_url=url, approvals="elicit"), person=person) as mcp,
    ):
        answer = await mcp.ok("send_message", agent=agent_id, message="I like tea")

    assert answer.data["status"] == "needs_approval"
    assert answer.data["approvals"][0]["name"] == "open_page"
    assert person.questions == []


async def test_a_client_that_fails_to_ask_gets_the_state(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER)
    person = Person(ErrorData(code=INVALID_PARAMS, message="no forms today"))

    async with Way("memory", "legacy").to(asking(letta), person=person) as mcp:
        answer = await mcp.ok("send_message", agent=agent_id, message="I like tea")

    assert answer.data["status"] == "needs_approval"


@pytest.mark.parametrize("era", ERAS)
async def test_somebody_who_is_quicker_than_the_person_decides(letta: Letta, era: Era) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    conversation_id = await letta.new_conversation(agent_id)
    letta.model.enqueue(REMEMBER, Say("Noted."))

    async with Way("memory", "modern").to(Settings(base_url=letta.base_url)) as other:

        async def slow(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
            await other.ok("respond_to_approval", conversation_id=conversation_id, approve=True)
            return ElicitResult(action="decline")

        async with Way("memory", era).to(asking(letta), person=slow) as mcp:
            answer = await mcp.ok("send_message", conversation_id=conversation_id, message="I like tea")

    assert (answer.data["status"], answer.data["reply"]) == ("completed", "Noted.")


@pytest.mark.fake_only
async def test_a_person_who_does_not_answer_in_time_leaves_the_call_waiting(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER)

    async def never(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        await anyio.sleep_forever()
        raise AssertionError

    async with Way("memory", "legacy").to(asking(letta), person=never) as mcp:
        answer = await mcp.ok("send_message", agent=agent_id, message="I like tea", wait_seconds=1)

    assert answer.data["status"] == "needs_approval"


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_model_that_approves_is_not_asked_and_the_person_decides(letta: Letta, era: Any) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER, Say("Then not."))
    person = Person(ElicitResult(action="cancel"), ElicitResult(action="decline"))

    async with Way("memory", era).to(asking(letta), person=person) as mcp:
        asked = await mcp.ok("send_message", agent=agent_id, message="I like tea")
        place = {"conversation_id": asked.data["conversation_id"]}
        answer = await mcp.ok("respond_to_approval", **place, approve=True, kinds=["tool"])

    assert asked.data["status"] == "needs_approval"
    assert len(person.questions) == 2
    assert answer.data["reply"] == "Then not."
    assert [call["status"] for call in answer.data["tool_calls"]] == ["denied"]


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_where_nobody_can_be_asked_a_model_can_only_deny(letta: Letta, era: Any) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    letta.model.enqueue(REMEMBER, Say("Then not."))

    async with Way("memory", era).to(asking(letta)) as mcp:
        asked = await mcp.ok("send_message", agent=agent_id, message="I like tea")
        place = {"conversation_id": asked.data["conversation_id"]}
        refusal = await mcp.refused("respond_to_approval", **place, approve=True)
        answer = await mcp.ok("respond_to_approval", **place, approve=False)

    assert "this client cannot ask" in asked.data["note"]
    assert "Only a person may approve it" in refusal
    assert answer.data["reply"] == "Then not."


async def test_the_person_sees_exactly_what_would_run(letta: Letta, way: Way) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    text = "ok" + " " * 1_000 + "token=$(curl evil)\u202e\u200b\x1b[2J"
    letta.model.enqueue(CallTools((Use("memory_insert", {"label": "human", "new_string": text}),)), Say("No."))
    person = Person(ElicitResult(action="decline"))

    async with way.to(asking(letta), person=person) as mcp:
        await mcp.ok("send_message", agent=agent_id, message="go")

    [question] = person.questions
    assert "ok[1000 spaces]token=$(curl evil)" in question
    assert len(question.splitlines()) == 3
    assert all(each.isprintable() for line in question.splitlines() for each in line)


async def test_what_does_not_fit_a_dialog_is_not_offered(letta: Letta, way: Way) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    text = "harmless, " * 300 + "rm -rf /"
    letta.model.enqueue(CallTools((Use("memory_insert", {"label": "human", "new_string": text}),)), Say("No."))
    person = Person(yes())

    async with way.to(asking(letta), person=person) as mcp:
        asked = await mcp.ok("send_message", agent=agent_id, message="go")
        place = {"conversation_id": asked.data["conversation_id"]}
        refusal = await mcp.refused("respond_to_approval", **place, approve=True)
        await mcp.ok("respond_to_approval", **place, approve=False)

    assert asked.data["status"] == "needs_approval"
    assert "too long for a dialog" in asked.data["note"]
    assert "too long for a dialog" in refusal
    assert person.questions == []
