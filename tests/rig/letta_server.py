"""The Letta server that a test talks to, fake or real, as the test sees it."""

from __future__ import annotations

import uuid
from typing import Any

from tests.rig.fake_letta import FakeLetta
from tests.rig.loopback import http_client
from tests.rig.model import ScriptedModel

MODEL = "openai-proxy/fake-1"
EMBEDDING = "openai/text-embedding-3-small"


class Letta:
    """A running Letta server with a scripted model. `fake` is None when it is a real one."""

    def __init__(self, base_url: str, model: ScriptedModel, fake: FakeLetta | None = None) -> None:
        self.base_url = base_url
        self.model = model
        self._fake = fake
        self._http = http_client(base_url=base_url, follow_redirects=True)

    @property
    def fake(self) -> FakeLetta:
        """The fake, for tests that break things (marked fake_only)."""
        assert self._fake is not None, "this test needs the fake server"
        return self._fake

    @property
    def is_fake(self) -> bool:
        return self._fake is not None

    async def request(self, method: str, path: str, **options: Any) -> Any:
        """Set something up behind our server's back, over the REST API."""
        response = await self._http.request(method, path, **options)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text[:500]}"
        return response.json()

    async def new_agent(self, name: str = "", *, needs_approval: str = "") -> tuple[str, str]:
        """An agent of its own for a test: (id, name)."""
        name = name or f"agent {uuid.uuid4().hex[:8]}"
        body = {
            "name": name,
            "model": MODEL,
            "embedding": EMBEDDING,
            "memory_blocks": [{"label": "human", "value": "Name: Ann"}, {"label": "persona", "value": "A test agent."}],
        }
        agent_id: str = (await self.request("POST", "/v1/agents/", json=body))["id"]
        if needs_approval:
            path = f"/v1/agents/{agent_id}/tools/approval/{needs_approval}"
            await self.request("PATCH", path, json={"requires_approval": True})
        return agent_id, name

    async def new_conversation(self, agent_id: str, summary: str = "") -> str:
        body = {"summary": summary} if summary else {}
        return (await self.request("POST", "/v1/conversations/", params={"agent_id": agent_id}, json=body))["id"]

    async def send(self, conversation_id: str, text: str, **fields: Any) -> None:
        """Send a message past our server, and read the turn to its end."""
        await self.begin(conversation_id, {"role": "user", "content": text}, **fields)

    async def begin(self, conversation_id: str, message: dict[str, Any], **fields: Any) -> None:
        """Begin a turn past our server with anything that begins one, and read it to its end."""
        body = {"messages": [message], **fields}
        async with self._http.stream("POST", f"/v1/conversations/{conversation_id}/messages", json=body) as response:
            await response.aread()

    async def stored_texts(self, agent_id: str, conversation_id: str) -> list[str]:
        """What users said in a conversation, as the server has it."""
        listed = await self.request(
            "GET",
            f"/v1/agents/{agent_id}/messages",
            params={"conversation_id": conversation_id, "order": "asc", "limit": 1000},
        )
        return [each["content"] for each in listed if each["message_type"] == "user_message"]

    async def close(self) -> None:
        await self._http.aclose()
