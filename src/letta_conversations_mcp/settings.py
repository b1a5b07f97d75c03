"""Every option in one place: its environment variable, its flag, its default and its meaning.

A flag overrides a variable, a variable the default. Built once, in `cli`, and passed down: nothing else reads the
environment. Contradictions fail here, naming both options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, HttpUrl, SecretStr, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

CLOUD_URL = "https://api.letta.com"

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")

VARIABLE_PREFIX = "LETTA_MCP_"

_UNSET_PLACEHOLDER = re.compile(r"\$\{[^${}]*\}")
"""Some clients pass the text `${LETTA_API_KEY}` itself if the variable is not set."""


class BackendSettings(BaseSettings):
    """Which Letta server to use and its timeouts: the options that every command needs. All durations in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=VARIABLE_PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        defer_build=True,
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
    local_tools: Literal["off", "ask", "on"] = Field(
        default="off",
        description="the tools of this machine's agents, which run shell commands and change files here: off; ask, "
        "each call waits until it is approved; or on, without being asked",
    )
    connect_timeout: float = Field(default=5, gt=0, le=600, description="for the connection to Letta")
    request_timeout: float = Field(
        default=60, gt=0, le=3600, description="for Letta's answer to anything but a message or a compaction"
    )
    first_byte_timeout: float = Field(
        default=60, gt=0, le=3600, description="for the first sign of Letta after a message was handed over"
    )
    silence_timeout: float = Field(
        default=120, gt=0, le=3600, description="for silence within a turn; Letta sends a sign of life every 20 seconds"
    )
    turn_timeout: float = Field(
        default=3600,
        gt=0,
        le=86_400,
        description="for a whole turn; after that it is not followed any more, but goes on",
    )
    compact_timeout: float = Field(
        default=300, gt=0, le=3600, description="for a compaction, in which a model writes a summary"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="WARNING", description="what is written to stderr"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="how it is written: one line an event")
    log_messages: bool = Field(
        default=False,
        description="let the texts of messages into the log, and what other libraries log below WARNING, which has "
        "them too",
    )

    @field_validator("api_key", "base_url", "project", "app_server_token", mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        return strip_unset(value)

    @field_validator("base_url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value:
            try:
                TypeAdapter(HttpUrl).validate_python(value)
            except ValidationError as error:
                raise ValueError("a URL is needed, such as http://localhost:8283") from error
        # Other clients of Letta take the address with /v1.
        return value.rstrip("/").removesuffix("/v1").rstrip("/")

    @field_validator("local_dir")
    @classmethod
    def _folder(cls, value: Path | None) -> Path | None:
        try:
            value = value.expanduser() if value else None
        except RuntimeError as error:
            raise ValueError("there is no such user") from error
        if value and not value.is_absolute():
            raise ValueError("an absolute path is needed, such as ~/agents: clients start this server in any folder")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _level(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @property
    def api_url(self) -> str:
        """The Letta server that the api backend asks."""
        return self.base_url or CLOUD_URL

    @property
    def uses_local(self) -> bool:
        """True for the local backend, chosen by `backend` or by default."""
        if self.backend == "auto":
            return not (self.api_key.get_secret_value() or self.base_url)
        return self.backend == "local"


class Settings(BackendSettings):
    """The options of the server. All durations in seconds."""

    create_agents: bool = Field(
        default=False,
        description="offer create_agent and delete_agent on the api backend too; on local they always are",
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
    approvals: Literal["return", "elicit"] = Field(
        default="return",
        description="a tool call that waits for approval: return it to the client's model, "
        "or elicit a decision from the person, where the client can",
    )
    max_depth: int = Field(
        default=5,
        ge=1,
        le=100,
        description="most messages in a chain of agents that send to each other with sender, before one is refused",
    )
    watch_interval: float = Field(
        default=5,
        gt=0,
        le=3600,
        description="how often a conversation that a client subscribed to is looked at, for changes made by others",
    )
    host: str = Field(
        default="127.0.0.1",
        description="the address that serve --http listens on; any but this machine's own needs a token",
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="the port that serve --http listens on; 0 takes a free one"
    )
    token: SecretStr = Field(
        default=SecretStr(""),
        description="what an HTTP client must send as its bearer token; it opens everything to everybody who has it",
    )
    tokens_file: Path | None = Field(
        default=None,
        description="the file with a token for every caller, each with scopes and agents; the command token writes "
        "its lines. Read again when it changes",
    )
    public_url: str = Field(
        default="", description="the URL of /mcp as clients know it, such as https://letta.example.org/mcp"
    )
    oidc_issuer: str = Field(
        default="", description="the OpenID provider whose access tokens are accepted, as its tokens name it in iss"
    )
    oidc_audience: str = Field(default="", description="what those tokens have as aud; without it, the public URL")
    oidc_jwks_url: str = Field(
        default="", description="where the provider's keys are; without it, where its discovery document says"
    )
    oidc_agents_claim: str = Field(
        default="",
        description="the claim that lists the ids of the agents for a caller; without it, all agents are for everybody",
    )
    metrics_token: SecretStr = Field(
        default=SecretStr(""),
        description="what Prometheus must send as its bearer token to GET /metrics; without it, there are metrics only "
        "where calls need no token either",
    )
    traces: bool = Field(
        default=False,
        description="send OpenTelemetry traces to where the OTEL_EXPORTER_OTLP_… variables say; needs the extra otel",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="processes of serve --http that share its port, such as one for each processor; they are replicas, "
        "and need --redis-url or --stateless",
    )
    drain_seconds: float = Field(
        default=10, ge=0, le=3600, description="for running calls to be answered when serve --http is stopped"
    )
    stateless: bool = Field(
        default=False,
        description="keep no sessions of clients of the older protocol, so that any replica can answer any of their "
        "requests; --redis-url does this too",
    )
    redis_url: SecretStr = Field(
        default=SecretStr(""),
        description="the Redis through which replicas tell each other what has changed, such as "
        "redis://:password@host:6379/0; needs the extra redis",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Host headers to accept besides this machine's own, separated by commas: name or name:port",
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Origin headers to accept besides this machine's own, separated by commas: https://name"
    )
    max_body_bytes: int = Field(
        default=32 * 1024 * 1024, ge=1024, le=1024**3, description="the largest request over HTTP: a few images"
    )
    body_timeout: float = Field(
        default=60, gt=0, le=3600, description="for a request to arrive over HTTP, and for a client to take an answer"
    )
    max_calls: int = Field(default=200, ge=1, le=100_000, description="calls over HTTP that are answered at a time")
    max_per_caller: int = Field(
        default=50, ge=1, le=100_000, description="of these, calls of one caller; and turns that one caller has"
    )
    max_turns: int = Field(default=100, ge=1, le=100_000, description="turns of agents that run at a time")
    max_queued: int = Field(
        default=200, ge=0, le=100_000, description="messages that may wait until one of those turns ends"
    )
    request_state_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        description="secrets of 32 characters or more, separated by commas, that replicas of this server share: what a "
        "client carries from one to the other is sealed with the first and opened with all",
    )

    @field_validator(
        "token",
        "metrics_token",
        "redis_url",
        "public_url",
        "oidc_issuer",
        "oidc_audience",
        "oidc_jwks_url",
        mode="before",
    )
    @classmethod
    def _unset_token(cls, value: object) -> object:
        return strip_unset(value)

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("a URL is needed, such as redis://localhost:6379/0")
        return value

    @field_validator("public_url", "oidc_issuer", "oidc_jwks_url")
    @classmethod
    def _public(cls, value: str) -> str:
        """OAuth allows plain http only on one machine."""
        parts = urlsplit(value)
        if value and (not parts.hostname or parts.query or parts.fragment or parts.username):
            raise ValueError("a URL without query is needed, such as https://letta.example.org/mcp")
        if value and parts.scheme != "https" and parts.hostname not in LOOPBACK_HOSTS:
            raise ValueError("it must begin with https://")
        return value

    @field_validator("request_state_keys")
    @classmethod
    def _long_enough(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value().encode()) < 32 for key in value):
            raise ValueError(
                "each must have 32 characters or more: python -c 'import secrets; print(secrets.token_hex(32))'"
            )
        if len({key.get_secret_value() for key in value}) < len(value):
            raise ValueError("one of them is there twice")
        return value

    @field_validator("allowed_hosts", "allowed_origins", "request_state_keys", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        token = self.token.get_secret_value()
        if token and not token.isascii():
            raise ValueError("token: an HTTP header carries only ASCII characters")
        if token and self.tokens_file:
            raise ValueError(
                "--token and --tokens-file exclude each other: a line in the file can do what --token does"
            )
        if token and self.oidc_issuer:
            raise ValueError("--token and --oidc-issuer exclude each other: give --tokens-file beside --oidc-issuer")
        if self.oidc_issuer and not self.public_url:
            raise ValueError("--oidc-issuer needs --public-url, which clients and the provider know this server by")
        for name in ("oidc_audience", "oidc_jwks_url", "oidc_agents_claim"):
            if getattr(self, name) and not self.oidc_issuer:
                raise ValueError(f"--{name.replace('_', '-')} is of no use without --oidc-issuer")
        if self.workers > 1 and not self.is_stateless:
            raise ValueError(
                "--workers needs --redis-url, through which the workers know each other's calls, or at least "
                "--stateless: without them the requests of a session would reach workers that do not have it"
            )
        if self.workers > 1 and self.metrics_token.get_secret_value():
            raise ValueError(
                "--metrics-token and --workers exclude each other: one of the workers would answer for itself alone. "
                "Start a server for each --port, and ask each for its metrics"
            )
        return self

    @property
    def is_stateless(self) -> bool:
        return self.stateless or bool(self.redis_url.get_secret_value())

    @property
    def listens_beyond_loopback(self) -> bool:
        return self.host not in LOOPBACK_HOSTS

    @property
    def public_host(self) -> str:
        """The host, with its port if it has one, that clients put into their Host header."""
        return urlsplit(self.public_url).netloc

    @property
    def is_reachable_by_others(self) -> bool:
        """True if other machines can call, directly or through a proxy on this one."""
        names = [urlsplit(f"//{name}").hostname for name in (*self.allowed_hosts, self.public_host) if name]
        return self.listens_beyond_loopback or any(name not in LOOPBACK_HOSTS for name in names)

    @property
    def knows_callers(self) -> bool:
        """True if every call over HTTP needs a token."""
        return bool(self.token.get_secret_value() or self.tokens_file or self.oidc_issuer)


def flag_of(name: str) -> str:
    """The flag of an option, by its name or alias."""
    return f"--{name.replace('_', '-')}"


def variable_of(name: str) -> str:
    """The environment variable of an option, by its name or alias."""
    return name.upper() if name.startswith("letta_") else f"{VARIABLE_PREFIX}{name.upper()}"


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The LETTA_MCP_… variables that no option reads, each with the most similar one that exists, "" if none is
    similar."""
    known = [f"{VARIABLE_PREFIX}{name.upper()}" for name in Settings.model_fields]
    unknown = [name for name in environment if name.startswith(VARIABLE_PREFIX) and name not in known]
    return {name: next(iter(get_close_matches(name, known, 1)), "") for name in sorted(unknown)}


def strip_unset(value: object) -> object:
    """The text of a variable, trimmed; "" for a placeholder that a client did not fill in."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(text, str):
        return "" if _UNSET_PLACEHOLDER.fullmatch(text.strip()) else text.strip()
    return value
