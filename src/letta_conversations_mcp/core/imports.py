"""Imports without what libraries load on the way: because it happens to be installed, or for something that is rarely
used."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, cast


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


@contextmanager
def postponed(*names: str, importer: str) -> Generator[None]:
    """Inside, the module `importer` does not load these modules, unless they are loaded already. What it imports from
    them are stand-ins; the first one that is called puts the real things in the place of all."""
    stand_ins = {name: _StandIn(name, importer) for name in names if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


class _StandIn(ModuleType):
    """Stands for a module. Another module than the importer gets the real one's names."""

    def __init__(self, name: str, importer: str) -> None:
        super().__init__(name)
        self._importer = importer

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        frame = inspect.currentframe()
        asking = frame.f_back.f_globals["__name__"] if frame and frame.f_back else ""
        later = _Later(self, name, self._importer)
        return later if asking == self._importer else later.load()


class _Later:
    """Something of a postponed module, which is imported when this is called."""

    def __init__(self, module: ModuleType, name: str, importer: str) -> None:
        self._module = module
        self._name = name
        self._importer = importer

    def __call__(self, *args: object, **options: object) -> Any:
        names = vars(sys.modules[self._importer])
        names.update({name: each.load() for name, each in names.items() if isinstance(each, _Later)})
        return self.load()(*args, **options)

    def load(self) -> Any:
        if sys.modules.get(self._module.__name__) is self._module:
            del sys.modules[self._module.__name__]
        return getattr(import_module(self._module.__name__), self._name)
