"""Images in a message: a URL for the Letta server to fetch, or the data itself."""

from __future__ import annotations

import base64
import binascii
import re

from letta_conversations_mcp.core.errors import InvalidArgument
from letta_conversations_mcp.core.model import Image

IMAGE_BYTES = 5_000_000
"""Largest image that is accepted as data: the limit of Letta's model providers."""

_DATA_URL = re.compile(r"data:(image/(?:png|jpeg|gif|webp));base64,(.*)", re.DOTALL)


def read_image(given: str) -> Image:
    """An image from `https://…` or `data:image/png;base64,…`.

    Raises:
        InvalidArgument: it is neither, has another type, is not base64, or is too large. 0.16.8 would accept anything,
            and the model would fail.
    """
    text = given.strip()
    if text.startswith(("https://", "http://")):
        return Image(url=text)
    found = _DATA_URL.fullmatch(text)
    if not found:
        raise InvalidArgument(
            "images",
            f"{text[:40]!r} is neither an https://… URL nor data:image/png;base64,… (png, jpeg, gif or webp).",
        )
    media_type, data = found.groups()
    try:
        size = len(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument("images", "the data of an image is not base64.") from error
    if not 0 < size <= IMAGE_BYTES:
        raise InvalidArgument("images", f"an image has {size} bytes; it may have 1 to {IMAGE_BYTES}.")
    return Image(media_type=media_type, data=data)
