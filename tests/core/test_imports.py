"""Hiding optional modules from an import."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

from letta_conversations_mcp.core.imports import without


def test_a_hidden_module_counts_as_not_installed_and_only_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with without("colorsys"):
        with pytest.raises(ImportError):
            import_module("colorsys")
        assert import_module("string") is sys.modules["string"]
    assert import_module("colorsys") is sys.modules["colorsys"]


def test_a_module_that_is_loaded_stays() -> None:
    loaded = import_module("colorsys")

    with without("colorsys", "no_such_module"):
        assert import_module("colorsys") is loaded
    assert sys.modules["colorsys"] is loaded
    assert "no_such_module" not in sys.modules


def test_another_thread_that_hides_the_same_may_end_first() -> None:
    with without("no_such_module"):
        del sys.modules["no_such_module"]
    assert "no_such_module" not in sys.modules
