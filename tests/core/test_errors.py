"""What the reader is told when something goes wrong."""

from __future__ import annotations

import re

import pytest

from letta_conversations_mcp.core import errors
from letta_conversations_mcp.core.errors import (
    Ambiguous,
    AwaitingApproval,
    Busy,
    ConversationError,
    Forbidden,
    InvalidArgument,
    NoReply,
    NotConfigured,
    NotConfirmed,
    NotFound,
    NothingPending,
    Overloaded,
    Refused,
    ServerFault,
    ShuttingDown,
    TimedOut,
    TooManyHops,
    TooManyRequests,
    Unauthorized,
    Unreachable,
)

CONVERSATION = "conv-123e4567-e89b-42d3-a456-426614174000"
AGENT = "agent-123e4567-e89b-42d3-a456-426614174000"


SAID: dict[str, tuple[ConversationError, list[str]]] = {
    "InvalidArgument": (InvalidArgument("limit", "it may be 1 to 100."), ["limit:", "Nothing was done", "call again"]),
    "NotFound.conversation": (NotFound.conversation(CONVERSATION), [CONVERSATION, "list_conversations"]),
    "NotFound.agent": (NotFound.agent("Ana"), ["agent 'Ana'", "list_agents"]),
    "NotFound.agent, similar": (NotFound.agent("Ana", [f"'Anna' ({AGENT})"]), ["'Ana'", f"Closest: 'Anna' ({AGENT})"]),
    "NotFound.run": (NotFound.run("run-1"), ["no run run-1", "wait_for_reply"]),
    "NotFound.message": (NotFound.message("message-1"), ["no message message-1", "list_messages"]),
    "NoReply": (NoReply("conv-1"), ["Nothing was sent in conv-1 yet", "send_message"]),
    "Ambiguous": (Ambiguous("Ana", [AGENT, "agent-2"]), ["2 agents are called 'Ana'", f"{AGENT}, agent-2", "again"]),
    "NotConfirmed": (NotConfirmed("It is deleted for good."), ["Nothing was done", "for good", "confirm=true"]),
    "Refused": (Refused("compact it", "too little.", "Later."), ["refused to compact it: too little. Later."]),
    "Refused, no step": (Refused("compact it", "too little"), ["refused to compact it: too little."]),
    "Forbidden": (Forbidden("delete", "delete"), ["Nothing was done", "'delete'", "another token"]),
    "Overloaded": (Overloaded("5 turns are running", 7), ["Busy", "5 turns", "Nothing was done", "in 7 seconds"]),
    "Busy": (Busy(CONVERSATION), [CONVERSATION, "Nothing was sent", "wait_for_reply", "send again"]),
    "Busy, run": (Busy(CONVERSATION, "run-1"), ["(run run-1)", "Nothing was sent", "wait_for_reply"]),
    "AwaitingApproval": (AwaitingApproval(CONVERSATION), [CONVERSATION, "Nothing was sent", "respond_to_approval"]),
    "NothingPending": (NothingPending(CONVERSATION), [CONVERSATION, "No tool call waits", "Nothing was sent"]),
    "NothingPending, others": (NothingPending(CONVERSATION, ["call_1"]), ["Only call_1", "Nothing was sent"]),
    "TooManyHops": (TooManyHops(6, 5), ["message 6", "at most 5", "Nothing was sent", "--max-depth"]),
    "Unauthorized": (
        Unauthorized("http://letta.local", key_given=True),
        ["did not accept the key", "Nothing was done", "LETTA_API_KEY"],
    ),
    "Unauthorized, no key": (Unauthorized("http://letta.local", key_given=False), ["LETTA_API_KEY is not set"]),
    "Unreachable": (
        Unreachable.nothing_answers("http://letta.local"),
        ["cannot be reached", "Nothing was done", "LETTA_BASE_URL"],
    ),
    "Unreachable, other": (
        Unreachable.no_letta_server("http://letta.local"),
        ["not a Letta REST server", "LETTA_BASE_URL"],
    ),
    "NotConfigured": (
        NotConfigured("HTTP_PROXY is no URL.", "Correct or unset it."),
        ["HTTP_PROXY is no URL", "Nothing was done", "A person has to", "restart", "Correct or unset it"],
    ),
    "TimedOut": (TimedOut("list the runs", 60.0, "Call again."), ["within 60 s", "list the runs", "Call again."]),
    "TooManyRequests": (TooManyRequests("take it", 7), ["refused to take it", "Nothing was done", "Wait 7 seconds"]),
    "TooManyRequests, no time": (TooManyRequests("take it", None), ["Wait a little"]),
    "ShuttingDown": (ShuttingDown(), ["shutting down", "Nothing was done", "again in 5 seconds"]),
    "ServerFault": (
        ServerFault("list the runs", 500, "it broke", "Call again."),
        ["list the runs", "HTTP 500: it broke", "Call again."],
    ),
    "ServerFault, silent": (ServerFault("list the runs", 503, "", "Call again."), ["(HTTP 503)", "Call again."]),
}


@pytest.mark.parametrize("case", SAID)
def test_every_error_says_what_happened_and_what_to_do_next(case: str) -> None:
    error, facts = SAID[case]
    text = str(error)

    assert [fact for fact in facts if fact not in text] == []
    assert text[-1] == "."
    assert len(text) < 500
    assert not re.search(r"None|\(\)|''|\.\.|  | \.|: \.", text), "a hole where a fact should be"


@pytest.mark.parametrize("case", SAID)
def test_a_person_at_a_terminal_is_not_told_to_call_tools(case: str) -> None:
    text = SAID[case][0].for_person

    assert text[-1] == "."
    assert not re.search(r"\b[a-z]+_(agents|conversations|messages|message|for_reply|to_approval)\b|A person has", text)


def test_every_kind_of_error_is_in_the_table_and_in_the_tree_that_the_module_draws() -> None:
    # A backend may have kinds of its own, which are not this module's to draw.
    subclasses = ConversationError.__subclasses__()
    kinds = {each.__name__ for each in subclasses if each.__module__ == errors.__name__}

    assert {case.split(",")[0].split(".")[0] for case in SAID} == kinds
    assert [kind for kind in kinds if f"── {kind} " not in (errors.__doc__ or "")] == []


def test_a_connection_that_broke_is_not_told_as_an_http_status() -> None:
    assert "HTTP 0" not in str(ServerFault("list the runs", 0, "the connection broke", "Call again."))


def test_a_sentence_can_be_added_further_up() -> None:
    error = Busy(CONVERSATION)
    before = str(error)

    error.add("The new conversation is there.")

    assert str(error) == f"{before} The new conversation is there."
    assert error.for_person.endswith("The new conversation is there.")


@pytest.mark.parametrize(
    ("error", "facts"),
    [
        (InvalidArgument("model_settings", "no."), {"argument": "model_settings", "problem": "no."}),
        (NotFound.agent("Ana"), {"kind": "agent", "identifier": "'Ana'"}),
        (Busy(CONVERSATION, "run-1"), {"conversation_id": CONVERSATION, "run_id": "run-1"}),
        (ServerFault("list the runs", 503, "", "Call again."), {"status": 503}),
        (Ambiguous("Ana", [AGENT, "agent-2"]), {"name": "Ana", "candidates": (AGENT, "agent-2")}),
    ],
)
def test_an_error_holds_its_facts_for_whoever_handles_it(error: ConversationError, facts: dict[str, object]) -> None:
    assert facts.items() <= vars(error).items()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            InvalidArgument("model", "this server has no 'x'; it has a, b; list_models shows more."),
            "model: this server has no 'x'; it has a, b. Nothing was done.",
        ),
        (
            ServerFault(
                "open it", 500, "oops", "It may be there: look with list_conversations before opening another."
            ),
            "Letta failed when asked to open it (HTTP 500: oops). It may be there.",
        ),
        (
            TimedOut("list them", 60, "Nothing was changed; the same call can be made again."),
            "Letta did not answer within 60 s when asked to list them. Nothing was changed.",
        ),
        (Refused("do it", "y", "Correct the arguments and call again."), "Letta refused to do it: y."),
        (
            NotFound.agent("x", ["'y' (agent-1)"]),
            (
                "There is no agent 'x' (unknown, deleted, or not visible to this key). Closest: 'y' (agent-1). Names "
                "are exact; an id is surest."
            ),
        ),
    ],
)
def test_a_person_is_given_no_advice_that_only_a_model_can_follow(error: ConversationError, words: str) -> None:
    assert error.for_person == words
    assert len(str(error)) >= len(words)


def test_what_is_added_for_a_model_is_not_added_for_a_person() -> None:
    error = Refused("do it", "y")

    error.add("mode='all' needs fewer messages. compact(mode='all') does it.")

    assert str(error).endswith("compact(mode='all') does it.")
    assert error.for_person == "Letta refused to do it: y. mode='all' needs fewer messages."


@pytest.mark.parametrize(
    "error",
    [
        Unauthorized("https://ann:hush@letta.local:8283", key_given=True),
        Unreachable.nothing_answers("https://ann:hush@letta.local:8283"),
        Unreachable.no_letta_server("https://ann:hush@letta.local:8283"),
    ],
)
def test_the_address_of_letta_is_for_a_person_and_its_password_for_nobody(error: ConversationError) -> None:
    assert "letta.local" not in str(error)
    assert "https://letta.local:8283" in error.for_person
    assert "hush" not in str(error) + error.for_person
