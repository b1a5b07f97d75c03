"""The rig does what it says: a fault hits where and how it is told, and what goes wrong is seen to go wrong."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.faults.cell import Case, Outcome, judge
from tests.faults.clients import Answered, Obedient
from tests.faults.places import answer_to
from tests.faults.plan import At, Break, Fault, Garble, How, Plan, Refuse, Reply
from tests.faults.proxy import Proxy
from tests.faults.relay_http import relay_http
from tests.rig.loopback import http_client, loopback_socket, serve_loopback
from tests.rig.waiting import until

SEND = "/v1/conversations/conv-1/messages"
EVENTS = [f"data: event {number}\n\n" for number in range(1, 4)]


class Server:
    """Streams three events to who sends, and says a word to who asks. The proxy in front of it is `proxy`."""

    def __init__(self) -> None:
        self.sent = 0
        self.app = Starlette(routes=[Route(SEND, self._send, methods=["POST"]), Route("/v1/runs/", self._runs)])
        self.proxy: Proxy
        self.http: httpx.AsyncClient

    async def _send(self, request: Request) -> Response:
        self.sent += 1

        async def events() -> AsyncIterator[str]:
            for event in EVENTS:
                yield event

        return StreamingResponse(events(), media_type="text/event-stream")

    async def _runs(self, request: Request) -> Response:
        return PlainTextResponse("no runs")

    async def send(self, fault: Fault, *, further: int | None = 0) -> str:
        """Send through the proxy with this fault; gives what came before the end of the answer, in order or not."""
        self.proxy.arm(Plan(fault, further))
        text = ""
        try:
            async with self.http.stream("POST", SEND, content="hello") as response:
                async for piece in response.aiter_text():
                    text += piece
                return f"{response.status_code} {text}"
        except httpx.HTTPError as error:
            return f"{text}{type(error).__name__}"


@pytest.fixture
async def server() -> AsyncGenerator[Server]:
    served = Server()
    bound = loopback_socket()
    async with serve_loopback(served.app, bound, lifespan="off"):
        served.proxy = Proxy("127.0.0.1", bound.getsockname()[1], relay_http)
        async with (
            served.proxy.serve() as address,
            http_client(base_url=f"http://{address}", timeout=3) as served.http,
        ):
            yield served


async def test_without_a_fault_everything_passes(server: Server) -> None:
    passed = await server.send(Break("reset", At("event", 9)))

    assert passed == f"200 {''.join(EVENTS)}"
    assert not server.proxy.struck.is_set()


@pytest.mark.parametrize(
    ("how", "at", "came"),
    [
        ("reset", At("request"), "ReadError"),
        ("close", At("request"), "RemoteProtocolError"),
        ("stall", At("request"), "ReadTimeout"),
        ("reset", At("answer"), "ReadError"),
        ("close", At("head"), "RemoteProtocolError"),
        ("close", At("event", 2), f"{EVENTS[0]}{EVENTS[1]}RemoteProtocolError"),
        ("stall", At("event", 1), f"{EVENTS[0]}ReadTimeout"),
        ("end", At("event", 1), f"200 {EVENTS[0]}"),
    ],
)
async def test_a_connection_breaks_where_and_how_it_is_told(server: Server, how: How, at: At, came: str) -> None:
    assert await server.send(Break(how, at)) == came
    assert server.proxy.struck.is_set()
    assert server.sent == (0 if at.stage == "request" else 1)


async def test_a_reset_is_a_reset_and_no_end(server: Server) -> None:
    broken = await server.send(Break("reset", At("event", 2)))

    assert broken.endswith("ReadError")


@pytest.mark.parametrize("taken", [False, True])
async def test_the_proxy_answers_by_itself_whether_the_server_has_the_request_or_not(
    server: Server, taken: bool
) -> None:
    answer = await server.send(Reply("503", 503, {"detail": "no worker"}, taken=taken))

    assert answer == '503 {"detail": "no worker"}'
    assert server.sent == int(taken)


async def test_nobody_listens_until_the_fault_is_over(server: Server) -> None:
    refused = await server.send(Refuse())
    await server.proxy.disarm()
    again = await server.http.get("/v1/runs/")

    assert refused == "ConnectError"
    assert again.text == "no runs"


@pytest.mark.parametrize(("further", "broken"), [(0, 0), (2, 2), (None, 3)])
async def test_the_requests_that_follow_are_hit_as_often_as_told(
    server: Server, further: int | None, broken: int
) -> None:
    await server.send(Break("reset", At("answer")), further=further)

    failed = 0
    for _ in range(3):
        try:
            await server.http.get("/v1/runs/")
        except httpx.ReadError:
            failed += 1

    assert failed == broken


async def test_an_answer_in_pieces_is_the_same_answer(server: Server) -> None:
    whole = f"200 {''.join(EVENTS)}"

    assert [await server.send(Garble(how)) for how in ("halves", "bytes")] == [whole, whole]


async def test_events_are_added_and_repeated(server: Server) -> None:
    doubled = await server.send(Garble("twice"))
    longer = await server.send(Garble("20 MB"))

    assert doubled.count("data:") == 6
    assert len(longer) > 20_000_000


async def test_who_leaves_is_seen_to_leave(server: Server) -> None:
    server.proxy.arm(Plan(Break("stall", At("event", 1))))
    async with server.http.stream("POST", SEND, content="hello") as response:
        await anext(response.aiter_text())
        [exchange] = server.proxy.exchanges
        open_before = exchange.open
    await until(lambda: not exchange.open)

    assert open_before
    assert str(exchange).endswith("our server left")


# Written out: workers that run in parallel have to give the tests the same names.
MARKER, OTHER = "marker-0123456789ab", "marker-ba9876543210"
SENT = Answered("send_message", "completed")
UNTAKEN = Answered("send_message", "error", "Nothing was sent. Then the same call can be made again.")


@pytest.mark.parametrize(
    ("calls", "reply", "executed", "stored", "evils"),
    [
        ([SENT], answer_to(MARKER), 1, 1, set[str]()),
        ([UNTAKEN, SENT], answer_to(MARKER), 1, 1, set[str]()),
        ([SENT, SENT], answer_to(MARKER), 2, 1, {"doubled"}),
        ([SENT], answer_to(MARKER), 1, 2, {"doubled"}),
        ([UNTAKEN, SENT], answer_to(MARKER), 2, 2, {"doubled", "wrong"}),
        ([UNTAKEN], None, 1, 1, {"lost", "wrong"}),
        ([SENT], None, 0, 0, {"lost"}),
        ([SENT], answer_to(OTHER), 1, 1, {"merged"}),
        ([SENT], answer_to(MARKER)[:-4], 1, 1, {"wrong"}),
    ],
)
def test_what_goes_wrong_is_called_by_its_name(
    calls: list[Answered], reply: str | None, executed: int, stored: int, evils: set[str]
) -> None:
    client = Obedient.__new__(Obedient)
    client.calls, client.reply, client.gave_up = calls, reply, ""
    case = Case(Plan(Refuse()))
    outcome = Outcome(case, "a place", "a way", executed=executed, stored=stored)

    assert set(judge(case, client, MARKER, outcome)) == evils
