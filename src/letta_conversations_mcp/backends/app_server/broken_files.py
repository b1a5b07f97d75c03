"""Finds the files of a state folder that cannot be read: the server does not say which one is broken (0.34.12)."""

from __future__ import annotations

import base64
from pathlib import Path

from pydantic_core import from_json

from letta_conversations_mcp.core.model import DEFAULT_CONVERSATION, ConversationRef

BACKEND = "backend"
"""The folder in the state folder where the server keeps its agents and conversations."""


def broken_records(state: Path) -> list[Path]:
    """Broken files that keep the server from starting, such as the empty one of an agent created on a full disk."""
    backend = state / BACKEND
    files = (*sorted(backend.glob("agents/*.json")), *backend.glob("providers/auth.json"))
    return [path for path in files if not _is_json(_content(path))]


def broken_line(state: Path, ref: ConversationRef) -> tuple[Path, int] | None:
    """The file of a conversation's messages and the number of the first line that is not JSON; None if there is none. A
    single such line makes all messages of its conversation unreadable."""
    is_default = ref.conversation_id == DEFAULT_CONVERSATION
    name = f"default:{ref.agent_id}" if is_default else f"conversation:{ref.conversation_id}"
    folder = base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
    path = state / BACKEND / "conversations" / folder / "messages.jsonl"
    for number, line in enumerate(_content(path).splitlines(), 1):
        if line.strip() and not _is_json(line):
            return path, number
    return None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _is_json(data: bytes) -> bool:
    try:
        from_json(data)
    except ValueError:
        return False
    return True
