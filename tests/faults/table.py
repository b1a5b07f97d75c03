"""The matrix as Markdown: for each server what was broken and when, and what came of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.faults.cell import EVILS, Outcome
from tests.faults.places import NAMES
from tests.faults.plan import Break, Garble, Refuse, Reply

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
GENERATED = re.compile(r"(<!-- matrix: .*? -->\n)(.*?)(<!-- end of the matrix -->)", re.DOTALL)
SECTION = re.compile(r"(^## ([^\n]*)\n.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)


def write(outcomes: Sequence[Outcome]) -> None:
    """Put the matrix into the documentation. The tables of servers that were not run stay."""
    text = PAGE.read_text()
    PAGE.write_text(GENERATED.sub(lambda found: f"{found[1]}{_renewed(found[2], outcomes)}{found[3]}", text))


def _renewed(tables: str, outcomes: Sequence[Outcome]) -> str:
    kept = {place: text for text, place in SECTION.findall(tables)}
    sections = kept | _sections(outcomes)
    return "".join(sections[place] for place in NAMES.values() if place in sections)


def markdown(outcomes: Sequence[Outcome]) -> str:
    return "".join(_sections(outcomes).values())


def _sections(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """A table for each place."""
    places = dict.fromkeys(outcome.place for outcome in outcomes)
    return {place: _section(place, [each for each in outcomes if each.place == place]) for place in places}


def summary(outcomes: Sequence[Outcome]) -> str:
    """The counts in a line."""
    counts = Counter(evil for outcome in outcomes for evil in outcome.evils)
    idle = sum(not outcome.struck for outcome in outcomes)
    note = f" In {idle} of them the exchange was over before the fault's moment." if idle else ""
    return f"{len(outcomes)} cells: {', '.join(f'{counts[evil]} {evil}' for evil in EVILS)}.{note}"


def _section(place: str, outcomes: Sequence[Outcome]) -> str:
    rows: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault(_row(outcome), []).append(outcome)
    lines = [f"## {place}", "", summary(outcomes), _ends(outcomes), ""]
    lines += ["| what breaks | when | cells | not ok |", "|---|---|---|---|"]
    lines += [f"| {what} | {when} | {len(cells)} | {_evils(cells)} |" for (what, when), cells in rows.items()]
    return "\n".join(lines) + "\n\n"


def _row(outcome: Outcome) -> tuple[str, str]:
    case, fault = outcome.case, outcome.case.plan.fault
    if case.leaving is not None:
        return f"the client: {case.leaving}{', and send again' if case.repeats else ''}", str(fault)
    match fault:
        case Break(how, at, everywhere):
            return f"{how}{', all connections' if everywhere else ''}", str(at)
        case Reply(name, taken=taken):
            return name, "though the server has the request" if taken else "instead of the server"
        case Garble():
            return str(fault), "in the answer"
        case Refuse():
            return str(fault), "before the request"
        case _:
            return str(fault), ""


def _evils(cells: Sequence[Outcome]) -> str:
    counts = Counter(evil for cell in cells for evil in cell.evils)
    return ", ".join(f"{count} {evil}" for evil, count in counts.items()) or "–"


def _ends(outcomes: Sequence[Outcome]) -> str:
    """How the client came by its reply."""
    sent_again = sum(outcome.sends > 1 for outcome in outcomes)
    at_once = sum(len(outcome.calls) == 1 for outcome in outcomes)
    looked = sum(outcome.sends == 1 and outcome.calls[-1].tool == "list_messages" for outcome in outcomes)
    waited = len(outcomes) - sent_again - at_once - looked
    longest = max(call.seconds for outcome in outcomes for call in outcome.calls)
    return (
        f"The reply came with the first answer in {at_once}, from `wait_for_reply` in {waited}, from "
        f"`list_messages` in {looked}, and after the client had sent the message again, as it was told or because it "
        f"had given up, in {sent_again}. The longest call took {longest:.1f} s."
    )
