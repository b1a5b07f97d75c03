"""`make conformance`: the official conformance suite against our server, on both wires, and on the tasks extension.

What is expected to fail is listed, with reasons, in the files beside this one; anything else that fails, and anything
that is listed and passes, is an error, and so is every message that breaks the schema of the protocol.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from mcp.shared.exceptions import MCPDeprecationWarning

from tests.conformance.server import fixture_server

HERE = Path(__file__).parent
INSTALLED = HERE.parent.parent / ".conformance"

WIRES = ("2025-11-25", "2026-07-28")

TASK_SCENARIOS = (
    "tasks-lifecycle",
    "tasks-capability-negotiation",
    "tasks-wire-fields",
    "tasks-request-state-removal",
    "tasks-request-headers",
    "tasks-dispatch-and-envelope",
)
"""Not the ones for tasks that ask the client something (tasks-mrtr-input, tasks-mrtr-composition), nor that for tools
which work as a task only (tasks-required-task-error): ours do not ask, and work without. The suite itself leaves out
tasks-status-notifications."""

INSTALL_SECONDS = 300
SUITE_SECONDS = 300


class NotInstalled(Exception):
    """The suite cannot be had here. Its text says why."""


async def run(*command: str | Path, seconds: float) -> tuple[int, str]:
    """Run a program to its end: its status, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), seconds)
    except TimeoutError:
        process.kill()
        await process.wait()
        return 1, f"{command[0]} took longer than {seconds:g} seconds"
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


async def install() -> tuple[Path, Path]:
    """The Node.js and the suite, installed unless they are. Raises NotInstalled."""
    npm = shutil.which("npm")
    node = INSTALLED / "node_modules/node/bin/node"
    suite = INSTALLED / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    wanted = (HERE / "package.json").read_text()
    marker = INSTALLED / "installed.json"
    if marker.exists() and marker.read_text() == wanted and node.exists() and suite.exists():
        return node, suite
    if npm is None:
        raise NotInstalled("there is no npm on this machine to install the suite with")
    INSTALLED.mkdir(exist_ok=True)
    shutil.copy(HERE / "package.json", INSTALLED)
    status, output = await run(
        npm, "install", "--prefix", INSTALLED, "--no-audit", "--no-fund", "--no-package-lock", seconds=INSTALL_SECONDS
    )
    if status or not node.exists():
        reason = output.strip().splitlines()[-1][:300] if output.strip() else f"status {status}"
        raise NotInstalled(f"npm could not install the suite ({reason})")
    marker.write_text(wanted)
    return node, suite


def schema_violations(results: Path) -> Iterator[str]:
    """The messages that we sent and that the schema of the protocol does not allow."""
    for file in sorted(results.rglob("checks.json")):
        for check in json.loads(file.read_text()):
            if check["id"] == "wire-schema-valid" and check["status"] == "FAILURE":
                yield f"{file.parent.name}: {json.dumps(check.get('details', check.get('errorMessage')))[:1000]}"


def shown(output: str) -> str:
    """Of what the suite printed, its summary; all of it when it has none."""
    begin = output.find("=== SUMMARY ===")
    return output[begin:].strip() if begin >= 0 else output.strip()


async def main() -> int:
    if os.environ.get("SKIP_CONFORMANCE"):
        print("conformance: SKIPPED as SKIP_CONFORMANCE says, nothing was checked")
        return 0
    try:
        node, suite = await install()
    except NotInstalled as reason:
        print(f"conformance: FAILED, nothing was checked: {reason}; SKIP_CONFORMANCE=1 leaves it out")
        return 1
    failed: list[str] = []
    with TemporaryDirectory() as folder:
        results = Path(folder)
        async with fixture_server() as url:
            base = (node, suite, "server", "--url", url, "-o", results)
            for wire in WIRES:
                expected = HERE / f"expected-failures-{wire}.yml"
                status, output = await run(
                    *base, "--suite", "all", "--spec-version", wire, "--expected-failures", expected,
                    seconds=SUITE_SECONDS,
                )  # fmt: skip
                print(f"\n##### Wire {wire}\n{shown(output)}")
                failed += [f"the suite on {wire}"] if status else []
            print("\n##### The tasks extension")
            for scenario in TASK_SCENARIOS:
                # Extensions are in no suite, and run only when forced.
                status, output = await run(
                    *base, "--scenario", scenario, "--spec-version", WIRES[-1], "--force", seconds=SUITE_SECONDS
                )
                counts = re.search(r"Passed: (\d+)/\d+, (\d+) failed", output)
                if status or not counts:
                    failed.append(scenario)
                    print(output)
                else:
                    print(f"✓ {scenario}: {counts[1]} passed, {counts[2]} failed")
        violations = list(schema_violations(results))
        checked = sum(1 for _ in results.rglob("checks.json"))
    for violation in violations:
        print(f"not allowed by the schema: {violation}")
    if not checked:
        failed.append("the suite left no results")
    print(f"\nconformance: {checked} scenarios, {len(violations)} violations of the schema", end="")
    print(f", FAILED: {', '.join(failed)}" if failed else ", nothing unexpected")
    return 1 if failed or violations else 0


if __name__ == "__main__":
    # Fixtures use what the newer protocol has given up, because the suite asks for it on the older wire.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    for name in [each for each in os.environ if each.startswith("LETTA_")]:
        del os.environ[name]
    sys.exit(asyncio.run(main()))
