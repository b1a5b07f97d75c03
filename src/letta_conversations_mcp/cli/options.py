"""The settings as options of a command: a flag for every field, in groups, with a metavar.

The settings themselves check the values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from letta_conversations_mcp.cli.exit_status import warn
from letta_conversations_mcp.settings import flag_of, variable_of

LETTA = "Letta"
OTHER = "Other"

GROUPS: dict[str, tuple[str, ...]] = {
    LETTA: ("api_key", "base_url", "project", "backend"),
    "Agents on this machine": ("local_dir", "local_tools", "app_server_url", "app_server_token"),
    "Tools": ("create_agents", "read_only", "wait_seconds", "max_output_chars", "approvals", "max_depth"),
    "HTTP": ("host", "port", "public_url", "allowed_hosts", "allowed_origins", "stateless", "drain_seconds", "workers"),
    "Access over HTTP": (
        "token",
        "tokens_file",
        "oidc_issuer",
        "oidc_audience",
        "oidc_jwks_url",
        "oidc_agents_claim",
        "metrics_token",
    ),
    "Limits": ("max_calls", "max_per_caller", "max_turns", "max_queued", "max_body_bytes", "body_timeout"),
    "Several replicas": ("redis_url", "request_state_keys"),
    "Time limits, in seconds": (
        "connect_timeout",
        "request_timeout",
        "first_byte_timeout",
        "silence_timeout",
        "turn_timeout",
        "compact_timeout",
        "watch_interval",
    ),
    "Log and traces": ("log_level", "log_format", "log_messages", "traces"),
}
"""Where `--help` shows an option; OTHER has those that are not listed here."""

_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}

_METAVARS = {
    "audience": "TEXT",
    "bytes": "BYTES",
    "chars": "CHARS",
    "claim": "NAME",
    "dir": "FOLDER",
    "file": "FILE",
    "host": "HOST",
    "hosts": "HOST,…",
    "interval": "SECONDS",
    "issuer": "URL",
    "key": "KEY",
    "keys": "SECRET,…",
    "origins": "URL,…",
    "port": "PORT",
    "project": "NAME",
    "seconds": "SECONDS",
    "timeout": "SECONDS",
    "token": "TOKEN",
    "url": "URL",
}
"""By the last word of a name."""


class GroupedOption(click.Option):
    """An option that `--help` shows under the heading `group`."""

    def __init__(self, *declarations: str, group: str = "", shows_both: bool = True, **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.group = group
        self._shows_both = shows_both

    def get_help_spec(self, ctx: click.Context) -> str:
        return super().get_help_spec(ctx) if self._shows_both else self.opts[0]

    def get_error_hint(self, ctx: click.Context | None) -> str:
        both = (*self.opts, *self.secondary_opts) if self._shows_both else self.opts
        return " or ".join(f"'{each}'" for each in both)

    def get_help_extra(self, ctx: click.Context) -> click.types.OptionHelpExtra:
        return {"required": "required"} if self.required else {}


class SettingOption(GroupedOption):
    """The option of a field of the settings. Its value is None when it is not given: a variable may be set."""


def setting_options(settings: type[BaseSettings]) -> list[click.Parameter]:
    """An option for every field, in the order of GROUPS."""
    fields = settings.model_fields
    order = [*_GROUP_OF, *fields]
    return [_option(name, fields[name]) for name in sorted(fields, key=order.index)]


def _option(name: str, field: FieldInfo) -> SettingOption:
    flag = flag_of(settings_name(name, field))
    attributes: dict[str, Any] = {
        "group": _GROUP_OF.get(name, OTHER),
        "help": f"{field.description}{_default(field)}",
        "default": None,
    }
    kind = _type_of(field)
    if kind is bool:
        # The form that switches it off is useful only against a variable.
        return SettingOption(f"{flag}/--no-{flag[2:]}", name, shows_both=False, **attributes)
    if get_origin(kind) is Literal:
        choices = [str(each) for each in get_args(kind)]
        return SettingOption(
            flag, name, type=click.Choice(choices, case_sensitive=False), metavar="|".join(choices), **attributes
        )
    metavar = _METAVARS.get(name.rpartition("_")[2], "N" if kind in (int, float) else "TEXT")
    return SettingOption(flag, name, type=str, metavar=metavar, **attributes)


def settings_name(name: str, field: FieldInfo) -> str:
    """What the field's flag and variable are named after."""
    return field.validation_alias if isinstance(field.validation_alias, str) else name


def _type_of(field: FieldInfo) -> Any:
    kind = field.annotation
    if get_origin(kind) in (Union, UnionType):
        return next(each for each in get_args(kind) if each is not NoneType)
    return kind


def _default(field: FieldInfo) -> str:
    default = field.default
    if isinstance(default, bool | SecretStr | Path) or default in (None, "", ()):
        return ""
    return (
        f" (default: {default:g})" if isinstance(default, float | int) and default < 10**6 else f" (default: {default})"
    )


def read_settings(settings: type[BaseSettings], given: Mapping[str, Any]) -> BaseSettings:
    """The settings: a flag wins over a variable. Warns when a secret was given as an argument. Raises
    ValidationError."""
    chosen = {name: value for name, value in given.items() if value is not None}
    aliases = {name: settings_name(name, settings.model_fields[name]) for name in chosen}
    made = settings(**{aliases[name]: value for name, value in chosen.items()})
    for name, alias in aliases.items():
        if "SecretStr" in str(settings.model_fields[name].annotation):
            warn(
                f"every user of this machine can read the value of {flag_of(alias)} in the list of processes (ps). "
                f"Set {variable_of(alias)} instead."
            )
    return made
