"""`export`: a whole conversation into a file or to standard output, with a progress bar, and resumable."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from letta_conversations_mcp.cli.command import run_with_backend
from letta_conversations_mcp.cli.exit_status import CommandFailed
from letta_conversations_mcp.cli.export_file import KINDS, Format, NotAnExport, Resumption, entry, find_end, head
from letta_conversations_mcp.conversations.history import read_whole
from letta_conversations_mcp.conversations.lookup import locate
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError, NotFound
from letta_conversations_mcp.core.model import ConversationRef, Message, MessageQuery
from letta_conversations_mcp.core.times import parse_time
from letta_conversations_mcp.settings import BackendSettings

COMPACTED = "It begins with a summary: the server no longer lists the messages from before that compaction."


@dataclass(frozen=True)
class Export:
    """What is exported, and where to; an `output` of None is standard output."""

    conversation: str
    agent: str = ""
    form: Format = "md"
    output: Path | None = None
    resume: bool = False


def export(settings: BackendSettings, wanted: Export) -> int:
    """Raises CommandFailed and ConversationErrors."""
    output = wanted.output
    if wanted.resume and output is None:
        raise CommandFailed("--resume goes on in a file: name it with -o.")
    if output is not None and output.exists() and not wanted.resume:
        raise CommandFailed(f"{output} is there already. Go on in it with --resume, or name another file.")

    async def work(backend: Backend) -> int:
        ref = await locate(backend, wanted.conversation, wanted.agent)
        exporter = Exporter(backend, ref, wanted.form)
        if output is None:
            sys.stdout.buffer.write(head(wanted.form, ref))
            await exporter.run(sys.stdout.buffer, Resumption(0))
        else:
            await into_file(exporter, output)
            _report(f"Messages written to {output}: {exporter.count}.")
        return 0

    return run_with_backend(settings, work)


class Exporter:
    """The export of one conversation."""

    def __init__(self, backend: Backend, ref: ConversationRef, form: Format) -> None:
        self.ref = ref
        self.form: Format = form
        self.count = 0
        self._backend = backend

    async def _messages(self, start: Resumption) -> AsyncGenerator[list[Message]]:
        """The messages to write, in batches. Raises CommandFailed if they do not follow those in the file."""
        kinds = KINDS[self.form]
        joined = not start.expected
        first = not start.after
        try:
            async for messages in read_whole(self._backend, self.ref, after=start.after):
                if first and _begins_with_summary(messages):
                    _report(COMPACTED)
                first = False
                written = [each for each in messages if kinds is None or each.kind in kinds]
                if not joined and written and written[0].id != start.expected:
                    break
                joined = joined or bool(written)
                if written:
                    yield written
        except NotFound:
            if not start.after:
                raise
            joined = False
        if not joined:
            raise CommandFailed(
                f"The file goes on with message {start.expected}, which the server no longer lists there: the "
                "conversation was compacted or deleted since. The file was left as it is; export to another one.",
                status=1,
            )

    async def run(self, file: BinaryIO, start: Resumption, *, replace: bool = False) -> None:
        """Write all messages after `start`. With `replace`, truncate the file there, but only once it is certain that
        the messages follow."""
        with _progress(await self._newest_at() if _shows_progress(file) else None) as show:
            async for messages in self._messages(start):
                if replace and self.count == 0:
                    file.seek(start.size)
                    file.truncate()
                for message in messages:
                    file.write(entry(self.form, message))
                file.flush()
                self.count += len(messages)
                show(self.count, messages[-1].at)

    async def _newest_at(self) -> str:
        """The time of the newest message; "" for a conversation without messages."""
        newest = await self._backend.list_messages(self.ref, MessageQuery(limit=1))
        return newest.items[-1].at if newest.items else ""


async def into_file(exporter: Exporter, path: Path) -> None:
    with _writing(path) as file:
        try:
            start = find_end(file, exporter.form, exporter.ref)
        except NotAnExport as problem:
            raise CommandFailed(f"{path} cannot be resumed: {problem}. It was left as it is.") from problem
        if start == Resumption(0):
            file.seek(0)
            file.write(head(exporter.form, exporter.ref))
            start = Resumption(file.tell())
        try:
            await exporter.run(file, start, replace=True)
        except ConversationError as error:
            error.add(f"Messages written to {path}: {exporter.count}; --resume goes on.")
            raise


@contextmanager
def _writing(path: Path) -> Generator[BinaryIO]:
    try:
        # Readable by its owner only. Not truncated: how much of an interrupted export is usable is found out first.
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
            yield file
    except OSError as error:
        raise CommandFailed(f"{path} cannot be written: {error.strerror}.", status=1) from error


def _begins_with_summary(messages: tuple[Message, ...]) -> bool:
    return next((each.kind for each in messages if each.kind != "system"), "") == "summary"


def _report(words: str) -> None:
    print(words, file=sys.stderr)


def _shows_progress(file: BinaryIO) -> bool:
    """True if stderr is a terminal, and the messages do not go to a terminal too."""
    return sys.stderr.isatty() and not file.isatty()


@contextmanager
def _progress(end: str | None) -> Generator[Callable[[int, str], None]]:
    """A bar over the time that the conversation spans, up to `end`, because no server reports the number of messages.
    No bar without an end."""
    if end is None:
        yield lambda count, at: None
        return
    columns = (TextColumn("{task.fields[count]} messages"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("", total=None, count=0)
        begin: datetime | None = None

        def show(count: int, at: str) -> None:
            nonlocal begin
            if (now := parse_time(at)) and (last := parse_time(end)):
                begin = now if begin is None else begin
                bar.update(task, total=(last - begin).total_seconds(), completed=(now - begin).total_seconds())
            bar.update(task, count=count)

        yield show
