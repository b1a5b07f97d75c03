"""How a function becomes a tool: strict arguments, compact schemas, one result in two forms, errors in words.

What a tool answers is in `results`, how an error reaches the client in `mcp_errors`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, cast

import anyio
import mcp_types
from anyio.abc import TaskGroup
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import func_metadata
from mcp.shared.exceptions import MCPError
from mcp_types import InputRequiredResult, ToolAnnotations
from pydantic import Field, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from letta_conversations_mcp.core.access import Access, Scope
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError, InvalidArgument, TimedOut
from letta_conversations_mcp.core.quoting import NAME_CHARS, quote
from letta_conversations_mcp.core.value_errors import wrong_with
from letta_conversations_mcp.notifications.poller import Poller
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.definitions import definitions
from letta_conversations_mcp.tools.mcp_errors import to_tool_error
from letta_conversations_mcp.turns.scheduler import Scheduler

if TYPE_CHECKING:
    from letta_conversations_mcp.tools.results.result import Result


@dataclass(frozen=True)
class Services:
    """What tools and resources work with. The server has one while it runs; each call gets its caller's view of it."""

    backend: Backend
    scheduler: Scheduler
    settings: Settings
    backend_of_key: Callable[[str], Awaitable[Backend]]
    """The backend for a caller's own Letta key. Raises Overloaded."""
    poller: Poller
    background: TaskGroup
    """For work that outlasts its call. Tasks started in it must not raise."""


ToolContext = Context[Services, Any]


def services_of(ctx: ToolContext) -> Services:
    """The services as the caller of `ctx` sees them (`server/caller_view.py`)."""
    return ctx.request_context.lifespan_context


AgentArgument = Annotated[str, Field(description="agent id (agent-…) or exact name")]
ConversationArgument = Annotated[str, Field(description="conv-… or 'default' with agent")]
DefaultAgentArgument = Annotated[str, Field(description="of 'default': its agent")]
ConfirmArgument = Annotated[bool, Field(description="must be true; ask the user first")]
WaitArgument = Annotated[float | None, Field(ge=0, le=3600, description="raise it for long tasks")]
NewSummaryArgument = Annotated[str, Field(description="names what it opens", max_length=10_000)]
NewKeyArgument = Annotated[str, Field(description="its key, as in create_conversation", max_length=100)]
LimitArgument = Annotated[int, Field(ge=1, le=100, description="rows")]

VIEWER_URI = "ui://letta-conversations/viewer.html"
"""The page of the viewer. Here, because the server announces it before it loads any tool."""


MOST_CHARS = 2_000
"""Longest text for an argument that states no maximum of its own: an id, a name, a cursor, words to search for."""

MOST_KEY_CHARS = 200
MessageKeyArgument = Annotated[
    str,
    Field(
        description="any unique text; a repeated call with it is one message",
        max_length=MOST_KEY_CHARS,
    ),
]

CALL_SECONDS = 50.0
"""Timeout of calls that wait for no reply: many clients give up after 60 seconds."""


@asynccontextmanager
async def time_limit(what: str, seconds: float) -> AsyncGenerator[None]:
    """Bounds what is awaited in here. Raises TimedOut."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise TimedOut(what, seconds, "The same call can be made again.")


CONTEXT = "ctx"
"""The parameter of every tool's function that is not an argument of the tool."""


class _JsonSchema(GenerateJsonSchema):
    """Takes defaults as they are, because all are JSON: pydantic would build a serializer for each of hundreds."""

    def encode_default(self, dft: Any) -> Any:
        return dft


class PersonAsked(Exception):
    """The call cannot be answered yet: its client asks the person, and calls again with the answer."""

    def __init__(self, result: InputRequiredResult) -> None:
        self.result = result
        super().__init__("the person is asked")


class ConversationTool(Tool):
    """A tool with strictly checked arguments and errors that a model can act on."""

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:
        try:
            checked = self.fn_metadata.validate_arguments(arguments)
        except ValidationError as error:
            raise ToolError(self._explain(error)) from error
        if long := self._too_long(checked):
            raise to_tool_error(long)
        if broken := next((name for name, value in checked.items() if _has_nul(value)), ""):
            raise to_tool_error(InvalidArgument(broken, "it holds a NUL character, which cannot be stored."))
        try:
            result = await self._call({**checked, cast("str", self.context_kwarg): context})
        except PersonAsked as asked:
            return asked.result
        except ConversationError as error:
            raise to_tool_error(error) from error
        except (MCPError, ToolError):
            raise
        except Exception as error:
            raise UnexpectedToolError(
                f"{self.name} failed inside this MCP server; its log has the details. "
                "If the call was to send or change something, look whether it did before repeating it."
            ) from error
        return cast("Result", result).to_mcp()

    async def _call(self, arguments: dict[str, Any]) -> Any:
        if "wait_seconds" in arguments or self.name == "compact":
            return await self.fn(**arguments)
        async with time_limit(f"answer {self.name}", CALL_SECONDS):
            return await self.fn(**arguments)

    def definition(self) -> mcp_types.Tool:
        """The tool as `tools/list` shows it, which `definitions` keeps."""
        return mcp_types.Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=self.parameters,
            output_schema=self.output_schema and _compact_schema(self.output_schema),
            annotations=self.annotations,
            _meta=self.meta,
        )

    def _too_long(self, arguments: Mapping[str, Any]) -> InvalidArgument | None:
        """Checks the maximum of texts whose schema states none: stating it 50 times would cost tokens."""
        for name, value in arguments.items():
            texts = cast("list[object]", value if isinstance(value, list) else [value])
            if any(isinstance(text, str) and len(text) > MOST_CHARS for text in texts):
                schema = self.parameters["properties"].get(name, {})
                if "maxLength" not in schema.get("items", schema):
                    return InvalidArgument(name, f"a text has at most {MOST_CHARS} characters here.")
        return None

    def _explain(self, error: ValidationError) -> str:
        names = cast("dict[str, object]", self.parameters["properties"])
        problems: list[str] = []
        for each in error.errors(include_url=False, include_input=False):
            place = ".".join(map(str, each["loc"])) or "arguments"
            if each["type"] == "extra_forbidden":
                problems.append(f"{quote(place, NAME_CHARS)}: there is no such argument")
            elif each["type"] == "missing":
                problems.append(f"{quote(place, NAME_CHARS)} is required")
            else:
                problems.append(f"{quote(place, NAME_CHARS)}: {wrong_with(each)}")
        return f"{self.name} was not called. {'; '.join(problems[:6])}. Its arguments are: {', '.join(names)}."


@dataclass(frozen=True)
class ToolSpec:
    """A function as a tool: its name is the tool's name, its docstring the description, its parameters the
    arguments."""

    fn: Callable[..., Awaitable[Result]]
    title: str
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False
    deletes: bool = False
    manages_agents: bool = False
    shown_in: str = ""
    """The `ui://` page that hosts with MCP Apps show for it."""
    for_models: bool = True
    """False for a tool that only that page calls."""

    @property
    def name(self) -> str:
        return self.fn.__name__

    @property
    def scope(self) -> Scope:
        """The scope that a caller needs."""
        if self.read_only:
            return "read"
        return "delete" if self.deletes else "write"

    def is_offered(self, settings: Settings) -> bool:
        """True if a server with these settings offers the tool."""
        if self.manages_agents and not (settings.uses_local or settings.create_agents):
            return False
        return self.read_only or not settings.read_only

    def may_be_used(self, access: Access) -> bool:
        # A caller with an agent list could not see the agent that they created.
        return access.may(self.scope) and not (self.manages_agents and access.agents is not None)

    def listed(self, wait_seconds: float) -> mcp_types.Tool:
        """The tool as `tools/list` shows it, without the schemas' models, which take milliseconds for each tool."""
        tool = mcp_types.Tool.model_validate(definitions()[self.name])
        properties = tool.input_schema["properties"]
        if waiting := properties.get("wait_seconds"):
            waiting = {**waiting, "default": _shortest(wait_seconds)}
            tool.input_schema["properties"] = {**properties, "wait_seconds": waiting}
        return tool

    @cache  # noqa: B019 - the specs are constants
    def build(self, wait_seconds: float) -> ConversationTool:
        """The tool with its schemas, which take some milliseconds to derive. `wait_seconds`: how long a call waits
        unless it says otherwise."""
        # Not by `from_function`, which derives the schema of a model that accepts unknown arguments and drops them.
        metadata = func_metadata(self.fn, skip_names=[CONTEXT])
        model = metadata.arg_model
        model.model_config["extra"] = "forbid"
        model.model_rebuild(force=True)
        parameters = _compact_schema(model.model_json_schema(by_alias=True, schema_generator=_JsonSchema))
        if waiting := parameters["properties"].get("wait_seconds"):
            waiting["default"] = _shortest(wait_seconds)
        return ConversationTool(
            fn=self.fn,
            name=self.name,
            parameters=parameters,
            fn_metadata=metadata,
            is_async=True,
            context_kwarg=CONTEXT,
            title=self.title,
            description=" ".join((self.fn.__doc__ or "").split()),
            annotations=ToolAnnotations(
                title=self.title,
                read_only_hint=self.read_only,
                destructive_hint=self.destructive,
                idempotent_hint=self.idempotent or self.read_only,
                open_world_hint=self.open_world,
            ),
            meta=self._meta(),
        )

    def _meta(self) -> dict[str, Any] | None:
        if not self.shown_in:
            return None
        return {"ui": {"resourceUri": self.shown_in, "visibility": ["model", "app"] if self.for_models else ["app"]}}


def _shortest(number: float) -> float:
    return int(number) if number.is_integer() else number


def _has_nul(value: object) -> bool:
    match value:
        case str():
            return "\0" in value
        case list():
            return any(map(_has_nul, cast("list[object]", value)))
        case dict():
            fields = cast("dict[object, object]", value)
            return any(map(_has_nul, [*fields.keys(), *fields.values()]))
        case _:
            return False


Definitions = dict[str, dict[str, Any]]


def _compact_schema(schema: dict[str, Any], shared: Definitions | None = None) -> dict[str, Any]:
    """The schema of an object without what costs tokens and says nothing: the titles that pydantic derives from names,
    empty defaults, nulls (what may be left out need not be a union with null, which some clients mishandle) and
    definitions, which stand where they are used."""
    defs = shared or cast("Definitions", schema.get("$defs", {}))
    compact: dict[str, Any] = {"type": "object", "properties": {}}
    for name, each in cast("dict[str, dict[str, Any]]", schema.get("properties", {})).items():
        compact["properties"][name] = _compact(each, defs)
    for kept in ("required", "additionalProperties"):
        if kept in schema:
            compact[kept] = schema[kept]
    return compact


def _compact(field: dict[str, Any], defs: Definitions) -> dict[str, Any]:
    alternatives = [each for each in field.get("anyOf", []) if each != {"type": "null"}]
    merged = {**field, **alternatives[0]} if len(alternatives) == 1 else dict(field)
    left_out = {"title"} | ({"anyOf"} if len(alternatives) == 1 else set[str]())
    if not merged.get("default", ...):
        left_out.add("default")
    if merged.get("additionalProperties") is True:
        left_out.add("additionalProperties")
    if name := merged.pop("$ref", ""):
        own = defs[name.removeprefix("#/$defs/")]
        merged |= _compact_schema(own, defs) if "properties" in own else own
    if "items" in merged:
        merged["items"] = _compact(merged["items"], defs)
    return {key: value for key, value in merged.items() if key not in left_out}
