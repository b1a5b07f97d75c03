"""Tokens of an OpenID provider: which are good, which are refused, and where a client learns to get one."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from letta_conversations_mcp.http.auth import oidc
from letta_conversations_mcp.settings import Settings
from tests.http.provider import Provider, new_rsa_key, provider
from tests.http.team import Team, call_tool, client_of, post
from tests.rig.letta_server import Letta
from tests.rig.loopback import http_client
from tests.rig.servers import Era, http_server

PUBLIC = "https://team.example/mcp"
NOWHERE = "http://127.0.0.1:9"


@asynccontextmanager
async def serving(base_url: str = NOWHERE, **options: Any) -> AsyncGenerator[tuple[str, Provider]]:
    async with provider() as idp:
        settings = Settings(base_url=base_url, oidc_issuer=idp.issuer, public_url=PUBLIC, **options)
        async with http_server(settings) as url:
            yield url, idp


async def asks(url: str, token: str) -> httpx.Response:
    return await post(url, "tools/list", {}, {"Authorization": f"Bearer {token}"})


def unsigned(token: str, algorithm: str) -> str:
    header = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "key-1"}).encode()).decode().rstrip("=")
    return f"{header}.{token.split('.')[1]}."


async def test_a_good_token_opens_what_its_scopes_say(era: Era) -> None:
    async with serving() as (url, idp), client_of(url, idp.token(PUBLIC, scope="read openid"), era) as ann:
        names = {tool.name for tool in (await ann.client.list_tools()).tools}

    assert "list_messages" in names
    assert not names & {"send_message", "delete"}


async def test_every_way_to_tell_scopes_is_understood() -> None:
    async with serving() as (url, idp):
        answers = [
            await asks(url, idp.token(PUBLIC, scope=None, scp=["read"])),
            await asks(url, idp.token(PUBLIC, scope=None, scp="read write")),
            await asks(url, idp.token(PUBLIC, scope="delete", scp=["read"])),
        ]

    counts = [len(each.json()["result"]["tools"]) for each in answers]
    assert counts[0] < counts[1]
    assert counts[2] == counts[0] + 1


async def test_what_is_wrong_with_a_token_is_a_refusal() -> None:
    now = int(time.time())
    async with serving() as (url, idp):
        good = idp.token(PUBLIC)
        own = idp.published["key-1"]
        public_pem = own.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        hmac_of_public_key = jwt.api_jws.PyJWS().encode(
            json.dumps({"iss": idp.issuer, "aud": PUBLIC, "sub": "x", "exp": now + 99}).encode(),
            base64.b64encode(public_pem),
            algorithm="HS256",
            headers={"kid": "key-1"},
        )
        bad = {
            "another audience": idp.token("https://other.example/mcp"),
            "no audience": idp.token(PUBLIC, aud=None),
            "another issuer": idp.token(PUBLIC, iss="https://evil.example"),
            "no issuer": idp.token(PUBLIC, iss=None),
            "expired": idp.token(PUBLIC, exp=now - 60),
            "no expiry": idp.token(PUBLIC, exp=None),
            "not yet": idp.token(PUBLIC, nbf=now + 600),
            "no subject": idp.token(PUBLIC, sub=None),
            "an empty subject": idp.token(PUBLIC, sub=""),
            "a long subject": idp.token(PUBLIC, sub="x" * 256),
            "algorithm none": unsigned(good, "none"),
            "algorithm None": unsigned(good, "None"),
            "no signature": unsigned(good, "RS256"),
            "a public key as the secret": hmac_of_public_key,
            "a foreign key": idp.token(PUBLIC, key=new_rsa_key()),
            "a key that is not published": idp.token(PUBLIC, key_id="key-9", key=new_rsa_key()),
            "altered": good[:-8] + ("A" * 8 if good[-8:] != "A" * 8 else "B" * 8),
            "other claims": ".".join(
                [good.split(".")[0], idp.token(PUBLIC, scope="read").split(".")[1], good.split(".")[2]]
            ),
            "an identity token": idp.token("the-client-id", typ="JWT"),
            "another kind": idp.token(PUBLIC, typ="logout+jwt"),
            "no JWT": "a.b.c",
            "very long": good + "A" * 20_000,
        }
        answers = {why: await asks(url, token) for why, token in bad.items()}
        allowed = await asks(url, good)

    assert {why: each.status_code for why, each in answers.items()} == dict.fromkeys(bad, 401)
    assert all('error="invalid_token"' in each.headers["WWW-Authenticate"] for each in answers.values())
    assert allowed.status_code == 200


async def test_a_client_is_told_where_to_get_a_token() -> None:
    async with serving() as (url, idp), http_client() as http:
        refusal = await http.post(f"{url}/mcp", json={})
        metadata = await http.get(f"{url}/.well-known/oauth-protected-resource/mcp")

    challenge = refusal.headers["WWW-Authenticate"]
    assert refusal.status_code == 401
    assert 'resource_metadata="https://team.example/.well-known/oauth-protected-resource/mcp"' in challenge
    assert 'scope="read write delete"' in challenge
    assert metadata.json() == {
        "resource": PUBLIC,
        "authorization_servers": [idp.issuer],
        "scopes_supported": ["read", "write", "delete"],
        "bearer_methods_supported": ["header"],
        "resource_name": "Letta conversations",
    }


async def test_a_call_beyond_the_scopes_is_answered_with_the_one_that_is_missing() -> None:
    async with serving() as (url, idp):
        reader = {"Authorization": f"Bearer {idp.token(PUBLIC, scope='read')}"}
        stranger = {"Authorization": f"Bearer {idp.token(PUBLIC, scope='openid')}"}
        delete = await call_tool(url, "delete", {"conversation_id": "conv-x", "confirm": True}, reader)
        nothing = await post(url, "tools/list", {}, stranger)

    assert (delete.status_code, nothing.status_code) == (403, 403)
    assert 'error="insufficient_scope"' in delete.headers["WWW-Authenticate"]
    assert 'scope="delete"' in delete.headers["WWW-Authenticate"]
    assert 'scope="read write delete"' in nothing.headers["WWW-Authenticate"]


async def test_a_header_that_names_another_tool_opens_nothing() -> None:
    async with serving() as (url, idp):
        reader = {"Authorization": f"Bearer {idp.token(PUBLIC, scope='read')}"}
        params = {"name": "delete", "arguments": {"conversation_id": "conv-x"}}
        answer = await post(url, "tools/call", params, reader, name="list_agents")
        legacy = await post(
            url, "tools/call", params, reader | {"MCP-Protocol-Version": "2025-11-25"}, name="list_agents"
        )

    assert answer.status_code == 400
    assert legacy.status_code in (400, 404)


async def test_keys_that_the_provider_changes_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "UNKNOWN_KEY_SECONDS", 0)
    async with serving() as (url, idp):
        assert (await asks(url, idp.token(PUBLIC))).status_code == 200
        idp.published = {"key-2": ec.generate_private_key(ec.SECP256R1())}
        new = await asks(url, idp.token(PUBLIC, key_id="key-2"))

    assert new.status_code == 200


async def test_the_audience_and_the_address_of_the_keys_can_be_named() -> None:
    async with provider() as idp:
        settings = Settings(
            base_url=NOWHERE,
            oidc_issuer=idp.issuer,
            public_url=PUBLIC,
            oidc_audience="letta",
            oidc_jwks_url=f"{idp.issuer}/keys",
        )
        async with http_server(settings) as url:
            good = await asks(url, idp.token("letta"))
            of_the_url = await asks(url, idp.token(PUBLIC))

    assert (good.status_code, of_the_url.status_code) == (200, 401)
    assert idp.asked == ["/keys"]


async def test_keys_are_fetched_again_when_they_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "UNKNOWN_KEY_SECONDS", 0)
    async with serving() as (url, idp):
        for _ in range(2):
            assert (await asks(url, idp.token(PUBLIC))).status_code == 200
        while_new = idp.asked.count("/keys")
        monkeypatch.setattr(oidc, "KEYS_SECONDS", 0)
        stolen = idp.token(PUBLIC)
        idp.published = {"key-2": new_rsa_key()}
        withdrawn = await asks(url, stolen)

    assert (while_new, idp.asked.count("/keys")) == (1, 2)
    assert withdrawn.status_code == 401


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_a_short_key_signs_nothing() -> None:
    async with serving() as (url, idp):
        idp.published["short"] = new_rsa_key(1024)
        refused = await asks(url, idp.token(PUBLIC, key_id="short"))
        good = await asks(url, idp.token(PUBLIC))

    assert (refused.status_code, good.status_code) == (401, 200)


async def test_a_set_of_keys_of_any_size_is_not_read_whole() -> None:
    async with serving() as (url, idp):
        idp.padding = 1_000_000
        answer = await asks(url, idp.token(PUBLIC))

    assert answer.status_code == 503


async def test_unknown_keys_do_not_make_the_provider_be_asked_for_every_token() -> None:
    async with serving() as (url, idp):
        await asks(url, idp.token(PUBLIC))
        for number in range(5):
            await asks(url, idp.token(PUBLIC, key_id=f"key-of-a-stranger-{number}", key=new_rsa_key()))

    assert idp.asked == ["/.well-known/openid-configuration", "/keys"]


async def test_a_provider_that_is_down_is_no_wrong_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "UNKNOWN_KEY_SECONDS", 0)
    async with serving() as (url, idp):
        idp.fails = True
        down = await asks(url, idp.token(PUBLIC))
        idp.fails = False
        up = await asks(url, idp.token(PUBLIC))
        idp.fails = True
        remembered = await asks(url, idp.token(PUBLIC))

    assert (down.status_code, up.status_code, remembered.status_code) == (503, 200, 200)
    assert int(down.headers["Retry-After"]) > 0


async def test_the_document_of_another_issuer_is_not_believed() -> None:
    async with serving() as (url, idp):
        idp.names_itself = "https://evil.example"
        answer = await asks(url, idp.token(PUBLIC))

    assert answer.status_code == 503
    assert "/keys" not in idp.asked


async def test_a_claim_can_name_the_agents_of_a_caller(letta: Letta, era: Era) -> None:
    mine, _ = await letta.new_agent()
    await letta.new_agent()
    async with serving(letta.base_url, oidc_agents_claim="letta_agents") as (url, idp):
        async with client_of(url, idp.token(PUBLIC, letta_agents=[mine]), era) as ann:
            agents = (await ann.ok("list_agents")).data["agents"]
        async with client_of(url, idp.token(PUBLIC), era) as nobody:
            none = (await nobody.ok("list_agents")).data

    assert [each["id"] for each in agents] == [mine]
    assert "agents" not in none


async def test_tokens_of_the_file_work_beside_those_of_the_provider(team: Team) -> None:
    team.add("machine")
    async with serving(tokens_file=team.path) as (url, idp):
        answers = [await asks(url, team.tokens["machine"]), await asks(url, idp.token(PUBLIC)), await asks(url, "x")]

    assert [each.status_code for each in answers] == [200, 200, 401]


@pytest.mark.parametrize("token", ["one.dot", "two.dots.inside", "a.b.c.d"])
async def test_a_token_of_the_file_never_goes_to_the_provider(team: Team, token: str) -> None:
    team.tokens["machine"] = token
    team.add("machine")
    async with serving(tokens_file=team.path) as (url, idp):
        own = await asks(url, token)
        strange = await asks(url, "another.token")
        asked_by_then = list(idp.asked)
        of_the_provider = await asks(url, idp.token(PUBLIC))

    assert (own.status_code, strange.status_code, of_the_provider.status_code) == (200, 401, 200)
    assert asked_by_then == []
