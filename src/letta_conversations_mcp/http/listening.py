"""The listening socket of `serve --http`. Apart from the application, because a supervisor of workers needs no more."""

from __future__ import annotations

import socket

from letta_conversations_mcp.settings import Settings


def listen(settings: Settings) -> socket.socket:
    """A listening socket. So a taken port is an error at the start, port 0 has become a number, and a client that
    connects before the server is ready waits."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol named, or asyncio would leave Nagle's algorithm on, which costs 40 ms for every answer.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Inherited by every connection: the kernel ends one whose client takes nothing of what is sent to it.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(settings.body_timeout * 1000))
    try:
        bound.bind((settings.host, settings.port))
        bound.listen()
    except OSError:
        bound.close()
        raise
    return bound
