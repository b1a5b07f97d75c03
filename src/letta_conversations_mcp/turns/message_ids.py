"""The id that a message keeps for ever, its otid.

It is random, but for a mark of who sends what: by that a process knows a message again that another process has handed
over, when its caller gave up there and tries again here. Letta has no other place where that could stand.
"""

from __future__ import annotations

import os
import uuid
from hashlib import blake2b

from letta_conversations_mcp.core.model import OutgoingMessage

MARK_BYTES = 6
"""At the end of the UUID, beyond its version and variant."""


def new_otid(message: OutgoingMessage, caller: str) -> str:
    """An id for a message of a caller: a random UUID of version 4, whose last 48 bits are the mark."""
    what = repr((caller, message.model_dump(exclude={"otid", "opens"})))
    mark = blake2b(what.encode(), digest_size=MARK_BYTES).digest()
    return str(uuid.UUID(bytes=os.urandom(16 - MARK_BYTES) + mark, version=4))


def is_same_message(otid: str, other: str) -> bool:
    """Whether two ids are of the same message by the same caller, sent at different times."""
    try:
        marks = {uuid.UUID(each).node for each in (otid, other)}
    except ValueError:
        return False
    return len(marks) == 1
