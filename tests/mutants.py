"""`make mutants`: small faults are planted in our code one by one, and the tests have to notice each.

    python -m tests.mutants                                   core, turns, conversations, notifications, http, backends
    python -m tests.mutants conversations/keys http/auth      these modules and packages
    python -m tests.mutants core/model --tests tests/core     with these tests only

mutmut plants them, finds which tests run the code, and runs those. It works in `.mutants`, on copies. Survivors are
printed as differences, except those that only change the words of a text. The exit code is 0 whatever survives, because
some faults change nothing that anybody can see. Functions with decorators, properties among them, get no faults: mutmut
leaves them out.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = Path("src/letta_conversations_mcp")
SCRATCH = ROOT / ".mutants"
COPIED = ("src", "tests", "evals", "docs", "README.md", "pyproject.toml", "constraints.txt")

TESTS: dict[str, Sequence[str]] = {
    "core": ["core", "turns", "conversations"],
    "turns": ["turns", "tools"],
    "conversations": ["conversations", "e2e/test_keys.py", "e2e/test_branches.py", "e2e/test_changing.py"],
    "notifications": ["notifications", "e2e/test_subscriptions.py"],
    "http": ["http"],
    "http/auth/oidc": ["http/test_provider_tokens.py"],
    "http/auth/token_file": ["http/test_tokens_file.py"],
    "http/host_check": ["http/test_host_check.py"],
    "http/limits": ["http/test_limits.py"],
    "http/sessions": ["http/test_sessions.py"],
    "backends": ["backends/test_open.py", "backends/test_pool.py", "backends/letta_api", "e2e", "notifications"],
    "backends/scoped": ["backends/test_scoped.py", "backends/test_scoped_arguments.py"],
    "backends/letta_api/sdk_errors": ["backends/letta_api"],
    "backends/letta_api/stream": ["backends/letta_api"],
    "backends/app_server": [
        "backends/app_server/test_runs.py",
        "backends/app_server/test_hand_over.py",
        "backends/app_server/test_turn_stream.py",
        "backends/app_server/test_reminders.py",
    ],
}
"""For each package or module the tests that state its rules, none of which starts an App Server. More find more, and
take longer for each mutant."""

SETUP = """[mutmut]
source_paths=src
only_mutate=
    {modules}
also_copy=
    {copied}
pytest_add_cli_args=
    --timeout=60
    -W
    ignore
    -m
    not all_ways
    -k
    not process
pytest_add_cli_args_test_selection=
    {tests}
timeout_multiplier=5
timeout_constant=3
"""


def tests_of(name: str) -> Sequence[str]:
    """The paths of the tests for a module or package: its own, or those of the package that it is in."""
    known = [str(each) for each in (Path(name), *Path(name).parents) if str(each) in TESTS]
    return [f"tests/{each}" for each in (TESTS[known[0]] if known else ["e2e"])]


def patterns(names: Sequence[str]) -> list[str]:
    """The files of modules and packages, which are named relative to ours."""
    found: list[str] = []
    for name in names:
        path = PACKAGE / name
        if (ROOT / path).is_dir():
            found.append(f"{path}/*.py")
        elif (ROOT / path).with_suffix(".py").is_file():
            found.append(f"{path.with_suffix('.py')}")
        else:
            raise SystemExit(f"There is no module {name} in {PACKAGE}.")
    return found


def prepare(modules: Sequence[str], tests: Sequence[str]) -> None:
    """Lay out the folder in which mutmut works."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir()
    for name in COPIED:
        (SCRATCH / name).symlink_to(ROOT / name)
    # mutmut reads its section of pyproject.toml or, where that has none, this file.
    (SCRATCH / "setup.cfg").write_text(
        SETUP.format(
            modules="\n    ".join(modules), copied="\n    ".join(COPIED[1:]), tests="\n    ".join(dict.fromkeys(tests))
        )
    )


def mutmut(*arguments: str, capture: bool = False) -> str:
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    return subprocess.run(command, cwd=SCRATCH, check=False, text=True, capture_output=capture).stdout or ""


def is_of_words(difference: str) -> bool:
    """Whether only the words of a text are changed: mutmut writes it in capitals, or puts XX around it."""
    changed: dict[str, list[str]] = {"-": [], "+": []}
    for line in difference.splitlines():
        if line[:1] in changed and not line.startswith(("---", "+++")):
            changed[line[0]].append(line[1:].lower().replace("xx", ""))
    return changed["-"] == changed["+"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument(
        "names",
        nargs="*",
        default=[each for each in TESTS if "/" not in each],
        metavar="MODULE",
        help="core/model, turns, …",
    )
    parser.add_argument("--tests", nargs="+", help="paths of tests, instead of those that belong to the package")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    chosen = parser.parse_args()
    tests: list[str] = chosen.tests or [each for name in chosen.names for each in tests_of(name)]
    prepare(patterns(chosen.names), tests)
    mutmut("run", "--max-children", str(chosen.jobs))
    states = Counter[str]()
    for line in mutmut("results", "--all", "true", capture=True).splitlines():
        name, _, state = line.strip().rpartition(": ")
        if state in ("survived", "no tests"):
            difference = mutmut("show", name, capture=True)
            if is_of_words(difference):
                state = "survived in a text"
            else:
                print(difference)
        states[state] += 1
    total, noticed = states.total(), states["killed"] + states["timeout"]
    print(f"{noticed} of {total} noticed: {', '.join(f'{state} {count}' for state, count in states.most_common())}")
    return 0 if total else 1


if __name__ == "__main__":
    sys.exit(main())
