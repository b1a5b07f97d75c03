"""Shares of what callers use together: what one may have, what all may have, and what comes back."""

from __future__ import annotations

from contextlib import suppress

import pytest

from letta_conversations_mcp.core.errors import Overloaded
from letta_conversations_mcp.core.fair_share import FairShare


def taken_by(share: FairShare, caller: str, amount: int = 1) -> int:
    """How often a caller gets this much, until they are refused."""
    count = 0
    try:
        while count < 1000:
            share.take(caller, amount)
            count += 1
    except Overloaded:
        pass
    return count


def refused(share: FairShare, caller: str, amount: int = 1) -> Overloaded:
    with pytest.raises(Overloaded) as raised:
        share.take(caller, amount)
    return raised.value


@pytest.mark.parametrize(
    ("most", "most_of_one", "of_one", "of_one_without_name"),
    [(8, 0, 2, 8), (100, 0, 25, 100), (3, 0, 1, 3), (1, 0, 1, 1), (8, 5, 5, 8), (3, 9, 3, 3)],
)
def test_one_caller_may_have_a_quarter_or_what_is_set_and_all_together_everything(
    most: int, most_of_one: int, of_one: int, of_one_without_name: int
) -> None:
    assert taken_by(FairShare("calls", most, most_of_one), "ann") == of_one
    assert taken_by(FairShare("calls", most, most_of_one), "") == of_one_without_name


def test_a_refusal_says_whose_limit_it_is_and_takes_nothing() -> None:
    share = FairShare("calls", 3, 2)
    share.take("ann", 2)

    of_ann = refused(share, "ann")
    of_all = refused(share, "bob", 2)
    share.take("bob")

    assert (of_ann.of_caller, of_all.of_caller) == (True, False)
    assert "one caller may have 2 calls at a time" in str(of_ann)
    assert "this server has 3 calls at a time" in str(of_all)
    assert refused(share, "eve").of_caller is False


def test_what_is_given_back_can_be_taken_again_by_anybody_and_no_more() -> None:
    share = FairShare("bytes", 100, 60)
    share.take("ann", 60)
    share.take("bob", 40)

    share.give_back("ann", 10)

    assert refused(share, "bob", 11)
    assert taken_by(share, "bob", 10) == 1
    assert refused(share, "ann").of_caller is False


def test_a_place_is_free_again_after_its_context_whatever_ends_it() -> None:
    share = FairShare("calls", 1)
    for _ in range(3):
        with suppress(ValueError), share.place("ann"):
            assert refused(share, "bob")
            raise ValueError
        with share.place("ann"), pytest.raises(Overloaded), share.place("bob"):
            raise AssertionError("there is no second place")
    assert taken_by(share, "ann") == 1
