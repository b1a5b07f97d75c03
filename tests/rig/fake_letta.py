"""A fake Letta server for the tests: the routes of Letta 0.16.8 that this project uses, over real HTTP in this loop.

Owns what a test does with it: run it, set up state, break connections, look at the requests. The routes are in
`fake_routes` and `fake_sending`, a turn is in `fake_turn`, the state in `fake_store`. What it answers, errors and
oddities included, was seen on a real server.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio

from tests.rig.bounds import HANG_SECONDS
from tests.rig.fake_faults import Drop, Failure, Faults, RecordedRequest, Stall
from tests.rig.fake_routes import Routes
from tests.rig.fake_run import Run, new_id
from tests.rig.fake_sending import Sending
from tests.rig.fake_store import Conversation, Row, Store
from tests.rig.loopback import LoopbackServer, loopback_socket
from tests.rig.model import ScriptedModel
from tests.rig.waiting import Record

__all__ = ["FakeLetta", "RecordedRequest"]

DEFAULT_BLOCKS = (("human", "Name: Ann"), ("persona", "I am a test agent."))


class FakeLetta:
    """The server. `reset` it between tests, and call `check_used` at their end."""

    def __init__(
        self,
        model: ScriptedModel,
        *,
        password: str | None = None,
        redis: bool = True,
        cloud: bool = False,
        start_seconds: float = 0,
    ) -> None:
        """`start_seconds`: from a message's arrival until its run is there to be seen, and holds the lock; the real
        server takes 0.2 to 0.4."""
        self._sending = Sending(model, redis=redis, start_seconds=start_seconds)
        self._faults = Faults(Routes(self._sending, cloud=cloud).app, password)

    @property
    def app(self) -> Faults:
        """The ASGI app. Turns run only while `serve` runs it."""
        return self._faults

    @property
    def _store(self) -> Store:
        return self._sending.store

    @property
    def requests(self) -> Record[RecordedRequest]:
        """Every request since the last reset, in order, also the refused and broken ones."""
        return self._faults.requests

    @property
    def conversations(self) -> Mapping[str, Conversation]:
        """All conversations by id, deleted ones too."""
        return self._store.conversations

    @property
    def runs(self) -> Mapping[str, Run]:
        """All runs by id."""
        return self._store.runs

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[str]:
        """Run the server on a free port of 127.0.0.1 and give its base URL. Open streams and turns end with it."""
        listener = loopback_socket()
        server = LoopbackServer(self.app, http="h11", lifespan="off", log_level="critical")
        closing = anyio.Event()
        # A task of its own: a fixture is entered and left in different tasks, which no task group survives.
        life = asyncio.create_task(self._live(server, listener, closing))
        try:
            with anyio.fail_after(HANG_SECONDS):
                await server.ready.wait()
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            closing.set()
            await life

    async def _live(self, server: LoopbackServer, listener: socket.socket, closing: anyio.Event) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(server.serve, sockets=[listener]))
            async with anyio.create_task_group() as self._sending.tasks:
                await closing.wait()
                self._faults.close()  # before the turns, or their streams would end as if they were complete
                self._sending.tasks.cancel_scope.cancel()
            server.should_exit = True

    def kill(self) -> None:
        """End every turn as a server that is killed does, and break its connections; it answers again at once."""
        self._sending.kill()
        self._faults.break_connections()

    def restart_redis(self) -> None:
        """Kill and restart the Redis of this server."""
        self._sending.restart_redis()
        self._faults.break_connections()

    def reset(self) -> None:
        """Forget all state, requests and faults. Turns that still run are ended."""
        self._sending.reset()
        self._faults.reset()

    def check_used(self) -> None:
        """Raise AssertionError when a fault was registered and never hit."""
        self._faults.check_used()

    def forget_faults(self) -> None:
        """Nothing goes wrong any more, and no request was recorded."""
        self._faults.reset()

    # Faults. `path` is a glob over the whole path ("*" also matches "/"); a fault hits the next `times` requests.

    def fail(
        self,
        method: str,
        path: str,
        *,
        status: int,
        body: str | Mapping[str, Any] = "",
        headers: Mapping[str, str] | None = None,
        times: int = 1,
    ) -> None:
        """Answer with this status and body (text, HTML or JSON) instead of handling the request."""
        self._faults.registered.append(Failure(method, path, times, status=status, body=body, headers=headers or {}))

    def drop(
        self,
        method: str,
        path: str,
        *,
        before_request_is_handled: bool = False,
        after_request_is_handled: bool = False,
        after_events: int | None = None,
        times: int = 1,
    ) -> None:
        """Close the TCP connection at exactly one of these moments, the last being after so many events of a stream.

        What the request started goes on.
        """
        if [before_request_is_handled, after_request_is_handled, after_events is not None].count(True) != 1:
            raise ValueError("say when to drop the connection, once")
        self._faults.registered.append(
            Drop(method, path, times, handled=after_request_is_handled, after_events=after_events)
        )

    def stall(
        self, method: str, path: str, gate: anyio.Event, *, after_request_is_handled: bool = False, times: int = 1
    ) -> None:
        """Answer when the gate opens. The request is handled then too, or at once with `after_request_is_handled`."""
        self._faults.registered.append(Stall(method, path, times, gate=gate, handled=after_request_is_handled))

    # State without HTTP.

    def add_agent(self, name: str, tools_needing_approval: Sequence[str] = (), tags: Sequence[str] = ()) -> str:
        needing = list(tools_needing_approval)
        return self._store.add_agent(name, DEFAULT_BLOCKS, needing_approval=needing, tags=list(tags)).id

    def add_tool(self, agent_id: str, name: str, result: str) -> None:
        """A tool of the agent's user, which always returns the same."""
        agent = self._store.agents[agent_id]
        agent.own_tools[name] = result
        agent.tool_ids[name] = new_id("tool")

    def add_conversation(self, agent_id: str, summary: str | None = None, **fields: Any) -> str:
        """A conversation as if created over HTTP; `fields` are those of `fake_store.Conversation`."""
        return self._store.add_conversation(self._store.agents[agent_id], summary=summary, **fields).id

    def add_messages(
        self,
        conversation_id: str,
        count: int,
        text: str = "message {n}",
        roles: Sequence[str] = ("user", "assistant"),
    ) -> list[str]:
        """Store `count` messages, of the roles in turn, numbered from 0; gives their ids."""
        conversation = self._store.conversations[conversation_id]
        rows: list[Row] = []
        for number in range(count):
            role = roles[number % len(roles)]
            row = self._store.new_row(conversation, role, text.format(n=number))
            row.show_part(f"{role}_message", content=row.model_text)
            rows.append(row)
        self._store.save(conversation, rows)
        return [row.id for row in rows]
