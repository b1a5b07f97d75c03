"""Secrets are planted everywhere, everything goes wrong, and no output has one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from letta_conversations_mcp.http.auth.token_file import hash_of
from tests.http.provider import provider
from tests.http.team import Team, client_of, post
from tests.rig.bounds import HANG_SECONDS
from tests.rig.letta_server import Letta
from tests.rig.servers import ERAS
from tests.rig.waiting import until

KEY = "sk-let-of-the-server-0123456789abcdef"
ANNS_KEY = "sk-let-of-ann-0123456789abcdef012345"
STATE_KEY = "state-key-0123456789abcdef0123456789abcdef"


@pytest.mark.fake_only
async def test_no_output_has_a_secret(team: Team, letta: Letta, tmp_path: Path) -> None:
    agent, _ = await letta.new_agent()
    conversation = await letta.new_conversation(agent)
    ann = team.add("ann", letta_api_key=ANNS_KEY)
    reader = team.add("reader", scopes=["read"], agents=[agent])
    log = tmp_path / "log"
    said: list[str] = []
    async with provider() as idp:
        jwt = idp.token("https://team.example/mcp")
        wrong_jwt = idp.token("https://other.example/mcp")
        wrong = f"lcm_{'wrong' * 9}"
        environment = {
            "LETTA_API_KEY": KEY,
            "LETTA_BASE_URL": letta.base_url,
            "LETTA_MCP_TOKENS_FILE": str(team.path),
            "LETTA_MCP_OIDC_ISSUER": idp.issuer,
            "LETTA_MCP_PUBLIC_URL": "https://team.example/mcp",
            "LETTA_MCP_REQUEST_STATE_KEYS": STATE_KEY,
            "LETTA_MCP_LOG_LEVEL": "DEBUG",
            # Where rich is installed, the SDK logs in columns, in which a long secret would be broken.
            "COLUMNS": "3000",
        }
        inherited = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
        command = [sys.executable, "-m", "letta_conversations_mcp", "serve", "--http", "--port", "0"]
        with log.open("wb") as written:
            process = await anyio.open_process(
                command, env=inherited | environment, stdout=written, stderr=subprocess.STDOUT
            )
        try:
            serving = await until(lambda: re.search(r"Serving MCP at (http://\S+)/mcp", log.read_text()))
            url = serving[1]
            for era in ERAS:
                for token in (ann, reader, jwt):
                    async with client_of(url, token, era) as caller:
                        said.append(str(await caller.client.list_tools()))
                        said.append(str(await caller.call("list_agents")))
                        said.append(str(await caller.call("send_message", agent=agent, message="hello")))
                        said.append(str(await caller.call("list_messages", conversation_id="conv-nothing")))
                        said.append(str(await caller.call("delete", conversation_id=conversation)))
                        letta.fake.fail("GET", "/v1/agents/", status=401, body={"detail": f"Bearer {KEY} is wrong"})
                        said.append(str(await caller.call("list_agents")))
            letta.fake.fail("GET", "/v1/agents/", status=500, body=f"api_key={ANNS_KEY}", times=3)
            async with client_of(url, ann, "modern") as caller:
                said.append(str(await caller.call("list_agents")))
            for token in (wrong, wrong_jwt, f"{jwt}x", hash_of(ann)):
                answer = await post(url, "tools/list", {}, {"Authorization": f"Bearer {token}"})
                said.append(f"{answer.status_code} {answer.headers} {answer.text}")
            params = {"requestState": "v1.AAAA"}
            paths = ("/", "/nothing", "/mcp/x")
            said += [(await post(url + path, "tools/call", params, team.bearer("ann"))).text for path in paths]
            # A table with a mistake is told of, without what it holds.
            team.tables["broken"] = f'[[tokens]]\nname = "broken"\nletta_api_key = "{ANNS_KEY}"\ntoken = "{wrong}"'
            team.write()

            async def is_told() -> bool:
                said.append((await post(url, "tools/list", {}, team.bearer("ann"))).text)
                return "stay in force" in log.read_text()

            await until(is_told)
        finally:
            process.terminate()
            with anyio.fail_after(HANG_SECONDS):
                await process.wait()
    secrets = {
        "Ann's token": ann,
        "its hash": hash_of(ann),
        "the reader's token": reader,
        "a wrong token": wrong,
        "a JWT": jwt,
        "a JWT's signature": jwt.split(".")[2],
        "a wrong JWT": wrong_jwt,
        "the server's key": KEY,
        "Ann's key": ANNS_KEY,
        "the key of states": STATE_KEY,
    }
    output = log.read_text() + "\n".join(said)

    assert [name for name, secret in secrets.items() if secret in output] == []
    assert len(said) > 40
