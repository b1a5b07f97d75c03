"""The tokens file: who has a token, and what it opens.

    [[tokens]]
    name = "ann"                             # who it is, in the log
    sha256 = "9f86d081…"                     # of the token, in hex
    scopes = ["read", "write"]               # of read, write and delete
    agents = ["agent-…"]                     # the only agents that exist for it; left out: all
    expires = 2027-01-31                     # the first day on which it is refused (UTC), or a time; left out: never
    letta_api_key = "sk-let-…"               # what Letta is asked with; left out: the server's own key

The file holds no token but the hash of each. A plain SHA-256 is enough, and quick: the tokens are 256 random bits, of
which nobody can try a noticeable part. (A slow hash protects what people can remember, and would let a stranger keep
the server busy.) The file is read again when it changes; one that cannot be read leaves the last good one in force.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import time
import tomllib
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from pathlib import Path
from typing import Annotated, cast

from mcp.server.auth.provider import AccessToken
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError, field_validator

from letta_conversations_mcp.core.access import EVERYTHING, SCOPES, Access, Scope
from letta_conversations_mcp.core.model import AGENT_ID
from letta_conversations_mcp.core.value_errors import wrong_with
from letta_conversations_mcp.server.caller_view import CallerToken

logger = logging.getLogger(__name__)

PREFIX = "lcm_"
"""Begins every token that is made here, so that a scanner for secrets can find one that has leaked."""

LOOK_SECONDS = 1.0
"""How often the file is looked at, at most."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


class BadTokensFile(Exception):
    """The tokens file cannot be used. Its text says why, and holds nothing of the file but names."""


class TokenEntry(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    agents: frozenset[str] | None = None
    expires: datetime | None = None
    letta_api_key: SecretStr = SecretStr("")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("1 to 64 letters, digits and . _ @ + - are needed, such as ann@example.org")
        return value

    @field_validator("agents")
    @classmethod
    def _agents(cls, value: frozenset[str] | None) -> frozenset[str] | None:
        if not all(map(AGENT_ID.fullmatch, value or ())):
            raise ValueError("ids are needed, such as agent-123e4567-e89b-42d3-a456-426614174000; names may change")
        return value

    @field_validator("expires", mode="before")
    @classmethod
    def _moment(cls, value: object) -> object:
        """A day begins at midnight, and a time without a zone is one in UTC."""
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time_of_day())
        return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value

    def access(self) -> Access:
        return Access(self.name, self.scopes, self.agents, self.letta_api_key.get_secret_value())


def make_token() -> str:
    """A new token: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def read_tokens(path: Path) -> list[TokenEntry]:
    """The entries of a file. Raises BadTokensFile."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise BadTokensFile(f"The tokens file {path} cannot be read: {reason}.") from error
    except tomllib.TOMLDecodeError as error:
        raise BadTokensFile(f"The tokens file {path} is not TOML: {error}.") from error
    if not data:
        raise BadTokensFile(
            f"The tokens file {path} is empty, as a file is that was cut off. One without tokens says: tokens = []"
        )
    tables: object = data.pop("tokens", [])
    if data or not isinstance(tables, list):
        raise BadTokensFile(f"The tokens file {path} must hold [[tokens]] tables and nothing else.")
    entries = [_read_entry(path, number, table) for number, table in enumerate(cast("list[object]", tables), 1)]
    for what, values in (("name", [each.name for each in entries]), ("sha256", [each.sha256 for each in entries])):
        if len(set(values)) < len(values):
            twice = next(each.name for number, each in enumerate(entries) if values[number] in values[:number])
            raise BadTokensFile(f"The tokens file {path} has the {what} of {twice!r} twice.")
    return entries


def warning_of(path: Path) -> str:
    """A warning if every user of the machine can read or change the file, else "". A group may be meant to."""
    if os.name == "nt" or not path.stat().st_mode & 0o006:
        return ""
    return (
        f"The tokens file {path} can be read or changed by every user of this machine. "
        "Give it to the server's user alone (chmod 600)."
    )


def _read_entry(path: Path, number: int, table: object) -> TokenEntry:
    try:
        return TokenEntry.model_validate(table)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "it"
        raise BadTokensFile(
            f"The tokens file {path}, token {number}: {place}: {wrong_with(problem)}. A token has name, sha256, scopes "
            f"(of {', '.join(SCOPES)}) and, if wanted, agents, expires and letta_api_key."
        ) from None


class TokensFile:
    """Verifies the tokens of a file (an SDK `TokenVerifier`)."""

    def __init__(self, path: Path) -> None:
        """Raises BadTokensFile."""
        self._path = path
        self._looked_at = time.monotonic()
        self._seen = self._state()
        self._entries = read_tokens(path)
        if warning := warning_of(path):
            logger.warning(warning)

    @property
    def entries(self) -> list[TokenEntry]:
        return self._entries

    @property
    def all_have_keys(self) -> bool:
        """True if no call uses the server's own key for Letta."""
        return all(each.letta_api_key.get_secret_value() for each in self._entries)

    async def verify_token(self, token: str) -> AccessToken | None:
        self._reload_if_changed()
        given = hash_of(token)
        # Compare all, so that the time does not reveal which one matched.
        found = [each for each in self._entries if hmac.compare_digest(each.sha256, given)]
        if not found:
            return None
        expires_at = int(found[0].expires.timestamp()) if found[0].expires else None
        if expires_at is not None and expires_at <= time.time():
            return None
        return CallerToken.of(found[0].access(), expires_at=expires_at)

    def _reload_if_changed(self) -> None:
        """Read the file again if it has changed."""
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            entries = read_tokens(self._path)
        except BadTokensFile as error:
            logger.error("%s The tokens that were read before stay in force.", error)
            return
        gone = sorted({each.name for each in self._entries} - {each.name for each in entries})
        self._entries = entries
        logger.warning(
            "The tokens file was read again: %d tokens%s.", len(entries), f"; gone: {', '.join(gone)}" if gone else ""
        )

    def _state(self) -> tuple[int, int, int] | None:
        """A value that differs if the file does."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


class OneToken:
    """Verifies the one token of a server that knows no callers (an SDK `TokenVerifier`)."""

    def __init__(self, token: str) -> None:
        self._expected = hash_of(token)

    async def verify_token(self, token: str) -> AccessToken | None:
        return CallerToken.of(EVERYTHING) if hmac.compare_digest(hash_of(token), self._expected) else None
