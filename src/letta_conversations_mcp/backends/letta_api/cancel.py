"""Stopping turns on a Letta REST server: always by run id.

Asked to cancel the conversation `default`, 0.16.8 stops the runs of all conversations of the agent. And whichever run
it stops, it denies a tool call that waits for a decision in the agent's `default` conversation. Both were seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from letta_conversations_mcp.core.errors import NotFound, Refused, ServerFault
from letta_conversations_mcp.core.model import DEFAULT_CONVERSATION, ConversationRef, Run

if TYPE_CHECKING:
    from letta_conversations_mcp.backends.letta_api.client import Client
    from letta_conversations_mcp.core.backend import Backend

NEWEST = 20
"""Runs to check. A conversation has one active run, or a few if its server has no lock."""

WHAT = "stop the turn"


async def cancel_runs(backend: Backend, client: Client, ref: ConversationRef, run_id: str) -> Sequence[str]:
    """Stop the active runs of a conversation, or only this one. Returns the ids of the stopped runs."""
    active = [run.id for run in await backend.list_runs(ref, limit=NEWEST) if _is_of(ref, run)]
    if run_id:
        if run_id not in active:
            await backend.get_run(ref, run_id)
        active = [each for each in active if each == run_id]
    if not active:
        return ()
    await _check_default(backend, ref)
    missing = NotFound.agent(ref.agent_id)
    with client.asking.to(WHAT, after="It may have been stopped: wait_for_reply tells.", missing=missing):
        data = client.object(
            await client.json(client.once.agents.messages.with_raw_response.cancel(ref.agent_id, run_ids=active))
        )
    stopped = [each for each in active if data.get(each) == "cancelled"]
    if not stopped:
        raise ServerFault(WHAT, 0, "", "The turn goes on; the same call can be made again.")
    return stopped


def _is_of(ref: ConversationRef, run: Run) -> bool:
    """True if a listed run is active and belongs to this conversation. A run requested without streaming never gets a
    conversation id and stays "created": listed under `default`, it may be another conversation's (0.16.8)."""
    return run.status == "running" if ref.conversation_id == DEFAULT_CONVERSATION else run.active


async def _check_default(backend: Backend, ref: ConversationRef) -> None:
    default = ConversationRef(conversation_id=DEFAULT_CONVERSATION, agent_id=ref.agent_id)
    if pending := await backend.list_approvals(default):
        raise Refused(
            WHAT,
            f"Letta would at the same moment deny the {len(pending)} tool call(s) waiting for a decision in this "
            "agent's default conversation",
            "Nothing was stopped. Decide those first with "
            f"respond_to_approval(conversation_id='default', agent={ref.agent_id!r}), then cancel again.",
        )
