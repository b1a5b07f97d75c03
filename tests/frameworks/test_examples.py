"""The examples of docs/frameworks.md: each framework, in its own environment, asks a Letta agent through our server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio.to_thread
import pytest

from tests.frameworks.environments import ROOT, examples, python_of
from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Say, ScriptedModel, Use
from tests.rig.openai_model import serve_model

EXAMPLES = examples()
RUN_SECONDS = 100
"""For a framework to be imported and to answer; some take ten seconds on a quiet machine."""

pytestmark = [
    pytest.mark.fake_only,
    pytest.mark.slow(reason="frameworks take seconds to import"),
    pytest.mark.timeout(150),
]


def installed(example: str) -> None:
    """Skips the test if the framework of its example is not installed."""
    if not python_of(example).exists():
        pytest.skip("make frameworks installs the frameworks")


def run(example: str, arguments: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [python_of(example), ROOT / "examples" / f"{example}.py", *arguments],
        env={**os.environ, "PATH": path, "NO_PROXY": "127.0.0.1", **variables},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


def test_every_example_has_its_requirements() -> None:
    assert set(EXAMPLES) == {path.stem for path in (ROOT / "examples").glob("*.py")}


@pytest.mark.parametrize("example", [name for name in EXAMPLES if name != "plain_mcp"])
async def test_an_agent_of_the_framework_asks_a_letta_agent_once(example: str, letta: Letta) -> None:
    installed(example)
    agent_id, name = await letta.new_agent()
    letta.model.enqueue(Say("On Friday."))
    supervisor = ScriptedModel()
    ask = Use("send_message", {"agent": name, "message": "When is invoice 4711 due?", "message_key": f"job {agent_id}"})
    finish = Use("final_answer", {"answer": "The invoice is due on Friday."})
    last = CallTools((finish,)) if example == "smolagents_agent" else Say("The invoice is due on Friday.")
    supervisor.enqueue(CallTools((ask,)), last)

    async with serve_model(supervisor) as url:
        variables = {
            "LETTA_BASE_URL": letta.base_url,
            "OPENAI_BASE_URL": url,
            "OPENAI_API_BASE": url,
            "OPENAI_API_KEY": "none",
            "MODEL": "fake-1",
        }
        done = await anyio.to_thread.run_sync(run, example, ["When is invoice 4711 due?"], variables)

    assert done.returncode == 0, done.stderr[-2000:]
    assert "The invoice is due on Friday." in done.stdout
    assert [call.text for call in letta.model.calls] == ["When is invoice 4711 due?"]
    assert "On Friday." in str(supervisor.calls[-1].messages)


async def test_the_plain_client_asks_a_letta_agent_once(letta: Letta) -> None:
    installed("plain_mcp")
    _, name = await letta.new_agent()
    letta.model.enqueue(Say("On Friday."))

    done = await anyio.to_thread.run_sync(
        run, "plain_mcp", [name, "When is invoice 4711 due?"], {"LETTA_BASE_URL": letta.base_url}
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "On Friday."
