"""The state of a conversation's loop, as the App Server reports it: whether a turn runs, and which tool call waits for
a decision.

The server asks for one decision at a time, even if the model called several tools at once. A question lasts as long as
a socket is subscribed to the conversation: with the last one the server forgets it, and does not run the call (seen
with 0.34.12).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from pydantic_core import to_json

from letta_conversations_mcp.backends.app_server.app_server_json import otid_of
from letta_conversations_mcp.backends.app_server.connection import Connection, received
from letta_conversations_mcp.core.message_json import DENIED, mapping_field, mappings, text_field
from letta_conversations_mcp.core.model import ConversationRef, Decision, ToolCall

IDLE = ("", "WAITING_ON_INPUT")
STREAMING = "PROCESSING_API_RESPONSE"
"""The model has been asked; with a run id, it has begun to answer."""

NO_REASON = "The user gave no reason."
"""The server accepts no denial without a reason. It becomes the call's result, so it begins as on the REST API."""


@dataclass(frozen=True)
class ControlRequest:
    """The server's question whether a tool may run."""

    id: str
    call: ToolCall

    @classmethod
    def of(cls, data: Mapping[str, object]) -> ControlRequest:
        asked = mapping_field(data, "request")
        request_id = text_field(data, "request_id")
        call = ToolCall(
            id=text_field(asked, "tool_call_id"),
            name=text_field(asked, "tool_name"),
            arguments=to_json(mapping_field(asked, "input")).decode(),
            asked_by=request_id,
        )
        return cls(request_id, call)


@dataclass(frozen=True)
class LoopState:
    """The state of one conversation's loop.

    `taken`: the otids of the messages that runs have taken since the server was started and somebody was subscribed.
    A run whose last subscriber left before its first words is not among them.
    `current`: the otid of the message that is being answered; "" while none is, and until the model begins to answer.
    `silent_seconds`: seconds for which the model's answer, once begun, has stalled; 0 at any other time, when silence
    means a model that thinks or a tool that works.
    """

    active: bool
    pending: tuple[ControlRequest, ...] = ()
    taken: frozenset[str] = frozenset()
    current: str = ""
    silent_seconds: float = 0


def scope(ref: ConversationRef) -> dict[str, object]:
    """The fields that name a conversation in commands."""
    return {"agent_id": ref.agent_id, "conversation_id": ref.conversation_id}


def otids_by_run(status: Mapping[str, object]) -> dict[str, list[str]]:
    """The otids of the messages that each of the server's runs has taken, from a `loop_status`."""
    runs = mapping_field(status, "client_message_ids_by_run_id")
    return {
        run_id: [otid_of(str(each)) for each in cast("list[object]", ids)]
        for run_id, ids in runs.items()
        if isinstance(ids, list)
    }


async def read_state(connection: Connection, ref: ConversationRef) -> LoopState:
    """The current state. The server replays it on request, and sends the conversation's frames from then on."""
    status: Mapping[str, object] = {}
    device: Mapping[str, object] = {}
    with connection.listen(ref) as frames:
        await connection.request(
            "sync", what="tell its state", runtime=scope(ref), recover_approvals=False, force_device_status=True
        )
        for frame in received(frames):
            if frame.get("type") == "update_loop_status":
                status = mapping_field(frame, "loop_status")
            elif frame.get("type") == "update_device_status":
                device = mapping_field(frame, "device_status")
    taken = otids_by_run(status)
    active_runs = cast("list[object]", status.get("active_run_ids") or [])
    current = [otid for run_id in active_runs for otid in taken.get(str(run_id), [])]
    # Later steps of a turn have runs of their own, which list no message.
    if active_runs and not current and taken:
        current = list(taken.values())[-1]
    answering = text_field(status, "status") == STREAMING and active_runs and not status.get("executing_tool_call_ids")
    return LoopState(
        active=text_field(status, "status") not in IDLE,
        pending=tuple(map(ControlRequest.of, mappings(device.get("pending_control_requests")))),
        taken=frozenset(otid for otids in taken.values() for otid in otids),
        current=current[0] if current else "",
        silent_seconds=connection.seconds_without_progress(ref) if answering else 0,
    )


async def answer(connection: Connection, ref: ConversationRef, request_id: str, decision: Decision) -> None:
    """Answer a question. Raises Refused if it is no longer open."""
    if decision.approve:
        # A text would be shown to the agent as the user's comment.
        verdict = {"behavior": "allow"} | ({"message": decision.reason} if decision.reason else {})
    else:
        verdict = {"behavior": "deny", "message": f"{DENIED} {decision.reason or NO_REASON}"}
    payload = {"kind": "approval_response", "request_id": request_id, "decision": verdict}
    await connection.request("input", what="take the decision", runtime=scope(ref), payload=payload)
