"""`token`: a new token for a caller of `serve --http`, and its table for the tokens file.

The token goes to stderr, where only a person sees it, and the table to stdout: `token … >> tokens.toml` adds it. The
token itself is kept nowhere.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import date

from pydantic import ValidationError

from letta_conversations_mcp.cli.failure import CommandFailed
from letta_conversations_mcp.core.access import SCOPES
from letta_conversations_mcp.http.auth.token_file import TokenEntry, hash_of, make_token


def token(name: str, scopes: Sequence[str], agents: Sequence[str] | None, expires: str) -> int:
    """Make one and print it. Raises CommandFailed for what the tokens file could not hold."""
    if agents is not None and not agents:
        raise CommandFailed("--agents: it is empty; give ids, or leave it out for all agents")
    secret = make_token()
    try:
        last_day = date.fromisoformat(expires) if expires else None
        entry = TokenEntry.model_validate(
            {
                "name": name,
                "sha256": hash_of(secret),
                "scopes": scopes,
                "agents": agents,
                "expires": last_day,
            }
        )
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        raise CommandFailed(f"--{problem['loc'][0]}: {problem['msg'].removeprefix('Value error, ')}") from error
    except ValueError as error:
        raise CommandFailed("--expires: a day is needed, such as 2027-01-31") from error
    print(
        f"The token of {entry.name}, which is shown only now; clients send it as Authorization: Bearer {secret}",
        file=sys.stderr,
    )
    lines = [
        "[[tokens]]",
        f'name = "{entry.name}"',
        f'sha256 = "{entry.sha256}"',
        f"scopes = {_list([each for each in SCOPES if each in entry.scopes])}",
        f"agents = {_list(sorted(entry.agents))}" if entry.agents else "",
        f"expires = {last_day}" if last_day else "",
    ]
    print("\n".join(filter(None, lines)) + "\n")
    return 0


def _list(texts: Sequence[str]) -> str:
    """A list in TOML; none of the texts has a character that would have to be escaped."""
    quoted = ", ".join(f'"{each}"' for each in texts)
    return f"[{quoted}]"
