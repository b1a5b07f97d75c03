"""Plain English: phrases that this project used and that nobody says, with what to say instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLAIN = {
    r"\banew\b": "again",
    r"\bwho(ever|soever)\b": "name the person or program",
    r"\bmend(ed|ing|s)?\b": "fix",
    r"\bgone on with\b": "resumed, continued",
    r"\btaken up again\b": "resumed",
    r"\bwho has (such a|no)\b": "a caller with such a, without",
    r"\bas its bearer\b(?! token)": "as a bearer token",
    r"\bof (theirs|its own accord)\b": "their own, by itself",
    r"\bthat was all, in\b": "done in",
}
TEXTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "src/**/*.py", "distribution/*.py", "examples/*.py", "evals/**/*.py")
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("phrase", PLAIN)
def test_a_phrase_that_makes_a_reader_stop_is_not_used(phrase: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in TEXTS
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(phrase, line, re.IGNORECASE)
    ]

    assert not found, f"say: {PLAIN[phrase]}"


def test_the_texts_are_found() -> None:
    assert {"README.md", "guarantees.md", "scheduler.py"} <= {path.name for path in TEXTS}
