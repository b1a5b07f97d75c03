"""The demo as a person runs it: the command in a process of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from rich.console import Console

from letta_conversations_mcp.cli.demo.agent import tell
from letta_conversations_mcp.cli.demo.stand_in_model import FIRST_WORDS, NAME, answer
from tests.rig.fake_letta import FakeLetta
from tests.rig.loopback import loopback_socket
from tests.rig.model import Refuse, ScriptedModel
from tests.rig.openai_model import serve_model

COMMAND = Path(sys.executable).with_name("letta-conversations-mcp")

SECONDS = 100


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A machine without a model, whatever the developer's has."""
    with loopback_socket() as unused:
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    models = dict.fromkeys(("LMSTUDIO_BASE_URL", "OLLAMA_BASE_URL", "LLAMA_CPP_BASE_URL"), nowhere)
    kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("COVERAGE_")}
    return {**kept, **models, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}


async def run(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Its exit status, and all that it says."""
    with anyio.fail_after(SECONDS):
        done = await anyio.run_process(
            [COMMAND, "demo", *arguments], env=environment, check=False, stderr=subprocess.STDOUT
        )
    return done.returncode, done.stdout.decode()


def configuration(shown: str) -> dict[str, object]:
    return json.loads(shown[shown.index("\n{") :])["mcpServers"]["letta"]


@pytest.mark.slow(reason="the whole tour, with a server that is started twice")
async def test_the_demo_shows_the_main_job_on_a_machine_without_a_model(
    environment: dict[str, str], tmp_path: Path
) -> None:
    status, shown = await run(environment)

    assert status == 0, shown
    assert "scripted stand-in for a language model, which runs here too" in shown
    told, unknown, found = (
        shown.index(f"{FIRST_WORDS} {words}")
        for words in ("Noted: invoice 4711", "I do not know: I am sent nothing about invoice 4711", "On Friday")
    )
    assert told < unknown < shown.index("  > On Friday: I find that earlier in this conversation.") < found
    assert shown.count("Ann: I find that in this agent's memory.") == 3  # twice when asked, once in the transcript
    assert "… looking up where the message goes, 0 s" in shown
    for call in ("create_agent", "create_conversation", "fork", "list_conversations", "compact", "delete"):
        assert f"▶ {call}(" in shown
    assert f"{FIRST_WORDS} On Friday: I find that in the summary." in shown
    assert "\n  **user** · " in shown
    assert shown.index("call again with confirm=true") < shown.index("Hid conversation local-conv-1")
    assert configuration(shown)["command"] == str(COMMAND)
    assert not list(tmp_path.glob("letta-demo-*"))


async def test_the_demo_takes_the_model_that_is_there_and_says_so(environment: dict[str, str]) -> None:
    async with serve_model(ScriptedModel()) as url:
        status, shown = await run({**environment, "LMSTUDIO_BASE_URL": url})

    assert status == 0, shown
    assert "a model that is configured here: lmstudio/fake-1" in shown
    assert "echo: " in shown
    assert FIRST_WORDS not in shown


async def test_a_model_that_fails_ends_the_demo_in_a_sentence(environment: dict[str, str], tmp_path: Path) -> None:
    model = ScriptedModel()
    model.enqueue(*(Refuse(401, "no such key") for _ in range(4)))
    async with serve_model(model) as url:
        status, shown = await run({**environment, "LMSTUDIO_BASE_URL": url})

    assert status == 1
    assert "The agent did not answer (failed). The turn failed: " in shown
    assert "no such key" in shown
    assert "Traceback" not in shown
    assert not list(tmp_path.glob("letta-demo-*"))


async def test_a_machine_without_git_ends_the_demo_in_a_sentence(environment: dict[str, str], tmp_path: Path) -> None:
    status, shown = await run({**environment, "PATH": str(tmp_path)}, "--stand-in")

    assert status == 1
    assert "the program git is missing" in shown
    assert "Traceback" not in shown


async def test_the_demo_talks_with_an_agent_of_ones_own_and_leaves_nothing(environment: dict[str, str]) -> None:
    fake = FakeLetta(ScriptedModel())
    fake.add_agent("my agent")
    async with fake.serve() as url:
        status, shown = await run({**environment, "LETTA_BASE_URL": url}, "--agent", "my agent")
        nameless = await run({**environment, "LETTA_BASE_URL": url})

    assert status == 0, shown
    assert "With your agent 'my agent'" in shown
    assert shown.count("Deleted conversation conv-") == 3
    assert configuration(shown)["env"] == {"LETTA_BASE_URL": url}
    assert nameless[0] == 1
    assert "--agent 'my agent'" in nameless[1]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_narrow_terminal_gets_whole_words_and_a_file_gets_whole_lines(is_terminal: bool) -> None:
    text = "A real Letta agent is made on this machine, in a folder that is thrown away afterwards."
    written = io.StringIO()

    tell(Console(width=50, force_terminal=is_terminal, file=written), text)

    lines = written.getvalue().splitlines()
    assert " ".join(line.strip() for line in lines) == text
    assert (max(map(len, lines)) <= 50) == is_terminal


def test_the_scripted_model_finds_only_what_it_is_sent() -> None:
    asked = {"role": "user", "content": "When is invoice 12 due?"}
    memory = {"role": "system", "content": "Name: Ann"}
    told = {"role": "user", "content": "Invoice 12 is due on Monday."}
    said = {"role": "assistant", "content": "ok"}

    assert answer([told, said, asked]) == "On Monday: I find that earlier in this conversation."
    assert "I do not know" in answer([memory, said, asked])
    assert "I do not know" in answer([told, said, {"role": "user", "content": "What is my name?"}])
    assert answer([memory, {"role": "user", "content": "Sing!"}]).startswith(FIRST_WORDS)
    assert "stand-in" in NAME


@pytest.mark.parametrize("server", ["server.app.ConversationServer", "cli.persons_server.PersonsServer"])
async def test_a_server_does_not_load_what_only_the_chat_and_the_demo_need(server: str) -> None:
    module, name = server.rsplit(".", 1)
    script = (
        "import sys, letta_conversations_mcp.cli.main, letta_conversations_mcp.cli.serve\n"
        f"from letta_conversations_mcp.{module} import {name}\n"
        "from letta_conversations_mcp.settings import Settings\n"
        f"{name}(Settings())\n"
        "print('rich' in sys.modules)"
    )

    done = await anyio.run_process([sys.executable, "-c", script])

    assert done.stdout.decode().strip() == "False"
