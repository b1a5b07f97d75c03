"""The cases of the evaluation are right themselves: they fit the tools, and lead to what they say."""

from __future__ import annotations

import pytest

from evals.check import problems_of
from evals.world import Case, load_cases

CASES = load_cases()


@pytest.mark.parametrize("case", CASES, ids=[each.says[:60] for each in CASES])
async def test_a_case_fits_the_tools_and_leads_to_what_must_hold(case: Case) -> None:
    assert await problems_of(case) == []


async def test_a_wrong_case_is_found() -> None:
    unknown = Case(says="x", calls=[{"send": {}}])
    misspelt = Case(says="x", calls=[{"list_agents": {"serach": "x"}}])
    untrue = Case(says="x", calls=[{"list_agents": {}}], holds={"list_agents": {}, "has": "nobody at all"})

    assert [bool(await problems_of(case)) for case in (unknown, misspelt, untrue)] == [True, True, True]


def test_the_six_fixed_tools_have_cases() -> None:
    fixed = {"create_conversation", "send_message", "list_conversations", "list_messages", "compact", "delete"}

    assert fixed <= {tool for case in CASES for call in case.calls for tool in call}
