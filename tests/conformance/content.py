"""What the conformance suite expects a server to have besides what it is for: tools, resources and prompts of all kinds
of content. They are served by our own server object, through all that stands before its own tools.
"""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import Message, UserMessage
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    ClientCapabilities,
    EmbeddedResource,
    ImageContent,
    MissingRequiredClientCapabilityErrorData,
    SamplingCapability,
    TextContent,
    TextResourceContents,
    Tool,
)
from pydantic import Field

PNG = base64.b64encode(
    base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC",
    )
).decode()
WAV = base64.b64encode(b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0@\x1f\0\0@\x1f\0\0\x01\0\x08\0data\0\0\0\0").decode()

IMAGE = ImageContent(data=PNG, mime_type="image/png")


def add_content(server: MCPServer[Any]) -> None:
    _add_tools(server)
    _add_resources(server)
    _add_prompts(server)


def _text(words: str) -> TextContent:
    return TextContent(text=words)


def _embedded(uri: str, mime_type: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


def _add_tools(server: MCPServer[Any]) -> None:
    @server.tool(name="test_simple_text")
    async def simple_text() -> TextContent:
        """A fixture: text."""
        return _text("This is a simple text response for testing.")

    @server.tool(name="test_image_content")
    async def image() -> ImageContent:
        """A fixture: an image."""
        return IMAGE

    @server.tool(name="test_audio_content")
    async def audio() -> AudioContent:
        """A fixture: a sound."""
        return AudioContent(data=WAV, mime_type="audio/wav")

    @server.tool(name="test_embedded_resource")
    async def embedded() -> EmbeddedResource:
        """A fixture: a resource."""
        return _embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")

    @server.tool(name="test_multiple_content_types", structured_output=False)
    async def mixed() -> list[TextContent | ImageContent | EmbeddedResource]:
        """A fixture: several kinds at once."""
        data = json.dumps({"test": "data", "value": 123}, separators=(",", ":"))
        return [
            _text("Multiple content types test:"),
            IMAGE,
            _embedded("test://mixed-content-resource", "application/json", data),
        ]

    @server.tool(name="test_error_handling")
    async def error() -> None:
        """A fixture: an error."""
        raise ToolError("This tool intentionally returns an error for testing")

    @server.tool(name="test_tool_with_progress")
    async def progress(ctx: Context[Any]) -> str:
        """A fixture: progress on the way."""
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100)
        return "done"

    @server.tool(name="test_missing_capability")
    async def missing_capability(ctx: Context[Any]) -> str:
        """A fixture: needs a client that can sample."""
        needed = ClientCapabilities(sampling=SamplingCapability())
        declared = ctx.client_capabilities
        if declared is None or declared.sampling is None:
            data = MissingRequiredClientCapabilityErrorData(required_capabilities=needed)
            raise MCPError(
                code=MISSING_REQUIRED_CLIENT_CAPABILITY,
                message="sampling is needed",
                data=data.model_dump(by_alias=True, mode="json", exclude_none=True),
            )
        return "it can"

    @server.tool(name="test_streaming_elicitation")
    async def streaming(ctx: Context[Any]) -> str:
        """A fixture: something on the stream before the answer."""
        await ctx.report_progress(1, 2)
        return "nothing to ask"

    @server.tool(name="test_x_mcp_header")
    async def mirrored(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
        """A fixture: an argument that is mirrored in a header."""
        return region


JSON_SCHEMA_TOOL = Tool(
    name="json_schema_2020_12_tool",
    description="A fixture: a schema with many keywords, which must arrive as they are.",
    input_schema={
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)


def _add_resources(server: MCPServer[Any]) -> None:
    @server.resource("test://static-text", mime_type="text/plain")
    async def text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    async def binary() -> bytes:
        return base64.b64decode(PNG)

    @server.resource("test://template/{id}/data", mime_type="application/json")
    async def template(id: str) -> str:  # noqa: A002 - the suite names it
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def _add_prompts(server: MCPServer[Any]) -> None:
    @server.prompt(name="test_simple_prompt", description="A fixture.")
    async def simple() -> str:
        return "This is a simple prompt for testing."

    @server.prompt(name="test_prompt_with_arguments", description="A fixture.")
    async def with_arguments(arg1: str, arg2: str) -> str:
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt(name="test_prompt_with_embedded_resource", description="A fixture.")
    async def with_resource(resourceUri: str) -> list[Message]:  # noqa: N803 - the suite names it
        return [
            UserMessage(_embedded(resourceUri, "text/plain", "Embedded resource content for testing.")),
            UserMessage("Please process the embedded resource above."),
        ]

    @server.prompt(name="test_prompt_with_image", description="A fixture.")
    async def with_image() -> list[Message]:
        return [UserMessage(IMAGE), UserMessage("Please analyze the image above.")]
