"""Forking a conversation, and reporting what the server ignored: 0.16.8 ignores `at_message` and `hidden`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from letta_conversations_mcp.conversations.keys import key_changes, without_mark
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError, InvalidArgument, ServerFault
from letta_conversations_mcp.core.model import DEFAULT_CONVERSATION, Conversation, ConversationChanges, ConversationRef


@dataclass(frozen=True)
class Branch:
    """A forked conversation. `shared` counts the messages that it begins with, None if the server did not report it.
    `notes` are sentences about what differs from the request."""

    conversation: Conversation
    shared: int | None
    notes: tuple[str, ...] = ()


async def fork(
    backend: Backend,
    ref: ConversationRef,
    *,
    at_message: str = "",
    summary: str = "",
    key: str = "",
    hidden: bool = False,
) -> Branch:
    """Fork, at a message if one is given, and give the branch a summary or a key.

    Raises:
        InvalidArgument: the agent does not see `at_message` in this conversation; nothing was done.
        ServerFault: the branch could not be given the key by which it has to be found again. It is deleted if possible.
        NotFound: there is no such conversation.
    """
    context, isolated = await _context(backend, ref)
    if at_message and context is not None and at_message not in context:
        raise InvalidArgument(
            "at_message",
            f"{at_message} is not in the context of this conversation: it was compacted away, or is in another one. "
            "list_messages and search_messages give ids.",
        )
    made = await backend.fork(ref, at_message=at_message, hidden=hidden)
    notes: list[str] = []
    shared = None if made.in_context is None else len(made.in_context)
    if at_message:
        notes.append(_where(at_message, context, shared))
    if hidden and not made.hidden:
        notes.append("This Letta server ignored hidden: the branch is listed like any other.")
    if isolated and not made.isolated_block_ids:
        notes.append("The branch sees the agent's own memory blocks, not the isolated ones of its source.")
    if summary:
        made, problem = await _name(backend, made, summary)
        notes.append(problem)
    elif key:
        made = await _with_key(backend, made, key_changes(backend, ref.agent_id, key))
    return Branch(conversation=made, shared=shared, notes=tuple(filter(None, notes)))


async def _context(backend: Backend, ref: ConversationRef) -> tuple[tuple[str, ...] | None, bool]:
    """The ids of the messages in context, and True if the source has isolated blocks."""
    if ref.conversation_id == DEFAULT_CONVERSATION:
        return (await backend.get_agent(ref.agent_id)).in_context, False
    source = await backend.get_conversation(ref.conversation_id)
    return source.in_context, bool(source.isolated_block_ids)


def _where(at_message: str, context: tuple[str, ...] | None, shared: int | None) -> str:
    """A sentence if the branch does not end at the message. Counts, because a server may copy messages under new
    ids."""
    if context is None or shared is None:
        return "This server does not tell where the branch ends: look at its newest messages with list_messages."
    newer = shared - context.index(at_message) - 1
    if newer <= 0:
        return ""
    return (
        f"This Letta server ignored at_message: the branch holds {newer} newer messages too. "
        "Delete it if that is not wanted."
    )


async def _name(backend: Backend, made: Conversation, summary: str) -> tuple[Conversation, str]:
    try:
        named = await backend.update_conversation(made.id, ConversationChanges(summary=without_mark(summary)))
    except ConversationError:
        return made, "The branch is there, but could not be given its summary; update does that."
    return named, ""


async def _with_key(backend: Backend, made: Conversation, changes: ConversationChanges) -> Conversation:
    try:
        return await backend.update_conversation(made.id, changes)
    except ConversationError as error:
        with suppress(ConversationError):
            await backend.delete_conversation(made.id)
        raise ServerFault(
            "give a branch its key", 0, "", "Nothing was sent; the same call can be made again."
        ) from error
