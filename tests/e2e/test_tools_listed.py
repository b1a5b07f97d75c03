"""What a client sees of the tools before it calls one. A change here is a change that users see."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp_types import Tool

from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.catalogue import TOOLS
from letta_conversations_mcp.tools.definitions import DEFINITIONS
from tests.rig.servers import Caller

pytestmark = pytest.mark.all_ways

EXPECTED = (
    "create_conversation",
    "list_conversations",
    "delete",
    "describe",
    "update",
    "fork",
    "compact",
    "recompile",
    "send_message",
    "wait_for_reply",
    "list_messages",
    "search_messages",
    "cancel",
    "ask_many",
    "respond_to_approval",
    "list_agents",
    "list_models",
    "show_conversation",
)
OF_THE_PAGE = "view_messages"
"""Listed only for clients that show the viewer."""

INPUT_CHARS = 15_000
OUTPUT_CHARS = 9_000
"""What all tools together may take of a client's context: names, descriptions and arguments; and answers."""

READ_ONLY = {
    "list_conversations",
    "describe",
    "wait_for_reply",
    "list_messages",
    "search_messages",
    "list_agents",
    "list_models",
    "show_conversation",
}


async def listed_tools(settings: Settings | None = None) -> list[Tool]:
    async with Client(build_server(settings or Settings(base_url="http://127.0.0.1:9", create_agents=True))) as client:
        return (await client.list_tools()).tools


def published(tool: Tool) -> dict[str, Any]:
    return tool.model_dump(mode="json", by_alias=True, exclude_none=True)


def size(schema: dict[str, Any]) -> int:
    return len(json.dumps(schema, ensure_ascii=False, separators=(",", ":")))


async def test_the_tools_are_listed_in_the_same_order_everywhere(mcp: Caller) -> None:
    assert tuple(tool.name for tool in (await mcp.client.list_tools()).tools) == EXPECTED


async def test_agents_are_created_on_a_letta_server_only_when_the_settings_say_so() -> None:
    names = [tool.name for tool in await listed_tools(Settings(base_url="http://127.0.0.1:9"))]

    assert {"create_agent", "delete_agent"} & set(names) == set()


def test_the_definitions_are_those_of_the_code(pytestconfig: pytest.Config) -> None:
    """Renewed with `pytest --renew`; the difference is for a reviewer to read."""
    built = {spec.name: published(spec.build(Settings().wait_seconds).definition()) for spec in TOOLS}
    if pytestconfig.getoption("--renew"):
        DEFINITIONS.write_text(json.dumps(built, indent=1, ensure_ascii=False) + "\n")

    assert json.loads(DEFINITIONS.read_text()) == built, "pytest --renew writes them again"
    assert {*built} == {*EXPECTED, "create_agent", "delete_agent", OF_THE_PAGE}


async def test_the_definitions_are_listed() -> None:
    listed = {tool.name: published(tool) for tool in await listed_tools()}
    defined = json.loads(DEFINITIONS.read_text())

    assert OF_THE_PAGE not in listed
    assert {**listed, OF_THE_PAGE: defined[OF_THE_PAGE]} == defined


async def test_the_wait_of_the_settings_is_listed_and_no_other_server_s() -> None:
    for seconds in (7, 2.5, 45):
        settings = Settings(base_url="http://127.0.0.1:9", wait_seconds=seconds)
        schemas = {tool.name: tool.input_schema["properties"] for tool in await listed_tools(settings)}
        waits = {name: each["wait_seconds"]["default"] for name, each in schemas.items() if "wait_seconds" in each}

        assert {"send_message": seconds, "wait_for_reply": seconds}.items() <= waits.items()


async def test_names_descriptions_and_input_schemas_stay_small() -> None:
    tools = await listed_tools()

    assert sum(len(each.name) + len(each.description or "") + size(each.input_schema) for each in tools) < INPUT_CHARS


async def test_output_schemas_stay_small() -> None:
    assert sum(size(tool.output_schema or {}) for tool in await listed_tools()) < OUTPUT_CHARS


async def test_the_time_that_a_call_waits_is_stated_as_a_number() -> None:
    settings = Settings(base_url="http://127.0.0.1:9", wait_seconds=12)
    waiting = {tool.name: tool.input_schema["properties"].get("wait_seconds") for tool in await listed_tools(settings)}

    assert {name: each["default"] for name, each in waiting.items() if each} == {
        "send_message": 12,
        "wait_for_reply": 12,
        "ask_many": 12,
        "respond_to_approval": 12,
    }


async def test_every_tool_has_a_title_hints_and_a_description_of_a_useful_length() -> None:
    for tool in await listed_tools():
        assert tool.title
        assert tool.annotations is not None
        hints = tool.annotations.model_dump(exclude={"title"})
        assert all(isinstance(value, bool) for value in hints.values()), (tool.name, hints)
        assert 100 < len(tool.description or "") < 2_000, tool.name


async def test_hints_tell_what_a_tool_does() -> None:
    hints = {tool.name: tool.annotations for tool in await listed_tools()}

    assert {name for name, each in hints.items() if each and each.read_only_hint} == READ_ONLY
    assert {name for name, each in hints.items() if each and each.destructive_hint} == {
        "compact",
        "delete",
        "delete_agent",
        "respond_to_approval",
        "cancel",
        "update",
        # The agent may use any tool that it has.
        "send_message",
        "ask_many",
    }
    assert {name for name, each in hints.items() if each and each.open_world_hint} == {
        "send_message",
        "ask_many",
        "respond_to_approval",
    }


async def test_arguments_are_flat_described_and_closed() -> None:
    for tool in await listed_tools():
        assert tool.input_schema["additionalProperties"] is False
        assert "$ref" not in json.dumps(tool.input_schema)
        assert "anyOf" not in json.dumps(tool.input_schema)
        for name, argument in tool.input_schema["properties"].items():
            assert "type" in argument or "enum" in argument, (tool.name, name)
            assert argument.get("description"), (tool.name, name)


async def test_the_same_argument_name_is_the_same_type_everywhere() -> None:
    types: dict[str, set[str]] = {}
    for tool in await listed_tools():
        for name, argument in tool.input_schema["properties"].items():
            types.setdefault(name, set()).add(argument.get("type", "string"))

    assert {name: each for name, each in types.items() if len(each) > 1} == {}


async def test_a_read_only_server_offers_only_what_changes_nothing() -> None:
    names = {tool.name for tool in await listed_tools(Settings(base_url="http://127.0.0.1:9", read_only=True))}

    assert names == READ_ONLY


async def test_what_a_read_only_server_does_not_offer_it_does_not_do() -> None:
    async with Client(build_server(Settings(base_url="http://127.0.0.1:9", read_only=True))) as client:
        refusal = await Caller(client).refused("delete", conversation_id="conv-x", confirm=True)

    assert "no tool 'delete'" in refusal
    assert "list_messages" in refusal


async def test_an_unknown_tool_is_answered_with_those_that_are_there(mcp: Caller) -> None:
    refusal = await mcp.refused("send")

    assert "send_message" in refusal


async def test_an_unknown_prompt_is_an_error_of_the_request(mcp: Caller) -> None:
    with pytest.raises(MCPError) as raised:
        await mcp.client.get_prompt("nothing like it")

    assert raised.value.error.code == -32602


async def test_the_server_says_what_it_is(mcp: Caller) -> None:
    assert mcp.client.server_info
    assert mcp.client.server_info.name == "letta-conversations"
    assert "wait_for_reply" in (mcp.client.instructions or "")
