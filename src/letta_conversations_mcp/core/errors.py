"""All errors, with texts for the person or model who reads them.

    ConversationError
    ├── InvalidArgument      the caller can correct it: a malformed id, a contradiction, a bad model setting
    ├── NotFound             no such agent, conversation, run or message
    ├── NoReply              nothing was sent in a conversation yet
    ├── Ambiguous            a name that several agents share
    ├── NotConfirmed         a destructive call without its confirmation
    ├── Refused              Letta understood the request and said no
    ├── Forbidden            the caller's token does not allow it
    ├── NotConfigured        the settings of this MCP server name no Letta server, or cannot be used
    ├── Overloaded           a limit of this server was reached
    ├── Busy                 the conversation is answering another message
    ├── AwaitingApproval     the agent waits for a decision about a tool call
    ├── NothingPending       no tool call waits for a decision
    ├── TooManyHops          a chain of agents has become too long
    ├── Unauthorized         the key is wrong or missing
    ├── Unreachable          nothing answers, or what answers is no Letta server
    ├── TimedOut             no answer within the bound
    ├── TooManyRequests      a rate limit of Letta
    ├── ShuttingDown         this server is shutting down
    └── ServerFault          Letta failed, or answered something that cannot be understood

Each class holds the facts and builds its own text: what happened, what is safe, what to do next. `str(error)` is for a
language model, which can call tools; `error.for_person` is for the reader of a command's output, who cannot. Text
written by others is included only through `quote` or `said`, and never a key, a password, a traceback or HTML.
Addresses are for a person only: a model may speak for somebody who must not know this network. Backends raise these
from their own exceptions; `tools/mcp_errors.py` turns them into MCP errors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from letta_conversations_mcp.core.quoting import NAME_CHARS, quote, without_password
from letta_conversations_mcp.core.untrusted import escaped

RESTART_SECONDS = 1.0
"""Pause before retrying a server that did not answer: it may be restarting."""

RETRY_SECONDS = 5
"""Pause suggested to a caller whose call exceeded a limit: a quick model ends some turns in that time."""

DEFAULT_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 60.0
"""The longest pause that a server can ask for."""

NO_TAGS = "conversations have no tags on this server"

_ADVICE = re.compile(
    r"\b(?:(?:list|search)_\w+|(?:create|delete)_(?:agent|conversation)|send_message|wait_for_reply|ask_many|"
    r"fork opens|describe again|respond_to_approval|show_conversation|call again|same call|cancel(?:\(| frees| stops)|"
    r"update\(|update does|(?:recompile|compact|fork)\()",
    re.IGNORECASE,
)
"""What only somebody who calls tools can follow."""

_CLAUSE_END = re.compile(r"(?<=[.:;]) ")


def without_advice(text: str) -> str:
    """A text without its clauses that tell a model what to call: nobody can do that at a terminal."""
    kept: list[str] = []
    for clause in _CLAUSE_END.split(text):
        if not _ADVICE.search(clause):
            kept.append(clause)
        elif kept and kept[-1][-1:] in (":", ";"):
            kept[-1] = f"{kept[-1][:-1]}."
    return " ".join(kept)


class ConversationError(Exception):
    """The root.

    Args:
        text: the whole text for a model.
        person: the whole text for a person at a terminal, where that differs.
    """

    try_again_after: float | None = None
    """Seconds after which a retry may well succeed; None if it would not, or if something may have been done."""

    def __init__(self, text: str, *, person: str = "") -> None:
        self.for_person = escaped(without_advice(person or text))
        super().__init__(escaped(text))

    @property
    def label(self) -> str:
        """The error in a word or two, for the log: its text may quote messages."""
        return type(self).__name__

    def add(self, sentence: str) -> None:
        """Append a sentence that only the calling code knows."""
        self.args = (f"{self} {sentence}",)
        self.for_person = f"{self.for_person} {without_advice(sentence)}".rstrip()


class InvalidArgument(ConversationError):
    """An argument that the caller can correct. Nothing was done."""

    def __init__(self, argument: str, problem: str) -> None:
        self.argument = argument
        self.problem = problem
        super().__init__(
            f"{argument}: {problem} Nothing was done; correct it and call again.",
            person=f"{argument}: {problem} Nothing was done.",
        )


class NotFound(ConversationError):
    """There is no such thing, for this key on this server."""

    def __init__(self, kind: str, identifier: str, next_step: str, person_step: str = "") -> None:
        self.kind = kind
        self.identifier = identifier
        fact = f"There is no {kind} {identifier} (unknown, deleted, or not visible to this key)."
        super().__init__(f"{fact} {next_step}", person=f"{fact} {person_step}".rstrip())

    @classmethod
    def conversation(cls, conversation_id: str) -> NotFound:
        return cls("conversation", conversation_id, "Call list_conversations to see which there are.")

    @classmethod
    def agent(cls, agent: str, candidates: Sequence[str] = ()) -> NotFound:
        if candidates:
            next_step = f"Closest: {', '.join(candidates)}. Names are exact; an id is surest."
            return cls("agent", repr(quote(agent, NAME_CHARS)), next_step, next_step)
        return cls("agent", repr(quote(agent, NAME_CHARS)), "Call list_agents to see which there are.")

    @classmethod
    def run(cls, run_id: str) -> NotFound:
        return cls("run", run_id, "Call wait_for_reply with the conversation_id alone to get its latest reply.")

    @classmethod
    def block(cls, block_id: str) -> NotFound:
        return cls("memory block", block_id, "Call describe again: the conversation may have been deleted meanwhile.")

    @classmethod
    def message(cls, message_id: str) -> NotFound:
        return cls(
            "message", message_id, "Cursors belong to one conversation: start again with list_messages without them."
        )


class NoReply(ConversationError):
    """Nothing was ever sent in a conversation, so there is nothing to wait for."""

    def __init__(self, place: str) -> None:
        fact = f"Nothing was sent in {place} yet, so there is no reply."
        super().__init__(f"{fact} Use send_message.", person=fact)


class Ambiguous(ConversationError):
    """Several agents have this name; names are not unique in Letta."""

    def __init__(self, name: str, candidates: Sequence[str], *, more: bool = False) -> None:
        self.name = name
        self.candidates = tuple(candidates)
        count = f"At least {len(candidates)}" if more else str(len(candidates))
        fact = f"{count} agents are called {quote(name, NAME_CHARS)!r}. Nothing was done;"
        ids = ", ".join(candidates)
        super().__init__(
            f"{fact} call again with one of these ids as agent: {ids}.",
            person=f"{fact} use one of these ids as agent: {ids}.",
        )


class NotConfirmed(ConversationError):
    """A destructive call came without its confirmation."""

    def __init__(self, consequence: str) -> None:
        super().__init__(
            f"Nothing was done. {consequence} If that is wanted, call again with confirm=true.",
            person=f"Nothing was done. {consequence} If that is wanted, confirm it.",
        )


class Refused(ConversationError):
    """Letta understood the request and declined it."""

    def __init__(self, what: str, reason: str, next_step: str = "") -> None:
        self.reason = reason
        super().__init__(f"Letta refused to {what}: {reason.rstrip('.')}. {next_step}".rstrip())


class Forbidden(ConversationError):
    """The caller's token does not allow it. Names the missing right, and nothing about the object of the call."""

    def __init__(self, what: str, scope: str) -> None:
        self.scope = scope
        fact = f"Nothing was done: {what} needs the scope {scope!r}, which your token does not have."
        super().__init__(f"{fact} A person has to give you another token.", person=f"{fact} Use another token.")


class Overloaded(ConversationError):
    """A limit of this server was reached, or a limit for this caller (`of_caller`). Nothing was done."""

    def __init__(self, reason: str, seconds: int = RETRY_SECONDS, *, of_caller: bool = False) -> None:
        self.seconds = seconds
        self.of_caller = of_caller
        super().__init__(f"Busy: {reason}. Nothing was done; try again in {seconds} seconds.")


class Busy(ConversationError):
    """The conversation is answering another message. Nothing was sent."""

    def __init__(self, conversation_id: str, run_id: str = "", *, dead: bool = False) -> None:
        self.conversation_id = conversation_id
        self.run_id = run_id
        self.dead = dead
        which = f" (run {run_id})" if run_id else ""
        fact = f"Conversation {conversation_id} is answering another message{which}. Nothing was sent."
        if dead:
            held = f"Conversation {conversation_id} is held by a turn{which} that died with its Letta server."
            super().__init__(
                f"{held} Nothing was sent. cancel(conversation_id={conversation_id!r}) frees the conversation; then "
                "send again.",
                person=f"{held} Nothing was sent. Cancel that turn, then send again.",
            )
            return
        super().__init__(
            f"{fact} Call wait_for_reply(conversation_id={conversation_id!r}) until that turn has ended, then send "
            "again, unless that was the reply to this very message.",
            person=f"{fact} Wait for that reply, then send again.",
        )


class AwaitingApproval(ConversationError):
    """The agent waits for a decision about a tool call, so it takes no message. Nothing was sent."""

    def __init__(self, conversation_id: str) -> None:
        self.conversation_id = conversation_id
        fact = (
            f"The agent waits for a decision about a tool call in conversation {conversation_id}, and takes no message "
            "before it. Nothing was sent."
        )
        super().__init__(
            f"{fact} wait_for_reply(conversation_id={conversation_id!r}) shows the call, and respond_to_approval "
            "approves or denies it.",
            person=f"{fact} Approve or deny it first.",
        )


class NothingPending(ConversationError):
    """No tool call waits for a decision here, or the named one does not. Nothing was sent."""

    def __init__(self, conversation_id: str, waiting: Sequence[str] = ()) -> None:
        self.conversation_id = conversation_id
        what = f"Only {', '.join(waiting)} waits" if waiting else "No tool call waits"
        fact = f"{what} for a decision in conversation {conversation_id}. Nothing was sent."
        super().__init__(
            f"{fact} wait_for_reply(conversation_id={conversation_id!r}) shows the latest turn.", person=fact
        )


class TooManyHops(ConversationError):
    """A chain of agents messaging each other has become too long. Nothing was sent."""

    def __init__(self, hop: int, most: int) -> None:
        self.hop = hop
        fact = (
            f"This would be message {hop} in a chain of agents that send to each other because of one another, and at "
            f"most {most} are allowed. Nothing was sent."
        )
        super().__init__(
            f"{fact} End the chain: answer the agent that asked, with what is known now. A person can allow more with "
            "--max-depth.",
            person=f"{fact} --max-depth allows more.",
        )


class Unauthorized(ConversationError):
    """Letta did not accept the key."""

    def __init__(self, base_url: str, *, key_given: bool, variable: str = "LETTA_API_KEY") -> None:
        problem = f"did not accept the key in {variable}" if key_given else f"asks for a key, and {variable} is not set"
        super().__init__(
            f"The Letta server {problem}. Nothing was done. A person has to set {variable} for this MCP server and "
            "restart it.",
            person=f"The Letta server at {without_password(base_url)} {problem}. Nothing was done. Set {variable} and "
            "start again.",
        )


class NotConfigured(ConversationError):
    """The settings of this MCP server name no usable Letta server. `steps` say how to correct them."""

    def __init__(self, problem: str, steps: str) -> None:
        super().__init__(
            f"{problem} Nothing was done. A person has to correct the configuration of this MCP server and restart it. "
            f"{steps}",
            person=f"{problem} {steps}",
        )


class Unreachable(ConversationError):
    """Nothing answers at the address, or what answers is no Letta REST server."""

    def __init__(self, base_url: str, problem: str, *, setting: str = "LETTA_BASE_URL") -> None:
        super().__init__(
            f"{problem}. Nothing was done. A person has to check that the server runs and that {setting} is right; "
            "then the same call can be made again.",
            person=f"{problem} (address: {without_password(base_url)}). Nothing was done. Check that the server runs "
            f"and that {setting} is right.",
        )

    @classmethod
    def nothing_answers(cls, base_url: str) -> Unreachable:
        error = cls(base_url, "The Letta server cannot be reached")
        error.try_again_after = RESTART_SECONDS
        return error

    @classmethod
    def no_letta_server(cls, base_url: str) -> Unreachable:
        return cls(
            base_url,
            "What answers at this address is not a Letta REST server: it has no /v1/conversations. "
            "A Letta Code App Server answers like this; so does a wrong path or port",
        )


class TimedOut(ConversationError):
    """No answer within the bound."""

    def __init__(self, what: str, seconds: float, next_step: str) -> None:
        self.seconds = seconds
        super().__init__(f"Letta did not answer within {seconds:g} s when asked to {what}. {next_step}")


class TooManyRequests(ConversationError):
    """Letta, or a proxy in front of it, rejected the request because of a rate limit. Nothing was done."""

    def __init__(self, what: str, seconds: float | None) -> None:
        self.try_again_after = min(seconds or DEFAULT_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        pause = f"{seconds:g} seconds" if seconds else "a little"
        super().__init__(
            f"Letta refused to {what}: too many requests. Nothing was done. "
            f"Wait {pause}; then the same call can be made again."
        )


class ShuttingDown(ConversationError):
    """This server is shutting down and starts nothing new. For a message whose conversation may have been opened,
    `fact` says no more than that it was not sent."""

    def __init__(self, fact: str = "Nothing was done") -> None:
        super().__init__(
            f"This MCP server is shutting down. {fact}; the same call can be made again in {RETRY_SECONDS} seconds."
        )


class ServerFault(ConversationError):
    """Letta failed, or answered something that cannot be understood. `status` is 0 when there was no answer."""

    def __init__(self, what: str, status: int, words: str, next_step: str) -> None:
        self.status = status
        facts = ": ".join(filter(None, [f"HTTP {status}" if status else "", words]))
        super().__init__(f"Letta failed when asked to {what}{f' ({facts})' if facts else ''}. {next_step}")

    @property
    def label(self) -> str:
        return f"{super().label} {self.status}" if self.status else super().label
