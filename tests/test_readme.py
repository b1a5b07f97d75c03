"""The README and the pages beside it are true: their tables name what the code has."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from letta_conversations_mcp.cli.program import OWN
from letta_conversations_mcp.server.prompts import PROMPTS
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.catalogue import TOOLS
from tests.rig.bounds import HANG_SECONDS
from tests.rig.fake_letta import FakeLetta
from tests.rig.model import ScriptedModel
from tests.rig.servers import environment

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
OPTIONS_PAGE = ROOT / "docs" / "options.md"
RESOURCES_PAGE = ROOT / "docs" / "resources.md"
OPTIONS = re.compile(r"(<!-- options: .*? -->\n).*?(<!-- end of options -->)", re.DOTALL)


def options_table() -> str:
    rows = ["| flag | variable | default | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        variable = alias.upper() if isinstance(alias, str) else f"LETTA_MCP_{name.upper()}"
        flag = f"--{(alias if isinstance(alias, str) else name).replace('_', '-')}"
        default = field.get_default(call_default_factory=True)
        shown = default.get_secret_value() if hasattr(default, "get_secret_value") else default
        text = "" if shown in ("", ()) else f"`{str(shown).lower() if isinstance(shown, bool) else shown}`"
        rows.append(f"| `{flag}` | `{variable}` | {text} | {field.description} |")
    return "\n".join(rows) + "\n"


def test_every_option_has_its_row(pytestconfig: pytest.Config) -> None:
    text = OPTIONS_PAGE.read_text()
    renewed = OPTIONS.sub(lambda found: f"{found[1]}{options_table()}{found[2]}", text)
    if pytestconfig.getoption("--renew"):
        OPTIONS_PAGE.write_text(renewed)
        text = renewed

    assert text == renewed, "the options changed: pytest --renew writes the table again"


def test_every_tool_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", README.read_text(), re.MULTILINE)

    assert sorted(rows) == sorted(spec.fn.__name__ for spec in TOOLS if spec.for_models)


def test_every_command_and_prompt_is_documented() -> None:
    readme, page = README.read_text(), (ROOT / "docs" / "commands.md").read_text()

    for _, command in OWN:
        assert f"`{command.name}`" in readme or f" {command.name} " in readme
        assert command.name == "serve" or f"\n## {command.name}\n" in page
    for prompt in PROMPTS:
        assert f"`{prompt.name}`" in RESOURCES_PAGE.read_text()


def test_the_configurations_are_json() -> None:
    blocks = re.findall(r"```json\n(.*?)```", README.read_text(), re.DOTALL)

    assert [set(json.loads(block)) for block in blocks] == [{"mcpServers"}, {"inputs", "servers"}]


@pytest.mark.skipif(sys.platform == "win32", reason="they are for a POSIX shell")
async def test_the_shell_lines_work_one_after_the_other(tmp_path: Path) -> None:
    """In one shell. Programs of others are stand-ins that only note how they were called."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    *lines, serve = [line.partition("  #")[0] for block in blocks for line in block.splitlines()]
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("git", "make", "uv", "claude"):
        stand_in = programs / name
        stand_in.write_text(f'#!/bin/sh\n[ "$1" != clone ] || mkdir "${{2##*/}}"\necho {name} "$@"\n')
        stand_in.chmod(0o755)
    async with FakeLetta(ScriptedModel()).serve() as url:
        env = environment(Settings(base_url=url))
        process = await asyncio.create_subprocess_exec(
            "sh", "-ec", "\n".join([*lines, f"exec {serve} --port 0"]), cwd=tmp_path,
            env=env | {"PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout
        assert process.stderr
        said = ""
        with anyio.fail_after(HANG_SECONDS):
            while "Serving MCP at" not in said:
                line = (await process.stderr.readline()).decode()
                assert line, f"the shell ended: {said}"
                said += line
            process.terminate()
            told = (await process.stdout.read()).decode()
            await process.wait()

    assert "git clone" in told
    assert "uv tool install .[local]" in told
    assert "claude mcp add letta" in told
    assert "ok    server" in told


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()

    for target in re.findall(r"`?make ([a-z-]+)", README.read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_readme_is_short() -> None:
    assert len(README.read_text().split()) < 1200
