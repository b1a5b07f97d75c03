"""What became of a message that the App Server accepted, by the frames that follow: ours, and not another client's."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import anyio
import pytest

from letta_conversations_mcp.backends.app_server import hand_over as module
from letta_conversations_mcp.backends.app_server.connection import Connection, Frame, Frames, received
from letta_conversations_mcp.backends.app_server.hand_over import Outcome, hand_over
from letta_conversations_mcp.backends.app_server.turn_stream import RUN_PREFIX, TurnReader
from letta_conversations_mcp.core.backend import StreamLost
from letta_conversations_mcp.core.errors import ConversationError, Refused, TimedOut
from letta_conversations_mcp.core.model import Chunk, ConversationRef, Image, OutgoingMessage

HERE = ConversationRef(conversation_id="conv-1", agent_id="agent-1")
CONFLICT = "conversation conv-1 already has an active run"
STREAMING = "PROCESSING_API_RESPONSE"


@contextmanager
def frames_of(*frames: Frame, ends: bool = False) -> Generator[Frames]:
    """These frames have come; more do not, and the connection is at its end only if it `ends`."""
    sending, receiving = anyio.create_memory_object_stream[Frame](100)
    with sending, receiving:
        for frame in frames:
            sending.send_nowait(frame)
        if ends:
            sending.close()
        yield receiving


class Server:
    """A connection to an App Server that answers with `acceptance` or raises it, and is in this `status`."""

    def __init__(
        self, acceptance: Frame | Exception, *, status: str = "WAITING_ON_INPUT", removes: bool = True
    ) -> None:
        self._acceptance, self._status, self._removes = acceptance, status, removes
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def request(self, command: str, *, what: str, seconds: float | None = None, **fields: Any) -> Frame:
        self.asked.append((command, fields))
        if command == "remove_queue_item" and not self._removes:
            raise Refused(what, "it is not in the queue")
        if command != "input":
            return {}
        if isinstance(self._acceptance, Exception):
            raise self._acceptance
        return self._acceptance

    @contextmanager
    def listen(self, ref: ConversationRef) -> Generator[Frames]:
        with frames_of(status(self._status)) as frames:
            yield frames

    def seconds_without_progress(self, ref: ConversationRef) -> float:
        return 0

    @property
    def removed(self) -> list[str]:
        return [fields["item_id"] for command, fields in self.asked if command == "remove_queue_item"]


def status(name: str, *, runs: Sequence[str] = (), taken: str = "", **fields: Any) -> Frame:
    by_run = {"local-run-1": [taken]} if taken else {}
    told = {"status": name, "active_run_ids": list(runs), "client_message_ids_by_run_id": by_run}
    return {"type": "update_loop_status", "loop_status": told, **fields}


def queue(*client_message_ids: str) -> Frame:
    items = [{"id": f"item of {each}", "client_message_id": each} for each in client_message_ids]
    return {"type": "update_queue", "queue": items}


def error_of(otid: str) -> Frame:
    delta = {"message_type": "loop_error", "client_message_ids": [otid], "message": CONFLICT}
    return {"type": "stream_delta", "delta": delta}


def words(text: str) -> Frame:
    return {"type": "stream_delta", "delta": {"message_type": "assistant_message", "id": "1", "content": text}}


async def outcome_of(
    server: Server, *frames: Frame, ends: bool = False, attempt: int = 1, images: tuple[Image, ...] = ()
) -> tuple[Outcome, list[Chunk], list[Frame]]:
    """The outcome, the chunks that came until then, and the frames that were left."""
    early: list[Chunk] = []
    message = OutgoingMessage(text="hello", otid="m", images=images)
    reader = TurnReader(f"{RUN_PREFIX}m")
    connection = cast("Connection", server)
    with frames_of(*frames, ends=ends) as coming:
        outcome = await hand_over(connection, HERE, message, attempt, {"tools": []}, coming, reader, early)
        return outcome, [each for each in early if each["message_type"] != "ping"], received(coming)


@pytest.mark.parametrize(
    ("frames", "removes", "outcome", "removed"),
    [
        ([queue("other", "m")], True, Outcome.WITHDRAWN, ["item of m"]),
        ([queue("other"), queue("m~2", "other")], True, Outcome.WITHDRAWN, ["item of m~2"]),
        ([queue("m")], False, Outcome.BEGUN, ["item of m"]),
        # A run has taken it before the queue was shown.
        ([status(STREAMING, taken="m"), queue("m")], True, Outcome.BEGUN, []),
        ([status(STREAMING, taken="other"), queue("m")], True, Outcome.WITHDRAWN, ["item of m"]),
        ([queue("other")], True, Outcome.BEGUN, []),
    ],
)
async def test_only_our_message_is_taken_out_of_the_queue_and_only_while_it_waits(
    monkeypatch: pytest.MonkeyPatch, frames: list[Frame], removes: bool, outcome: Outcome, removed: list[str]
) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.05)
    server = Server({"disposition": "queued"}, removes=removes)

    assert (await outcome_of(server, *frames))[0] == outcome
    assert server.removed == removed


ACCEPTED = status("WAITING_ON_INPUT", request_id="r")


@pytest.mark.parametrize(
    ("frames", "now", "outcome"),
    [
        ([status(STREAMING, taken="m")], "", Outcome.BEGUN),
        ([ACCEPTED, status(STREAMING)], "", Outcome.BEGUN),
        # Another client's turn: before the acceptance, or with a run of its own.
        ([status(STREAMING)], "WAITING_ON_INPUT", Outcome.DROPPED),
        ([ACCEPTED, status(STREAMING, runs=["local-run-9"])], "WAITING_ON_INPUT", Outcome.DROPPED),
        ([ACCEPTED, status(STREAMING, taken="other")], "WAITING_ON_INPUT", Outcome.BEGUN),
        ([error_of("m")], "", Outcome.CONFLICT),
        ([ACCEPTED, status("PREPARING"), error_of("m")], "", Outcome.CONFLICT),
        ([error_of("other")], "WAITING_ON_INPUT", Outcome.DROPPED),
        ([ACCEPTED], "WAITING_ON_INPUT", Outcome.DROPPED),
        ([ACCEPTED], "", Outcome.DROPPED),
        ([ACCEPTED], STREAMING, Outcome.BEGUN),
        ([ACCEPTED, status("PREPARING")], "WAITING_ON_INPUT", Outcome.BEGUN),
    ],
)
async def test_what_the_frames_after_the_acceptance_say(
    monkeypatch: pytest.MonkeyPatch, frames: list[Frame], now: str, outcome: Outcome
) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.05)
    server = Server({"request_id": "r"}, status=now)

    assert (await outcome_of(server, *frames))[0] == outcome
    assert server.removed == []


async def test_frames_after_the_outcome_stay_unread_and_those_of_others_are_dropped() -> None:
    outcome, early, left = await outcome_of(
        Server({"request_id": "r"}), words("not ours"), status(STREAMING, taken="m"), words("ours")
    )

    assert (outcome, early, left) == (Outcome.BEGUN, [], [words("ours")])


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (Refused("take the message", "no"), Refused),
        (TimedOut("take the message", 5, "Look."), StreamLost),
        (ConversationError("it broke"), StreamLost),
        (anyio.ClosedResourceError(), StreamLost),
    ],
)
async def test_only_a_refusal_says_that_the_server_does_not_have_the_message(
    error: Exception, becomes: type[Exception]
) -> None:
    with pytest.raises(becomes):
        await outcome_of(Server(error))


@pytest.mark.parametrize("acceptance", [{"disposition": "queued"}, {"request_id": "r"}])
async def test_a_connection_that_ends_after_the_acceptance_leaves_it_uncertain(acceptance: Frame) -> None:
    with pytest.raises(StreamLost):
        await outcome_of(Server(acceptance), ACCEPTED, ends=True)


@pytest.mark.parametrize(("attempt", "sent_as"), [(1, "m"), (2, "m~2"), (12, "m~12")])
async def test_every_attempt_has_an_id_of_its_own(attempt: int, sent_as: str) -> None:
    server = Server({"request_id": "r"})

    await outcome_of(server, status(STREAMING, taken="m"), attempt=attempt)

    [(_, fields)] = server.asked
    assert fields["runtime"] == {"agent_id": "agent-1", "conversation_id": "conv-1"}
    assert fields["payload"]["tools"] == []
    assert fields["payload"]["messages"] == [{"role": "user", "content": "hello", "client_message_id": sent_as}]


async def test_images_stand_behind_the_text() -> None:
    server = Server({"request_id": "r"})
    images = (Image(data="aGk=", media_type="image/png"), Image(url="https://example.org/x.png"))

    await outcome_of(server, status(STREAMING, taken="m"), images=images)

    [sent] = server.asked[0][1]["payload"]["messages"]
    assert sent["content"] == [
        {"type": "text", "text": "hello"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/x.png"}},
    ]
