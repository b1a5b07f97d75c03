"""Decisions about tool calls: from the caller (`respond_to_approval`), or from the person whom the client asks.

With the setting `approvals=elicit`, the person is asked at once when a turn stops for a decision, if the client can
ask: older clients are asked in the middle of the call, newer ones answer by calling again. An answer applies to exactly
the calls in its question. A refusal or an unintelligible answer is a denial; without an answer the turn is returned as
it stands. Nothing is ever approved without a yes.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Sequence
from typing import Annotated

import anyio
from mcp.server.elicitation import AcceptedElicitation, DeclinedElicitation, render_elicitation_schema
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from mcp_types.version import is_version_at_least
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from letta_conversations_mcp.conversations.approvals import decide
from letta_conversations_mcp.conversations.lookup import locate
from letta_conversations_mcp.core.errors import InvalidArgument, NothingPending
from letta_conversations_mcp.core.model import Approvals, ConversationRef, ToolCall, Turn
from letta_conversations_mcp.tools.base import (
    ConversationArgument,
    DefaultAgentArgument,
    MessageKeyArgument,
    PersonAsked,
    ToolContext,
    ToolSpec,
    WaitArgument,
    services_of,
)
from letta_conversations_mcp.tools.calls import identity_of, reply_of
from letta_conversations_mcp.tools.progress import reporter
from letta_conversations_mcp.tools.results.reply import Reply, ReplyKind
from letta_conversations_mcp.turns.sending import Send

WITHOUT_QUESTIONS = "2026-07-28"
"""The first protocol version without questions in the middle of a call."""

QUESTION = "approval"
"""The key of the question; a call asks one question at a time."""

DIALOG_CHARS = 2_000
"""Longest text about the calls in a dialog: what is longer cannot be judged there, and is not offered."""

_RUN_OF_SPACES = re.compile(" {4,}")

NOT_UNDERSTOOD = "The answer to the question whether it may run could not be understood."
DECLINED = "The user declined."
CANNOT_ASK = "Only a person may approve it, and this client cannot ask one"
TOO_LONG = "Only a person may approve it, and it is too long for a dialog"
DENY = "respond_to_approval(approve=false) denies it."


class Verdict(BaseModel):
    """What the person is asked for."""

    model_config = ConfigDict(strict=True)

    approve: Annotated[bool, Field(title="Let it run")]
    reason: Annotated[str, Field(title="Why (optional; the agent is told)")] = ""


class Question(BaseModel):
    """What a person was asked in an earlier round of a call: where, and about which calls. The client keeps it for us
    and sends it back sealed: the SDK refuses what is not ours."""

    model_config = ConfigDict(frozen=True)

    ref: ConversationRef
    calls: tuple[ToolCall, ...]
    otid: str
    """The otid of the decision. The client may send it again; Letta accepts it once."""


DECIDED_BEFORE = "This call repeats an earlier one; the decision was not handed over again."


async def respond_to_approval(
    ctx: ToolContext,
    conversation_id: ConversationArgument,
    approve: Annotated[bool, Field(description="false denies them")],
    agent: DefaultAgentArgument = "",
    tool_call_ids: Annotated[list[str], Field(description="only these run; left out: all")] = [],
    reason: Annotated[str, Field(description="told to the agent")] = "",
    wait_seconds: WaitArgument = None,
    kinds: Annotated[list[ReplyKind], Field(description="as in send_message")] = [],
    message_key: MessageKeyArgument = "",
) -> Reply:
    """Approve or deny the tool calls that a Letta agent's turn (status needs_approval) waits for, and wait for its
    end. Approve only what your user agreed to."""
    services = services_of(ctx)
    seconds = services.settings.wait_seconds if wait_seconds is None else wait_seconds
    if answered := await answer_of_person(ctx, kinds, seconds):
        return answered
    if approve and services.settings.approvals == "elicit":
        if tool_call_ids or reason:
            raise InvalidArgument("tool_call_ids" if tool_call_ids else "reason", "only the person can say this here.")
        ref = await locate(services.backend, conversation_id, agent)
        return await reply_of(services, await _let_the_person_decide(ctx, ref, seconds), ref, kinds)
    identity = identity_of(
        ctx, "respond_to_approval", conversation_id, message_key, agent, approve, tool_call_ids, reason
    )

    async def prepare(_: ConversationRef | None) -> tuple[ConversationRef, Approvals]:
        ref = await locate(services.backend, conversation_id, agent)
        pending = await services.backend.list_approvals(ref)
        decided = decide(ref.conversation_id, pending, approve=approve, reason=reason, call_ids=tool_call_ids)
        return ref, decided.model_copy(update={"otid": identity.otid(ref)})

    turn, sent = await services.scheduler.send_and_wait(Send(prepare, identity), seconds, reporter(ctx))
    notes = [DECIDED_BEFORE] if turn.repeated else []
    settled = await settle(ctx, sent.ref, turn.model_copy(update={"repeated": False}), seconds)
    return await reply_of(services, settled, sent.ref, kinds, notes=notes)


async def _let_the_person_decide(ctx: ToolContext, ref: ConversationRef, seconds: float) -> Turn:
    """A model has approved what only a person may approve: ask the person.

    Raises:
        NothingPending: no tool call waits.
        InvalidArgument: nobody can be asked, or not about this.
    """
    calls = await services_of(ctx).backend.list_approvals(ref)
    decide(ref.conversation_id, calls, approve=True, reason="")
    if not _can_ask(ctx):
        raise InvalidArgument("approve", f"{CANNOT_ASK}. {DENY}")
    if not _question(ref, calls):
        raise InvalidArgument("approve", f"{TOO_LONG}. {DENY}")
    return await settle(ctx, ref, await _latest(ctx, ref, seconds), seconds)


async def settle(ctx: ToolContext, ref: ConversationRef, turn: Turn, seconds: float) -> Turn:
    """Ask the person about every tool call at which the turn stops, and return the turn. Without elicitation, return it
    as it stands.

    Raises:
        PersonAsked: the client answers with another call, see `answer_of_person`.
    """
    while turn.status == "needs_approval" and services_of(ctx).settings.approvals == "elicit":
        if not _can_ask(ctx):
            return turn.model_copy(update={"note": f"{CANNOT_ASK}. {DENY}"})
        calls = await services_of(ctx).backend.list_approvals(ref)
        if not calls or any(call.client_side for call in calls):
            return turn
        if not _question(ref, calls):
            return turn.model_copy(update={"note": f"{TOO_LONG}. {DENY}"})
        if _answers_by_calling_again(ctx):
            raise PersonAsked(_as_result(ref, calls))
        approvals = await _ask(ctx, ref, calls, seconds)
        if approvals is None:
            return turn
        turn = await _hand_over(ctx, ref, approvals, seconds)
    return turn


async def answer_of_person(ctx: ToolContext, kinds: Collection[ReplyKind], seconds: float) -> Reply | None:
    """If this call brings the answer to the question of the round before: hand the decision over and return the rest of
    the turn. None for any other call.

    Raises:
        InvalidArgument: an answer without the question. Taken for a new call it would send its message again.
    """
    if ctx.request_state is not None:
        question = Question.model_validate_json(ctx.request_state)
        return await reply_of(services_of(ctx), await _resume(ctx, question, seconds), question.ref, kinds)
    if ctx.input_responses:
        raise InvalidArgument("requestState", "it is missing beside inputResponses, so what they answer is not known.")
    return None


async def _resume(ctx: ToolContext, question: Question, seconds: float) -> Turn:
    """The rest of the turn after the person's decision; without a decision, the turn as it stands."""
    answer = (ctx.input_responses or {}).get(QUESTION)
    if answer is None or (isinstance(answer, ElicitResult) and answer.action == "cancel"):
        return await _latest(ctx, question.ref, seconds)
    approve, reason = _verdict(answer)
    approvals = decide(question.ref.conversation_id, question.calls, approve=approve, reason=reason, otid=question.otid)
    return await settle(ctx, question.ref, await _hand_over(ctx, question.ref, approvals, seconds), seconds)


async def _hand_over(ctx: ToolContext, ref: ConversationRef, approvals: Approvals, seconds: float) -> Turn:
    """The rest of the turn after a decision; if somebody else decided first, after theirs."""

    async def prepare(_: ConversationRef | None) -> tuple[ConversationRef, Approvals]:
        return ref, approvals

    # The same decision, sent again, has the same otid.
    identity = identity_of(ctx, "decision", str(ref), "", approvals.otid)
    try:
        turn, _ = await services_of(ctx).scheduler.send_and_wait(Send(prepare, identity), seconds, reporter(ctx))
        return turn
    except NothingPending:
        return await _latest(ctx, ref, seconds)


async def _latest(ctx: ToolContext, ref: ConversationRef, seconds: float) -> Turn:
    scheduler = services_of(ctx).scheduler
    return await scheduler.wait(await scheduler.find(ref), seconds, reporter(ctx))


def _answers_by_calling_again(ctx: ToolContext) -> bool:
    return is_version_at_least(ctx.protocol_version or "", WITHOUT_QUESTIONS)


def _can_ask(ctx: ToolContext) -> bool:
    """True if the client has declared that it can show a form."""
    capabilities = ctx.client_capabilities
    elicitation = capabilities.elicitation if capabilities else None
    # An empty capability, from before there were modes, means forms.
    if elicitation is None or (elicitation.form is None and elicitation.url is not None):
        return False
    return _answers_by_calling_again(ctx) or ctx.request_context.session.can_send_request


async def _ask(ctx: ToolContext, ref: ConversationRef, calls: Sequence[ToolCall], seconds: float) -> Approvals | None:
    """Ask in the middle of the call. None if no answer came in time, or the person dismissed the question."""
    with anyio.move_on_after(seconds):
        try:
            answer = await ctx.elicit(_question(ref, calls), Verdict)
        except ValueError:
            return decide(ref.conversation_id, calls, approve=False, reason=NOT_UNDERSTOOD)
        except MCPError:
            return None
        if isinstance(answer, AcceptedElicitation):
            verdict = answer.data
            return decide(ref.conversation_id, calls, approve=verdict.approve, reason=verdict.reason)
        if isinstance(answer, DeclinedElicitation):
            return decide(ref.conversation_id, calls, approve=False, reason=DECLINED)
    return None


def _as_result(ref: ConversationRef, calls: Sequence[ToolCall]) -> InputRequiredResult:
    schema = render_elicitation_schema(Verdict)
    form = ElicitRequestFormParams(message=_question(ref, calls), requested_schema=schema)
    return InputRequiredResult(
        input_requests={QUESTION: ElicitRequest(params=form)},
        request_state=Question(ref=ref, calls=tuple(calls), otid=str(uuid.uuid4())).model_dump_json(),
    )


def _verdict(answer: object) -> tuple[bool, str]:
    if isinstance(answer, ElicitResult) and answer.action == "decline":
        return False, DECLINED
    try:
        given = Verdict.model_validate(answer.content if isinstance(answer, ElicitResult) else None)
    except ValidationError:
        return False, NOT_UNDERSTOOD
    return given.approve, given.reason


def _question(ref: ConversationRef, calls: Sequence[ToolCall]) -> str:
    """What the person is asked: exactly what would run, each call on a line of its own; "" if that is too long."""
    listed = "\n".join(f"{_visible(call.name)}({_visible(call.arguments)})" for call in calls)
    if len(listed) > DIALOG_CHARS:
        return ""
    return f"The Letta agent {ref.agent_id} wants to run, in conversation {ref.conversation_id}:\n{listed}\nMay it?"


def _visible(text: str) -> str:
    """The text on one line, without anything that is not seen or that pushes the rest out of sight."""
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
    return _RUN_OF_SPACES.sub(lambda found: f"[{len(found[0])} spaces]", shown)


APPROVAL_TOOLS = (
    ToolSpec(respond_to_approval, title="Approve or deny a Letta agent's tool call", destructive=True, open_world=True),
)
