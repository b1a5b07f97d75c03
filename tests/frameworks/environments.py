"""`python -m tests.frameworks.environments`: an environment for each example, with the framework that it uses."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "build" / "frameworks"


def examples() -> dict[str, dict[str, Any]]:
    """Every example of `examples/`, with its title and requirements."""
    return tomllib.loads((ROOT / "examples" / "requirements.toml").read_text())


def python_of(example: str) -> Path:
    return FOLDER / example / "bin" / "python"


def install() -> None:
    for name, example in examples().items():
        wanted, mark = "\n".join(example["requirements"]), FOLDER / name / "installed"
        if mark.exists() and mark.read_text() == wanted:
            continue
        print(f"{example['title']}: {', '.join(example['requirements'])}", flush=True)
        venv.create(FOLDER / name, with_pip=True, clear=True)
        command = [python_of(name), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, *example["requirements"]], check=True)
        mark.write_text(wanted)


if __name__ == "__main__":
    sys.exit(install())
