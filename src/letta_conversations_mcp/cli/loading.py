"""Loading modules at a start, without looking for garbage among them."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def loading() -> Generator[None]:
    """Around imports: most of a start is these, and their objects live for ever, so that looking for garbage among them
    would take a tenth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
