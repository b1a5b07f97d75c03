"""The client configuration that starts this server with the current settings, without secrets."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from pydantic import SecretStr

from letta_conversations_mcp.cli.options import settings_name
from letta_conversations_mcp.cli.program_name import PROGRAM
from letta_conversations_mcp.core.quoting import without_password
from letta_conversations_mcp.settings import BackendSettings, variable_of

MODEL_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
MODEL_ADDRESSES = ("OLLAMA_BASE_URL", "LMSTUDIO_BASE_URL", "LLAMA_CPP_BASE_URL")
"""Where the agents of this machine find their models. A client starts its servers with few of its own variables."""


def client_configuration(settings: BackendSettings) -> dict[str, object]:
    """The `mcpServers` object of Claude Desktop, Cursor and most others."""
    entry: dict[str, object] = {"command": command()[0]}
    if arguments := command()[1:]:
        entry["args"] = arguments
    if variables := _variables(settings):
        entry["env"] = variables
    return {"mcpServers": {"letta": entry}}


def command() -> list[str]:
    """The command that starts this installation, with absolute paths: clients use a PATH of their own."""
    beside = shutil.which(PROGRAM, path=str(Path(sys.executable).parent))
    return [str(Path(beside).absolute())] if beside else [sys.executable, "-m", "letta_conversations_mcp"]


def _variables(settings: BackendSettings) -> dict[str, str]:
    variables: dict[str, str] = {}
    for name, field in BackendSettings.model_fields.items():
        value = getattr(settings, name)
        variable = variable_of(settings_name(name, field))
        is_set = value.get_secret_value() if isinstance(value, SecretStr) else value != field.default
        if is_set:
            variables[variable] = _shown(variable, value)
    if settings.uses_local:
        variables |= {name: _placeholder(name) for name in MODEL_KEYS if os.environ.get(name)}
        variables |= {name: without_password(os.environ[name]) for name in MODEL_ADDRESSES if os.environ.get(name)}
    elif not (settings.base_url or settings.api_key.get_secret_value()):
        variables["LETTA_API_KEY"] = _placeholder("LETTA_API_KEY")
    return variables


def _shown(variable: str, value: object) -> str:
    if isinstance(value, SecretStr):
        return _placeholder(variable)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return without_password(text) if variable.endswith("_URL") else text


def _placeholder(variable: str) -> str:
    return f"your {variable}"
