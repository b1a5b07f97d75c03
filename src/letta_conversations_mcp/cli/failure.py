"""The error that ends a command."""

from __future__ import annotations


class CommandFailed(Exception):
    """A command failed. The text is for the person at the terminal, `status` is the exit status."""

    def __init__(self, message: str, *, status: int = 2) -> None:
        self.status = status
        super().__init__(message)
