"""What is wrong with a value, in our words: pydantic's are for programmers."""

from __future__ import annotations

from typing import Any

from pydantic_core import ErrorDetails

_NEEDED = {
    "int": "a whole number is needed",
    "float": "a number is needed",
    "bool": "true or false is needed",
    "string": "a text is needed",
    "list": "a list is needed",
    "dict": "an object is needed",
}

_BOUNDS = {
    "greater_than": ("gt", "it must be more than {}"),
    "greater_than_equal": ("ge", "it must be {} or more"),
    "less_than": ("lt", "it must be less than {}"),
    "less_than_equal": ("le", "it must be {} or less"),
    "literal_error": ("expected", "it must be {}"),
    "string_too_long": ("max_length", "it must have at most {} characters"),
    "too_long": ("max_length", "it must have at most {} entries"),
}


def wrong_with(error: ErrorDetails) -> str:
    """The problem of one value, to be put behind its name. An error that is not known keeps its own words."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return words.format(_plain(context[name]))
    what, _, how = kind.partition("_")
    if how in ("type", "parsing", "from_float") and what in _NEEDED:
        return _NEEDED[what]
    return error["msg"].removeprefix("Value error, ")


def _plain(value: Any) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
