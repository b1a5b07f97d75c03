"""The state of a chat: where the person is, what waits for a decision, and what may be sent next.

Owns going to a conversation, reading it, and the queue of what is sent, one after the other. A single turn is in
`running_turn`, commands are in `commands`. Changes happen in one task group, whose end leaves running turns to Letta.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import anyio
from anyio.abc import TaskGroup
from rich.console import RenderableType

from letta_conversations_mcp.cli.chat.approval_card import Card
from letta_conversations_mcp.cli.chat.connection import Connection, ToolFailed
from letta_conversations_mcp.cli.chat.entries import Fold, Note, Said
from letta_conversations_mcp.cli.chat.history import entries_of, folds_of
from letta_conversations_mcp.cli.chat.place import Place
from letta_conversations_mcp.cli.chat.running_turn import RunningTurn
from letta_conversations_mcp.cli.chat.screen import Screen
from letta_conversations_mcp.cli.chat.status import Status
from letta_conversations_mcp.tools.results.agents import AgentRow
from letta_conversations_mcp.tools.results.conversations import ConversationRow, Created
from letta_conversations_mcp.tools.results.description import Described
from letta_conversations_mcp.tools.results.reply import Reply
from letta_conversations_mcp.tools.results.viewer import ViewedCall, ViewedMessage, ViewedPage

KINDS = ["reasoning", "tool"]
LONGEST_WAIT = 3600
RECENT = 50
"""Messages that are looked at to recall what the person said before."""


Queue = deque[tuple[str, Callable[[], Awaitable[None]]]]
"""What is to be done, one after the other, each with the message that it sends."""


class Session:
    """One person's chat on one screen."""

    def __init__(self, connection: Connection, screen: Screen, tasks: TaskGroup, where: str) -> None:
        self.connection = connection
        self.where = where
        """The Letta server, in words."""
        self.begins = True
        """Until the first conversation is there."""
        self.screen = screen
        self.place = Place()
        self.waiting: tuple[ViewedCall, ...] = ()
        """The tool calls that were shown and wait for a decision."""
        self.turn: RunningTurn | None = None
        self.folds: Sequence[Fold] = ()
        """Of the latest reply, for /show."""
        self.unfolds = False
        """True if reasoning and tool calls are shown in full from now on."""
        self.listed: Sequence[ConversationRow] = ()
        self.listed_agents: Sequence[AgentRow] = ()
        self.to_delete = ""
        """The conversation that the next `/delete yes` deletes."""
        self.leaving = anyio.Event()
        self.idle = anyio.Event()
        """Set while nothing is being sent or waited for."""
        self.idle.set()
        self._tasks = tasks
        self._queue = Queue()
        self._works = False

    # What the person sees

    async def show(self, *entries: RenderableType) -> None:
        await self.screen.show(entries, self.turn.live if self.turn else None)

    async def note(self, text: str) -> None:
        await self.show(Note(text))

    async def fail(self, error: Exception | str) -> None:
        await self.show(Note(str(error), "error"))

    @property
    def queued(self) -> list[str]:
        """The messages that wait for their turn here, and were not sent yet."""
        return [text for text, _ in self._queue]

    @property
    def status(self) -> Status:
        doing, hint = self._doing()
        return Status(
            agent=self.place.agent,
            conversation=self.place.name if self.place.agent_id else "",
            model=self.place.model or self.place.agent_model,
            used=self.place.used,
            limit=self.place.limit,
            doing=doing,
            hint=hint,
            urgent=bool(self.waiting) and self.turn is None,
        )

    def _doing(self) -> tuple[str, str]:
        if self.turn is not None:
            return self.turn.doing, self.turn.hint
        if self.begins:
            return "connecting", ""
        if self.waiting:
            return "waits for your decision", "/approve or /deny"
        return "", "/help" if self.place.agent_id else "/agents"

    # Where the person is

    async def go_to_agent(self, agent: AgentRow) -> None:
        """Choose an agent; the next message opens a conversation with it."""
        self._leave_turn()
        self.place = Place(agent_id=agent.id, agent=agent.name, agent_model=agent.model)
        self.waiting, self.folds = (), ()
        self.screen.remember(())

    async def go_to(self, conversation_id: str, agent: str = "") -> ViewedPage:
        """Choose a conversation. Gives its newest messages. Raises ToolFailed."""
        place = Place(conversation_id=conversation_id, agent_id=agent)
        found = await self.connection.call("describe", Described, **place.address)
        place.agent_id, place.agent = found.agent_id, found.agent_name or found.agent_id
        page = await self.connection.call("view_messages", ViewedPage, **place.address, limit=RECENT)
        self._leave_turn()
        self.place = place
        self._update_place(found)
        place.newest = page.messages[-1].id if page.messages else ""
        self.waiting = page.approvals
        self.folds = [fold for message in page.messages for fold in folds_of(message)][-20:]
        self.screen.remember([each.text for each in page.messages if each.kind == "user"])
        if page.run_id and not page.approvals:
            self.add("", lambda: self._follow(place, page.run_id))
        self.screen.refresh()
        return page

    def _update_place(self, found: Described) -> None:
        place = self.place
        place.summary, place.model = found.summary, found.model
        place.used, place.limit = found.context_tokens, found.context_limit

    def _leave_turn(self) -> None:
        """Leave what runs here to itself: what is said from now on does not wait for it."""
        if self.turn is not None:
            self.turn.leave()
            self.turn = None
            self._queue, self._works = Queue(), False
            self.idle.set()

    async def describe(self) -> Described:
        """Ask for everything about the conversation. Raises ToolFailed."""
        found = await self.connection.call("describe", Described, **self.place.address)
        self._update_place(found)
        self.screen.refresh()
        return found

    async def show_waiting(self) -> None:
        if self.waiting:
            await self.show(Card(self.place.agent, self.waiting))

    async def messages_since(self, place: Place, newest: str) -> list[ViewedMessage]:
        """All messages after one that is known. Raises ToolFailed."""
        found: list[ViewedMessage] = []
        after = newest
        while True:
            page = await self.connection.call("view_messages", ViewedPage, **place.address, limit=100, after=after)
            found += page.messages
            if not page.messages or not page.newer or not after:
                return found
            after = page.newer

    # What is sent

    def say(self, text: str) -> None:
        """Send a message when everything before it was answered."""
        place = self.place
        self.add(text, lambda: self._send(place, text))

    def add(self, text: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do this when everything before it is done. `text` is what the person sees waiting, "" for nothing."""
        self._queue.append((text, work))
        if not self._works:
            self._works = True
            self.idle = anyio.Event()
            self._tasks.start_soon(self._work, self._queue)
        self.screen.refresh()

    def check_nothing_queued(self) -> None:
        """Raises ToolFailed while messages wait to be sent in this conversation."""
        if self.queued:
            raise ToolFailed("Messages wait to be sent here. /cancel takes them back.")

    def take_back(self) -> list[str]:
        """Empty the queue. Gives the messages that were in it."""
        texts = [text for text, _ in self._queue if text]
        self._queue.clear()
        self.screen.refresh()
        return texts

    async def _work(self, queue: Queue) -> None:
        try:
            while queue:
                _, work = queue.popleft()
                try:
                    await work()
                except ToolFailed as error:
                    await self.fail(error)
        finally:
            if queue is self._queue:
                self._works = False
                self.idle.set()
                self.screen.refresh()

    async def _send(self, place: Place, text: str) -> None:
        await self.show(Said(text))
        try:
            if not place.conversation_id:
                opened = await self.connection.call(
                    "create_conversation", Created, agent=place.agent_id, summary=place.summary
                )
                place.conversation_id = opened.conversation_id
        except ToolFailed as error:
            await self._not_sent(text, error)
            return
        arguments = {"message": text, "kinds": KINDS, "wait_seconds": LONGEST_WAIT, **place.address}
        try:
            await self.run(place, lambda: self.connection.call("send_message", Reply, **arguments))
        except ToolFailed as error:
            await self._not_sent(text, error)

    async def _not_sent(self, text: str, error: ToolFailed) -> None:
        await self.fail(error)
        self.screen.give_back(text)
        await self._look_again()

    async def decide(self, approve: bool, reason: str, calls: Sequence[ViewedCall], chosen: Sequence[str]) -> None:
        """Answer the tool calls that were shown, if exactly those still wait. Raises ToolFailed."""
        place = self.place
        page = await self.connection.call("view_messages", ViewedPage, **place.address, limit=1)
        if page.approvals != tuple(calls):
            self.waiting = page.approvals
            await self.fail("Nothing was decided: what waits is no longer what was shown here.")
            await self.show_waiting()
            return
        self.waiting = ()
        arguments = {"approve": approve, "reason": reason, "kinds": KINDS, "wait_seconds": LONGEST_WAIT}
        try:
            await self.run(
                place,
                lambda: self.connection.call(
                    "respond_to_approval", Reply, **place.address, **arguments, tool_call_ids=list(chosen)
                ),
            )
        except ToolFailed as error:
            await self.fail(error)
            await self._look_again()

    async def run(self, place: Place, send: Callable[[], Awaitable[Reply]]) -> None:
        """A turn from its beginning to its end, on the screen as long as the person is there. Raises ToolFailed when it
        was not begun."""
        turn = RunningTurn(place, self.connection, self.screen)
        self.turn = turn
        try:
            reply = await turn.run(send)
        finally:
            is_here = self.turn is turn
            if is_here:
                self.turn = None
                await self.screen.show(())
        if not is_here:
            await self.note(f"{place.agent} has answered in {place.quoted}: /switch {place.conversation_id}")
            return
        entries = turn.rest(reply, unfold=self.unfolds)
        self.folds = turn.display.unfolded or self.folds
        await self.screen.show(entries)
        if reply.usage and reply.usage.context_tokens:
            place.used = reply.usage.context_tokens
        await self._look_again()

    async def _follow(self, place: Place, run_id: str) -> None:
        """Wait for a turn that was begun elsewhere, then show what it added."""
        turn = RunningTurn(place, self.connection, self.screen, doing="busy with another message")
        self.turn = turn
        try:
            await turn.wait_for(run_id=run_id)
        except ToolFailed as error:
            await self.fail(error)
        finally:
            is_here = self.turn is turn
            if is_here:
                self.turn = None
        if is_here:
            await self._catch_up(place)

    async def _catch_up(self, place: Place) -> None:
        """Show what was added to the conversation since the last look."""
        messages = await self.messages_since(place, place.newest)
        await self.show(*entries_of(messages, place.agent))
        self.folds = [fold for message in messages for fold in folds_of(message)] or self.folds
        await self._look_again()

    async def _look_again(self) -> None:
        """Look at the end of the conversation: what waits for a decision, and how full the context is."""
        place = self.place
        if not place.conversation_id:
            return
        try:
            page = await self.connection.call("view_messages", ViewedPage, **place.address, limit=1)
            if place is self.place:
                place.newest = page.messages[-1].id if page.messages else place.newest
                self.waiting = page.approvals
                await self.describe()
                await self.show_waiting()
        except ToolFailed as error:
            await self.fail(error)
