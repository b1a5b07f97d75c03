"""Every option in one class: its environment variable, its flag, its default and its meaning.

A flag wins over a variable, a variable over the default. Built once, in `cli`, and handed down: nothing else reads the
environment. Contradictions fail here, naming both options.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, HttpUrl, SecretStr, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")

_UNSET_PLACEHOLDER = re.compile(r"\$\{.*\}")
"""Some clients hand over the text `${LETTA_API_KEY}` itself when the variable is not set."""


class Settings(BaseSettings):
    """The options of the server. All durations in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="LETTA_MCP_", env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True
    )

    backend: Literal["auto", "api", "local"] = Field(
        default="auto",
        description="where conversations live: api is the Letta REST API, Cloud or self-hosted; local is this machine; "
        "auto chooses api when a key or a URL is set, else local when it is installed",
    )
    api_key: SecretStr = Field(
        default=SecretStr(""),
        validation_alias="letta_api_key",
        description="the key for Letta; a self-hosted server may need none",
    )
    base_url: str = Field(
        default="", validation_alias="letta_base_url", description="the Letta server; without it, Letta Cloud"
    )
    project: str = Field(
        default="",
        validation_alias="letta_project",
        description="the Letta Cloud project to work in; without it, the key's default",
    )
    local_dir: Path | None = Field(
        default=None, description="where the agents of this machine are kept; without it, the user's data folder"
    )
    app_server_url: str = Field(
        default="",
        description="a running Letta Code App Server to use instead of starting one, such as ws://127.0.0.1:4500/ws",
    )
    app_server_token: SecretStr = Field(default=SecretStr(""), description="its token")
    local_tools: bool = Field(
        default=False,
        description="let the agents of this machine run shell commands and change files here, without being asked",
    )
    create_agents: bool = Field(
        default=False, description="offer create_agent on the api backend too; on local it always is"
    )
    read_only: bool = Field(default=False, description="offer only the tools that change nothing")
    wait_seconds: float = Field(
        default=45,
        ge=0,
        le=3600,
        description="how long send_message waits for a reply unless the call says; "
        "below the 60 seconds after which many clients give up",
    )
    max_output_chars: int = Field(
        default=30_000, ge=2_000, le=500_000, description="no answer is longer than this; what is cut says so"
    )
    connect_timeout: float = Field(default=5, gt=0, le=600, description="for the connection to Letta")
    request_timeout: float = Field(
        default=60, gt=0, le=3600, description="for Letta's answer to anything but a message or a compaction"
    )
    silence_timeout: float = Field(
        default=120, gt=0, le=3600, description="for silence within a turn; Letta sends a sign of life every 20 seconds"
    )
    compact_timeout: float = Field(
        default=300, gt=0, le=3600, description="for a compaction, in which a model writes a summary"
    )
    host: str = Field(
        default="127.0.0.1",
        description="the address that serve --http listens on; any but this machine's own needs a token",
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="the port that serve --http listens on; 0 takes a free one"
    )
    token: SecretStr = Field(default=SecretStr(""), description="what an HTTP client must send as its bearer token")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Host headers to accept besides this machine's own, separated by commas: name or name:port",
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Origin headers to accept besides this machine's own, separated by commas: https://name"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="WARNING", description="what is written to stderr"
    )

    @field_validator("api_key", "base_url", "project", "token", "app_server_token", mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(text, str):
            return "" if _UNSET_PLACEHOLDER.fullmatch(text.strip()) else text.strip()
        return value

    @field_validator("base_url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value:
            try:
                TypeAdapter(HttpUrl).validate_python(value)
            except ValidationError as error:
                raise ValueError("a URL is needed, such as http://localhost:8283") from error
        return value.rstrip("/")

    @field_validator("allowed_hosts", "allowed_origins", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _level(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        token = self.token.get_secret_value()
        if token and not token.isascii():
            raise ValueError("token: an HTTP header carries only ASCII characters")
        return self

    @property
    def uses_local(self) -> bool:
        """Whether the agents of this machine are meant."""
        if self.backend == "auto":
            return not (self.api_key.get_secret_value() or self.base_url)
        return self.backend == "local"

    @property
    def listens_beyond_loopback(self) -> bool:
        return self.host not in LOOPBACK_HOSTS
