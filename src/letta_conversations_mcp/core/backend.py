"""The protocol of a backend: the operations that every kind of server implements.

An operation raises only `ConversationError`s, ends within the timeouts of the settings, and can be called from many
tasks at once. Cancelling it ends the wait, not what the server may have begun.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from letta_conversations_mcp.core.model import (
    Agent,
    Approvals,
    Block,
    Chunk,
    Compaction,
    CompactionSettings,
    ContextUse,
    Conversation,
    ConversationChanges,
    ConversationQuery,
    ConversationRef,
    Deletion,
    FoundMessage,
    Health,
    Message,
    MessageQuery,
    MessageSearch,
    NewAgent,
    NewConversation,
    Outgoing,
    OutgoingMessage,
    Page,
    Run,
    ToolCall,
)


class StreamLost(Exception):
    """The connection of a turn broke after the message was handed over; the turn itself may well go on.

    Never shown to a caller: the code that follows the turn then asks the server for its outcome. `status` is the HTTP
    status of an answer that came instead of the stream, 0 if there was none. `silent` if nothing arrived for too long,
    not even a ping.
    """

    def __init__(self, words: str, status: int = 0, *, silent: bool = False) -> None:
        self.status = status
        self.silent = silent
        super().__init__(words)


class NotResumable(Exception):
    """The server keeps no streams to resume. Its runs and messages show what became of a turn."""


class NoSearch(Exception):
    """The server cannot search messages. Never shown to a caller: the messages are then scanned instead."""


class Backend(Protocol):
    """A place where conversations live."""

    name: str
    deletion: Deletion
    """What delete_conversation does here."""
    isolates_blocks: bool
    """False where a conversation cannot have memory blocks of its own; a server that can may still ignore them."""
    keeps_tags: bool
    """Whether conversations have tags here."""
    image_note: str
    """A remark about images for their senders, in a sentence; "" for none."""
    no_models_advice: str
    """What a person can do if there are no models, in a sentence or two."""

    @property
    def new_agent_note(self) -> str:
        """A remark on what agents created here cannot do, in a sentence; "" for none."""
        ...

    async def check(self) -> Health:
        """Find out what answers, without sending or changing anything. A rejected key is no error here.

        Raises:
            Unreachable, TimedOut: nothing answers.
        """
        ...

    async def list_agents(
        self, *, name: str = "", search: str = "", tag: str = "", after: str = "", limit: int = 20
    ) -> Page[Agent]:
        """Agents, newest first: of exactly this `name`, with `search` in their name, with this `tag`, or all."""
        ...

    async def get_agent(self, agent_id: str) -> Agent:
        """Raises NotFound."""
        ...

    async def create_agent(self, new: NewAgent) -> Agent:
        """Not idempotent: names are not unique."""
        ...

    async def delete_agent(self, agent_id: str) -> None:
        """Delete the agent with all of its conversations and memory. Raises NotFound if it is already gone."""
        ...

    async def list_models(self) -> Sequence[str]:
        """The handles of the models that an agent can have here, `provider/model`."""
        ...

    async def create_conversation(self, new: NewConversation) -> Conversation:
        """Not idempotent, never retried. Whatever the server ignored is missing in the result."""
        ...

    async def get_conversation(self, conversation_id: str) -> Conversation:
        """Raises NotFound, for a deleted one too."""
        ...

    async def owner_of(self, conversation_id: str) -> str:
        """The id of the conversation's agent. It never changes, so it may be cached: NotFound is raised only for a
        conversation that is not in the cache."""
        ...

    async def list_conversations(self, query: ConversationQuery) -> Page[Conversation]: ...

    async def update_conversation(self, conversation_id: str, changes: ConversationChanges) -> Conversation:
        """Change only what is given. Whatever the server ignored is unchanged in the result. Raises NotFound."""
        ...

    async def fork(self, ref: ConversationRef, *, at_message: str = "", hidden: bool = False) -> Conversation:
        """Create a conversation of the same agent that begins with the messages in this one's context, up to and
        including `at_message` if given. It has no summary. Not idempotent, never retried. Whatever the server ignored
        shows in the result. Raises NotFound."""
        ...

    async def delete_conversation(self, conversation_id: str) -> None:
        """Delete it, or hide it if the server cannot delete. Raises NotFound if it is already gone."""
        ...

    async def list_messages(self, ref: ConversationRef, query: MessageQuery) -> Page[Message]:
        """One page in chronological order. `limit` counts messages as the server stores them; one of those may become
        several of ours. Raises NotFound for a deleted conversation and for an unknown cursor."""
        ...

    async def list_with_owner(self, conversation_id: str, query: MessageQuery) -> tuple[str, Page[Message]]:
        """`owner_of` the conversation and one page of its messages, in a single request where the server allows it."""
        ...

    async def search_messages(self, search: MessageSearch) -> Sequence[FoundMessage]:
        """The server's own search, best results first. Raises NoSearch if it has none."""
        ...

    async def check_message(self, message: OutgoingMessage) -> None:
        """Raises InvalidArgument or Refused for a message that no conversation here can take. Called before one is
        opened for it."""
        ...

    def send(self, ref: ConversationRef, message: OutgoingMessage) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        """Hand the message over and stream the turn. Never retried by the implementation.

        Entering raises Busy, AwaitingApproval, NotFound, Refused … if nothing was sent, and StreamLost if that is
        uncertain. Iterating raises StreamLost if the connection breaks. Leaving closes the connection; the turn goes
        on.
        """
        ...

    def resume(
        self, ref: ConversationRef, message: Outgoing, *, run_id: str, after: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        """Resume the stream of a message that was handed over before: of this run, after chunk number `after`. Without
        a run id, only a server that remembers message ids forever can resume; it accepts the message now if it never
        arrived.

        Entering raises NotResumable (no stream, or no trace of the message), Busy if another message's turn runs and
        this one never arrived, StreamLost if the connection breaks again, and other errors as `send` does. Iterating
        raises StreamLost.
        """
        ...

    async def run_of_otid(self, ref: ConversationRef, otid: str) -> str:
        """The id of the run that took the message with this otid; "" if the server has no record of that. Sends
        nothing. Raises StreamLost if the connection breaks."""
        ...

    async def list_approvals(self, ref: ConversationRef) -> Sequence[ToolCall]:
        """The tool calls that wait for a decision now."""
        ...

    def respond(self, ref: ConversationRef, approvals: Approvals) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        """Hand decisions over and stream the rest of the turn; otherwise like `send`.

        Entering raises NothingPending if the calls no longer wait; nothing was sent then.
        """
        ...

    async def cancel(self, ref: ConversationRef, run_id: str = "") -> Sequence[str]:
        """Stop the running turn of a conversation, or only this run of it, and no other conversation's.

        Returns the ids of the stopped runs, none if nothing ran. Raises NotFound for an unknown run, and Refused if the
        server could stop it only together with something else.
        """
        ...

    async def compact(self, ref: ConversationRef, settings: CompactionSettings) -> Compaction:
        """Summarise the history in context. Raises Refused if there is too little to summarise."""
        ...

    async def recompile(self, ref: ConversationRef, *, dry_run: bool = False) -> str:
        """Compile the system prompt from the memory as it is now, and use it in the conversation unless `dry_run`.
        Returns the prompt. Raises NotFound."""
        ...

    async def get_prompt(self, ref: ConversationRef) -> str:
        """The system prompt that the conversation uses, "" if the server does not report it."""
        ...

    async def list_isolated_blocks(self, conversation: Conversation) -> Sequence[Block]:
        """The conversation's own copies of memory blocks."""
        ...

    async def get_context_use(self, ref: ConversationRef) -> ContextUse | None:
        """None if the server does not report it, and before the first turn."""
        ...

    async def list_runs(self, ref: ConversationRef, *, limit: int) -> Sequence[Run]:
        """The newest runs of a conversation, newest first."""
        ...

    async def get_run(self, ref: ConversationRef, run_id: str) -> Run:
        """A run of this conversation. Raises NotFound."""
        ...

    async def list_run_chunks(self, ref: ConversationRef, run_id: str) -> Sequence[Chunk]:
        """The messages that a run has stored so far, oldest first, and its usage at the end."""
        ...
