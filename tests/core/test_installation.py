"""The command that adds an extra works where this package is installed."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from letta_conversations_mcp.core import installation
from letta_conversations_mcp.core.installation import install_command


@pytest.mark.parametrize("extra", ["local", "redis", "otel"])
def test_what_the_command_installs_is_what_the_extra_consists_of(extra: str) -> None:
    """The extras are installed here, so a check by pip finds nothing left to do."""
    program, *arguments = shlex.split(install_command(extra))

    dry = subprocess.run(
        [program, *arguments, "--dry-run", "--no-index", "--quiet"], capture_output=True, text=True, check=False
    )

    assert program == sys.executable
    assert len(arguments) > 3
    assert (dry.returncode, dry.stdout) == (0, "")


def test_only_the_parts_of_the_extra_are_named() -> None:
    command = install_command("redis")

    assert "redis" in command
    assert "letta==" not in command


def test_an_environment_without_pip_is_told_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "find_spec", lambda name: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]

    assert install_command("local").startswith(f"uv pip install --python {sys.executable} letta==")
