"""The tools as `tools/list` shows them, kept in a file: deriving them takes longer than the rest of a start.

Commands are made from them too, without loading the tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic_core import from_json

Definition = Mapping[str, Any]
"""A tool in the protocol's JSON form."""

DEFINITIONS = Path(__file__).parent / "definitions.json"
"""Written by `pytest tests/e2e/test_tools_listed.py --renew`; the test compares it with the tools."""


@cache
def definitions() -> Mapping[str, Definition]:
    """The tools by name, in the order in which they are listed."""
    return from_json(DEFINITIONS.read_bytes())


def is_for_models(definition: Definition) -> bool:
    """False for a tool that only the viewer's page calls."""
    return "model" in definition.get("_meta", {}).get("ui", {}).get("visibility", ["model"])
