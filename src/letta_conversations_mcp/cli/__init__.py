"""The terminal: the commands, and what a person reads of them."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

from letta_conversations_mcp.core.imports import postponed

GC_OBJECTS = 10_000
"""How many new objects start a garbage collection. Next to nothing that a call creates waits for one. With 2,000 a
server holds as much memory, and with 64 turns in flight a reply takes 4 % more processor time."""


CRYPTOGRAPHY = (
    "cryptography.exceptions",
    "cryptography.hazmat.primitives.ciphers.aead",
    "cryptography.hazmat.primitives.hashes",
    "cryptography.hazmat.primitives.kdf.hkdf",
)
"""What the SDK loads for request states, which are rarely used. It takes 10 MB."""


@contextmanager
def loading() -> Generator[None]:
    """Imports in the body run without garbage collection, which would take a tenth of the time of a start: what they
    create lives as long as the process. Afterwards it runs less often than by Python's default, of 700 new
    objects, with which it takes a tenth of the time of a turn: most of what a turn creates is freed without it.
    And the SDK is loaded without `CRYPTOGRAPHY`."""
    gc.disable()
    try:
        with postponed(*CRYPTOGRAPHY, importer="mcp.server.request_state"):
            yield
    finally:
        gc.freeze()
        gc.set_threshold(GC_OBJECTS)
        gc.enable()
