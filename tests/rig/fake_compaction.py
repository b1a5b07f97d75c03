"""Compaction in the fake Letta server: which messages a summary replaces, and what the summary looks like.

The rule is that of 0.16.8 for histories far below the context window: cut before the last answer of the first 40 %
(or another share), and take everything when there is none. A compaction that does not make the history shorter is
refused after the model was asked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from tests.rig.fake_failures import refused_by_model
from tests.rig.fake_run import Json
from tests.rig.fake_store import HttpError, Row, Store, Thread, spoken
from tests.rig.model import Answer, Hold, ModelCall, Refuse, ScriptedModel

MODES = ("all", "sliding_window", "self_compact_all", "self_compact_sliding_window")
NO_MESSAGES = "No in-context messages found for this conversation."
NOT_SHORTER = (
    "Summarization failed to reduce the number of messages. You may not have enough messages to compact "
    "or need to use a different CompactionSettings (e.g. using `all` mode)."
)
PROMPT = "The following messages are being evicted from the BEGINNING of your context window. Write a summary."
ALL_HIDDEN = "Note: prior messages have been hidden from view due to conversation memory constraints."
START_HIDDEN = (
    "Note: prior messages from the beginning of the conversation have been hidden from view due to conversation memory "
    "constraints."
)


def is_answer(row: Row) -> bool:
    return row.role == "assistant"


def cut(context: Sequence[Row], share: float) -> int | None:
    """The index of the first row that a sliding window keeps, which evicts a little more than this share; None when
    everything is summarised."""
    last = len(context) - (2 if context[-1].call else 1)
    while share < 1.0:
        share += 0.1
        for index in range(min(round(share * len(context)), len(context) - 1), 0, -1):
            if is_answer(context[index]):
                return index if index < last and share < 1.0 else None
    return None


async def compact(
    store: Store, model: ScriptedModel, thread: Thread, mode: str, handle: str, prompt: str, share: float
) -> Json:
    """Summarise the thread, and answer as the server does."""
    context = thread.context()
    if not context:
        raise HttpError(400, NO_MESSAGES)
    index = cut(context, share) if "sliding_window" in mode else None
    note = ALL_HIDDEN if index is None else START_HIDDEN
    if index is None:
        index = len(context) - 1 if context[-1].call else len(context)
    summary = await summarise(model, context[1:index], handle, prompt)
    kept = context[index:]
    if len(context) <= len(kept) + 2:
        raise HttpError(400, NOT_SHORTER)
    alert = {
        "type": "system_alert",
        "message": f"{note}\nThe following is a summary of the previous messages:\n {summary}",
        "time": spoken(store.now()),
    }
    row = store.new_row(thread, "summary", json.dumps(alert, indent=2))
    row.show("user_message", None, content=row.model_text)
    store.save(thread, [row])
    thread.replace_context([context[0], row, *kept])
    return {"summary": summary, "num_messages_before": len(context), "num_messages_after": len(kept) + 2}


async def summarise(model: ScriptedModel, rows: Sequence[Row], handle: str, prompt: str) -> str:
    lines = [f"[MessageRole.{row.role}] {row.model_text}" for row in rows if row.model_text]
    text = "<start_transcript>\n" + "\n".join(lines) + "\n<end_transcript>\n. Generate the summary."
    call = ModelCall(text=text, messages=(("system", prompt), ("user", text)), model=handle.split("/")[-1])
    answer: Answer = model.take(call)
    if isinstance(answer, Hold):
        await answer.gate.wait()
        answer = answer.answer
    if isinstance(answer, Refuse):
        failure = refused_by_model(answer)
        raise HttpError(failure.status, failure.error["detail"])
    return answer.text
