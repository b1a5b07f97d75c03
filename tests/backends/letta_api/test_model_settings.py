"""Checking a caller's model settings against what letta-client lists for every provider."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest
from letta_client.types.conversation_create_params import ModelSettings

from letta_conversations_mcp.backends.letta_api.model_settings import check_model_settings
from letta_conversations_mcp.core.errors import InvalidArgument

SHAPES: dict[str, dict[str, Any]] = {
    provider: get_type_hints(shape)
    for shape in get_args(ModelSettings)
    for provider in get_args(get_type_hints(shape)["provider_type"])
}
EXAMPLES: dict[str, object] = {
    "max_output_tokens": 1000,
    "parallel_tool_calls": True,
    "strict": False,
    "temperature": 0.5,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    "response_schema": {"type": "json_object"},
    "tool_call_parser": "hermes",
    "effort": "low",
    "verbosity": None,
    "reasoning": {"reasoning_effort": "low"},
    "thinking": {"type": "enabled"},
    "thinking_config": {"include_thoughts": True, "thinking_budget": 100},
}


def test_letta_client_lists_a_provider_for_every_type() -> None:
    assert len(SHAPES) == len(get_args(ModelSettings))
    assert {"openai", "anthropic", "google_ai"} <= SHAPES.keys()


@pytest.mark.parametrize("provider", SHAPES)
def test_everything_that_a_provider_has_is_taken_as_given(provider: str) -> None:
    settings: dict[str, object] = {
        name: provider if name == "provider_type" else EXAMPLES[name] for name in SHAPES[provider]
    }

    assert check_model_settings(dict(settings)) == settings


@pytest.mark.parametrize("provider", SHAPES)
def test_a_provider_alone_is_enough(provider: str) -> None:
    assert check_model_settings({"provider_type": provider}) == {"provider_type": provider}


def test_a_whole_number_is_a_temperature() -> None:
    assert check_model_settings({"provider_type": "openai", "temperature": 1})["temperature"] == 1


@pytest.mark.parametrize("provider", [None, "", "OpenAI", "nobody", 7, ["openai"], {"name": "openai"}])
def test_an_unknown_provider_is_refused_with_all_that_there_are(provider: object) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_model_settings({"provider_type": provider, "temperature": 0.5})

    assert caught.value.argument == "model_settings"
    assert [each for each in SHAPES if each not in str(caught.value)] == []
    assert ("none was given" if provider is None else repr(provider)) in str(caught.value)


def test_a_missing_provider_is_refused_with_all_that_there_are() -> None:
    with pytest.raises(InvalidArgument, match=r"provider_type is needed, one of: anthropic, .*zai"):
        check_model_settings({"temperature": 0.5})


@pytest.mark.parametrize("provider", SHAPES)
def test_an_unknown_name_is_refused_with_the_names_that_there_are(provider: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_model_settings({"provider_type": provider, "temprature": 0.5})

    assert f"provider {provider!r} has no temprature" in str(caught.value)
    assert "temperature" in caught.value.problem.split("it has", 1)[1]


def test_a_name_of_another_provider_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="'groq' has no thinking_config"):
        check_model_settings({"provider_type": "groq", "thinking_config": {"thinking_budget": 1}})


def test_an_unknown_name_within_a_setting_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidArgument, match=r"has no reasoning\.effort"):
        check_model_settings({"provider_type": "openai", "reasoning": {"effort": "low"}})


def test_a_free_form_setting_may_hold_any_name() -> None:
    settings: dict[str, object] = {
        "provider_type": "openai",
        "response_format": {"type": "json_schema", "json_schema": {"anything": {"at": ["all"]}}},
    }

    assert check_model_settings(settings) == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "hot"),
        ("temperature", "0.5"),
        ("temperature", None),
        ("max_output_tokens", "1000"),
        ("max_output_tokens", 10.5),
        ("parallel_tool_calls", "yes"),
        ("parallel_tool_calls", 1),
        ("reasoning", "low"),
        ("reasoning", {"reasoning_effort": "enormous"}),
        ("response_format", {"type": "poem"}),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_place(name: str, value: object) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_model_settings({"provider_type": "openai", name: value})

    text = str(caught.value)
    assert f"'openai' takes: {name}" in text
    assert len(text) < 1_000
    assert "pydantic" not in text
    assert "\n" not in text


def test_a_refusal_never_repeats_a_large_setting() -> None:
    huge = "x" * 100_000

    for settings in ({"provider_type": huge}, {"provider_type": "openai", huge: 1}, {"provider_type": [huge]}):
        with pytest.raises(InvalidArgument) as caught:
            check_model_settings(dict[str, object](settings))
        assert len(str(caught.value)) < 1_000
