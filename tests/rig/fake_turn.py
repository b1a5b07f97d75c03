"""One turn of the fake Letta server: the agent loop, and the events a turn sends.

Owns what a request to send a message means (`TurnRequest`), and the steps until the model calls no tool. All shapes
were seen on 0.16.8, in streams of whole messages, in token streams and in JSON answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from tests.rig.fake_failures import TurnFailed, refused_by_model, refused_empty, refused_input
from tests.rig.fake_parts import call_deltas, model_call, stored_part, words
from tests.rig.fake_run import Json, Run, new_id
from tests.rig.fake_store import Row, Store, Thread, part_otid, spoken
from tests.rig.fake_tools import parsed, use_tool
from tests.rig.model import Answer, CallTools, Hold, Refuse, Say, ScriptedModel, Use

DEFAULT_MAX_STEPS = 50
KEEP_ALIVE = (
    "<system-alert>Automated keep-alive ping. Ignore this message and continue from where you stopped.</system-alert>"
)
APPROVAL_PENDING = (
    "CONFLICT: Cannot send a new message: The agent is waiting for approval on a tool call. "
    "Please approve or deny the pending request before continuing."
)


NOTHING_AWAITED = (
    "Cannot process approval response: No tool call is currently awaiting approval. "
    "Please send a regular message to interact with the agent."
)


class TurnCancelled(Exception):
    """The run was cancelled while the model thought."""


@dataclass(frozen=True)
class TurnRequest:
    """The body of POST /v1/conversations/{id}/messages, checked."""

    messages: Sequence[Json]
    streaming: bool = True
    stream_tokens: bool = False
    include_pings: bool = True
    background: bool = False
    max_steps: int = DEFAULT_MAX_STEPS
    override_model: str | None = None
    override_system: str | None = None
    client_tools: frozenset[str] = frozenset()
    return_types: frozenset[str] | None = None

    @classmethod
    def from_json(cls, body: Json) -> TurnRequest:
        messages = body.get("messages") or [{"role": "user", "content": body["input"]}]
        types = body.get("include_return_message_types")
        return cls(
            # The server gives an otid to every message that has none.
            messages=[{**message, "otid": message.get("otid") or str(uuid4())} for message in messages],
            streaming=body.get("streaming", True),
            stream_tokens=body.get("stream_tokens", False),
            include_pings=body.get("include_pings", True),
            background=body.get("background", False),
            max_steps=int(body.get("max_steps", DEFAULT_MAX_STEPS)),
            override_model=body.get("override_model"),
            override_system=body.get("override_system"),
            client_tools=frozenset(str(tool["name"]) for tool in body.get("client_tools") or ()),
            return_types=frozenset(types) if types is not None else None,
        )

    @property
    def otids(self) -> list[str]:
        return [message["otid"] for message in self.messages]

    @property
    def approvals(self) -> list[Json] | None:
        """The answers to a tool call that waits, in one form for the three ways to write them; None without one."""
        for message in self.messages:
            if message.get("type") == "tool_return":
                return [{**given, "type": "tool"} for given in message["tool_returns"]]
            if message.get("type") == "approval":
                given = message.get("approvals")
                if given:
                    return given
                answer = {"approve": message["approve"], "reason": message.get("reason")}
                return [{"type": "approval", "tool_call_id": message["approval_request_id"], **answer}]
        return None


@dataclass
class Turn:
    """The work of one run on one thread. `messages` and `stop_reason` are the JSON answer."""

    store: Store
    model: ScriptedModel
    thread: Thread
    run: Run
    request: TurnRequest
    model_handle: str
    messages: list[Json] = field(default_factory=list[Json])
    stop_reason: str = "end_turn"
    steps: int = 0
    context_tokens: int | None = None
    reasoning_tokens: int | None = None

    @property
    def interrupted(self) -> bool:
        """Whether the stream has to end. A JSON answer is completed up to the end of the step."""
        return self.request.streaming and self.run.status == "cancelled"

    @property
    def by_token(self) -> bool:
        return self.request.streaming and self.request.stream_tokens

    async def stream(self) -> None:
        """Do the turn and send its events. Never raises: what goes wrong is an event too."""
        run = self.run
        if self.request.include_pings:
            ping = Row(run.agent_id, None, "", self.store.now(), "", run_id=run.id, id=new_id("ping"))
            run.emit(ping.show("ping", None))
        run.status = "running" if run.active else run.status
        try:
            await self.work()
        except TurnCancelled:
            run.emit(json.dumps({"message_type": "stop_reason", "stop_reason": "cancelled"}))  # with spaces, as seen
            if run.background:
                run.emit("[DONE]")
        except TurnFailed as failure:
            error = {"message_type": "error_message", "run_id": run.id, **failure.error, "seq_id": None}
            run.error = error
            run.finish("failed", failure.stop_reason, self.store.now())
            run.emit({"message_type": "stop_reason", "stop_reason": failure.stop_reason})
            run.emit(error, event="error")
            if not run.background:
                run.emit("[DONE]")
        else:
            run.finish("completed", self.stop_reason, self.store.now())
            run.emit({"message_type": "stop_reason", "stop_reason": self.stop_reason})
            run.emit(self.usage())
            run.emit("[DONE]")

    def answer(self) -> Json:
        """The whole turn as a JSON answer."""
        stop = {"message_type": "stop_reason", "stop_reason": self.stop_reason}
        return {"messages": self.messages, "stop_reason": stop, "usage": self.usage(), "logprobs": None, "turns": None}

    def usage(self) -> Json:
        run, cached = self.run, None if self.by_token or not self.steps else 0
        return {
            "message_type": "usage_statistics",
            "completion_tokens": run.completion_tokens,
            "prompt_tokens": run.prompt_tokens,
            "total_tokens": run.prompt_tokens + run.completion_tokens,
            "step_count": self.steps,
            "run_ids": None,
            "cached_input_tokens": cached,
            "cache_write_tokens": cached,
            "reasoning_tokens": self.reasoning_tokens or cached,
            "context_tokens": self.context_tokens,
        }

    async def work(self) -> None:
        """The steps. Nothing of the first step, the user's message included, is stored when the step fails."""
        if self.request.max_steps <= 0:
            return
        waiting = self.waiting_call()
        if waiting and self.request.approvals is None:
            raise refused_input(409, APPROVAL_PENDING, APPROVAL_PENDING)
        if self.request.approvals and not waiting:
            self.check_answered(self.request.approvals)
        given: list[Row] = []
        if waiting:
            await self.answer_call(waiting)
        else:
            given = self.input_rows()
        for _ in range(self.request.max_steps):
            step_id = new_id("step")
            for row in given:
                row.step_id = step_id
                for item in row.items:
                    item["step_id"] = step_id
            answer = await self.ask([*self.thread.context(), *given])
            again = self.step(answer, given, step_id)
            if not again:
                return
            given = []
            if self.run.status == "cancelled":
                self.stop_reason = "cancelled"
                return
        self.stop_reason = "max_steps"

    def waiting_call(self) -> Row | None:
        """The approval request at the end of the thread."""
        context = self.thread.context()
        return context[-1] if context and context[-1].call else None

    def check_answered(self, approvals: Sequence[Json]) -> None:
        """An answer to a call that never waited fails; one that was answered before is taken for a repetition."""
        ids = {given.get("tool_call_id") for given in approvals}
        items = [item for row in self.thread.context()[-10:] for item in row.items]
        returned = {part["tool_call_id"] for item in items for part in item.get("tool_returns") or ()}
        if not ids <= returned:
            raise refused_input(500, NOTHING_AWAITED)

    def input_rows(self) -> list[Row]:
        if self.request.approvals is not None:
            # Seen: an answer that comes a second time is stored as a user message with this text, and a turn follows.
            messages: Sequence[Json] = [{"role": "user", "content": KEEP_ALIVE, "otid": str(uuid4())}]
        else:
            messages = self.request.messages
        return [self.input_row(message) for message in messages]

    def input_row(self, message: Json) -> Row:
        content: str | list[Json] = message.get("content") or ""
        if not content:
            raise refused_input(400, "Message content is empty or invalid")
        stored: str | list[Json] = content if isinstance(content, str) else [stored_part(part) for part in content]
        text = content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)
        row = self.store.new_row(self.thread, message["role"], text, run_id=self.run.id)
        if row.role == "assistant":
            row.show_part("assistant_message", content=stored)
        else:
            more = {"name": message.get("name"), "sender_id": message.get("sender_id")}
            row.show(f"{row.role}_message", message["otid"], content=stored, **more)
        return row

    async def ask(self, context: Sequence[Row]) -> Say | CallTools:
        call = model_call(context, self.model_handle, self.request.override_system)
        answer: Answer = self.model.take(call)
        if isinstance(answer, Hold):
            await answer.gate.wait()
            answer = answer.answer
        if self.by_token and self.interrupted:
            raise TurnCancelled
        if isinstance(answer, Refuse):
            raise refused_by_model(answer)
        empty = not answer.text and (isinstance(answer, CallTools) or not answer.reasoning)
        if isinstance(answer, Say) and empty and not self.by_token:
            raise refused_empty()
        asked = sum(len(text) for _, text in call.messages) // 4
        answered = len(answer.text) // 4 + 1
        if isinstance(answer, Say) and answer.reasoning:
            self.reasoning_tokens = (self.reasoning_tokens or 0) + len(answer.reasoning) // 4 + 1
        self.steps += 1
        self.context_tokens = self.run.add_step(self.model_handle, asked, answered)
        return answer

    def step(self, answer: Say | CallTools, given: Sequence[Row], step_id: str) -> bool:
        """Store and send one answer of the model; True when another step follows."""
        row = self.store.new_row(self.thread, "assistant", answer.text, step_id=step_id, run_id=self.run.id)
        rows = [*given, row]
        if isinstance(answer, Say) and answer.reasoning:
            self.send(
                row.show_part("reasoning_message", source="reasoner_model", reasoning=answer.reasoning, signature=None)
            )
        if answer.text:
            self.send(row.show_part("assistant_message", content=answer.text))
        if isinstance(answer, Say):
            if answer.cut and not self.by_token:
                self.stop_reason = "max_tokens_exceeded"
            self.save(rows if row.items else given)
            return False
        # The agents do not call tools in parallel: only the first call is done, a token stream shows all of them.
        use = answer.uses[0]
        call_id = use.call_id or f"call_{uuid4().hex[:24]}"
        raw = use.arguments if isinstance(use.arguments, str) else json.dumps(use.arguments)
        if use.name in self.thread.agent.needing_approval or use.name in self.request.client_tools:
            row.call = {"name": use.name, "arguments": raw, "tool_call_id": call_id}
            self.send(row.show("approval_request_message", row.id, tool_call=row.call, tool_calls=[row.call]))
            self.stop_reason = "requires_approval"
            self.save(rows)
            return False
        arguments = parsed(raw)
        call: Json = {"name": use.name, "arguments": json.dumps(arguments), "tool_call_id": call_id}
        item = row.show_part("tool_call_message", tool_call=call, tool_calls=[call])
        if not self.request.streaming:
            # Seen: a JSON answer lacks the text before a call that was executed; the stored row has it.
            self.messages = [shown for shown in self.messages if shown["id"] != row.id]
            item = {**item, "otid": part_otid(row.id, 0)}
        self.send(item, raw)
        if self.by_token:
            for other in answer.uses[1:]:
                self.send_other_call(item, other)
        text, status, stderr = use_tool(self.thread, use.name, arguments)
        self.save([*rows, self.return_row(call, text, status, step_id, name=use.name, stderr=stderr)])
        return True

    def save(self, rows: Sequence[Row]) -> None:
        self.store.save(self.thread, rows)
        if self.interrupted:
            raise TurnCancelled  # a cancelled stream of whole messages: the step is stored, but not its end sent

    def return_row(
        self,
        call: Json,
        text: str,
        status: str,
        step_id: str | None,
        *,
        name: str | None,
        stderr: list[str] | None = None,
    ) -> Row:
        told = {"status": "OK" if status == "success" else "Failed", "message": text, "time": spoken(self.store.now())}
        row = self.store.new_row(self.thread, "tool", json.dumps(told, indent=2), step_id=step_id, run_id=self.run.id)
        result = {
            "tool_return": text,
            "status": status,
            "tool_call_id": call["tool_call_id"],
            "stdout": None,
            "stderr": stderr,
        }
        self.send(row.show_part("tool_return_message", name=name, **result, tool_returns=[{"type": "tool", **result}]))
        return row

    def deny(self, waiting: Row, reason: str) -> None:
        """Store a denial of the waiting call, as stopping a run does."""
        call = waiting.call or {}
        decision: Json = {"type": "approval", "tool_call_id": call["tool_call_id"], "approve": False, "reason": reason}
        row = self.store.new_row(self.thread, "approval", "", run_id=self.run.id)
        row.show("approval_response_message", None, approvals=[decision], approve=False, reason=reason)
        text = f"Error: request to call tool denied. User reason: {reason}"
        self.store.save(self.thread, [row, self.return_row(call, text, "error", waiting.step_id, name=None)])

    async def answer_call(self, waiting: Row) -> None:
        """Store the user's answer to the waiting call, and the tool's return."""
        call = waiting.call or {}
        approvals = self.request.approvals or []
        ids = [given.get("tool_call_id") for given in approvals]
        # The deprecated way names the message of the request instead of the call.
        if ids not in ([call["tool_call_id"]], [waiting.id]):
            raise refused_input(
                400, f"Invalid tool call IDs. Expected '{[call['tool_call_id']]}', but received '{ids}'."
            )
        given = approvals[0]
        row = self.store.new_row(self.thread, "approval", "", run_id=self.run.id)
        name: str | None = None
        stderr: list[str] | None = None
        if given["type"] == "tool":
            text, status = str(given["tool_return"]), str(given.get("status", "success"))
            shown: Json = {"type": "tool", "tool_return": text, "status": status, "tool_call_id": ids[0]}
            shown |= {"stdout": None, "stderr": None}
            legacy: Json = {"approve": None, "approval_request_id": None, "reason": None}
        else:
            shown = {
                "type": "approval",
                "tool_call_id": ids[0],
                "approve": given["approve"],
                "reason": given.get("reason"),
            }
            legacy = {"approve": given["approve"], "approval_request_id": ids[0], "reason": given.get("reason")}
            if given["approve"]:
                name = call["name"]
                text, status, stderr = use_tool(self.thread, call["name"], parsed(call["arguments"]))
            else:
                text, status = f"Error: request to call tool denied. User reason: {given.get('reason')}", "error"
        row.show("approval_response_message", None, approvals=[shown], **legacy)
        returned = self.return_row(call, text, status, waiting.step_id, name=name, stderr=stderr)
        self.store.save(self.thread, [row, returned])

    def send(self, item: Json, raw_arguments: str | None = None) -> None:
        """Send one part of the answer: whole, or in deltas in a token stream."""
        kind = item["message_type"]
        if self.interrupted or (self.request.return_types is not None and kind not in self.request.return_types):
            return
        if not self.request.streaming:
            self.messages.append(item)
        elif not self.by_token:
            self.run.emit(item)
        elif kind in ("assistant_message", "reasoning_message"):
            key = "content" if kind == "assistant_message" else "reasoning"
            for piece in words(item[key]):
                self.run.emit({**item, key: piece})
        elif kind in ("tool_call_message", "approval_request_message"):
            arguments = item["tool_call"]["arguments"] if raw_arguments is None else raw_arguments
            for delta in call_deltas(item["tool_call"], arguments, nulls=kind == "approval_request_message"):
                self.run.emit({**item, "tool_call": delta, "tool_calls": delta})
        elif self.request.approvals is None or self.steps:
            self.run.emit(item)  # the return of an approved call is missing in a token stream

    def send_other_call(self, item: Json, use: Use) -> None:
        raw = use.arguments if isinstance(use.arguments, str) else json.dumps(use.arguments)
        self.send({**item, "tool_call": {"name": use.name, "tool_call_id": f"call_{uuid4().hex[:24]}"}}, raw)
