"""Measuring side by side: a noisy machine slows down all sides alike when their runs are interleaved."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, permutations
from statistics import median

Run = Callable[[], None]


def seconds_of(run: Run) -> float:
    """How long a run takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def interleave(sides: Mapping[str, Callable[[], float]], rounds: int, warm_up: int) -> dict[str, list[float]]:
    """What each side measures of itself in each round; the first, warming rounds are not kept.

    The rounds go through the sides in all orders in turn, so that none is always the one after another.
    """
    measured: dict[str, list[float]] = {name: [] for name in sides}
    orders = cycle(permutations(sides))
    for number in range(warm_up + rounds):
        for name in next(orders):
            value = sides[name]()
            if number >= warm_up:
                measured[name].append(value)
    return measured


def ratio_of_pairs(ours: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios of each round."""
    return median(mine / other for mine, other in zip(ours, others, strict=True))
