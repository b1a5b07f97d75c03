"""Text of servers, models and callers made fit for an error or a log line: bounded, and without markup or secrets."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

QUOTE_CHARS = 300
"""How much of a server's own error text is quoted: enough for a sentence, too little for a page."""

QUOTED_CHARS = 20_000
"""How much of such a text is read."""

NAME_CHARS = 80
"""How much of a name given by a caller or a user is shown."""

_HTML = re.compile(r"<(?:!doctype|html|head|body)\b", re.IGNORECASE)
# Letta 0.16.8 prints whole records into its messages: "… access level in ['read'] for actor='id='user-…' …".
_ACTOR = re.compile(r",? ?(?:access level in \[[^\]]{0,200}\] )?for actor=.*")
_NAMED_SECRET = re.compile(
    r"""(?i)(bearer\s+|(?:api[_-]?key|token|password)["']?\s*[=:]\s*["']?(?:bearer\s+)?)[^\s"',}]+"""
)
_KEY = re.compile(r"\b(?:sk|pk|at)-(?:let|ant|proj|or)?-?[A-Za-z0-9_\-=+/]{16,}")


def quote(text: object, limit: int = QUOTE_CHARS) -> str:
    """A server's or a model's text for use in an error: one line, bounded, without markup, records or secrets."""
    words = (text if isinstance(text, str) else str(text))[:QUOTED_CHARS]
    if _HTML.search(words[:2000]):
        return "(a page of HTML)"
    # Collapse white space first: the patterns are slow on long runs of spaces.
    words = " ".join("".join(each if each.isprintable() else " " for each in words).split())
    words = without_secrets(_ACTOR.sub("", words)).rstrip()
    return words if len(words) <= limit else f"{words[:limit]}…"


def said(text: object) -> str:
    """`quote` in quotation marks of which it has none itself, for use within a sentence; "" for no text."""
    words = quote(text).replace('"', "'")
    return f'"{words}"' if words else ""


def without_secrets(text: str) -> str:
    """The text without anything that looks like a key or is labelled as a secret."""
    return _KEY.sub("[secret]", _NAMED_SECRET.sub(r"\1[secret]", text))


def without_password(url: str) -> str:
    """The URL without the name and password that one may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
