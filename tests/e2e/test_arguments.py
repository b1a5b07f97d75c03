"""No arguments, however wrong, give anything but a result or a sentence."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client

from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.base import MOST_CHARS
from letta_conversations_mcp.tools.catalogue import TOOLS
from tests.rig.fake_letta import FakeLetta
from tests.rig.model import ScriptedModel
from tests.rig.servers import Caller, in_own_task

CONVERSATION = "conv-00000000-0000-4000-8000-000000000001"
AGENT = "agent-00000000-0000-4000-8000-000000000001"

TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            "",
            " ",
            "default",
            CONVERSATION,
            AGENT,
            "../x",
            "a%2Fb",
            "\x00",
            "null",
            "[]",
            "{}",
            "😀",
            "\u202e",
            "%",
            "\\",
        ]
    ),
)
ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
SPECS = {tool.name: tool for tool in (spec.build(Settings().wait_seconds) for spec in TOOLS)}


def fitting(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of an argument's declared type, within and around its bounds."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "string":
            return TEXTS
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(min_value=-2, max_value=200)
        case "number":
            return st.sampled_from([0, 0.01, 0.5, 1, -1])
        case "array":
            return st.lists(fitting(schema["items"]), max_size=3)
        case _:
            return st.dictionaries(st.sampled_from(["provider_type", "temperature", "x"]), ANY_JSON, max_size=3)


def arguments_of(tool: str) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the tool's arguments, of the right types or of any, and sometimes one that it does not have."""
    properties: dict[str, Any] = SPECS[tool].parameters["properties"]
    known: dict[str, st.SearchStrategy[Any]] = {
        name: st.one_of(fitting(schema), fitting(schema), ANY_JSON) for name, schema in properties.items()
    }
    # Never a long wait: a turn ends at once here, and an empty answer is as good.
    if "wait_seconds" in known:
        known["wait_seconds"] = st.sampled_from([0, 0.1, -1, "x", None])
    required: dict[str, st.SearchStrategy[Any]] = {
        name: known[name] for name in SPECS[tool].parameters.get("required", ())
    }
    optional: dict[str, st.SearchStrategy[Any]] = {name: known[name] for name in known if name not in required}
    sensible: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(required, optional=optional)
    return st.one_of(sensible, st.dictionaries(st.one_of(st.sampled_from(list(known)), TEXTS), ANY_JSON, max_size=4))


@pytest.fixture(scope="module")
async def caller() -> AsyncGenerator[Caller]:
    fake = FakeLetta(ScriptedModel())
    async with fake.serve() as url, in_own_task(Client(build_server(Settings(base_url=url)))) as client:
        yield Caller(client)


@pytest.mark.parametrize("tool", SPECS)
@given(data=st.data())
async def test_no_input_is_an_internal_error(caller: Caller, tool: str, data: st.DataObject) -> None:
    arguments = data.draw(arguments_of(tool))

    answer = await caller.call(tool, **arguments)

    assert "inside this MCP server" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.text.strip()


def longest(schema: dict[str, Any]) -> int:
    """The characters that a text argument, or each text of a list, may have; 0 for any other argument."""
    each = schema.get("items", schema)
    return each.get("maxLength", MOST_CHARS) if each.get("type") == "string" and "enum" not in each else 0


TEXT_ARGUMENTS = [
    (name, argument)
    for name, tool in SPECS.items()
    for argument, schema in tool.parameters["properties"].items()
    if longest(schema)
]


@pytest.mark.parametrize(("name", "argument"), TEXT_ARGUMENTS, ids=[".".join(each) for each in TEXT_ARGUMENTS])
async def test_every_text_argument_has_a_longest_text(name: str, argument: str) -> None:
    schemas = SPECS[name].parameters["properties"]
    required = SPECS[name].parameters.get("required", [])
    given: dict[str, Any] = {each: "x" if longest(schemas[each]) else True for each in required}
    text = "x" * (longest(schemas[argument]) + 1)

    async with Client(build_server(Settings(base_url="http://127.0.0.1:9", create_agents=True))) as client:
        refusal = await Caller(client).refused(
            name, **given | {argument: [text] if "items" in schemas[argument] else text}
        )

    assert argument in refusal
    assert f"at most {longest(schemas[argument])} characters" in refusal


def test_the_text_arguments_are_found() -> None:
    assert ("send_message", "message") in TEXT_ARGUMENTS
    assert ("send_message", "images") in TEXT_ARGUMENTS
    assert ("list_agents", "after") in TEXT_ARGUMENTS
    assert ("send_message", "max_steps") not in TEXT_ARGUMENTS
    assert ("list_conversations", "order") not in TEXT_ARGUMENTS


async def test_an_unknown_tool_is_answered_with_those_that_a_model_can_call(mcp: Caller) -> None:
    refusal = await mcp.refused("send")

    assert "There is no tool 'send'. There are: " in refusal
    assert "send_message" in refusal
    assert "view_messages" not in refusal
