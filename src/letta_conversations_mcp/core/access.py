"""Who calls, and what that caller may do: scopes, and the agents that exist for them.

Over stdio there is one caller, who may do everything; over HTTP the caller is known by a token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Scope = Literal["read", "write", "delete"]
"""`read` changes nothing, `write` sends and changes, `delete` deletes. None of them includes another."""

SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class Access:
    """A caller. `agents` are the ids of the only agents that exist for them, None for all. `letta_key` is the key that
    Letta is asked with on their behalf, "" for the server's own."""

    name: str
    scopes: frozenset[Scope]
    agents: frozenset[str] | None = None
    letta_key: str = field(default="", repr=False)

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes


EVERYTHING = Access(name="", scopes=frozenset(SCOPES))
"""The one caller of a server that asks for no token."""
