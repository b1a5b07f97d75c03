"""The one description of the server: `server.toml`, the package's version, and the settings' own texts."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel

from letta_conversations_mcp import __version__
from letta_conversations_mcp.settings import Settings

ROOT = Path(__file__).parent.parent


class Option(BaseModel, frozen=True, extra="forbid"):
    """An environment variable that a person sets. `description` is a clause, without a full stop."""

    variable: str
    title: str
    description: str
    secret: bool = False
    example: str = ""

    @property
    def key(self) -> str:
        """The name that bundles give it: letters, digits and underscores."""
        return self.variable.lower()


class Description(BaseModel, frozen=True, extra="forbid"):
    """What `server.toml` says, with the version of the package."""

    name: str
    title: str
    summary: str
    repository: str
    commit: str
    registry_name: str
    image: str
    author: str
    license: str
    keywords: tuple[str, ...]
    options: tuple[Option, ...]
    version: str = __version__

    @property
    def requirement(self) -> str:
        """What `uvx --from` and `pip install` take until the package is in an index."""
        return f"{self.name}[local] @ git+{self.repository}"


def read_description() -> Description:
    """Raises ValidationError for an option that has no description here and is not one of the settings."""
    found = tomllib.loads((Path(__file__).parent / "server.toml").read_text())
    known = _setting_descriptions()
    for option in found["options"]:
        option.setdefault("description", known.get(option["variable"]))
    return Description.model_validate(found)


def _setting_descriptions() -> dict[str, str]:
    """The description of every setting, by its environment variable."""
    texts: dict[str, str] = {}
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        variable = alias.upper() if isinstance(alias, str) else f"LETTA_MCP_{name.upper()}"
        texts[variable] = field.description or ""
    return texts
