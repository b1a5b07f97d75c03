"""One end of a TCP connection that can be reset. On asyncio's streams rather than anyio's, which can only be closed."""

from __future__ import annotations

import asyncio
import socket
import struct

READ_BYTES = 1 << 16


class Broken(Exception):
    """The exchange is over before its end."""


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, host: str, port: int) -> Peer:
        return cls(*await asyncio.open_connection(host, port))

    async def receive(self) -> bytes:
        """What has come, or nothing when the connection has ended in whatever way."""
        try:
            return await self._reader.read(READ_BYTES)
        except ConnectionError:
            return b""

    async def send(self, data: bytes) -> None:
        """Raises Broken."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError as error:
            raise Broken("the other end is gone") from error

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """End the connection with a TCP reset instead of in order."""
        if not self._writer.is_closing():
            linger = struct.pack("ii", 1, 0)
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()
