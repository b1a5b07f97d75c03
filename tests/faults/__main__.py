"""`make faults`: the matrix of what can break while a message is sent, run and counted."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from math import inf

import anyio

from tests.faults.cases import app_server_cases, in_ways, is_core, known, letta_cases
from tests.faults.cell import Case, Evil, Outcome
from tests.faults.matrix import run_matrix, run_scenarios
from tests.faults.places import NAMES, PLACES, Place
from tests.faults.scenarios import SCENARIOS
from tests.faults.stage import Verdict
from tests.faults.table import markdown, write
from tests.rig.servers import ALL_WAYS, Way

CASES = {
    "fake": letta_cases,
    "fake-without-redis": letta_cases,
    "app-server": app_server_cases,
    "live": letta_cases,
    "live-without-redis": letta_cases,
}

UNTIMELY: frozenset[Evil] = frozenset({"lost", "hung", "leaked", "stuck"})
"""What a busy machine alone can cause, because the bounds are short. Nothing excuses the others."""

MOST_AGAIN = 5
"""How many cells and scenarios that failed beside others are run once more, alone."""


def is_chosen(options: argparse.Namespace, way: Way, case: Case) -> bool:
    return re.search(options.match, f"{way} {case}") is not None and (not options.core or is_core(case))


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--live", action="store_true", help="with a real Letta server too")
    parser.add_argument("--only", choices=PLACES, action="append")
    parser.add_argument("--core", action="store_true", help="only the cells that stand for the rest")
    parser.add_argument("--match", default="", help="only cells whose way and description fit this expression")
    parser.add_argument("--kind", choices=("cells", "scenarios"), help="only these")
    parser.add_argument("--verbose", action="store_true", help="every cell in full")
    parser.add_argument("--write", action="store_true", help="put the tables of these servers into docs/faults.md")
    parser.add_argument(
        "--seconds",
        type=float,
        default=inf,
        help="begin no cell after so many; the cells that stand for the rest come first",
    )
    parser.add_argument("--progress", action="store_true", help="every cell on stderr when it is done")
    options = parser.parse_args()
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    outcomes: list[Outcome] = []
    verdicts: list[Verdict] = []
    excused: list[Outcome | Verdict] = []

    def tell(outcome: Outcome) -> None:
        if options.progress:
            print(f"{outcome.seconds:6.1f} s  {outcome.way}  {outcome.case}", file=sys.stderr, flush=True)
        if outcome.evils or options.verbose:
            expected = known(outcome.place, outcome.case)
            print(f"{'known: ' if expected else ''}{outcome}", flush=True)

    def tell_verdict(verdict: Verdict) -> None:
        if options.progress:
            print(f"{verdict.seconds:6.1f} s  {verdict.place}  {verdict.scenario}", file=sys.stderr, flush=True)
        if verdict.evils or options.verbose:
            print(verdict, flush=True)

    started = time.perf_counter()
    names = options.only or [name for name in PLACES if not name.startswith("live") or options.live]
    for number, name in enumerate(names):
        cells = [(way, case) for way, case in in_ways(CASES[name](), NAMES[name]) if is_chosen(options, way, case)]
        if options.seconds < inf:
            cells.sort(key=lambda cell: not is_core(cell[1]))
        scenarios = [
            each
            for each in SCENARIOS
            if NAMES[name] in each.places and re.search(options.match, each.name) and options.kind != "cells"
        ]
        if options.kind == "scenarios":
            cells = []
        remaining = options.seconds - (time.perf_counter() - started)
        async with PLACES[name]() as place:
            played = await run_scenarios(place, scenarios, tell_verdict)
            ran = await run_matrix(place, cells, tell, remaining / (len(names) - number))
            failed = [each for each in (*played, *ran) if unexpected(each)]
            if len(failed) <= MOST_AGAIN:
                untimely = [each for each in failed if unexpected(each) <= UNTIMELY]
                excused += [each for each in untimely if not await fails_again(place, each, tell, tell_verdict)]
        print(f"{name}: {len(played)} scenarios, {len(ran)} of {len(cells)} cells", flush=True)
        outcomes += ran
        verdicts += played
    print(f"\n{markdown(outcomes, verdicts)}Took {time.perf_counter() - started:.0f} s.")
    if options.write:
        write(outcomes, verdicts)
    failed = [each for each in (*outcomes, *verdicts) if unexpected(each) and each not in excused]
    for each in excused:
        print(f"Ran well alone, and not beside others: {name_of(each)}")
    print(f"{len(failed)} are not as they should be." if failed else "Everything is as it should be.")
    return 1 if failed else 0


def unexpected(result: Outcome | Verdict) -> set[Evil]:
    """What went wrong and is not known to."""
    if isinstance(result, Verdict):
        [scenario] = [each for each in SCENARIOS if each.name == result.scenario]
        return set(result.evils) - scenario.known.get(result.place, frozenset())
    expected = known(result.place, result.case)
    return set(result.evils) - (expected.evils if expected else frozenset())


def name_of(result: Outcome | Verdict) -> str:
    return f"{result.place} · {result.scenario if isinstance(result, Verdict) else f'{result.way} · {result.case}'}"


async def fails_again(
    place: Place, result: Outcome | Verdict, tell: Callable[[Outcome], None], tell_verdict: Callable[[Verdict], None]
) -> bool:
    """Whether a cell or scenario also fails when nothing else runs."""
    if isinstance(result, Verdict):
        [scenario] = [each for each in SCENARIOS if each.name == result.scenario]
        return any(map(unexpected, await run_scenarios(place, [scenario], tell_verdict)))
    [way] = [each for each in ALL_WAYS if str(each) == result.way]
    return any(map(unexpected, await run_matrix(place, [(way, result.case)], tell)))


if __name__ == "__main__":
    sys.exit(anyio.run(main))
