"""The table of the matrix: which faults, where, how often, and what is known to go wrong.

A case of the core runs in every way to reach our server; the others take the ways in turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import get_args

from tests.faults.cell import Case, Evil
from tests.faults.clients import Leaving, ends_server
from tests.faults.places import APP_SERVER, FAKE_WITHOUT_REDIS, WITHOUT_REDIS
from tests.faults.plan import At, Break, Fault, Garble, Garbling, How, Plan, Refuse, Reply, Wait
from tests.rig.servers import ALL_WAYS, Way

CONFLICT = "CONFLICT: Cannot send a new message: "
BUSY = {
    "detail": f"{CONFLICT}Another request (run_id=run-00000000-0000-4000-8000-000000000000) is currently being "
    "processed for this conversation. Please wait for it to complete."
}
APPROVAL = {
    "detail": f"{CONFLICT}The agent is waiting for approval on a tool call. "
    "Please approve or deny the pending request before continuing."
}
PAGE = "<html><body><h1>Bad Gateway</h1></body></html>"
OOPS = {"detail": "An internal error occurred"}
NO_WORKER = {"detail": "no worker"}
REFUSED_INPUT = {
    "type": "input_accepted",
    "accepted": False,
    "error": "Input was rejected by the queue or durable ledger",
}

REPLIES = (
    Reply("409 busy", 409, BUSY),
    Reply("409 awaiting approval", 409, APPROVAL),
    Reply("429", 429, {"detail": "Rate limited"}, {"retry-after": "1"}),
    Reply("500", 500, OOPS),
    Reply("502 with a page", 502, PAGE),
    Reply("503", 503, NO_WORKER),
    Reply("504", 504, PAGE),
    Reply("500", 500, OOPS, taken=True),
    Reply("502 with a page", 502, PAGE, taken=True),
    Reply("503", 503, NO_WORKER, taken=True),
    Reply("504", 504, PAGE, taken=True),
)

STAGES = (At("request"), At("forwarded"), At("answer"), At("head"))
EVENTS = tuple(At("event", number) for number in range(1, 8))
"""Of a turn without tools: a ping, the reply, its end, its usage, and the mark at the end of the stream; a tool call
and its return come after the ping."""

FRAMES = tuple(At("event", number) for number in (1, 3, 5, 6, 8, 12))
"""States of the loop come first, then the pieces of the reply, and three more frames at the end."""

FURTHER = (0, 2, None)
ALONE: tuple[Garbling, ...] = get_args(Garbling)
LEAVINGS: tuple[Leaving, ...] = get_args(Leaving)


def letta_cases() -> Iterator[Case]:
    """For a server with the REST API."""
    for further in FURTHER:
        yield Case(Plan(Refuse(), further)) if further is None else Case(Plan(Refuse(), None), first=True)
        for how in get_args(How):
            for at in STAGES:
                if how != "end" or at.stage == "head":
                    yield from with_turns(Break(how, at), further)
            for at in EVENTS[:5]:
                yield Case(Plan(Break(how, at), further))
            for at in EVENTS[:3]:
                yield Case(Plan(Break(how, at), further), "slow")
                yield Case(Plan(Break(how, at), further), "long")
        for reply in REPLIES:
            yield from with_turns(reply, further) if reply.taken else [Case(Plan(reply, further))]
    yield from (Case(Plan(Garble(how))) for how in ALONE)
    yield from (Case(Plan(Garble(how)), "slow") for how in ALONE)
    for at in STAGES[:2]:
        yield from (
            Case(Plan(Break(how, at), further), first=True) for how in ("reset", "stall") for further in FURTHER
        )
    for at in (At("request"), At("forwarded"), At("event", 2), At("event", 30)):
        yield from (Case(Plan(Break("reset", at), further), "many") for further in FURTHER)


def app_server_cases() -> Iterator[Case]:
    """For an App Server."""
    for further in FURTHER:
        for everywhere in (False, True):
            for how in get_args(How):
                if everywhere and how in ("stall", "end"):
                    continue
                for at in STAGES:
                    yield from with_turns(Break(how, at, everywhere), further)
                for at in FRAMES:
                    yield Case(Plan(Break(how, at, everywhere), further))
                for at in FRAMES[:2]:
                    yield Case(Plan(Break(how, at, everywhere), further), "slow")
                    yield Case(Plan(Break(how, at, everywhere), further), "long")
    yield Case(Plan(Refuse(), None))
    yield Case(Plan(Refuse(), None), first=True)
    yield Case(Plan(Reply("input refused", 409, REFUSED_INPUT)))
    yield from (Case(Plan(Garble(how))) for how in ALONE if how != "reply not utf-8")


def with_turns(fault: Fault, further: int | None) -> Iterator[Case]:
    for turn in ("quick", "slow", "long", "late"):
        if turn == "quick" or not (isinstance(fault, Break) and fault.at.stage == "request"):
            yield Case(Plan(fault, further), turn)


def leaving_cases(way: Way, place: str) -> Iterator[Case]:
    """What a client can do to a turn, in this way to reach our server."""
    for leaving in LEAVINGS:
        if (leaving == "kill" and way.transport != "stdio") or (leaving == "disconnect" and way.transport == "stdio"):
            continue
        for at in (*STAGES[:2], At("head"), At("event", 1), At("event", 3)):
            yield Case(Plan(Wait(at)), "slow", leaving)
            # Our server lives on and knows the message again; a new one does where the turn keeps others out.
            if not ends_server(leaving, way) or place not in WITHOUT_REDIS:
                yield Case(Plan(Wait(at)), "slow", leaving, repeats=True)
        yield Case(Plan(Wait(At("request"))), "slow", leaving, first=True)
        if place != APP_SERVER and not (ends_server(leaving, way) and place in WITHOUT_REDIS):
            yield Case(Plan(Wait(At("event", 30))), "many", leaving, repeats=True)


def is_core(case: Case) -> bool:
    """Those that stand for the rest: run in every way."""
    match case.plan.fault:
        case Break(how, at, everywhere):
            stages = at in (*STAGES[:3], At("event", 1))
            return (
                how in ("reset", "stall")
                and stages
                and case.plan.further == 0
                and case.turn in ("quick", "slow")
                and not everywhere
            )
        case Garble(how):
            return how in ("halves", "unknown kind") and case.turn == "quick"
        case Refuse():
            return not case.first
        case Reply(name, taken=taken):
            return (
                (name, taken) in (("409 busy", False), ("503", True))
                and case.turn == "quick"
                and case.plan.further == 0
            )
        case _:
            return False


def in_ways(cases: Iterator[Case], place: str) -> Iterator[tuple[Way, Case]]:
    """Each case with the ways in which it is run at a place."""
    turn = cycle(ALL_WAYS)
    for case in cases:
        if is_core(case):
            yield from ((way, case) for way in ALL_WAYS)
        else:
            yield next(turn), case
    for way in ALL_WAYS:
        yield from ((way, case) for case in leaving_cases(way, place))


@dataclass(frozen=True)
class Known:
    """What is known to go wrong: in the cells of these servers whose description fits `cells`."""

    places: frozenset[str]
    cells: str
    evils: frozenset[Evil]
    why: str

    def covers(self, place: str, case: Case) -> bool:
        return place in self.places and re.search(self.cells, str(case)) is not None


KNOWN: tuple[Known, ...] = (
    Known(
        frozenset({APP_SERVER}),
        r"^(?:reset|close|end) everywhere (?:once|instead|after)",
        frozenset({"wrong", "lost", "stuck", "leaked"}),
        "the App Server stops a turn that nobody is subscribed to any more, and its conversation takes no other",
    ),
)


def known(place: str, case: Case) -> Known | None:
    """What is known of a cell."""
    return next((each for each in KNOWN if each.covers(place, case)), None)


def stalls(case: Case) -> bool:
    return isinstance(case.plan.fault, Break) and case.plan.fault.how == "stall"


def sample(place: str) -> list[tuple[Way, Case]]:
    """The cells that every run of the tests has: those of the core once each, in the ways in turn, and a few of the
    clients that go away."""
    if place == APP_SERVER:
        one_way = Way("memory", "modern")
        cases = [
            Case(Plan(Break("reset", At("request")))),
            Case(Plan(Break("reset", At("forwarded")), None), "long"),
            Case(Plan(Refuse(), None)),
            Case(Plan(Reply("input refused", 409, REFUSED_INPUT))),
            Case(Plan(Garble("halves"))),
            Case(Plan(Garble("unknown kind"))),
            Case(Plan(Wait(At("event", 1))), "slow", "cancel"),
        ]
        return [(one_way, case) for case in cases]
    if place == FAKE_WITHOUT_REDIS:
        return [
            (Way("memory", "modern"), Case(Plan(Break("reset", At("request"))))),
            (Way("memory", "modern"), Case(Plan(Break("reset", At("forwarded"))), "slow")),
            (Way("memory", "modern"), Case(Plan(Break("stall", At("answer"))))),
            (Way("memory", "modern"), Case(Plan(Break("end", At("event", 2))))),
            (Way("memory", "modern"), Case(Plan(Reply("502 with a page", 502, PAGE, taken=True), 2))),
            (Way("memory", "modern"), Case(Plan(Break("reset", At("event", 30)), 2), "many")),
            (Way("memory", "modern"), Case(Plan(Garble("twice")))),
            (Way("stdio", "modern"), Case(Plan(Wait(At("event", 1))), "slow", "kill")),
        ]
    core = [case for case in letta_cases() if is_core(case) and (case.turn == "quick" or not stalls(case))]
    leaving = [
        (Way("stdio", "legacy"), Case(Plan(Wait(At("request"))), "slow", "kill", first=True)),
        (Way("stdio", "modern"), Case(Plan(Wait(At("event", 1))), "slow", "kill")),
        (Way("http", "modern"), Case(Plan(Wait(At("event", 1))), "slow", "disconnect")),
        (Way("http", "legacy"), Case(Plan(Wait(At("request"))), "slow", "cancel")),
        (Way("memory", "modern"), Case(Plan(Wait(At("head"))), "slow", "time out")),
        (Way("memory", "modern"), Case(Plan(Wait(At("request"))), "slow", "disconnect")),
        (Way("stdio", "legacy"), Case(Plan(Wait(At("request"))), "slow", "time out", repeats=True)),
        (Way("http", "modern"), Case(Plan(Wait(At("event", 1))), "slow", "disconnect", repeats=True)),
        (Way("stdio", "modern"), Case(Plan(Wait(At("event", 1))), "slow", "kill", repeats=True)),
        (Way("stdio", "modern"), Case(Plan(Wait(At("event", 30))), "many", "kill", repeats=True)),
        (Way("memory", "modern"), Case(Plan(Break("reset", At("event", 30)), None), "many")),
    ]
    return [*zip(cycle(ALL_WAYS), core, strict=False), *leaving]
