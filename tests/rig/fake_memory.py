"""The fake Letta server's memory: blocks, and the system prompt that is compiled of them. As on 0.16.8."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.rig import fake_views as views
from tests.rig.fake_run import Json
from tests.rig.fake_sending import Sending
from tests.rig.fake_store import HttpError, Row, Store

SEARCHLESS = "Message search requires message embedding, OpenAI, and Turbopuffer to be enabled."
SEARCHED = {
    "system_message": "content",
    "user_message": "content",
    "assistant_message": "content",
    "reasoning_message": "reasoning",
}


class MemoryRoutes:
    """The routes about what an agent remembers, outside of any turn."""

    def __init__(self, sending: Sending, *, cloud: bool) -> None:
        self._sending = sending
        self._cloud = cloud

    @property
    def store(self) -> Store:
        return self._sending.store

    def table(self) -> list[tuple[str, str, Callable[[Request], Awaitable[Response]]]]:
        return [
            ("GET", "/v1/blocks/{block_id}", self._retrieve_block),
            ("PATCH", "/v1/agents/{agent_id}/core-memory/blocks/{label}", self._update_block),
            ("POST", "/v1/conversations/{conversation_id}/recompile", self._recompile),
            ("POST", "/v1/messages/search", self._search),
        ]

    async def _retrieve_block(self, request: Request) -> Response:
        wanted: str = request.path_params["block_id"]
        places = [*self.store.agents.values(), *self.store.conversations.values()]
        for block in [block for place in places for block in place.blocks.values()]:
            if block.id == wanted:
                return JSONResponse(views.block_json(block))
        raise HttpError(404, f"Block with id '{wanted}' not found")

    async def _update_block(self, request: Request) -> Response:
        agent = self.store.agent(views.path_agent(request))
        label: str = request.path_params["label"]
        if label not in agent.blocks:
            raise HttpError(404, f"No block with label '{label}' found for agent '{agent.id}'")
        agent.blocks[label].value = (await views.body_of(request))["value"]
        agent.blocks[label] = agent.blocks.pop(
            label
        )  # what was changed comes last in every prompt from then on, as seen
        return JSONResponse(views.block_json(agent.blocks[label]))

    async def _recompile(self, request: Request) -> Response:
        conversation_id = views.path_any_conversation(request)
        thread = self.store.thread(conversation_id, (await views.body_of(request)).get("agent_id"))
        prompt = self.store.prompt(thread.agent, "default")  # "default" for every conversation, as seen
        if request.query_params.get("dry_run", "").lower() != "true":
            context = thread.context()
            if not context:
                raise HttpError(400, "No in-context messages found for this conversation.")
            context[0].model_text = context[0].items[0]["content"] = prompt
        return JSONResponse(prompt)

    async def _search(self, request: Request) -> Response:
        """0.16.8 has none without a search engine. With `cloud`, any of the words is enough, and the results have the
        shape that its source gives them."""
        body = await views.body_of(request, needed=True)
        if "query" not in body:
            raise views.unprocessable("missing", ("body", "query"), "Field required", body)
        if not self._cloud:
            raise HttpError(400, SEARCHLESS)
        words = body["query"].lower().split()
        found = [self._result(row, item) for row in self._rows(body) for item in row.items if _has(item, words)]
        return JSONResponse(found[: body.get("limit", 50)])

    def _rows(self, body: Json) -> list[Row]:
        """Those asked for, newest first."""
        start = datetime.fromisoformat(body["start_date"]) if "start_date" in body else datetime.min.replace(tzinfo=UTC)
        end = datetime.fromisoformat(body["end_date"]) if "end_date" in body else datetime.max.replace(tzinfo=UTC)
        rows = [row for agent in self.store.agents.values() for row in agent.rows if not row.deleted]
        for name in ("agent_id", "conversation_id"):
            rows = [row for row in rows if body.get(name) in (None, getattr(row, name))]
        return sorted((row for row in rows if start < row.created <= end), key=lambda row: -row.sequence)

    def _result(self, row: Row, item: Json) -> Json:
        kind: str = item["message_type"]
        return {
            "message_type": kind,
            SEARCHED[kind]: item[SEARCHED[kind]],
            "agent_id": row.agent_id,
            "conversation_id": row.conversation_id,
            "created_at": row.created.isoformat(),
            "message_id": row.id,
        }


def _has(item: Json, words: list[str]) -> bool:
    text = str(item.get(SEARCHED.get(item["message_type"], ""), "")).lower()
    return any(word in text for word in words)
