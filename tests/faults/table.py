"""The matrix as Markdown: for each server what was broken and when, and what came of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.faults.cell import EVILS, Outcome
from tests.faults.places import NAMES
from tests.faults.plan import Break, Garble, Refuse, Reply
from tests.faults.stage import Verdict

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
GENERATED = re.compile(r"(<!-- matrix: .*? -->\n)(.*?)(<!-- end of the matrix -->)", re.DOTALL)
SECTION = re.compile(r"(^## ([^\n]*)\n.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)


def write(outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]) -> None:
    """Put the matrix into the documentation. The tables of servers that were not run stay."""
    text = PAGE.read_text()
    PAGE.write_text(GENERATED.sub(lambda found: f"{found[1]}{_renewed(found[2], outcomes, verdicts)}{found[3]}", text))


def _renewed(tables: str, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]) -> str:
    kept = {place: text for text, place in SECTION.findall(tables)}
    sections = kept | _sections(outcomes, verdicts)
    return "".join(sections[place] for place in NAMES.values() if place in sections)


def markdown(outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]) -> str:
    return "".join(_sections(outcomes, verdicts).values())


def _sections(outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]) -> dict[str, str]:
    """The tables of each place that was run."""
    places = dict.fromkeys(each.place for each in (*outcomes, *verdicts))
    return {
        place: _section(
            place,
            [each for each in outcomes if each.place == place],
            [each for each in verdicts if each.place == place],
        )
        for place in places
    }


def _section(place: str, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]) -> str:
    lines = [f"## {place}", ""]
    if outcomes:
        idle = sum(not outcome.struck for outcome in outcomes)
        note = f" In {idle} of them the exchange was over before the fault's moment." if idle else ""
        lines += [f"{len(outcomes)} cells: {_counts(outcomes)}.{note} {_ends(outcomes)}", ""]
        rows: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            rows.setdefault(_row(outcome), []).append(outcome)
        lines += ["| what breaks | moments | cells | not ok |", "|---|---|---|---|"]
        for what, cells in rows.items():
            moments = len({str(cell.case.plan.fault) for cell in cells})
            lines.append(f"| {what} | {moments} | {len(cells)} | {_evils(cells)} |")
        lines.append("")
    if verdicts:
        lines += [f"{len(verdicts)} scenarios: {_counts(verdicts)}.", ""]
        good = [each.scenario for each in verdicts if not each.evils]
        lines += ["| scenario | not ok |", "|---|---|"] if len(good) < len(verdicts) else []
        lines += [f"| {each.scenario} | {', '.join(each.evils)} |" for each in verdicts if each.evils]
        lines += ["", f"All well in: {'; '.join(good)}."] if good else []
        lines.append("")
    return "\n".join(lines) + "\n"


def _counts(results: Sequence[Outcome] | Sequence[Verdict]) -> str:
    counts = Counter(evil for each in results for evil in each.evils)
    return ", ".join(f"{counts[evil]} {evil}" for evil in EVILS)


def _row(outcome: Outcome) -> str:
    case, fault = outcome.case, outcome.case.plan.fault
    if case.leaving is not None:
        return f"the client: {case.leaving}{', and send again' if case.repeats else ''}"
    match fault:
        case Break(how, _, everywhere):
            return f"{how}{', all connections' if everywhere else ''}"
        case Reply(name, taken=taken):
            return f"{name}, though the message was taken" if taken else name
        case Garble() | Refuse():
            return str(fault)
        case _:
            return str(fault)


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
