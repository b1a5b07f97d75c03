"""A scripted stand-in for a language model, which speaks the OpenAI chat protocol on this machine alone.

It knows nothing by itself: it answers a few questions from the messages and the system prompt that it is sent. So its
answers show what an agent really has in a conversation: its history, a summary, its memory.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

from letta_conversations_mcp.core.message_json import mappings, text_field, text_of

NAME = "scripted-stand-in"

FIRST_WORDS = "I am a scripted stand-in for a language model."

WORD_SECONDS = 0.06
"""Pause between two words of an answer: as fast as a quick model, slow enough to be seen."""

_TOLD = re.compile(r"(invoice \d+) is due on (\w+)", re.IGNORECASE)
_WHEN = re.compile(r"When is (invoice \d+) due\?", re.IGNORECASE)
_NAME = re.compile(r"Name: (\w+)")

_SUMMARY_WANTED = "Generate the summary."
"""How Letta Code ends its request for one (seen with 0.34.12)."""

_SUMMARY_SENT = "summary of the previous messages"
"""How it announces one to the model (seen with 0.34.12)."""


@dataclass(frozen=True)
class _Sent:
    """One message as the model gets it."""

    role: str
    text: str


def answer(messages: Sequence[Mapping[str, object]]) -> str:
    """What the stand-in says to these messages of a chat completion."""
    sent = [_Sent(text_field(each, "role"), text_of(each.get("content"))) for each in messages]
    system = "\n".join(each.text for each in sent if each.role == "system")
    talk = [each for each in sent if each.role != "system"]
    # Before the user's words stand Letta Code's own, about the machine and the agent.
    asked = talk[-1].text.rpartition("</system-reminder>")[2].strip() if talk else ""
    if asked.endswith(_SUMMARY_WANTED):
        told = {invoice.capitalize(): day for invoice, day in _TOLD.findall(talk[-1].text)}
        facts = [f"{invoice} is due on {day}." for invoice, day in told.items()]
        return " ".join(["The user told me:", *facts] if facts else ["The user told me nothing that I understand."])
    words = _reply(asked, talk[:-1], system)
    return words if any(each.role == "assistant" for each in talk) else f"{FIRST_WORDS} {words}"


def _reply(asked: str, earlier: Sequence[_Sent], system: str) -> str:
    if question := _WHEN.search(asked):
        invoice = question[1].lower()
        for each in reversed(earlier):
            for told, day in _TOLD.findall(each.text):
                if told.lower() == invoice:
                    where = "in the summary" if _SUMMARY_SENT in each.text else "earlier in this conversation"
                    return f"On {day}: I find that {where}."
        return f"I do not know: I am sent nothing about {invoice} in this conversation."
    if asked.startswith("What is my name"):
        known = _NAME.search(system)
        return f"{known[1]}: I find that in this agent's memory." if known else "I do not know: no memory says so."
    if told := _TOLD.search(asked):
        return f"Noted: {told[1].lower()} is due on {told[2]}."
    return "I understand only what the demo says."


@contextmanager
def stand_in() -> Generator[str]:
    """Serve the model on a free port of this machine; gives its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


class _Handler(BaseHTTPRequestHandler):
    """The two requests of the protocol that are needed: which models there are, and a streamed chat completion."""

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        models = {"object": "list", "data": [{"id": NAME, "object": "model", "created": 0, "owned_by": "demo"}]}
        self._begin("application/json")
        self.wfile.write(json.dumps(models).encode())

    def do_POST(self) -> None:
        if self.path != "/v1/chat/completions":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = cast("Mapping[str, object]", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        messages = mappings(body.get("messages"))
        text = answer(messages)
        # A token is taken for four characters.
        asked, said = sum(len(text_of(each.get("content"))) for each in messages) // 4, len(text) // 4
        usage = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
        head: dict[str, object] = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion.chunk"}
        head |= {"created": int(time.time()), "model": NAME}
        self._begin("text/event-stream")
        for choices in _choices(text):
            self._event({**head, "choices": choices})
        self._event({**head, "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _begin(self, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def _event(self, data: Mapping[str, object]) -> None:
        self.wfile.write(b"data: %s\n\n" % json.dumps(data).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base
        """Nothing: the terminal is for the show."""


def _choices(text: str) -> Iterator[list[dict[str, object]]]:
    """The answer word by word, and its end."""
    for word in re.findall(r"\s*\S+", text):
        yield [{"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}]
        time.sleep(WORD_SECONDS)
    yield [{"index": 0, "delta": {}, "finish_reason": "stop"}]
