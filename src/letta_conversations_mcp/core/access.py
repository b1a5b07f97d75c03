"""A caller's rights: scopes, and the agents that the caller can see.

Over stdio there is one caller, who may do everything. Over HTTP a token identifies the caller.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal, get_args

Scope = Literal["read", "write", "delete"]
"""`read` changes nothing, `write` sends and changes, `delete` deletes. None of them includes another."""

SCOPES: tuple[Scope, ...] = get_args(Scope)


def account_of(letta_key: str) -> str:
    return hashlib.sha256(letta_key.encode()).hexdigest()[:16] if letta_key else ""


@dataclass(frozen=True)
class Access:
    """A caller. `agents` are the ids of the only agents that they can see, None for all. `letta_key` is the key for
    Letta that is used for their calls, "" for the server's own."""

    name: str
    scopes: frozenset[Scope]
    agents: frozenset[str] | None = None
    letta_key: str = field(default="", repr=False)

    @property
    def account(self) -> str:
        """Names the Letta key without revealing it."""
        return account_of(self.letta_key)

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes


EVERYTHING = Access(name="", scopes=frozenset(SCOPES))
"""The caller of a server without tokens."""
