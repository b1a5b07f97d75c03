"""Checks a caller's model settings against the types in letta-client, one per provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from letta_conversations_mcp.core.errors import InvalidArgument
from letta_conversations_mcp.core.quoting import NAME_CHARS, quote


def check_model_settings(settings: dict[str, object], provider_of_model: str = "") -> dict[str, object]:
    """The settings, as given.

    Raises:
        InvalidArgument: the provider is missing, unknown or not the model's, the provider has no such setting, or a
            value has the wrong type.
    """
    # Imported late: this module is imported at the start of the server, letta_client is not.
    from letta_client.types.conversation_create_params import ModelSettings

    providers: dict[str, type] = {}
    for each in get_args(ModelSettings):
        providers |= dict.fromkeys(get_args(get_type_hints(each)["provider_type"]), each)
    provider = settings.get("provider_type")
    if not isinstance(provider, str) or provider not in providers:
        raise InvalidArgument(
            "model_settings",
            f"provider_type is needed, one of: {', '.join(sorted(providers))}; "
            f"{f'got {quote(repr(provider), NAME_CHARS)}' if provider is not None else 'none was given'}.",
        )
    if provider_of_model in providers and provider_of_model != provider:
        raise InvalidArgument(
            "model_settings", f"provider_type is {provider!r}, and the model is one of {provider_of_model!r}."
        )
    shape = providers[provider]
    try:
        accepted = cast("Mapping[str, object]", TypeAdapter(shape).validate_python(settings, strict=True))
    except ValidationError as error:
        problems = {
            quote(".".join(map(str, each["loc"])), NAME_CHARS): each["msg"] for each in error.errors(include_url=False)
        }
        listed = "; ".join(f"{place}: {problem}" for place, problem in list(problems.items())[:5])
        raise InvalidArgument("model_settings", f"not what provider {provider!r} takes: {listed}.") from error
    if unknown := list(_dropped(settings, accepted)):
        raise InvalidArgument(
            "model_settings",
            f"provider {provider!r} has no {', '.join(unknown[:5])}; "
            f"it has {', '.join(sorted(get_type_hints(shape)))}.",
        )
    return settings


def _dropped(given: Mapping[str, object], accepted: Mapping[str, object], prefix: str = "") -> list[str]:
    """The names that validation dropped, with their path."""
    names: list[str] = []
    for name, value in given.items():
        if name not in accepted:
            names.append(quote(prefix + name, NAME_CHARS))
        elif isinstance(value, Mapping) and isinstance(inner := accepted[name], Mapping):
            nested = cast("Mapping[str, object]", value)
            names += _dropped(nested, cast("Mapping[str, object]", inner), f"{prefix}{name}.")
    return names
