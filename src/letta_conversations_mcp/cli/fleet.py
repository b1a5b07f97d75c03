"""A fleet file in lettactl's format: which agents should have which conversations. Read strictly and within limits.

Only `agents[].name` and `agents[].conversations[].summary` and `.isolated_blocks` are used; all other keys are
lettactl's. Errors name their place in the file, and are reported before anything is done.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, cast

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from letta_conversations_mcp.cli.exit_status import CommandFailed
from letta_conversations_mcp.core.quoting import NAME_CHARS, quote
from letta_conversations_mcp.core.value_errors import wrong_with

LARGEST_BYTES = 5 * 1024 * 1024
"""A thousand agents with their prompts need less; reading this much takes a few seconds."""

MOST_NODES = 200_000
"""Values in the file, those behind an alias counted at every use: a few lines of aliases can stand for billions."""

DEEPEST = 100
"""A fleet nests seven deep; the YAML library recurses at every step."""

MOST_PROBLEMS = 20

SIMILAR = 0.8
"""From 0 to 1, how alike a misspelt key and the one that is meant are."""

# The one on top of libyaml is ten times as fast, and not in every build of the library.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _none_is_empty(value: object) -> object:
    """YAML's way to write a key without a value."""
    return [] if value is None else value


Text = Annotated[str, StringConstraints(pattern=r"\S", max_length=10_000)]


class Declaration(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class DeclaredConversation(Declaration):
    summary: Text
    isolated_blocks: Annotated[list[Text], BeforeValidator(_none_is_empty)] = Field(default_factory=list)


class DeclaredAgent(Declaration):
    name: Text
    conversations: Annotated[list[DeclaredConversation], BeforeValidator(_none_is_empty)] = Field(default_factory=list)


class Fleet(Declaration):
    agents: list[DeclaredAgent]


def read_fleet(path: str) -> tuple[Fleet, list[str]]:
    """The fleet that a file declares, and sentences about probable mistakes in it; `-` is standard input.
    Raises CommandFailed for any other file."""
    name = "standard input" if path == "-" else path
    try:
        if path == "-":
            data = sys.stdin.buffer.read(LARGEST_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise CommandFailed(f"{name} cannot be read: {error.strerror}.") from error
    if len(data) > LARGEST_BYTES:
        raise CommandFailed(f"{name} is larger than {LARGEST_BYTES // 1024 // 1024} MB, which no fleet file is.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{name} is no UTF-8 text (byte {error.start}).") from error
    content = _load(name, text)
    fleet = _check(name, content)
    return fleet, [*_cut_off(name, text), *_ignored(name, content)]


def _load(name: str, text: str) -> object:
    """The file's content. Aliases are allowed, within the bound."""
    try:
        _check_nodes(text)
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader, whichever of the two
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise CommandFailed(f"{name} is no YAML: {place}{quote(error.problem or error.context)}.") from error
    except (yaml.YAMLError, ValueError) as error:
        # A ValueError: a value that looks like a date or a number and is none, such as 2026-13-45.
        raise CommandFailed(f"{name} is no YAML: {quote(error)}.") from error


def _check_nodes(text: str) -> None:
    """Count the values, with aliases expanded, before anything is built. Raises YAMLError."""
    nodes = 0
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []
    # The library's stubs leave the events untyped.
    for event in cast("Iterator[yaml.Event]", yaml.parse(text, _Loader)):  # pyright: ignore[reportUnknownMemberType]
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise yaml.YAMLError(f"the alias *{event.anchor} stands for something that is not there before it")
            nodes += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, nodes))
            nodes += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = nodes - before
        if nodes > MOST_NODES:
            raise yaml.YAMLError(f"with its aliases it stands for more than {MOST_NODES} values")
        if len(open_) > DEEPEST:
            raise yaml.YAMLError(f"it is nested deeper than {DEEPEST}")


def _cut_off(name: str, text: str) -> Iterator[str]:
    """Texts that end at a comment: in `summary: Ticket #103`, YAML reads no more than Ticket."""
    lines = text.split("\n")
    key = ""
    # The library's stubs leave the events untyped.
    for event in cast("Iterator[yaml.Event]", yaml.parse(text, _Loader)):  # pyright: ignore[reportUnknownMemberType]
        if not isinstance(event, yaml.ScalarEvent):
            key = ""
            continue
        value = cast("str", event.value)
        end = cast("yaml.Mark", event.end_mark)
        rest = lines[end.line][end.column :] if key in ("name", "summary") else ""
        comment = rest.strip()
        # With a space after the #, it is meant as a comment.
        if rest != comment and comment.startswith("#") and comment[1:2].strip("# \t"):
            yield (
                f"{name}, line {end.line + 1}: the {key} is {quote(value, NAME_CHARS)!r}; "
                f"{quote(comment, NAME_CHARS)!r} is a comment. "
                "If it belongs to the text, put it in quotes."
            )
            key = ""
        else:
            key = value


def _ignored(name: str, content: object) -> list[str]:
    """Keys that are nearly ours, and all other keys of a conversation: lettactl has none there either."""
    found: list[str] = []

    def look(place: str, mapping: object, ours: Sequence[str], *, only_ours: bool = False) -> dict[str, object]:
        fields = cast("dict[str, object]", mapping) if isinstance(mapping, dict) else {}
        for key in fields:
            close = get_close_matches(str(key), ours, 1, SIMILAR)
            if key not in ours and (close or only_ours):
                meant = f"is {close[0]!r} meant? " if close else ""
                found.append(f"{name}, {place}{quote(key, NAME_CHARS)}: {meant}It is ignored.")
        return fields

    def each(value: object) -> list[object]:
        return cast("list[object]", value) if isinstance(value, list) else []

    for number, agent in enumerate(each(look("", content, ("agents",)).get("agents"))):
        place = f"agents[{number}]."
        conversations = each(look(place, agent, ("name", "conversations")).get("conversations"))
        for index, conversation in enumerate(conversations):
            look(f"{place}conversations[{index}].", conversation, ("summary", "isolated_blocks"), only_ours=True)
    return found[:MOST_PROBLEMS]


def _check(name: str, content: object) -> Fleet:
    if not isinstance(content, dict):
        what = "is empty" if content is None else "is no fleet file"
        raise CommandFailed(f"{name} {what}: a mapping with the key agents is needed.")
    try:
        fleet = Fleet.model_validate(content)
    except ValidationError as error:
        problems = [_problem(each) for each in error.errors(include_url=False, include_input=False)]
        if len(problems) > MOST_PROBLEMS:
            problems[MOST_PROBLEMS:] = [f"and {len(problems) - MOST_PROBLEMS} more problems"]
        raise CommandFailed("\n".join([f"{name} cannot be used; nothing was done.", *problems])) from error
    if repeated := _repeated(fleet):
        raise CommandFailed("\n".join([f"{name} cannot be used; nothing was done.", *repeated[:MOST_PROBLEMS]]))
    return fleet


def _problem(error: ErrorDetails) -> str:
    match error["type"]:
        case "missing":
            problem = "is missing"
        case "string_type":
            problem = "a text is needed; put it in quotes"
        case "string_pattern_mismatch":
            problem = "a text is needed, and it is empty"
        case "model_type" | "dict_type":
            problem = "a mapping is needed"
        case _:
            problem = wrong_with(error)
    return f"  {_place(error['loc'])}: {problem}"


def _place(location: tuple[str | int, ...]) -> str:
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in location]
    return "".join(steps).lstrip(".")


def _repeated(fleet: Fleet) -> list[str]:
    """Conversations that are declared twice: their summary is what they are found by."""
    first: dict[tuple[str, str], str] = {}
    problems: list[str] = []
    for number, agent in enumerate(fleet.agents):
        for index, conversation in enumerate(agent.conversations):
            place = f"agents[{number}].conversations[{index}].summary"
            known = first.setdefault((agent.name, conversation.summary), place)
            if known != place:
                problems.append(f"  {place}: agent {quote(agent.name, 80)!r} has this one already, at {known}")
    return problems
