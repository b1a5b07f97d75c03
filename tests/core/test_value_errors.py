"""What is wrong with a value, in words for people and models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from letta_conversations_mcp.core.value_errors import wrong_with


def no_monday(day: str) -> str:
    if day == "Monday":
        raise ValueError("a day but Monday is needed")
    return day


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (int, "ten", "a whole number is needed"),
        (int, 1.5, "a whole number is needed"),
        (int, [], "a whole number is needed"),
        (float, "soon", "a number is needed"),
        (bool, "perhaps", "true or false is needed"),
        (str, 5, "a text is needed"),
        (list[str], "a", "a list is needed"),
        (dict[str, str], "a", "an object is needed"),
        (Annotated[float, Field(gt=0)], 0, "it must be more than 0"),
        (Annotated[float, Field(ge=0.5)], 0, "it must be 0.5 or more"),
        (Annotated[int, Field(lt=10)], 10, "it must be less than 10"),
        (Annotated[float, Field(le=3600)], 1e9, "it must be 3600 or less"),
        (Annotated[str, Field(max_length=2)], "abc", "it must have at most 2 characters"),
        (Annotated[list[int], Field(max_length=2)], [1, 2, 3], "it must have at most 2 entries"),
        (Literal["wait", "fail", "fork"], "maybe", "it must be 'wait', 'fail' or 'fork'"),
        (Annotated[str, AfterValidator(no_monday)], "Monday", "a day but Monday is needed"),
        (Annotated[str, Field(pattern="^a")], "b", "String should match pattern '^a'"),
    ],
)
def test_an_error_is_told_in_plain_words(kind: Any, value: object, words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(kind).validate_python(value)

    [error] = raised.value.errors()
    assert wrong_with(error) == words
