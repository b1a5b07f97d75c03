"""Marks text written by others, so that it cannot pass for ours.

Everywhere in the same way: each line of such a text begins with `> `, and no line of ours does. So its reader sees
where it begins and ends, whatever it says. Where such a text has several entries, the further lines of each are marked
twice. Names and other short texts are written within a line as Python's `repr` does: quoted and escaped.

Characters that move a terminal's cursor, change the direction of writing or are invisible are written as escapes, for
example `\\x1b` or `\\u202e`. Line breaks and tabs stay.
"""

from __future__ import annotations

import re

MARK = "> "

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 but for tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction of writing
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff"  # halves of characters
    "\U000e0000-\U000e007f]"  # tags, which nobody sees
)


def escaped(text: str) -> str:
    """The text without control characters, fit for a terminal. Its only line break is the line feed."""
    return text if text.isprintable() else _CONTROLS.sub(_escape, text.replace("\r\n", "\n"))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escaped_json(text: str) -> str:
    """A JSON text without control characters; it means the same."""
    return _CONTROLS.sub(_escape_in_json, text)


def _escape_in_json(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def entry(text: str) -> str:
    """One of several texts of others that are marked together, such as a tool call: its lines after the first are
    marked already, so none of them looks like another entry."""
    return text.replace("\n", f"\n{MARK}")


def quoted(text: str) -> str:
    """The text with every line marked; "" stays ""."""
    return MARK + escaped(text).replace("\n", f"\n{MARK}") if text else ""
