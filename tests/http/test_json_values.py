"""Counting the values of a JSON text without parsing it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from letta_conversations_mcp.http.json_values import ValueCount

TEXT = st.text(st.sampled_from('a"\\,[]{}:\n\u20ac'), max_size=8)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.integers(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=20,
)


def marks(value: Any) -> int:
    """The brackets and commas that a value is written with."""
    if not isinstance(value, list | dict):
        return 0
    inner = list(cast("dict[str, Any]", value).values()) if isinstance(value, dict) else cast("list[Any]", value)
    return 1 + max(len(inner) - 1, 0) + sum(map(marks, inner))


@given(JSON, st.lists(st.integers(0, 200), max_size=6), st.booleans())
def test_marks_outside_strings_are_counted_wherever_the_text_is_cut(
    value: Any, cuts: list[int], ascii_only: bool
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    counted = ValueCount()
    for start, end in pairwise(places):
        counted.add(text[start:end])

    assert counted.count == marks(value)
