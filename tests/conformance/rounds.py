"""Fixtures of the conformance suite that ask the client something before they answer: over several requests in the
newer protocol, and on the connection in the older.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp_types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    SamplingMessage,
    TextContent,
)

Round = Mapping[str, InputRequest]


def _ask(message: str, field: str, kind: str = "string") -> ElicitRequest:
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(text: str) -> CreateMessageRequest:
    said = SamplingMessage(role="user", content=TextContent(text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[said], max_tokens=100))


NAME = _ask("What is your name?", "name")

TOOLS: Mapping[str, Sequence[Round]] = {
    "elicitation": [{"user_name": NAME}],
    "sampling": [{"capital_question": _sample("What is the capital of France?")}],
    "list_roots": [{"client_roots": ListRootsRequest()}],
    "request_state": [{"confirm": _ask("Please confirm", "ok", "boolean")}],
    "multiple_inputs": [
        {"user_name": NAME, "greeting": _sample("Generate a greeting"), "client_roots": ListRootsRequest()}
    ],
    "multi_round": [
        {"step1": _ask("Step 1: What is your name?", "name")},
        {"step2": _ask("Step 2: What is your favorite color?", "color")},
    ],
    "tampered_state": [{"confirm": _ask("Please confirm", "ok", "boolean")}],
    "capabilities": [{"user_name": NAME, "greeting": _sample("Generate a greeting")}],
}


def add_rounds(server: MCPServer[Any]) -> None:
    for name, rounds in TOOLS.items():
        _add_tool(server, f"test_input_required_result_{name}", rounds)

    @server.prompt(name="test_input_required_result_prompt", description="A fixture.")
    async def prompt(ctx: Context[Any]) -> str | InputRequiredResult:
        asked = _next(ctx, [{"user_context": _ask("What context should the prompt use?", "context")}])
        return asked or "The context was given."

    @server.tool(name="test_elicitation")
    async def elicitation(message: str, ctx: Context[Any]) -> str:
        """A fixture: asks the person."""
        fields = {"username": {"type": "string"}, "email": {"type": "string"}}
        schema = {"type": "object", "properties": fields, "required": list(fields)}
        return f"User response: {_answer(await ctx.session.elicit_form(message, schema, ctx.request_id))}"

    @server.tool(name="test_sampling")
    async def sampling(prompt: str, ctx: Context[Any]) -> str:
        """A fixture: asks the client's model."""
        said = SamplingMessage(role="user", content=TextContent(text=prompt))
        result = await ctx.session.create_message([said], max_tokens=100)  # pyright: ignore[reportDeprecated] - as above
        return f"LLM response: {result.content}"

    @server.tool(name="test_elicitation_sep1034_defaults")
    async def defaults(ctx: Context[Any]) -> str:
        """A fixture: asks with a default for every kind of value."""
        fields = {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            "verified": {"type": "boolean", "default": True},
        }
        return await _elicited(ctx, fields)

    @server.tool(name="test_elicitation_sep1330_enums")
    async def enums(ctx: Context[Any]) -> str:
        """A fixture: asks for a choice, in every form that one has."""
        options = ["option1", "option2", "option3"]
        titled = [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]
        names = ["Option One", "Option Two", "Option Three"]
        fields = {
            "untitledSingle": {"type": "string", "enum": options},
            "titledSingle": {"type": "string", "oneOf": titled},
            "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": names},
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled}},
        }
        return await _elicited(ctx, fields)


def _add_tool(server: MCPServer[Any], name: str, rounds: Sequence[Round]) -> None:
    async def fixture(ctx: Context[Any]) -> str | InputRequiredResult:
        asked = _next(ctx, rounds)
        if asked is not None:
            return asked
        given = {key: value.model_dump() for key, value in (ctx.input_responses or {}).items()}
        return f"state-ok {given}"

    server.add_tool(fixture, name=name, description="A fixture: asks before it answers.", structured_output=False)


def _next(ctx: Context[Any], rounds: Sequence[Round]) -> InputRequiredResult | None:
    """The next questions, or the same again when they were not answered; None when all were. The state counts the
    rounds."""
    answered = int(ctx.request_state or "1") if ctx.input_responses else 0
    if answered and not rounds[answered - 1].keys() <= (ctx.input_responses or {}).keys():
        answered -= 1
    if answered == len(rounds):
        return None
    asked = {key: request for key, request in rounds[answered].items() if _can(ctx, request)}
    return InputRequiredResult(input_requests=asked, request_state=str(answered + 1))


def _can(ctx: Context[Any], request: InputRequest) -> bool:
    """Whether the client says that it answers such a question."""
    declared = ctx.client_capabilities
    kinds = {ElicitRequest: "elicitation", CreateMessageRequest: "sampling", ListRootsRequest: "roots"}
    return getattr(declared, kinds[type(request)], None) is not None


async def _elicited(ctx: Context[Any], fields: Mapping[str, object]) -> str:
    schema: dict[str, Any] = {"type": "object", "properties": dict(fields)}
    result = await ctx.session.elicit_form("Please fill this in", schema, ctx.request_id)
    return f"Elicitation completed: {_answer(result)}"


def _answer(result: ElicitResult) -> str:
    return f"action={result.action}, content={result.content}"
