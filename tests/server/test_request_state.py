"""What a client carries from one request to the next: sealed, and good for that one call of that one caller."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from mcp_types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult
from pydantic import SecretStr

from letta_conversations_mcp.http.app import build_app
from letta_conversations_mcp.http.listening import listen
from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.base import ToolContext, ToolSpec
from letta_conversations_mcp.tools.results.result import Result
from tests.http.team import Team, post
from tests.rig.loopback import serve_loopback

NOWHERE = "http://127.0.0.1:9"
SHARED = SecretStr("shared-" * 8)
OTHER = SecretStr("other-" * 8)


class Question(Result):
    """An answer that asks the caller something first."""

    def to_mcp(self) -> Any:
        question = ElicitRequest(
            params=ElicitRequestFormParams(message="Sure?", requested_schema={"type": "object", "properties": {}})
        )
        return InputRequiredResult(input_requests={"sure": question}, request_state="a secret plan")


class Sure(Result):
    state: str

    def to_text(self) -> str:
        return f"The state was {self.state!r}."


async def ask(ctx: ToolContext, what: str = "") -> Result:
    """Asks before it answers."""
    return Sure(state=ctx.request_state) if ctx.request_state else Question()


async def ask_else(ctx: ToolContext, what: str = "") -> Result:
    """The same under another name."""
    return await ask(ctx, what)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncGenerator[str]:
    """A server with a tool that needs a second round."""
    server = build_server(settings)
    for spec in (ToolSpec(ask, title="Ask", read_only=True), ToolSpec(ask_else, title="Ask", read_only=True)):
        server.specs[spec.name] = spec
    app = build_app(server, settings)
    async with serve_loopback(app, listen(settings.model_copy(update={"port": 0}))) as url:
        yield url


async def first(url: str, headers: dict[str, str], what: str = "x") -> str:
    answer = await post(url, "tools/call", {"name": "ask", "arguments": {"what": what}}, headers, name="ask")
    result = answer.json()["result"]
    assert result["resultType"] == "input_required", result
    assert "a secret plan" not in answer.text
    return result["requestState"]


async def second(url: str, headers: dict[str, str], state: str, what: str = "x", tool: str = "ask") -> httpx.Response:
    params: dict[str, Any] = {
        "name": tool,
        "arguments": {"what": what},
        "requestState": state,
        "inputResponses": {"sure": {"action": "accept", "content": {}}},
    }
    return await post(url, "tools/call", params, headers, name=tool)


def is_refused(answer: httpx.Response) -> bool:
    return answer.json().get("error", {}).get("data") == {"reason": "invalid_request_state"}


def altered(state: str) -> str:
    middle = len(state) // 2
    return state[:middle] + ("A" if state[middle] != "A" else "B") + state[middle + 1 :]


async def test_a_state_is_good_for_the_call_that_it_was_made_for_and_no_other(team: Team) -> None:
    team.add("ann")
    team.add("bob")
    ann, bob = team.bearer("ann"), team.bearer("bob")
    async with serving(team.settings(NOWHERE)) as url:
        state = await first(url, ann)
        good = await second(url, ann, state)
        bad = {
            "altered": await second(url, ann, altered(state)),
            "cut": await second(url, ann, state[:-4]),
            "made up": await second(url, ann, "v1.AAAA"),
            "in the clear": await second(url, ann, "a secret plan"),
            "another's": await second(url, bob, state),
            "for other arguments": await second(url, ann, state, what="y"),
            "for another tool": await second(url, ann, state, tool="ask_else"),
        }

    assert good.json()["result"]["content"][0]["text"] == "The state was 'a secret plan'."
    assert [why for why, answer in bad.items() if not is_refused(answer)] == []


@pytest.mark.parametrize(
    ("first_keys", "second_keys", "is_good"),
    [
        ((SHARED,), (SHARED,), True),
        ((SHARED,), (OTHER, SHARED), True),
        ((SHARED,), (OTHER,), False),
        ((), (), False),
    ],
)
async def test_replicas_understand_each_other_when_they_share_a_key(
    team: Team, first_keys: tuple[SecretStr, ...], second_keys: tuple[SecretStr, ...], is_good: bool
) -> None:
    team.add("ann")
    ann = team.bearer("ann")
    one = team.settings(NOWHERE, request_state_keys=first_keys)
    another = team.settings(NOWHERE, request_state_keys=second_keys)
    async with serving(one) as first_url, serving(another) as second_url:
        answer = await second(second_url, ann, await first(first_url, ann))

    assert is_refused(answer) != is_good


LOADED = """
import json, sys
import anyio
from letta_conversations_mcp.cli.serve import serve
from letta_conversations_mcp.settings import Settings

anyio.run = lambda *_, **__: None
serve(Settings(port=0), http={http})
at_start = "cryptography" in sys.modules

from mcp.server.request_state import InvalidRequestState
from letta_conversations_mcp.server.request_state import StateCodec

codec = StateCodec([])
sealed = codec.seal(b"a secret plan")
refused = []
for wrong in (sealed[:-8] + "AAAAAAAA", StateCodec([]).seal(b"a secret plan")):
    try:
        codec.unseal(wrong)
    except InvalidRequestState as error:
        refused.append(str(error))
print(json.dumps([at_start, codec.unseal(sealed).decode(), refused, "cryptography" in sys.modules]))
"""


@pytest.mark.parametrize("http", [False, True])
async def test_cryptography_is_loaded_for_the_first_state_and_not_at_the_start(http: bool) -> None:
    """And what the SDK imports from it then is the real thing, also the error of a state that was altered."""
    done = await anyio.run_process([sys.executable, "-c", LOADED.format(http=http)])

    at_start, unsealed, refused, afterwards = json.loads(done.stdout)
    assert (at_start, afterwards) == (False, True)
    assert unsealed == "a secret plan"
    assert refused == ["seal", "unknown key"]
