"""Agents on this machine when their language model fails: each time a sentence, and a conversation that goes on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator
from urllib.parse import urlsplit

import pytest
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from letta_conversations_mcp.settings import Settings
from tests.backends.app_server.conftest import MODEL, unique
from tests.rig.model import Hold, Refuse, Say, ScriptedModel
from tests.rig.openai_model import event, serve_model
from tests.rig.servers import Caller, Way, in_own_task

ONE_WAY = Way("memory", "modern")

NO_ANSWER = "The language model gave no whole answer"


@pytest.fixture(scope="module")
def faulty_model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture(scope="module")
def rubbish() -> list[Response]:
    """What the model's server gives instead of answers, in order."""
    return []


@pytest.fixture(scope="module")
async def faulty_url(faulty_model: ScriptedModel, rubbish: list[Response]) -> AsyncGenerator[str]:
    async with serve_model(faulty_model, instead=rubbish) as url:
        yield url


@pytest.fixture(scope="module")
def faulty_settings(faulty_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Settings]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMSTUDIO_BASE_URL", faulty_url)
        yield Settings(backend="local", local_dir=tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="module")
async def faulty_caller(faulty_settings: Settings) -> AsyncGenerator[Caller]:
    async with in_own_task(ONE_WAY.to(faulty_settings)) as caller:
        yield caller


@pytest.fixture
def model(faulty_model: ScriptedModel, rubbish: list[Response]) -> Generator[ScriptedModel]:
    faulty_model.reset()
    yield faulty_model
    faulty_model.check_used()
    assert not rubbish


@pytest.fixture
async def place(faulty_caller: Caller) -> dict[str, str]:
    """A new conversation of a new agent, as arguments."""
    agent = (await faulty_caller.ok("create_agent", name=unique("sturdy"), model=MODEL)).data["agent_id"]
    return {"conversation_id": (await faulty_caller.ok("create_conversation", agent=agent)).data["conversation_id"]}


def piece(text: str) -> str:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "fake-1"}
    return event({**head, "choices": [choice]})


def stream(*parts: str) -> Response:
    async def body() -> AsyncIterator[str]:
        for part in parts:
            yield part

    return StreamingResponse(body(), media_type="text/event-stream")


async def texts(caller: Caller, place: dict[str, str]) -> list[str]:
    page = await caller.ok("list_messages", **place)
    return [each["text"] for each in page.data["messages"]]


async def test_a_stream_that_is_cut_off_is_asked_for_again_and_only_the_whole_answer_counts(
    faulty_caller: Caller, place: dict[str, str], model: ScriptedModel, rubbish: list[Response]
) -> None:
    rubbish.append(stream(piece("half of ")))
    model.enqueue(Say("A whole answer."))

    reply = await faulty_caller.ok("send_message", **place, message="hello")

    assert (reply.data["status"], reply.data["reply"]) == ("completed", "A whole answer.")


async def test_a_web_page_is_asked_for_again_and_the_message_is_listed_once(
    faulty_caller: Caller, place: dict[str, str], model: ScriptedModel, rubbish: list[Response]
) -> None:
    # Four times at once, and then, a second later, as a new attempt, for which the server stores the message anew.
    rubbish.extend(HTMLResponse("<!doctype html><html><body>Welcome</body></html>") for _ in range(4))
    model.enqueue(Say("There you are."))

    reply = await faulty_caller.ok("send_message", **place, message="hello")
    again = await faulty_caller.ok("wait_for_reply", **place, run_id=reply.data["run_id"])

    assert reply.data["reply"] == again.data["reply"] == "There you are."
    assert again.data["run_id"] == reply.data["run_id"]
    assert await texts(faulty_caller, place) == ["hello", "There you are."]


async def test_a_model_that_never_ends_an_answer_is_a_failed_turn(
    faulty_caller: Caller, place: dict[str, str], model: ScriptedModel, rubbish: list[Response]
) -> None:
    rubbish.extend(stream(piece("half of ")) for _ in range(4))

    failed = await faulty_caller.ok("send_message", **place, message="hello", wait_seconds=60)
    model.enqueue(Say("Better now."))
    following = await faulty_caller.ok("send_message", **place, message="Please answer.")

    assert failed.data["status"] == "failed"
    assert f"{NO_ANSWER}: Stream ended without finish_reason" in failed.data["note"]
    assert failed.data["reply"] == "half of"
    assert "do not repeat it" in failed.data["next"]
    assert following.data["reply"] == "Better now."
    assert "hello" in str(model.calls[-1].messages)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: stream(piece("half of "), "data: {broken\n\n"), "malformed server-sent event JSON"),
        (lambda: JSONResponse({"error": {"message": "boom"}}, 500), "The language model's server answered 500"),
        (lambda: JSONResponse({"error": {"message": "slow down"}}, 429), "The language model's server answered 429"),
    ],
    ids=["broken JSON", "500", "429"],
)
async def test_what_is_no_answer_is_a_failed_turn_that_says_so(
    faulty_caller: Caller,
    place: dict[str, str],
    model: ScriptedModel,
    rubbish: list[Response],
    answer: type,
    words: str,
) -> None:
    rubbish.append(answer())

    failed = await faulty_caller.ok("send_message", **place, message="hello")
    model.enqueue(Say("Better now."))
    following = await faulty_caller.ok("send_message", **place, message="Please answer.")

    assert failed.data["status"] == "failed"
    assert words in failed.data["note"]
    assert "{ " not in failed.data["note"]
    assert following.data["reply"] == "Better now."


async def test_a_model_that_refuses_the_key_is_named(
    faulty_caller: Caller, place: dict[str, str], model: ScriptedModel
) -> None:
    model.enqueue(Refuse(401, "bad key for the model"))

    failed = await faulty_caller.ok("send_message", **place, message="hello")

    assert failed.data["status"] == "failed"
    assert "bad key for the model" in failed.data["note"]


async def test_silence_is_no_end_of_a_turn_whose_reply_comes_later(
    faulty_caller: Caller, faulty_settings: Settings, place: dict[str, str], model: ScriptedModel
) -> None:
    held = Hold(Say("At last."))
    model.enqueue(held)

    async with ONE_WAY.to(faulty_settings.model_copy(update={"silence_timeout": 0.5})) as impatient:
        running = await impatient.ok("send_message", **place, message="think", wait_seconds=5)
        held.gate.set()
        reply = await impatient.ok("wait_for_reply", **place)

    assert running.data["status"] == "running"
    assert (reply.data["status"], reply.data["reply"]) == ("completed", "At last.")


@pytest.mark.slow(reason="Letta Code tries a model that does not answer several times")
async def test_a_model_that_is_down_is_a_failed_turn_and_one_that_is_back_answers(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ScriptedModel()
    settings = Settings(backend="local", local_dir=tmp_path_factory.mktemp("down"))
    async with serve_model(model) as url:
        monkeypatch.setenv("LMSTUDIO_BASE_URL", url)
        connection = in_own_task(ONE_WAY.to(settings))
        caller = await connection.__aenter__()
        agent = (await caller.ok("create_agent", name=unique("sturdy"), model=MODEL)).data["agent_id"]
    try:
        failed = await caller.ok("send_message", agent=agent, message="anybody?", wait_seconds=60)
        model.enqueue(Say("Back."))
        async with serve_model(model, urlsplit(url).port or 0):
            place = {"conversation_id": failed.data["conversation_id"]}
            following = await caller.ok("send_message", **place, message="Please answer.")
    finally:
        await connection.__aexit__(None, None, None)

    assert failed.data["status"] == "failed"
    assert NO_ANSWER in failed.data["note"]
    assert following.data["reply"] == "Back."
