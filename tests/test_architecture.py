"""docs/architecture.md is true: the files that it names are there, and its diagram shows the enforced layers."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "letta_conversations_mcp"
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_every_file_that_it_names_is_there() -> None:
    named = set(re.findall(r"`((?:[\w-]+/)*\w+\.py)`", PAGE))

    assert len(named) > 20
    assert not [path for path in named if not (PACKAGE / path).is_file() and not (ROOT / path).is_file()]


def test_its_diagram_shows_every_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each["type"] == "layers")
    enforced = {name.strip().rpartition(".")[2] for layer in layers for name in layer.split("|")}

    assert set(re.findall(r'^    (\w+)\["', PAGE, re.MULTILINE)) == enforced
