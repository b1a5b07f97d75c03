"""A plain load balancer for the tests: every request goes to the next server, unless sessions are sticky."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tests.rig.loopback import http_client, loopback_socket, serve_loopback

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "host")


class Balancer:
    """`served` has the server of each request, in order; `urls` all that there are."""

    def __init__(self, urls: Sequence[str], *, sticky: bool) -> None:
        self.urls = urls
        self._sticky = sticky
        self._homes: dict[str, str] = {}
        self._next = cycle(urls)
        self._http = http_client()
        self.served: list[str] = []

    async def forward(self, request: Request) -> StreamingResponse:
        url = self._homes.get(request.headers.get("mcp-session-id", "")) or next(self._next)
        self.served.append(url)
        headers = [(name, value) for name, value in request.headers.items() if name not in HOP_BY_HOP]
        forwarded = self._http.build_request(
            request.method, f"{url}{request.url.path}", headers=headers, content=await request.body()
        )
        response = await self._http.send(forwarded, stream=True)
        if self._sticky and (session_id := response.headers.get("mcp-session-id")):
            self._homes[session_id] = url
        kept = {name: value for name, value in response.headers.items() if name not in HOP_BY_HOP}
        return StreamingResponse(
            response.aiter_raw(), response.status_code, kept, background=BackgroundTask(response.aclose)
        )

    async def close(self) -> None:
        await self._http.aclose()


@asynccontextmanager
async def balanced(urls: Sequence[str], *, sticky: bool = False) -> AsyncGenerator[tuple[str, Balancer]]:
    balancer = Balancer(urls, sticky=sticky)
    app = Starlette(routes=[Route("/{path:path}", balancer.forward, methods=["GET", "POST", "DELETE"])])
    async with serve_loopback(app, loopback_socket()) as url:
        yield url, balancer
    await balancer.close()
