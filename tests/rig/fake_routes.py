"""The routes of the fake Letta server for agents, conversations, messages and runs, as they are on 0.16.8.

With `cloud` they also keep the fields that letta-client's `Conversation` has and 0.16.8 drops: how a newer server
treats them could not be seen.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.rig import fake_views as views
from tests.rig.fake_compaction import MODES, PROMPT, compact
from tests.rig.fake_memory import MemoryRoutes
from tests.rig.fake_run import Json
from tests.rig.fake_sending import KNOWN_MODELS, Sending, check_model
from tests.rig.fake_store import Agent, Block, Conversation, HttpError, Store, direct_agent, not_found

Handler = Callable[[Request], Awaitable[Response]]


class Routes:
    """The app over the state that `sending` holds."""

    def __init__(self, sending: Sending, *, cloud: bool) -> None:
        self._sending = sending
        self._cloud = cloud
        self._memory = MemoryRoutes(sending, cloud=cloud)
        self.app = Starlette(routes=list(self._table()), exception_handlers={404: _no_route, 405: _no_route})

    @property
    def store(self) -> Store:
        return self._sending.store

    def _table(self) -> Iterator[Route]:
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/v1/health/", self._health),
            ("POST", "/v1/agents/", self._create_agent),
            ("GET", "/v1/agents/", self._list_agents),
            ("GET", "/v1/models/", self._list_models),
            ("GET", "/v1/agents/{agent_id}", self._retrieve_agent),
            ("DELETE", "/v1/agents/{agent_id}", self._delete_agent),
            ("PATCH", "/v1/agents/{agent_id}/tools/approval/{tool_name}", self._update_approval),
            ("GET", "/v1/agents/{agent_id}/messages", self._list_agent_messages),
            ("POST", "/v1/agents/{agent_id}/messages/cancel", self._sending.cancel_of_agent),
            ("POST", "/v1/conversations/", self._create_conversation),
            ("GET", "/v1/conversations/", self._list_conversations),
            ("GET", "/v1/conversations/{conversation_id}", self._retrieve_conversation),
            ("PATCH", "/v1/conversations/{conversation_id}", self._update_conversation),
            ("DELETE", "/v1/conversations/{conversation_id}", self._delete_conversation),
            ("POST", "/v1/conversations/{conversation_id}/fork", self._fork),
            ("POST", "/v1/conversations/{conversation_id}/cancel", self._sending.cancel),
            ("POST", "/v1/conversations/{conversation_id}/compact", self._compact),
            ("POST", "/v1/conversations/{conversation_id}/stream", self._sending.follow),
            ("POST", "/v1/conversations/{conversation_id}/messages", self._sending.send),
            ("GET", "/v1/conversations/{conversation_id}/messages", self._list_messages),
            ("GET", "/v1/blocks/{block_id}", self._retrieve_block),
            ("GET", "/v1/runs/", self._list_runs),
            ("GET", "/v1/runs/{run_id}", self._retrieve_run),
            ("GET", "/v1/runs/{run_id}/messages", self._list_run_messages),
            ("GET", "/v1/runs/{run_id}/usage", self._retrieve_run_usage),
            ("GET", "/v1/runs/{run_id}/steps", self._list_run_steps),
            *self._memory.table(),
        ]
        # One route for each path: Starlette answers 405 from the first route whose path matches.
        paths = dict.fromkeys(path for _, path, _ in table)
        for path in paths:
            handlers = {method: handler for method, other, handler in table if other == path}
            yield Route(path, _endpoint(handlers), methods=list(handlers))

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"version": "0.16.8", "status": "ok"})

    async def _create_agent(self, request: Request) -> Response:
        body = await views.body_of(request)
        views.check_text(body, "name")
        handle = body.get("model")
        if handle is None:
            raise HttpError(400, "INVALID_ARGUMENT: Must specify either model or llm_config in request")
        check_model(handle)
        blocks = [(block["label"], block["value"]) for block in body.get("memory_blocks") or ()]
        name = body.get("name") or "Letta agent"
        if re.search(r"[^\w\s'-]", name):
            raise HttpError(500, f"Export failed: Agent name '{name}' contains invalid characters. Only letters")
        given: Json = {"description": body.get("description"), "tags": body.get("tags") or []}
        return JSONResponse(views.agent_json(self.store.add_agent(name, blocks, model=handle, **given)))

    async def _list_models(self, request: Request) -> Response:
        fixed = {
            "model_type": "llm",
            "provider_type": "openai",
            "provider_name": "openai-proxy",
            "context_window": 30000,
        }
        models = [{"handle": handle, "name": handle.split("/")[-1], **fixed} for handle in sorted(KNOWN_MODELS)]
        return JSONResponse(models)

    async def _list_agents(self, request: Request) -> Response:
        """`after` and `before` follow the order; unknown cursors are ignored, and a limit of 0 is none."""
        query = request.query_params
        agents = sorted(self.store.agents.values(), key=lambda a: a.created, reverse=views.descending(request))
        limit = views.limit(request, 50)
        cursors = [agent.id for agent in agents]
        if (before := query.get("before")) in cursors:
            agents = agents[: cursors.index(before)]
        if (after := query.get("after")) in cursors:
            agents = [agent for agent in agents if cursors.index(agent.id) > cursors.index(after)]
        if name := query.get("name"):
            agents = [agent for agent in agents if agent.name == name]
        if text := query.get("query_text"):
            agents = [agent for agent in agents if _like(text, agent.name)]
        if tags := query.getlist("tags"):
            agents = [agent for agent in agents if set(tags) & set(agent.tags)]
        return JSONResponse([_as_asked(request, views.agent_json(agent)) for agent in agents[: limit or None]])

    async def _retrieve_agent(self, request: Request) -> Response:
        return JSONResponse(_as_asked(request, views.agent_json(self.store.agent(views.path_agent(request)))))

    async def _delete_agent(self, request: Request) -> Response:
        agent_id = views.path_agent(request)
        if agent_id not in self.store.agents:
            raise not_found("Agent", agent_id)
        self.store.delete_agent(self.store.agents[agent_id])
        return JSONResponse({"message": f"Agent id={agent_id} successfully deleted"})

    async def _update_approval(self, request: Request) -> Response:
        """The body counts more than the query; the tool need not exist."""
        agent = self.store.agent(views.path_agent(request))
        tool: str = request.path_params["tool_name"]
        given = request.query_params.get("requires_approval", "")
        needed = (await views.body_of(request)).get("requires_approval", given.lower() == "true")
        agent.needing_approval = [name for name in agent.needing_approval if name != tool] + [tool] * bool(needed)
        return JSONResponse(views.agent_json(agent))

    async def _list_agent_messages(self, request: Request) -> Response:
        agent = self.store.agent_of_query(views.path_agent(request))
        return self._recall(request, agent, request.query_params.get("conversation_id"))

    async def _create_conversation(self, request: Request) -> Response:
        agent_id = views.required(request, "agent_id")
        body = await views.body_of(request)
        views.check_conversation_fields(body)
        agent = self.store.agent_of_query(agent_id)
        labels: list[str] = [] if self._cloud else body.get("isolated_block_labels") or []
        unknown = [label for label in labels if label not in agent.blocks]
        if unknown:
            now = self.store.now()
            conversation = Conversation(agent=agent, created=now, updated=now, summary=body.get("summary"))
            # Seen: the conversation stays, without a system message.
            self.store.conversations[conversation.id] = conversation
            detail = f"INVALID_ARGUMENT: Block with label '{unknown[0]}' not found on agent '{agent.id}'"
            raise HttpError(400, detail)
        kept = ("description", "hidden", "context_window_limit") if self._cloud else ()
        more: Json = {name: body.get(name) for name in kept}
        conversation = self.store.add_conversation(
            agent,
            summary=body.get("summary"),
            model=body.get("model"),
            model_settings=views.stored_settings(body.get("model_settings")),
            blocks={label: Block(label, agent.blocks[label].value) for label in labels},
            **more,
        )
        return self._conversation(conversation)

    async def _list_conversations(self, request: Request) -> Response:
        """`after` follows the order, and may be a deleted conversation."""
        query = request.query_params
        descending = views.descending(request)
        keys = ("created_at", "last_run_completion", "last_message_at")
        key = _SORT_KEYS[views.choice(query.get("order_by", keys[0]), ("query", "order_by"), keys)]
        limit = views.limit(request, 50)
        found = [c for c in self.store.conversations.values() if query.get("agent_id") in (None, c.agent.id)]
        if search := query.get("summary_search"):
            found = [c for c in found if c.summary is not None and _like(search, c.summary, ignore_case=False)]
        if self._cloud and (status := query.get("archive_status", "unarchived")) != "all":
            found = [c for c in found if (c.archived_at is not None) == (status == "archived")]
        found = [c for c in found if not c.deleted]
        if after := query.get("after"):
            cursor = self.store.conversations.get(after)
            if cursor is None:
                raise not_found("Conversation", after)
            found = [
                c for c in found if _is_after((key(self.store, c), c.id), (key(self.store, cursor), after), descending)
            ]
        # Those without a value come last in both orders; those with the same value are ordered by id.
        valued = sorted((c for c in found if key(self.store, c)), key=lambda c: (key(self.store, c), c.id))
        others = sorted((c for c in found if not key(self.store, c)), key=lambda c: c.id)
        if descending:
            valued.reverse()
            others.reverse()
        page = (valued + others)[:limit]
        return JSONResponse([views.conversation_json(c, cloud=self._cloud) for c in page])

    async def _retrieve_conversation(self, request: Request) -> Response:
        return self._conversation(self.store.conversation(views.path_conversation(request)), retrieved=True)

    async def _update_conversation(self, request: Request) -> Response:
        conversation_id = views.path_conversation(request)
        body = await views.body_of(request, needed=True)
        views.check_conversation_fields(body)
        conversation = self.store.conversation(conversation_id)
        # A null changes nothing, so a summary can be emptied but not removed.
        for name in ("summary", "model", *(("description", "context_window_limit") if self._cloud else ())):
            if body.get(name) is not None:
                setattr(conversation, name, body[name])
        if body.get("model_settings"):
            conversation.model_settings = views.stored_settings(body["model_settings"])
        if body.get("last_message_at"):
            conversation.last_message_at = views.moment(body["last_message_at"])
        if self._cloud and body.get("archived") is not None:
            conversation.archived_at = self.store.now() if body["archived"] else None
        conversation.updated = self.store.now()
        return self._conversation(conversation)

    async def _delete_conversation(self, request: Request) -> Response:
        self.store.delete_conversation(self.store.conversation(views.path_conversation(request)))
        return JSONResponse(None)

    async def _fork(self, request: Request) -> Response:
        thread = self.store.thread(views.path_any_conversation(request), request.query_params.get("agent_id"))
        shared = thread.context()[1:]
        fields: dict[str, Any] = {}
        if isinstance(thread, Conversation):
            fields |= {"model": thread.model, "model_settings": thread.model_settings}
        if self._cloud:
            if until := request.query_params.get("message_id"):
                ids = [row.id for row in shared]
                if until not in ids:
                    raise HttpError(404, f"Message {until} not found")
                shared = shared[: ids.index(until) + 1]
            fields["hidden"] = request.query_params.get("hidden", "").lower() == "true"
        return self._conversation(self.store.add_conversation(thread.agent, shared=shared, **fields))

    async def _compact(self, request: Request) -> Response:
        conversation_id = views.path_any_conversation(request)
        body = await views.body_of(request)
        settings: Json = body.get("compaction_settings") or {}
        mode: str = settings.get("mode", "sliding_window")
        views.choice(mode, ("body", "compaction_settings", "mode"), MODES)
        thread = self.store.thread(conversation_id, body.get("agent_id"))
        # An unknown model is not refused: the agent's own writes the summary then.
        handle = settings["model"] if settings.get("model") in KNOWN_MODELS else thread.agent.model
        prompt: str = settings.get("prompt") or PROMPT
        share = settings.get("sliding_window_percentage", 0.3)
        return JSONResponse(await compact(self.store, self._sending.model, thread, mode, handle, prompt, share))

    async def _list_messages(self, request: Request) -> Response:
        conversation_id = views.path_any_conversation(request)
        if agent_id := direct_agent(conversation_id, request.query_params.get("agent_id")):
            return self._recall(request, self.store.agent_of_query(agent_id), "default")
        query = request.query_params
        descending, limit = views.descending(request), views.limit(request, 100)
        conversation = self.store.conversations.get(conversation_id)
        if conversation is None or conversation.deleted:
            return JSONResponse([])  # not 404, as seen
        rows = conversation.messages(
            limit=limit, descending=descending, before=query.get("before"), after=query.get("after")
        )
        return JSONResponse(views.shown(rows, query.getlist("include_return_message_types")))

    def _recall(self, request: Request, agent: Agent, conversation_id: str | None) -> Response:
        query = request.query_params
        rows = self.store.recall(
            agent,
            conversation_id=conversation_id,
            descending=views.descending(request),
            limit=views.limit(request, 100),
            before=query.get("before"),
            after=query.get("after"),
        )
        return JSONResponse(views.shown(rows, query.getlist("include_return_message_types")))

    async def _retrieve_block(self, request: Request) -> Response:
        """A deleted conversation's own blocks are gone."""
        wanted = request.path_params["block_id"]
        owners = [*self.store.agents.values(), *self.store.conversations.values()]
        found = [block for owner in owners for block in owner.blocks.values() if block.id == wanted]
        if not found:
            raise HttpError(404, f"Block with id '{wanted}' not found")
        return JSONResponse(views.block_json(found[0]))

    async def _list_runs(self, request: Request) -> Response:
        query = request.query_params
        limit = views.integer(query.get("limit", "100"), ("query", "limit"))
        if limit < 1:
            message = "Input should be greater than or equal to 1"
            raise views.unprocessable("greater_than_equal", ("query", "limit"), message, str(limit), ge=1)
        if limit > 1000:
            message = "Input should be less than or equal to 1000"
            raise views.unprocessable("less_than_equal", ("query", "limit"), message, str(limit), le=1000)
        statuses = query.getlist("statuses") or (
            ["created", "running"] if query.get("active", "").lower() == "true" else []
        )
        wanted = {name: query[name] for name in ("agent_id", "conversation_id", "stop_reason") if name in query}
        runs = [run.to_json(in_list=True) for run in self.store.runs.values()]
        runs = [run for run in runs if not statuses or run["status"] in statuses]
        runs = [run for run in runs if all(run[name] == value for name, value in wanted.items())]
        if background := query.get("background"):
            runs = [run for run in runs if run["background"] == (background.lower() == "true")]
        if views.descending(request):
            runs.reverse()
        ids = [run["id"] for run in runs]
        if (after := query.get("after")) in ids:
            runs = runs[ids.index(after) + 1 :]
        if (before := query.get("before")) in ids:
            runs = [run for run in runs if ids.index(run["id"]) < ids.index(before)]
        return JSONResponse(runs[:limit])

    async def _retrieve_run(self, request: Request) -> Response:
        return JSONResponse(self.store.run(request.path_params["run_id"]).to_json())

    async def _list_run_messages(self, request: Request) -> Response:
        run = self.store.run(request.path_params["run_id"])
        agent = self.store.agents.get(run.agent_id)
        rows = [row for row in agent.rows if row.run_id == run.id and not row.deleted] if agent else []
        if views.descending(request, "asc"):
            rows.reverse()
        return JSONResponse(views.shown(rows[: views.limit(request, 100)], ()))

    async def _list_run_steps(self, request: Request) -> Response:
        run = self.store.run(request.path_params["run_id"])
        steps = run.steps[::-1] if views.descending(request) else run.steps
        return JSONResponse(steps[: views.limit(request, 100)])

    async def _retrieve_run_usage(self, request: Request) -> Response:
        run = self.store.run(request.path_params["run_id"])
        return JSONResponse(
            {
                "completion_tokens": run.completion_tokens,
                "prompt_tokens": run.prompt_tokens,
                "total_tokens": run.prompt_tokens + run.completion_tokens,
                "prompt_tokens_details": None,
                "completion_tokens_details": None,
            }
        )

    def _conversation(self, conversation: Conversation, *, retrieved: bool = False) -> Response:
        return JSONResponse(views.conversation_json(conversation, cloud=self._cloud, retrieved=retrieved))


def _as_asked(request: Request, agent: Json) -> Json:
    """The SDK, told by its header, gets an agent's blocks and tools only when it asks for them; others always do."""
    if "x-stainless-package-version" in request.headers:
        included = request.query_params.getlist("include")
        agent |= {name: [] for name in ("blocks", "tools") if f"agent.{name}" not in included}
    return agent


def _endpoint(handlers: Mapping[str, Handler]) -> Handler:
    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        try:
            return await handlers[method](request)
        except HttpError as failure:
            return JSONResponse(failure.body, failure.status)

    return endpoint


async def _no_route(_: Request, problem: Exception) -> Response:
    status = problem.status_code if isinstance(problem, HTTPException) else 500
    return JSONResponse({"detail": "Not Found" if status == 404 else "Method Not Allowed"}, status)


def _like(pattern: str, text: str, *, ignore_case: bool = True) -> bool:
    """SQL's LIKE with "%" around the pattern."""
    regex = ".*".join(re.escape(part) for part in pattern.split("%"))
    return re.search(regex, text, re.IGNORECASE if ignore_case else 0) is not None


def _is_after(item: tuple[Any, str], cursor: tuple[Any, str], descending: bool) -> bool:
    """Whether an item, as (value or None, id), is beyond the cursor.

    Ascending, the server never comes from a value to those without one, and from those it starts again (seen).
    """
    if item[0] is None or cursor[0] is None:
        both = item[0] is None and cursor[0] is None
        return (both and (item[1] < cursor[1]) == descending and item[1] != cursor[1]) or (
            not both and (item[0] is None) == descending
        )
    return item < cursor if descending else item > cursor


def _last_completion(store: Store, conversation: Conversation) -> object:
    times = [run.completed for run in store.runs.values() if run.conversation_id == conversation.id and run.completed]
    return max(times, default=None)


_SORT_KEYS: dict[str, Callable[[Store, Conversation], Any]] = {
    "created_at": lambda _, conversation: conversation.created,
    "last_run_completion": _last_completion,
    "last_message_at": lambda _, conversation: conversation.last_message_at,
}
