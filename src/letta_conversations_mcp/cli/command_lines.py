"""Rewrites advice for a model into advice for a person at a shell: calls become command lines, arguments options."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping
from typing import Any, cast

from letta_conversations_mcp.cli.program_name import program_name
from letta_conversations_mcp.cli.tool_arguments import flag, positional, tool_names

_PLACEHOLDER = "…"

_WORDS = {
    "the same call with --": "the same command with --",
    "call again with --": "add --",
    "Nothing was done; correct it and call again.": "Nothing was done.",
    "a search with its conversation_id": "a search with its --conversation-id",
}
"""What a command's reader does instead of a call."""


def command_line(tool: str, arguments: Mapping[str, Any]) -> str:
    """The command that calls a tool with these arguments. A value of `...` stands for one that the reader knows."""
    words = [program_name(), tool.replace("_", "-")]
    first = positional(tool)
    words += [_value(name, arguments[name]) for name in first if name in arguments]
    for name, value in arguments.items():
        if name not in first:
            words += _option(name, value)
    return " ".join(words)


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag(name, value)]
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    return [word for each in values for word in (flag(name), _value(name, each))]


def _value(name: str, value: Any) -> str:
    return name.upper() if value is ... else shlex.quote(str(value))


def for_person(text: str) -> str:
    """A text of ours with its calls as command lines."""
    names = "|".join(tool_names())
    text = re.sub(rf"\b({names})\(([^()]*)\)", _call, text)
    text = re.sub(rf"\b({'|'.join(each for each in tool_names() if '_' in each)})\b", _name, text)
    text = re.sub(r"\b([a-z_]+)=('[^']*'|\[[^\]]*\]|true\|false|[\w…-]+)", _loose_argument, text)
    text = re.sub(rf"\b([Cc])all (?={program_name()} )", lambda found: "Run " if found[1] == "C" else "run ", text)
    for ours, persons in _WORDS.items():
        text = text.replace(ours, persons)
    return text


def _call(found: re.Match[str]) -> str:
    given = found[2].replace("true|false", "True").replace("true", "True").replace("false", "False")
    try:
        call = ast.parse(f"f({given.replace(_PLACEHOLDER, '...')})", mode="eval").body
        assert isinstance(call, ast.Call)  # noqa: S101 - it was written as one
        arguments = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (SyntaxError, ValueError):
        return found[0]
    return command_line(found[1], arguments).replace(
        "--approve", "--approve (or --deny)" if "|" in found[2] else "--approve"
    )


def _name(found: re.Match[str]) -> str:
    return f"{program_name()} {found[1].replace('_', '-')}"


def _loose_argument(found: re.Match[str]) -> str:
    name, value = found[1], found[2]
    if value in ("true", "false"):
        return flag(name, value == "true")
    return f"{flag(name)} {value.replace(_PLACEHOLDER, name.upper())}"
