"""How a command ends when it cannot do its work."""

from __future__ import annotations


class CommandFailed(Exception):
    """Its text is for the person at the terminal; `status` is what the process exits with."""

    def __init__(self, message: str, *, status: int = 2) -> None:
        self.status = status
        super().__init__(message)
