"""How many values a JSON text has, counted while it arrives.

Parsing and checking a megabyte of text takes a millisecond, a megabyte of small values half a second, in which nothing
else is done: so long texts and images are welcome, and many values are not.
"""

from __future__ import annotations


class ValueCount:
    """Counts the commas, brackets and braces outside strings: there is at most one value to each."""

    def __init__(self) -> None:
        self.count = 0
        self._in_string = False
        self._held_back = b""

    def add(self, piece: bytes) -> None:
        """The next piece of the text, cut anywhere."""
        text = self._held_back + piece
        if b"\\" in text:
            # Without escaped backslashes, a backslash before a quotation mark escapes it.
            text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        self._held_back = b"\\" if text.endswith(b"\\") else b""
        parts = text.split(b'"')
        outside = b"".join(parts[1 if self._in_string else 0 :: 2])
        self._in_string ^= len(parts) % 2 == 0
        self.count += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
