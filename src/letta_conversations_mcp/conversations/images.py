"""Images in a message: a URL for the Letta server to fetch, or the data itself."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

import anyio

from letta_conversations_mcp.core.errors import InvalidArgument
from letta_conversations_mcp.core.model import Image

LOOK_UP_SECONDS = 5.0
"""For the addresses of the host of an image."""

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
    if text.startswith("https://"):
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


async def read_images(given: Sequence[str]) -> tuple[Image, ...]:
    """All images of a message, read in a thread: 20 MB take 30 ms. Raises InvalidArgument."""
    return await anyio.to_thread.run_sync(lambda: tuple(map(read_image, given))) if given else ()


async def check_public(images: Sequence[Image]) -> None:
    """Raises InvalidArgument for an image whose host is not in the public internet: Letta would fetch it from within
    its own network.

    Letta looks the name up again later, and a name can be changed in between: only a firewall around Letta is sure.
    """
    for image in images:
        if image.url and not await _is_public(image.url):
            raise InvalidArgument("images", "the host of an image has to be known and public; or give the data itself.")


async def _is_public(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        with anyio.fail_after(LOOK_UP_SECONDS):
            # Also understands what only looks like a name: 2130706433, 0x7f.1.
            found = await anyio.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except (OSError, ValueError, TimeoutError):
        return False
    addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
    return bool(addresses) and all(map(_reaches_the_internet, addresses))


def _reaches_the_internet(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_global and not address.is_multicast
