"""The terminal: the commands, and what a person reads of them."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def loading() -> Generator[None]:
    """Imports in the body run without garbage collection, which would take a tenth of the time of a start: what they
    create lives as long as the process."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
