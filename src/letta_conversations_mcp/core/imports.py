"""Imports without what libraries load on the way only because it happens to be installed."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import cast


@contextmanager
def without(*names: str) -> Generator[None]:
    """Inside, these modules count as not installed, unless they are loaded already: importing them raises
    ImportError."""
    nothing = cast("ModuleType", None)
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden, nothing))
    try:
        yield
    finally:
        for name in hidden:
            # Another thread that imports meanwhile may have been here before.
            if name in sys.modules and sys.modules[name] is nothing:
                del sys.modules[name]
