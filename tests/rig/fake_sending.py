"""Sending in the fake Letta server: who may start a turn, its task, and following or cancelling its run.

Owns the lock of a conversation (only with Redis, and not for JSON answers of a `conv-` id), the dedupe by otid (only of
background sends), and the tasks of the turns, which go on when the client has gone. All of it as seen on 0.16.8.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.rig import fake_views as views
from tests.rig.fake_failures import TurnFailed
from tests.rig.fake_run import Json, Run, stream
from tests.rig.fake_store import Agent, Conversation, HttpError, Store, Thread, direct_agent
from tests.rig.fake_turn import Turn, TurnRequest
from tests.rig.model import ScriptedModel

KNOWN_MODELS = frozenset({"openai-proxy/fake-1", "openai-proxy/fake-2"})
NO_REDIS = (
    "Background streaming requires Redis to be running. Please ensure Redis is properly configured. "
    "LETTA_REDIS_HOST: None, LETTA_REDIS_PORT: 6379"
)
BUSY = (
    "CONFLICT: Cannot send a new message: Another request (run_id={run_id}) is currently being processed for this "
    "conversation. Please wait for it to complete."
)


DENIED_ON_CANCEL = "The user cancelled the request, so the tool call was denied."


def check_model(handle: str) -> None:
    if handle not in KNOWN_MODELS:
        raise HttpError(404, f"NOT_FOUND: Handle {handle} not found, must be one of []")


class Sending:
    """The routes that have to do with turns in progress, and the tasks of these turns."""

    def __init__(self, model: ScriptedModel, *, redis: bool, start_seconds: float) -> None:
        self.model = model
        self.redis = redis
        self.start_seconds = start_seconds
        self.store = Store()
        self.tasks: TaskGroup | None = None
        self._turns: set[anyio.CancelScope] = set()
        self._killed: set[Run] = set()
        """Runs that nothing works on any more."""

    def kill(self) -> None:
        """The server is killed: what it was at work on stays as it is, with its lock (seen)."""
        self._killed |= {run for run in self.store.runs.values() if run.active}
        for scope in self._turns:
            scope.cancel()

    def restart_redis(self) -> None:
        """Locks, streams and what is known of otids are gone; the turns go on."""
        self.store.locks.clear()
        self.store.runs_by_otid.clear()
        for run in self.store.runs.values():
            run.lose_events()

    def reset(self) -> None:
        for scope in self._turns:
            scope.cancel()
        self.store = Store()

    async def cancel(self, request: Request) -> Response:
        """With an agent's default conversation this cancels the active runs of all its conversations (seen)."""
        conversation_id = views.path_any_conversation(request)
        agent_id = direct_agent(conversation_id, request.query_params.get("agent_id"))
        if agent_id is None:
            self.store.conversation(conversation_id)
        runs = [
            run
            for run in reversed(self.store.runs.values())
            if run.active and (run.agent_id == agent_id if agent_id else run.conversation_id == conversation_id)
        ]
        if not runs:
            raise HttpError(409, f"CONFLICT: No active runs to cancel for conversation {conversation_id}")
        return JSONResponse({run.id: self._stop(run) for run in runs})

    async def cancel_of_agent(self, request: Request) -> Response:
        """Named runs, whosever they are; without names, the run that was begun last (seen, and read in the source)."""
        agent = self.store.agent(views.path_agent(request))
        body = await views.body_of(request)
        names = body.get("run_ids") or [run.id for run in self.store.runs.values() if run.agent_id == agent.id][-1:]
        known = self.store.runs
        return JSONResponse({name: self._stop(known[name]) if name in known else "failed" for name in names})

    def _stop(self, run: Run) -> str:
        """A run that has ended is "cancelled" too, without any effect. Whichever is stopped, a call that waits in the
        agent's default conversation is denied (seen)."""
        waits = run.stop_reason == "requires_approval"
        if not run.active and not waits:
            return "cancelled"
        agent = self.store.agents[run.agent_id]
        request = TurnRequest(messages=())
        turn = Turn(self.store, self.model, agent, run, request, agent.model)
        if pending := turn.waiting_call():
            turn.deny(pending, DENIED_ON_CANCEL)
        run.status, run.stop_reason, run.completed = "cancelled", "cancelled", self.store.now()
        if run.conversation_id:
            self._unlock(run)
        return "cancelled"

    async def send(self, request: Request) -> Response:
        conversation_id = views.path_any_conversation(request)
        body = await views.body_of(request, needed=True)
        views.check_messages(body)
        thread = self.store.thread(conversation_id, body.get("agent_id"))
        asked = TurnRequest.from_json(body)
        handle = asked.override_model or thread.agent.model
        if isinstance(thread, Conversation):
            thread.last_message_at = thread.updated = self.store.now()
            handle = asked.override_model or thread.model or handle
        check_model(handle)
        await anyio.sleep(self.start_seconds)
        token = "|".join(asked.otids)
        if self.redis and asked.streaming and asked.background and token in self.store.runs_by_otid:
            return await stream(self.store.runs_by_otid[token])
        locked = self.redis and (asked.streaming or isinstance(thread, Agent))
        holder = self.store.locks.get(thread.id) if locked else None
        if holder:
            raise busy(holder)
        run = self._new_run(thread, asked)
        if asked.streaming and asked.background and not self.redis:
            run.finish("failed", "error", self.store.now())
            raise HttpError(503, f"INTERNAL_SERVER_ERROR: {NO_REDIS}")
        if locked:
            self.store.locks[thread.id] = run
            self.store.runs_by_otid |= dict.fromkeys([token, *asked.otids], run)
        turn = Turn(self.store, self.model, thread, run, asked, handle)
        if asked.streaming:
            self._start(self._run_turn, turn)
            return await stream(run)
        return await self._whole_turn(turn)

    def _new_run(self, thread: Thread, asked: TurnRequest) -> Run:
        """A run of a JSON answer is never tied to its conversation, nor ever leaves "created" (seen)."""
        run = Run(thread.agent.id, thread.conversation_id if asked.streaming else None, self.store.now())
        run.background = asked.background and asked.streaming
        run.run_type = "send_message" if isinstance(thread, Agent) else "send_conversation_message"
        self.store.runs[run.id] = run
        return run

    async def _run_turn(self, turn: Turn) -> None:
        with self._scope():
            try:
                await turn.stream()
            finally:
                if turn.run not in self._killed:
                    # Seen: a run of `default` that is stopped in the foreground keeps its lock for minutes.
                    if turn.run.status != "cancelled" or turn.run.conversation_id or turn.run.background:
                        self._unlock(turn.run)
                    turn.run.end()

    async def _whole_turn(self, turn: Turn) -> Response:
        """Do the turn and answer with all of it. The turn goes on when the client leaves."""
        outcome: list[Json | HttpError] = []

        async def work() -> None:
            with self._scope():
                try:
                    await turn.work()
                    outcome.append(turn.answer())
                except TurnFailed as failure:
                    refusal = HttpError(failure.status, "")
                    refusal.body = failure.body
                    outcome.append(refusal)
                finally:
                    self._unlock(turn.run)
                    turn.run.end()

        self._start(work)
        while not turn.run.ended:
            await turn.run.changed.wait()
        if isinstance(outcome[0], HttpError):
            raise outcome[0]
        return JSONResponse(outcome[0])

    async def follow(self, request: Request) -> Response:
        conversation_id = views.path_any_conversation(request)
        body = await views.body_of(request)
        if not self.redis:
            raise HttpError(503, NO_REDIS)
        if run_id := body.get("run_id"):
            run = self.store.run(run_id)
        elif otid := body.get("otid"):
            if otid not in self.store.runs_by_otid:
                detail = f"No run found for otid={otid}. The run may have expired or never existed."
                raise HttpError(404, detail)
            run = self.store.runs_by_otid[otid]
        else:
            run = self._active_background_run(conversation_id, body.get("agent_id"))
        return await stream(run, stored=True, after=body.get("starting_after") or 0)

    def _active_background_run(self, conversation_id: str, agent_id: str | None) -> Run:
        direct = direct_agent(conversation_id, agent_id)
        for run in reversed(self.store.runs.values()):
            if run.active and (run.agent_id == direct if direct else run.conversation_id == conversation_id):
                if not run.background:
                    detail = "Run was not created in background mode, so it cannot be retrieved."
                    raise HttpError(400, f"INVALID_ARGUMENT: {detail}")
                return run
        raise HttpError(400, "INVALID_ARGUMENT: No active runs found for this conversation.")

    def _unlock(self, run: Run) -> None:
        self.store.locks = {key: holder for key, holder in self.store.locks.items() if holder is not run}

    def _start(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        if self.tasks is None:
            raise RuntimeError("turns run only inside serve()")
        self.tasks.start_soon(work, *arguments)

    @contextmanager
    def _scope(self) -> Generator[None]:
        """A turn's scope, which `reset` cancels."""
        with anyio.CancelScope() as scope:
            self._turns.add(scope)
            try:
                yield
            finally:
                self._turns.discard(scope)


def busy(holder: Run) -> HttpError:
    return HttpError(409, BUSY.format(run_id=holder.id), run_id=holder.id)
