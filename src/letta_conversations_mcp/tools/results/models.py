"""What list_models answers."""

from __future__ import annotations

from letta_conversations_mcp.tools.results.result import Result


class ModelList(Result):
    models: tuple[str, ...] = ()
    note: str = ""

    def to_text(self) -> str:
        return "\n".join(filter(None, [*self.models, self.note]))
