"""Every pattern of ours runs in linear time: text from strangers reaches most of them."""

from __future__ import annotations

import importlib
import pkgutil
import re
from time import process_time
from typing import Any, cast

import pytest

import letta_conversations_mcp

SIZE = 60_000
SECONDS = 0.5
"""A linear pattern takes a few milliseconds here; a quadratic one of the quickest kind, more than a second."""


def patterns() -> dict[str, re.Pattern[Any]]:
    """By the name of their module and their own."""
    found: dict[str, re.Pattern[Any]] = {}
    for module in pkgutil.walk_packages(letta_conversations_mcp.__path__, "letta_conversations_mcp."):
        if module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            values = list(cast("dict[Any, Any]", value)) if isinstance(value, dict) else [value]
            for number, each in enumerate(values):
                if isinstance(each, re.Pattern):
                    found[f"{module.name.partition('.')[2]}.{name}.{number}"] = each
    return found


PATTERNS = patterns()

parser: Any = importlib.import_module("re._parser")


def literals(tree: Any) -> list[str]:
    """The runs of plain characters in a parsed pattern."""
    runs, run = list[str](), ""
    for operation, argument in tree:
        if str(operation) == "LITERAL":
            run += chr(argument)
            continue
        runs, run = [*runs, run], ""
        inner = cast("tuple[Any, ...]", argument if isinstance(argument, tuple) else (argument,))
        for each in inner:
            if isinstance(each, parser.SubPattern):
                runs += literals(each)
            elif isinstance(each, list):
                for branch in cast("list[Any]", each):
                    if isinstance(branch, parser.SubPattern):
                        runs += literals(branch)
    return [each for each in [*runs, run] if each]


def pumped(pattern: re.Pattern[Any]) -> list[str]:
    """Long texts that may make a pattern slow: each of its own words, and spaces, again and again."""
    pieces = [" ", "\n", "a", "1", "-", "=", *literals(parser.parse(pattern.pattern))]
    texts = [piece * (SIZE // len(piece)) for piece in dict.fromkeys(pieces)]
    starts = [piece for piece in pieces if len(piece) > 2]
    return [*texts, *(f"{start}{run}!" for start in starts for run in (" " * SIZE, "a" * SIZE)), "<x>\n" * (SIZE // 4)]


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_runs_in_linear_time(name: str) -> None:
    pattern = PATTERNS[name]
    for text in pumped(pattern):
        subject: Any = text.encode() if isinstance(pattern.pattern, bytes) else text
        started = process_time()
        pattern.sub(subject[:0], subject)
        assert process_time() - started < SECONDS, text[:40]


def test_all_patterns_are_found() -> None:
    assert {"core.quoting._ACTOR.0", "conversations.keys._MARK.0"} <= set(PATTERNS)
