"""The command that adds an extra to this installation: one that works here and now, wherever the package came from."""

from __future__ import annotations

import shlex
import sys
from importlib.util import find_spec

PACKAGE = "letta-conversations-mcp"


def install_command(extra: str) -> str:
    """Installs what the extra consists of next to this package, which may have come from a folder, git or an index.

    `uv` makes environments without pip; there the command is uv's.
    """
    wanted = shlex.join(_requirements(extra)) or shlex.quote(f"{PACKAGE}[{extra}]")
    python = shlex.quote(sys.executable)
    return f"{python} -m pip install {wanted}" if find_spec("pip") else f"uv pip install --python {python} {wanted}"


def _requirements(extra: str) -> list[str]:
    # Late: it takes a while to load, and only an error needs it.
    from importlib.metadata import PackageNotFoundError, requires

    try:
        declared = requires(PACKAGE) or []
    except PackageNotFoundError:
        return []
    parts = [each.partition(";") for each in declared]
    return [name.strip() for name, _, marker in parts if f'extra == "{extra}"' in marker.replace("'", '"')]
