"""The arguments of a tool as arguments and options of a command, derived from its input schema.

What the schema requires is positional. A tool that requires nothing takes its first argument there, if it is given.
"""

from __future__ import annotations

import base64
import json
import mimetypes
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import click

from letta_conversations_mcp.cli.options import GroupedOption
from letta_conversations_mcp.tools.definitions import Definition, definitions, is_for_models

Schema = dict[str, Any]

CHOICES_CHARS = 40
"""Choices that are longer are listed in the help of the option."""

METAVARS = {
    "after": "ID",
    "agents": "AGENT",
    "at_message": "ID",
    "before": "ID",
    "conversation_id": "CONVERSATION",
    "conversation_ids": "CONVERSATION",
    "end_date": "TIME",
    "human": "TEXT",
    "images": "IMAGE",
    "kinds": "KIND",
    "message_key": "KEY",
    "order_by": "TIME",
    "run_id": "RUN",
    "start_date": "TIME",
    "tags": "TAG",
    "tool_call_ids": "ID",
    "wait_seconds": "SECONDS",
}
"""Metavars that differ from the name of the argument."""

HELP = {
    "message": "the text; - reads it from standard input",
    "wait_seconds": "stop waiting after so long; without it the command waits until the turn ends",
    "confirm": "do it without asking",
    "images": "a file, or an https:// URL (png, jpeg, gif, webp)",
    "model_settings": 'as JSON, such as \'{"provider_type": "openai", "temperature": 0.2}\'',
    "reason": "what the agent is told about the decision",
    "approve": "let the tool calls run, or refuse them",
}
"""Help texts where a person at a terminal needs other words than a model."""


@cache
def commands_of_tools() -> Mapping[str, Definition]:
    """The tools that are commands, by name: all but those that only the viewer's page calls."""
    return {name: each for name, each in definitions().items() if is_for_models(each)}


def schema_of(tool: str) -> Schema:
    return commands_of_tools()[tool]["inputSchema"]


def tool_names() -> Sequence[str]:
    return list(commands_of_tools())


@cache
def positional(tool: str) -> tuple[str, ...]:
    """The arguments that stand without a flag, in order."""
    schema = schema_of(tool)
    properties = cast("dict[str, Schema]", schema["properties"])
    required = [name for name in schema.get("required", []) if properties[name]["type"] != "boolean"]
    return tuple(required or list(properties)[:1])


def flag(name: str, value: object = None) -> str:
    """The flag of an argument; `value` matters for the decision about an approval."""
    return "--deny" if name == "approve" and value is False else f"--{name.replace('_', '-')}"


def parameters(tool: str) -> list[click.Parameter]:
    """The parameters of the command that calls a tool."""
    schema = schema_of(tool)
    required = schema.get("required", [])
    first = positional(tool)
    properties = cast("dict[str, Schema]", schema["properties"])
    arguments = [_argument(name, properties[name], required=name in required) for name in first]
    options = [_option(name, each, required=name in required) for name, each in properties.items() if name not in first]
    return [*arguments, *options]


def _argument(name: str, schema: Schema, *, required: bool) -> click.Argument:
    metavar = METAVARS.get(name, name.upper())
    return click.Argument(
        [name],
        required=required,
        type=_type(name, schema),
        metavar=metavar if required else f"[{metavar}]",
        help=_help(name, schema),
    )


def _option(name: str, schema: Schema, *, required: bool) -> GroupedOption:
    help_text = _help(name, schema)
    if schema["type"] == "boolean":
        declaration = f"{flag(name)}/{flag(name, False)}" if required else flag(name)
        return GroupedOption(declaration, name, is_flag=True, required=required, help=help_text, **_unless(required))
    is_list = schema["type"] == "array"
    kind = _type(name, schema["items"] if is_list else schema)
    metavar = METAVARS.get(name, name.upper() if schema["type"] == "string" else "N")
    if isinstance(kind, click.Choice):
        choices = "|".join(map(str, kind.choices))
        if len(choices) <= CHOICES_CHARS:
            metavar = choices
        else:
            help_text = f"{help_text}: {', '.join(map(str, kind.choices))}"
    if schema["type"] == "object":
        metavar = "JSON"
    if is_list:
        help_text = f"{help_text} (can be repeated)"
    elif default := schema.get("default"):
        help_text = f"{help_text} (default: {default})" if name != "wait_seconds" else help_text
    return GroupedOption(flag(name), name, type=kind, metavar=metavar, multiple=is_list, default=None, help=help_text)


def _unless(required: bool) -> dict[str, Any]:
    """A flag that is not given is None, so that it can be left out of the call; one that is required has no default."""
    return {} if required else {"default": None}


def _help(name: str, schema: Schema) -> str:
    return HELP.get(name) or str(schema.get("description", ""))


def _type(name: str, schema: Schema) -> click.ParamType[Any]:
    if name == "message":
        return Message()
    if name == "images":
        return ImageData()
    if "enum" in schema:
        return click.Choice(schema["enum"])
    match schema["type"]:
        case "integer":
            return WholeNumber(schema.get("minimum"), schema.get("maximum"))
        case "number":
            return Number(schema.get("minimum"), schema.get("maximum"))
        case "object":
            return JsonObject()
        case _:
            return click.STRING


class WholeNumber(click.IntRange):
    name = "whole number"


class Number(click.FloatRange):
    name = "number"


class Message(click.ParamType[str]):
    name = "message"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return sys.stdin.read() if value == "-" else str(value)


class ImageData(click.ParamType[str]):
    """A file becomes a data URL; everything else is left to the tool."""

    name = "image"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if str(value).startswith(("https://", "http://", "data:")):
            return str(value)
        try:
            data = Path(value).read_bytes()
        except OSError as error:
            self.fail(f"{value} cannot be read: {error.strerror}.", param, ctx)
        media_type = mimetypes.guess_type(str(value))[0] or "application/octet-stream"
        return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


class JsonObject(click.ParamType[dict[str, Any]]):
    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        try:
            found = json.loads(value)
        except ValueError as error:
            self.fail(f"this is no JSON: {error}.", param, ctx)
        if not isinstance(found, dict):
            self.fail("a JSON object is needed, such as '{\"temperature\": 0.2}'.", param, ctx)
        return cast("dict[str, Any]", found)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the call: only what was typed."""
    return {
        name: list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value is not None and value != ()
    }
