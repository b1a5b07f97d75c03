"""Programs of the machine that some tests need."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def installed(name: str) -> Path:
    """The program of this name on PATH. Without it the test is skipped; in CI, which can install it, it fails."""
    found = shutil.which(name)
    if found is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"{name} is not installed")
    return Path(found)
