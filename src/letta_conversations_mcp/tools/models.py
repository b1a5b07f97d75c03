"""The tool that lists models."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from letta_conversations_mcp.tools.base import ToolContext, ToolSpec, services_of
from letta_conversations_mcp.tools.results.models import ModelList

MODELS = 100
"""Models in one answer; a server may offer hundreds."""


async def list_models(
    ctx: ToolContext,
    search: Annotated[str, Field(description="part of the handle, such as 'sonnet'")] = "",
) -> ModelList:
    """List the models that an agent or a conversation can have here, as handles provider/model, for the argument
    model."""
    services = services_of(ctx)
    every = await services.backend.list_models()
    found = [handle for handle in every if search.strip().lower() in handle.lower()]
    if not every:
        return ModelList(note=services.backend.no_models_advice)
    shown = tuple(found[:MODELS])
    note = f"{len(found) - MODELS} more; search for a part of the name." if len(found) > MODELS else ""
    return ModelList(models=shown, note=note or ("" if found else f"None of the {len(every)} models has {search!r}."))


MODEL_TOOLS = (ToolSpec(list_models, title="List models", read_only=True),)
