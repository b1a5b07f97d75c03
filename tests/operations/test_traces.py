"""OpenTelemetry: a turn is a span with its ids within its call's, and no text leaves with it."""

from __future__ import annotations

import gzip
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from letta_conversations_mcp.settings import Settings
from tests.http.team import modern_call
from tests.operations.service import service
from tests.rig.bounds import HANG_SECONDS
from tests.rig.letta_server import Letta
from tests.rig.loopback import http_client, loopback_socket, serve_loopback
from tests.rig.model import Refuse, Say, ScriptedModel

TEXT = "Xylophone seventy-three"
TRACE = "ab" * 16


class Collector:
    """What an OpenTelemetry collector got."""

    def __init__(self) -> None:
        self.raw = b""
        self.spans: list[Span] = []
        self.services: set[str] = set()

    async def take(self, request: Request) -> Response:
        body = await request.body()
        body = gzip.decompress(body) if request.headers.get("content-encoding") == "gzip" else body
        self.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {
                each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
            }
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return Response()

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[str]:
        app = Starlette(routes=[Route("/v1/traces", self.take, methods=["POST"])])
        async with serve_loopback(app, loopback_socket()) as url:
            yield url


def attributes(span: Span) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


async def test_a_turn_is_a_span_with_its_ids_within_the_span_of_its_call_and_without_any_text(
    letta: Letta, model: ScriptedModel
) -> None:
    agent_id, _ = await letta.new_agent()
    collector = Collector()
    async with collector.serve() as url:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
        async with service(Settings(base_url=letta.base_url, traces=True), variables) as running:
            async with running.client("modern") as caller:
                model.enqueue(Say(TEXT))
                sent = await caller.ok("send_message", agent=agent_id, message=TEXT)
                model.enqueue(Refuse(500, TEXT))
                await caller.ok("send_message", agent=agent_id, message=TEXT)
                waited = await caller.ok("wait_for_reply", conversation_id=sent.data["conversation_id"])
                keyed = {"agent": agent_id, "message": TEXT, "message_key": "once"}
                model.enqueue(Say(TEXT))
                once = await caller.ok("send_message", **keyed)
                again = await caller.ok("send_message", **keyed)
                await caller.refused(TEXT)
            body, headers = modern_call("tools/call", {"name": "list_agents", "arguments": {}}, "list_agents")
            body["params"]["_meta"]["traceparent"] = f"00-{TRACE}-{'b' * 16}-01"
            async with http_client() as http:
                await http.post(f"{running.url}/mcp", json=body, headers=headers)
            running.process.terminate()
            await running.ended()

    call = next(each for each in collector.spans if each.name == "tools/call send_message")
    turn = next(each for each in collector.spans if each.name == "turn" and each.parent_span_id == call.span_id)
    assert attributes(turn) == {
        "gen_ai.conversation.id": sent.data["conversation_id"],
        "gen_ai.agent.id": agent_id,
        "letta.run.id": sent.data["run_id"],
        "letta.turn.status": "completed",
    }
    waiting = next(each for each in collector.spans if each.name == "tools/call wait_for_reply")
    assert (
        attributes(waiting).items()
        >= {
            "gen_ai.conversation.id": sent.data["conversation_id"],
            "letta.run.id": waited.data["run_id"],
        }.items()
    )
    continued = next(each for each in collector.spans if each.name == "tools/call list_agents")
    assert continued.trace_id.hex() == TRACE
    assert again.data["run_id"] == once.data["run_id"]
    turns = [attributes(each)["letta.run.id"] for each in collector.spans if each.name == "turn"]
    assert turns.count(once.data["run_id"]) == 1
    assert collector.services == {"letta-conversations-mcp"}
    assert TEXT.encode() not in collector.raw


async def test_without_the_extra_the_start_says_what_to_install() -> None:
    script = (
        "import sys\n"
        "sys.modules['opentelemetry.sdk'] = None\n"
        "from letta_conversations_mcp.cli.main import main\n"
        "sys.exit(main(['serve', '--http', '--port', '0', '--traces', '--letta-base-url', 'http://127.0.0.1:9']))"
    )

    with anyio.fail_after(HANG_SECONDS):
        done = await anyio.run_process([sys.executable, "-c", script], check=False)

    assert done.returncode == 2
    assert b"pip install 'opentelemetry-exporter" in done.stderr
    assert b"Traceback" not in done.stderr
