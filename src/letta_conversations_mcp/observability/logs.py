"""The log on stderr: one line per event, as text or JSON, with the ids of what it is about.

Texts of messages are logged only with --log-messages. Without it, libraries, which log whole requests, are logged only
from WARNING up, and exceptions only with their kind and place. Secrets are never logged: no code logs one, and as a
last defence the finished line is searched for the secrets that the server knows and for anything that looks like one.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from letta_conversations_mcp.core.quoting import without_secrets
from letta_conversations_mcp.core.untrusted import escaped
from letta_conversations_mcp.observability.context import current_subject
from letta_conversations_mcp.settings import BackendSettings

if TYPE_CHECKING:
    ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

OWN = "letta_conversations_mcp"

SPEAKING = (OWN, "uvicorn")
"""Loggers whose events below WARNING contain no text of messages."""

SHORTEST_SECRET = 4
"""A shorter secret would match everywhere."""

_PLAIN = re.compile(r"[\w.:@+/-]{1,300}", re.ASCII)

TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure_logging(settings: BackendSettings) -> None:
    """Send all logs of this process to stderr, in the configured format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(settings))
    handler.addFilter(_add_subject)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    if not settings.log_messages:
        root.setLevel(max(logging.WARNING, root.level))
        for name in SPEAKING:
            logging.getLogger(name).setLevel(settings.log_level)


def _formatter(settings: BackendSettings) -> logging.Formatter:
    secrets = sorted(secrets_of(settings), key=len, reverse=True)
    if settings.log_format == "text":
        return _Guarded(_WithSubject(TEXT_FORMAT), secrets, with_texts=settings.log_messages)
    # Imported late: a server over stdio seldom needs it.
    from pythonjsonlogger.json import JsonFormatter

    plain = JsonFormatter(
        "%(levelname)s %(name)s %(message)s",
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp="time",
        reserved_attrs=[*logging.makeLogRecord({}).__dict__, "message", "asctime", "color_message", "subject"],
    )
    return _Guarded(plain, secrets, with_texts=settings.log_messages)


def secrets_of(settings: BackendSettings) -> Iterator[str]:
    """Every secret in the settings and the passwords in their URLs, in plain form and as JSON writes them."""
    for name in type(settings).model_fields:
        value: object = getattr(settings, name)
        for each in cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,):
            text = each.get_secret_value() if isinstance(each, SecretStr) else ""
            address = text or (each if isinstance(each, str) else "")
            password = (urlsplit(address).password or "") if "://" in address else ""
            yield from (
                form
                for secret in (text, password, unquote(password))
                if len(secret) >= SHORTEST_SECRET
                for form in {secret, json.dumps(secret)[1:-1]}
            )


def _add_subject(record: logging.LogRecord) -> bool:
    """Add the ids to the record, where a JSON formatter looks for extra fields."""
    fields = current_subject().fields()
    record.subject = fields
    for name, value in fields.items():
        if name not in record.__dict__:
            record.__dict__[name] = value
    return True


class _WithSubject(logging.Formatter):
    """A text formatter that appends the ids to the message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is the base class's
        ids = " ".join(f"{name}={_field(value)}" for name, value in getattr(record, "subject", {}).items())
        return f"{one_line(super().formatMessage(record))}{f' [{ids}]' if ids else ''}"


def one_line(text: str) -> str:
    """The text without line breaks and control characters: logged text can neither begin a line nor control a
    terminal."""
    return escaped(text).replace("\n", "\\n")


def _field(value: str) -> str:
    """A field's value, quoted if it could be read as several."""
    return value if _PLAIN.fullmatch(value) else repr(value)


class _Guarded(logging.Formatter):
    """Wraps another formatter and removes secrets, and the texts of exceptions, which may quote a message."""

    def __init__(self, inner: logging.Formatter, secrets: Iterable[str], *, with_texts: bool) -> None:
        super().__init__()
        self._inner = inner
        self._secrets = tuple(secrets)
        if not with_texts:
            self._inner.formatException = format_without_texts

    def format(self, record: logging.LogRecord) -> str:
        # Otherwise the first handler of a record would cache its traceback for all others.
        record.exc_text = None
        return hide(self._inner.format(record), self._secrets)


def hide(text: str, secrets: Iterable[str]) -> str:
    """The text without these secrets and anything that looks like one."""
    for secret in secrets:
        text = text.replace(secret, "[secret]")
    return without_secrets(text)


def format_without_texts(ei: ExcInfo) -> str:
    """A traceback without the texts of exceptions, except those of the operating system: all others may quote a
    message."""
    lines: list[str] = []
    error = ei[1]
    while error is not None:
        text = f": {one_line(str(error))}" if isinstance(error, OSError) else ""
        frames = "".join(traceback.format_tb(error.__traceback__)).rstrip()
        lines[:0] = [*([frames] if frames else []), f"{type(error).__module__}.{type(error).__qualname__}{text}"]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(lines)
