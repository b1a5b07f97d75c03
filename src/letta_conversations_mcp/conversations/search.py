"""Searching messages: with the server's own search or, if it has none, by scanning the messages that it lists.

A scan starts with the newest messages and is limited in requests and time; the result reports what was not scanned,
with a cursor to continue. Words are compared after case folding and Unicode normalisation.
"""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator, Awaitable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar, get_args

import anyio

from letta_conversations_mcp.conversations.history import DEFAULT_KINDS
from letta_conversations_mcp.conversations.transcript import body
from letta_conversations_mcp.core.backend import Backend, NoSearch
from letta_conversations_mcp.core.errors import (
    ConversationError,
    InvalidArgument,
    NotFound,
    Refused,
    ServerFault,
    TimedOut,
)
from letta_conversations_mcp.core.model import (
    CONVERSATION_ID,
    DEFAULT_CONVERSATION,
    MESSAGE_ID,
    ConversationQuery,
    ConversationRef,
    FoundMessage,
    Message,
    MessageKind,
    MessageQuery,
    MessageSearch,
)
from letta_conversations_mcp.core.quoting import NAME_CHARS, quote
from letta_conversations_mcp.core.times import parse_time

PAGE = 100
"""Messages per request."""

MOST_REQUESTS = 40
"""Pages of messages that one search scans; about two seconds with a server nearby."""

MOST_PAGES = 5
"""Pages per conversation if several are scanned: the newest of each matter more than the oldest of one."""

MOST_CONVERSATIONS = 30
"""Conversations that one search scans, those with the newest messages first."""

MOST_SECONDS = 20.0
"""How long a search takes at most, in seconds, even if a request hangs: less than clients wait."""

ASKED_TIMES = 3
"""Factor by which more results are requested, up to 100, because a server cannot filter by kind."""

SNIPPET_CHARS = 240
"""Length of the excerpt around the first hit."""

T = TypeVar("T")


@dataclass
class SearchResult:
    """What was found. `scanned` is the number of messages scanned in `conversations`, None if the server searched; of
    those in `cut_short` only the newest were scanned. `unreadable` has the conversations whose messages could not be
    read, with the error. `left_out` if there are conversations without a message of their own. `cursor` continues with
    what was not scanned."""

    found: list[FoundMessage] = field(default_factory=list[FoundMessage])
    scanned: int | None = None
    conversations: int = 0
    cut_short: list[str] = field(default_factory=list[str])
    unreadable: dict[str, ConversationError] = field(default_factory=dict[str, ConversationError])
    left_out: bool = False
    cursor: str = ""


async def search(
    backend: Backend,
    wanted: MessageSearch,
    kinds: Collection[MessageKind] = (),
    after: str = "",
    *,
    seconds: float = MOST_SECONDS,
) -> SearchResult:
    """Find messages of these kinds.

    Args:
        after: the cursor of an earlier result.
        seconds: how long to scan messages. What was found by then is returned with a cursor to the rest.

    Raises:
        InvalidArgument: the query has no words.
        NotFound: there is no such conversation, or the cursor is of another one.
        TimedOut: the time was up before anything was scanned.
    """
    if not wanted.query.strip():
        raise InvalidArgument("query", "the words to look for are needed.")
    shown = frozenset(kinds) or DEFAULT_KINDS
    if not after:
        try:
            more = min(100, wanted.limit * ASKED_TIMES)
            results = await backend.search_messages(wanted.model_copy(update={"limit": more}))
            return SearchResult([each for each in results if each.message.kind in shown][: wanted.limit])
        except NoSearch:
            pass
    return await _Scan(backend, wanted, shown, seconds).run(after)


def check_kinds(kinds: Collection[str]) -> frozenset[MessageKind]:
    """Raises InvalidArgument for an unknown kind of message."""
    known = get_args(MessageKind)
    if unknown := [each for each in kinds if each not in known]:
        raise InvalidArgument("kinds", f"{quote(unknown[0], NAME_CHARS)!r} is none of {', '.join(known)}.")
    return frozenset(each for each in known if each in kinds)


class _Scan:
    """One scan of the listed messages."""

    def __init__(self, backend: Backend, wanted: MessageSearch, kinds: Collection[MessageKind], seconds: float) -> None:
        self._backend = backend
        self._wanted = wanted
        self._kinds = kinds
        self._words = fold(wanted.query).split()
        self._result = SearchResult(scanned=0)
        self._requests = 0
        self._seconds = seconds
        self._deadline = anyio.current_time() + seconds

    @property
    def _full(self) -> bool:
        return len(self._result.found) >= self._wanted.limit

    @property
    def _exhausted(self) -> bool:
        return self._full or self._requests >= MOST_REQUESTS or anyio.current_time() >= self._deadline

    async def run(self, after: str) -> SearchResult:
        try:
            if self._wanted.conversation_id:
                ref = ConversationRef(conversation_id=self._wanted.conversation_id, agent_id=self._wanted.agent_id)
                self._result.cursor = await self._look_through(ref, MOST_REQUESTS, before=after)
            else:
                await self._look_through_all(after)
        except TimeoutError:
            if not self._result.cursor:
                next_step = "Nothing was changed; name a conversation or an agent to search less."
                raise TimedOut("search the messages", self._seconds, next_step) from None
        return self._result

    async def _look_through_all(self, after: str) -> None:
        async for ref in self._conversations(after):
            if self._exhausted or self._result.conversations >= MOST_CONVERSATIONS:
                return
            try:
                if await self._look_through(ref, MOST_PAGES):
                    self._result.cut_short.append(ref.conversation_id)
            except NotFound:
                # Deleted while the others were scanned.
                pass
            except (Refused, ServerFault) as error:
                # One whose messages are broken must not hide what the others say.
                self._result.unreadable[ref.conversation_id] = error
            self._result.cursor = ref.conversation_id
        self._result.cursor = ""

    async def _conversations(self, after: str) -> AsyncIterator[ConversationRef]:
        """The agent's default conversation and then its others, or all, by newest message first. Those that never had a
        message of their own are left out: a fork's older messages are found in its source."""
        if self._wanted.agent_id and not after:
            yield ConversationRef(conversation_id=DEFAULT_CONVERSATION, agent_id=self._wanted.agent_id)
        query = ConversationQuery(
            agent_id=self._wanted.agent_id,
            archived="all",
            order_by="last_message_at",
            after="" if after == DEFAULT_CONVERSATION else after,
            limit=PAGE,
        )
        while True:
            page = await self._in_time(self._backend.list_conversations(query))
            for each in page.items:
                if not each.last_message_at:
                    # They are listed last, and as a cursor they would restart the list (0.16.8).
                    self._result.left_out = True
                    return
                if not _is_before(each.last_message_at, self._wanted.since):
                    yield ConversationRef(conversation_id=each.id, agent_id=each.agent_id)
            if not page.more:
                return
            query = query.model_copy(update={"after": page.items[-1].id})

    async def _look_through(self, ref: ConversationRef, most_pages: int, before: str = "") -> str:
        """Scan one conversation, newest first. Returns the cursor to the rest, "" if nothing is left. Raises
        TimeoutError if the time was up before its first page arrived."""
        for number in range(most_pages):
            if self._exhausted:
                return before
            self._requests += 1
            try:
                page = await self._in_time(self._backend.list_messages(ref, MessageQuery(before=before, limit=PAGE)))
            except TimeoutError:
                if not before:
                    raise
                return before
            self._result.conversations += number == 0
            for message in reversed(page.items):
                # Several shown messages can share one id; they stay together.
                if self._full and message.id != before:
                    return before
                before = message.id
                self._compare(ref, message)
            if not page.more or not page.items or _is_before(page.items[0].at, self._wanted.since):
                return ""
        return before

    async def _in_time(self, request: Awaitable[T]) -> T:
        """Raises TimeoutError at the deadline."""
        with anyio.fail_after(self._deadline - anyio.current_time()):
            return await request

    def _compare(self, ref: ConversationRef, message: Message) -> None:
        self._result.scanned = (self._result.scanned or 0) + 1
        if message.kind not in self._kinds or _is_before(message.at, self._wanted.since):
            return
        if self._wanted.until and (at := parse_time(message.at)) and at > self._wanted.until:
            return
        text = fold(body(message))
        if all(word in text for word in self._words):
            self._result.found.append(
                FoundMessage(conversation_id=ref.conversation_id, agent_id=ref.agent_id, message=message)
            )


def fold(text: str) -> str:
    """A text for comparison: in Unicode form NFKD, case folded."""
    return unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())


def snippet(text: str, query: str, size: int = SNIPPET_CHARS) -> str:
    """The text around the first of the query's words, or else its beginning, as one line."""
    folded, words = fold(text), fold(query).split()
    first = min((at for word in words if (at := folded.find(word)) >= 0), default=0)
    start = max(_position(text, first) - size // 3, 0)
    if start:
        # Start at a word, if one begins nearby.
        start = next((at + 1 for at in range(start, min(start + 20, len(text))) if text[at].isspace()), start)
    shown = " ".join(text[start : start + size].split())
    return f"{'…' if start else ''}{shown}{'…' if start + size < len(text) else ''}"


def _position(text: str, folded_at: int) -> int:
    """The position in the text that corresponds to a position in its folded form."""
    if text.isascii():
        return folded_at
    length = 0
    for index, character in enumerate(text):
        length += len(fold(character))
        if length > folded_at:
            return index
    return 0


def read_bound(argument: str, text: str, *, end: bool = False) -> datetime | None:
    """A caller's date or time. A date alone is the beginning of the day in UTC, or with `end` its end. None for "".

    Raises InvalidArgument for anything else."""
    wanted = text.strip()
    if not wanted:
        return None
    at = parse_time(wanted)
    if at is None:
        raise InvalidArgument(argument, f"{wanted[:40]!r} is no date or time; one looks like 2026-11-21T06:12:00Z.")
    whole_day = len(wanted) <= len("2026-11-21")
    return at + timedelta(days=1, microseconds=-1) if end and whole_day else at


def check_search_cursor(after: str, conversation_id: str) -> str:
    """A cursor of `search`: the id of a message within a conversation, else of a conversation. Raises InvalidArgument
    for anything else."""
    wanted = after.strip()
    is_conversation = wanted == DEFAULT_CONVERSATION or CONVERSATION_ID.fullmatch(wanted) is not None
    if wanted and not (MESSAGE_ID.fullmatch(wanted) if conversation_id else is_conversation):
        raise InvalidArgument("after", "it is a cursor of another search; use the one from this search's own answer.")
    return wanted


def _is_before(at: str, since: datetime | None) -> bool:
    time = parse_time(at) if since else None
    return time is not None and since is not None and time < since
