"""`token`: a new token for a caller of `serve --http`, and its table for the tokens file.

The token goes to stderr, where only a person sees it. With `--file` the table is added to that file, which is made for
its owner alone; without, the table goes to stdout. The token itself is kept nowhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import ValidationError

from letta_conversations_mcp.cli.exit_status import CommandFailed
from letta_conversations_mcp.core.access import SCOPES
from letta_conversations_mcp.core.value_errors import wrong_with
from letta_conversations_mcp.http.auth.token_file import (
    BadTokensFile,
    TokenEntry,
    hash_of,
    make_token,
    read_tokens,
    warning_of,
)


def token(
    name: str, scopes: Sequence[str], agents: Sequence[str] | None, expires: str, file: Path | None = None
) -> int:
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
        raise CommandFailed(f"--{problem['loc'][0]}: {wrong_with(problem)}") from error
    except ValueError as error:
        raise CommandFailed("--expires: a day is needed, such as 2027-01-31") from error
    if entry.expires is not None and entry.expires <= datetime.now(UTC):
        raise CommandFailed(f"--expires: {last_day} is not in the future, so the token would never be accepted")
    lines = [
        "[[tokens]]",
        f'name = "{entry.name}"',
        f'sha256 = "{entry.sha256}"',
        f"scopes = {_list([each for each in SCOPES if each in entry.scopes])}",
        f"agents = {_list(sorted(entry.agents))}" if entry.agents else "",
        f"expires = {last_day}" if last_day else "",
    ]
    table = "\n".join(filter(None, lines)) + "\n"
    if file is None:
        print(table)
    else:
        _append(file, entry, table)
    print(
        f"The token of {entry.name}, which is shown only now; clients send it as Authorization: Bearer {secret}",
        file=sys.stderr,
    )
    return 0


def _append(path: Path, entry: TokenEntry, table: str) -> None:
    """Add the table to the file. Raises CommandFailed when it cannot be, or when it has this name already."""
    try:
        exists = path.exists() and path.stat().st_size > 0
        if exists and entry.name in {each.name for each in read_tokens(path)}:
            raise CommandFailed(f"{path} has a token named {entry.name!r} already: choose another --name")
        with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "a") as file:
            file.write(f"\n{table}" if exists else table)
        if warning := warning_of(path):
            print(warning, file=sys.stderr)
    except BadTokensFile as error:
        raise CommandFailed(str(error)) from error
    except OSError as error:
        raise CommandFailed(f"{path} cannot be written: {error.strerror}", status=1) from error


def _list(texts: Sequence[str]) -> str:
    """A list in TOML; none of the texts has a character that would have to be escaped."""
    quoted = ", ".join(f'"{each}"' for each in texts)
    return f"[{quoted}]"
