"""Hiding optional modules from an import, and postponing others."""

from __future__ import annotations

import sys
from collections.abc import Generator
from importlib import import_module, invalidate_caches
from pathlib import Path

import pytest

from letta_conversations_mcp.core.imports import postponed, without


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


@pytest.fixture
def importers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A folder of modules that can be imported: `user` and `other`."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    invalidate_caches()
    yield tmp_path
    for name in ("user", "other"):
        sys.modules.pop(name, None)


USER = """\
from colorsys import ONE_THIRD, hls_to_rgb, rgb_to_hls

def there_and_back():
    return hls_to_rgb(*rgb_to_hls(1.0, 0.0, 0.0))

def third():
    return ONE_THIRD
"""


def test_a_postponed_module_is_imported_when_something_of_it_is_called(importers: Path) -> None:
    (importers / "user.py").write_text(USER)
    with postponed("colorsys", importer="user"):
        user = import_module("user")
    assert "colorsys" not in sys.modules

    assert user.there_and_back() == (1.0, 0.0, 0.0)
    # What is not called, such as the class of an error, is then the real thing as well.
    assert (user.third(), user.rgb_to_hls) == (1 / 3, sys.modules["colorsys"].rgb_to_hls)


def test_only_the_named_importer_waits_for_a_postponed_module(importers: Path) -> None:
    (importers / "user.py").write_text("import other\n" + USER)
    (importers / "other.py").write_text("from colorsys import ONE_THIRD\n")
    with postponed("colorsys", importer="user"):
        user = import_module("user")

    assert user.other.ONE_THIRD == 1 / 3
    assert user.there_and_back() == (1.0, 0.0, 0.0)


def test_what_is_loaded_is_not_postponed(importers: Path) -> None:
    (importers / "user.py").write_text(USER)
    loaded = import_module("colorsys")
    with postponed("colorsys", importer="user"):
        user = import_module("user")

    assert sys.modules["colorsys"] is loaded
    assert user.third() == 1 / 3
