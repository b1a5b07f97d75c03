"""The servers that the faults stand in front of, each with a scripted model, and what the model and the server saw.

`fake_letta`, `real_letta_place` and `local_app_server` run one. What is counted is asked past the proxy and past our
server.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import anyio
from pydantic import SecretStr
from websockets.asyncio.client import connect

from letta_conversations_mcp.backends.app_server.process import AppServer, LocalOptions, app_server
from letta_conversations_mcp.settings import Settings
from tests.faults.proxy import Relay
from tests.faults.relay_http import relay_http
from tests.faults.relay_websocket import relay_websocket
from tests.rig.fake_letta import FakeLetta
from tests.rig.letta_server import Letta
from tests.rig.model import Answer as ModelAnswer
from tests.rig.model import CallTools, Hold, ModelCall, Say, ScriptedModel, Use
from tests.rig.openai_model import serve_model
from tests.rig.real_letta import real_letta
from tests.rig.servers import ALL_WAYS

MARKER = re.compile(r"marker-[0-9a-f]{12}")
FAKE_LETTA, FAKE_WITHOUT_REDIS = "fake Letta", "fake Letta without Redis"
REAL_LETTA, REAL_WITHOUT_REDIS = "Letta 0.16.8", "Letta 0.16.8 without Redis"
APP_SERVER = "App Server"
WITHOUT_REDIS = frozenset({FAKE_WITHOUT_REDIS, REAL_WITHOUT_REDIS})
LOCAL_MODEL = "lmstudio/fake-1"

Restarted = Literal["Letta", "Redis"]

START_SECONDS = 0.25
"""As the real server has it: a message that was taken is nowhere to be seen at first."""


def new_marker() -> str:
    return f"marker-{uuid.uuid4().hex[:12]}"


def answer_to(marker: str) -> str:
    return f"The answer to {marker} is yes."


class MarkedModel(ScriptedModel):
    """Answers each message by the marker in it. One that is held calls a tool first, where there are any, and then
    waits for its gate."""

    def __init__(self, *, uses_tools: bool) -> None:
        super().__init__()
        self._uses_tools = uses_tools
        self._gates: dict[str, anyio.Event] = {}
        self._tool_calls: dict[str, int] = {}
        """How many tool calls come before the gate of a message."""

    def hold(self, marker: str, *, tool_calls: int = 0) -> anyio.Event:
        """The gate before the answer to a message, after so many tool calls."""
        self._tool_calls[marker] = tool_calls if self._uses_tools else 0
        return self._gates.setdefault(marker, anyio.Event())

    async def reached_gate(self, marker: str, turns: int = 1) -> None:
        """Wait until so many turns of a message have come to its gate."""
        steps = turns * (1 + self._tool_calls.get(marker, 0))
        while sum(marker in call.text for call in self.calls) < steps:
            await self.asked(len(self.calls) + 1)

    def take(self, call: ModelCall) -> ModelAnswer:
        super().take(call)
        # Somebody who asks for an answer means what was said before.
        found = MARKER.findall(call.text) or MARKER.findall(" ".join(t for role, t in call.messages if role == "user"))
        if not found:
            return Say("What do you mean?")
        marker = found[-1]
        gate = self._gates.get(marker)
        if gate is None:
            return Say(answer_to(marker))
        if steps_so_far(call) < self._tool_calls.get(marker, 0):
            return CallTools((Use("conversation_search", {"query": "nothing in particular"}),))
        return Hold(Say(answer_to(marker)), gate)

    def turns(self, marker: str) -> int:
        """How many turns were begun with a message that has this marker."""
        return sum(marker in call.text and is_first_step(call) for call in self.calls)


def is_first_step(call: ModelCall) -> bool:
    return call.messages[-1][0] == "user"


def steps_so_far(call: ModelCall) -> int:
    """How many tools the agent has called since the user's message."""
    since = next(i for i, (role, _) in enumerate(reversed(call.messages)) if role == "user")
    return sum(role == "tool" for role, _ in call.messages[len(call.messages) - since :])


class Place(Protocol):
    """A server under the faults."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> MarkedModel: ...

    @property
    def address(self) -> tuple[str, int]: ...

    @property
    def relay(self) -> Relay: ...

    @property
    def at_once(self) -> int:
        """How many cells can be run at once. With more, a server is so slow that it looks like one that hangs."""
        ...

    def settings(self, address: str) -> Settings:
        """For our server, when it is to reach this one at another address."""
        ...

    async def new_agent(self) -> str: ...

    async def new_conversation(self) -> str:
        """A conversation of the place's own agent."""
        ...

    async def stored(self, conversation_id: str, marker: str, agent_id: str = "") -> int:
        """How many messages of the user's with this marker the conversation holds; for `default` with its agent."""
        ...

    async def restart(self, what: Restarted) -> None:
        """Kill it without a warning, and start it again."""
        ...

    async def is_idle(self, conversation_id: str) -> bool:
        """Whether no turn runs in the conversation, as far as the server tells."""
        ...


class LettaPlace:
    """A server with the REST API."""

    relay = staticmethod(relay_http)

    def __init__(
        self,
        name: str,
        letta: Letta,
        model: MarkedModel,
        agent_id: str,
        restart: Callable[[Restarted], Awaitable[None]],
        *,
        silence_seconds: float,
        at_once: int,
    ) -> None:
        self._restart = restart
        self.name = name
        self.at_once = at_once
        self._silence_seconds = silence_seconds
        self.model = model
        url = urlsplit(letta.base_url)
        self.address = (url.hostname or "", url.port or 0)
        self._letta = letta
        self._agent_id = agent_id

    def settings(self, address: str) -> Settings:
        return Settings(base_url=f"http://{address}", **bounds(self._silence_seconds))

    async def new_agent(self) -> str:
        agent_id, _ = await self._letta.new_agent()
        return agent_id

    async def new_conversation(self) -> str:
        return await self._letta.new_conversation(self._agent_id)

    async def stored(self, conversation_id: str, marker: str, agent_id: str = "") -> int:
        texts = await self._letta.stored_texts(agent_id or self._agent_id, conversation_id)
        return sum(marker in text for text in texts)

    async def restart(self, what: Restarted) -> None:
        await self._restart(what)

    async def is_idle(self, conversation_id: str) -> bool:
        runs = await self._letta.request("GET", "/v1/runs/", params={"conversation_id": conversation_id, "limit": 20})
        return not any(run["status"] in ("created", "running") for run in runs)


class AppServerPlace:
    """Letta Code's App Server."""

    name = APP_SERVER
    at_once = 3  # more than one Node.js process serves in time
    relay = staticmethod(relay_websocket)

    def __init__(self, server: AppServer, model: MarkedModel) -> None:
        self.model = model
        self._server = server
        url = urlsplit(server.url)
        self.address = (url.hostname or "", url.port or 0)
        self._agent_id = ""

    def settings(self, address: str) -> Settings:
        token = SecretStr(self._server.token)
        settings = Settings(backend="local", app_server_url=f"ws://{address}/ws", app_server_token=token, **bounds(1.5))
        # A request that stalls is noticed soon. A busy server may pause for seconds within an answer: that is no fault.
        return settings.model_copy(update={"silence_timeout": 10.0})

    async def start(self) -> None:
        self._agent_id = await self.new_agent()

    async def new_agent(self) -> str:
        body = {"name": f"sturdy {uuid.uuid4().hex[:8]}", "model": LOCAL_MODEL}
        return (await self._ask("agent_create", body=body))["agent"]["id"]

    async def restart(self, what: Restarted) -> None:
        raise NotImplementedError(f"an App Server has no {what} of its own here")

    async def new_conversation(self) -> str:
        created = await self._ask("conversation_create", body={"agent_id": self._agent_id})
        return created["conversation"]["id"]

    async def stored(self, conversation_id: str, marker: str, agent_id: str = "") -> int:
        query = {"agent_id": agent_id or self._agent_id, "limit": 100, "order": "desc"}
        answer = await self._ask("conversation_messages_list", conversation_id=conversation_id, query=query)
        said = [each for each in answer["messages"] if each["message_type"] == "user_message"]
        return sum(marker in json.dumps(each["content"]) for each in said)

    async def is_idle(self, conversation_id: str) -> bool:
        return True  # only who subscribes is told, and a subscriber would change what is tested

    async def _ask(self, command: str, **fields: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._server.token}"}
        async with connect(self._server.url, additional_headers=headers, proxy=None, max_size=None) as socket:
            await socket.send(json.dumps({"type": command, "request_id": "1", **fields}))
            with anyio.fail_after(20):
                async for data in socket:
                    answer: dict[str, Any] = json.loads(data)
                    if answer.get("request_id") == "1":
                        return answer
        raise AssertionError(f"the App Server left without an answer to {command}")


def bounds(silence_seconds: float) -> dict[str, Any]:
    return {
        "silence_timeout": silence_seconds,
        "request_timeout": silence_seconds + 0.5,
        "connect_timeout": 2.0,
        "log_level": "ERROR",
    }


@asynccontextmanager
async def fake_letta(name: str = FAKE_LETTA, *, redis: bool = True) -> AsyncGenerator[Place]:
    model = MarkedModel(uses_tools=True)
    fake = FakeLetta(model, redis=redis, start_seconds=START_SECONDS)

    async def restart(what: Restarted) -> None:
        fake.kill() if what == "Letta" else fake.restart_redis()

    async with fake.serve() as url:
        letta = Letta(url, model)
        agent_id, _ = await letta.new_agent()
        yield LettaPlace(name, letta, model, agent_id, restart, silence_seconds=1.5, at_once=len(ALL_WAYS))
        await letta.close()


def fake_without_redis() -> AbstractAsyncContextManager[Place]:
    """A server that keeps no streams, locks no conversation and knows no otid."""
    return fake_letta(FAKE_WITHOUT_REDIS, redis=False)


@asynccontextmanager
async def real_letta_place(name: str = REAL_LETTA, *, redis: bool = True) -> AsyncGenerator[Place]:
    model = MarkedModel(uses_tools=True)
    async with serve_model(model) as model_url, real_letta(model_url, redis=redis) as real:
        letta = Letta(real.base_url, model)
        agent_id, _ = await letta.new_agent()

        async def restart(what: Restarted) -> None:
            service = real.letta if what == "Letta" else real.redis
            assert service is not None
            await service.restart()

        yield LettaPlace(name, letta, model, agent_id, restart, silence_seconds=3, at_once=3)
        await letta.close()


def real_without_redis() -> AbstractAsyncContextManager[Place]:
    return real_letta_place(REAL_WITHOUT_REDIS, redis=False)


@asynccontextmanager
async def local_app_server() -> AsyncGenerator[Place]:
    model = MarkedModel(uses_tools=False)
    async with serve_model(model) as model_url:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            environment = {"PATH": os.environ.get("PATH", os.defpath), "LMSTUDIO_BASE_URL": model_url}
            async with app_server(LocalOptions(Path(folder), environment=environment)) as server:
                place = AppServerPlace(server, model)
                await place.start()
                yield place


PLACES = {
    "fake": fake_letta,
    "fake-without-redis": fake_without_redis,
    "app-server": local_app_server,
    "live": real_letta_place,
    "live-without-redis": real_without_redis,
}
NAMES = {
    "fake": FAKE_LETTA,
    "fake-without-redis": FAKE_WITHOUT_REDIS,
    "app-server": APP_SERVER,
    "live": REAL_LETTA,
    "live-without-redis": REAL_WITHOUT_REDIS,
}
