"""Exit statuses of commands, and how errors become an exit status and a line on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from letta_conversations_mcp.cli.program_name import program_name
from letta_conversations_mcp.core.errors import ConversationError, NotConfigured
from letta_conversations_mcp.core.value_errors import wrong_with
from letta_conversations_mcp.settings import variable_of

FAILED = 1
UNUSABLE = 2
STILL_RUNNING = 3
NEEDS_APPROVAL = 4
INTERRUPTED = 130
BROKEN_PIPE = 141
"""The last two are what a shell reports for a process that these signals ended."""


class CommandFailed(Exception):
    """A command failed. The text is for the person at the terminal, `status` is the exit status."""

    def __init__(self, message: str, *, status: int = UNUSABLE) -> None:
        self.status = status
        super().__init__(message)


def run_to_status(work: Callable[[], int]) -> int:
    """The exit status of `work`. Its errors are reported on stderr."""
    try:
        return work()
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        return fail("\n".join(map(_option_problem, problems)))
    except NotConfigured as error:
        return fail(error.for_person)
    except CommandFailed as error:
        return fail(str(error), error.status)
    except ConversationError as error:
        return fail(error.for_person, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Or Python would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def warn(message: str) -> None:
    print(f"{program_name()}: {message}", file=sys.stderr)


def fail(message: str, status: int = UNUSABLE) -> int:
    warn(message)
    return status


def _option_problem(problem: ErrorDetails) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else ""
    place = f"--{name.replace('_', '-')} (or {variable_of(name)})" if name else "options"
    return f"{place}: {wrong_with(problem)}"
