"""A provider's tokens and keys, one rule at a time: what they make of a caller, and which are not used."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from letta_conversations_mcp.http.auth import oidc
from letta_conversations_mcp.http.auth.middleware import ProviderFailed
from letta_conversations_mcp.http.auth.oidc import OidcTokens
from letta_conversations_mcp.server.caller_view import CallerToken
from letta_conversations_mcp.settings import Settings
from tests.http.provider import Key, Provider, new_rsa_key

ISSUER = "https://id.example"
PUBLIC = "https://team.example/mcp"
DISCOVERY = f"{ISSUER}/.well-known/openid-configuration"
KEYS = f"{ISSUER}/keys"


@pytest.fixture(scope="module")
def idp() -> Provider:
    """The provider, which is asked only through `Web`."""
    return Provider(ISSUER)


def as_json(document: object) -> bytes:
    return json.dumps(document).encode()


class InParts(httpx.AsyncByteStream):
    """A document that does not come at once."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        yield self._content[:100]
        yield self._content[100:]


class Web:
    """What is published, by URL; None for an address that fails."""

    def __init__(self, idp: Provider) -> None:
        self.asked: list[str] = []
        self.documents: dict[str, Any] = {DISCOVERY: {"issuer": ISSUER, "jwks_uri": KEYS}, KEYS: idp.jwks()}

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        document = self.documents.get(str(request.url))
        return httpx.Response(500) if document is None else httpx.Response(200, stream=InParts(as_json(document)))


@pytest.fixture
def web(idp: Provider, monkeypatch: pytest.MonkeyPatch) -> Web:
    made = Web(idp)
    transport = httpx.MockTransport(made.answer)
    monkeypatch.setattr(httpx, "AsyncClient", partial(httpx.AsyncClient, transport=transport))
    return made


def tokens(**options: Any) -> OidcTokens:
    return OidcTokens(Settings(oidc_issuer=ISSUER, public_url=PUBLIC, **options))


async def test_a_token_makes_its_subject_a_caller_until_it_expires(idp: Provider, web: Web) -> None:
    expires = int(time.time()) + 100
    # No claim is one without a name.
    claims: dict[str, Any] = {"": ["agent-1"]}

    found = await tokens().verify_token(idp.token(PUBLIC, exp=expires, scope="read openid", **claims))

    assert isinstance(found, CallerToken)
    # No name in a tokens file has a colon.
    assert (found.access.name, found.subject, found.resource) == ("oidc:ann", "ann", PUBLIC)
    assert found.access.scopes == {"read"}
    assert found.access.agents is None
    assert found.expires_at == expires + oidc.LEEWAY_SECONDS
    assert found.claims == {"iss": ISSUER}
    assert found.token == ""
    assert web.asked == [DISCOVERY, KEYS]


@pytest.mark.parametrize(
    ("claim", "agents"),
    [
        (["agent-1", "agent-2", 3], {"agent-1", "agent-2"}),
        ("agent-1 agent-2", {"agent-1", "agent-2"}),
        ([], set[str]()),
        (None, set[str]()),
        ({"agent-1": True}, set[str]()),
        (True, set[str]()),
    ],
)
@pytest.mark.usefixtures("web")
async def test_only_the_agents_that_the_claim_names_are_the_callers(
    idp: Provider, claim: object, agents: set[str]
) -> None:
    found = await tokens(oidc_agents_claim="agents").verify_token(idp.token(PUBLIC, agents=claim))

    assert isinstance(found, CallerToken)
    assert found.access.agents == agents


@pytest.mark.parametrize(
    ("claims", "is_good"),
    [
        ({"sub": "x" * oidc.SUBJECT_CHARS}, True),
        ({"sub": "x" * (oidc.SUBJECT_CHARS + 1)}, False),
        # As far as two clocks may differ.
        ({"exp": -oidc.LEEWAY_SECONDS + 10}, True),
        ({"exp": -oidc.LEEWAY_SECONDS - 10}, False),
        ({"nbf": oidc.LEEWAY_SECONDS - 10}, True),
        ({"nbf": oidc.LEEWAY_SECONDS + 10}, False),
        ({"aud": ["https://other.example", PUBLIC]}, True),
        ({"aud": ["https://other.example"]}, False),
        ({"aud": f"{PUBLIC}/"}, False),
        ({"iss": f"{ISSUER}/"}, False),
        ({"typ": "JWT"}, True),
        ({"typ": "application/at+jwt"}, True),
        ({"typ": "id+jwt"}, False),
        ({"typ": None}, True),
        *(({name: None}, False) for name in ("exp", "iss", "aud", "sub")),
    ],
)
@pytest.mark.usefixtures("web")
async def test_what_a_token_has_to_say(idp: Provider, claims: dict[str, Any], is_good: bool) -> None:
    now = int(time.time())
    told: dict[str, Any] = {
        name: value + now if name in ("exp", "nbf") and value is not None else value for name, value in claims.items()
    }

    assert (await tokens().verify_token(idp.token(PUBLIC, **told)) is not None) == is_good


PUBLISHED: list[tuple[list[dict[str, Any]], bool]] = [
    ([{}], True),
    ([{"use": None}], True),
    ([{"use": "enc"}], False),
    ([{"alg": "RS256"}], True),
    ([{"alg": "RS512"}], False),
    ([{"alg": "HS256"}], False),
    ([{"kid": "another"}], False),
    ([{}, {"kid": "another"}], True),
    # Nobody can say which of the two it is.
    ([{}, {}], False),
]


@pytest.mark.parametrize(("published", "is_good"), PUBLISHED)
async def test_only_a_key_for_signatures_that_is_named_once_is_used(
    idp: Provider, web: Web, published: list[dict[str, Any]], is_good: bool
) -> None:
    [key] = idp.jwks()["keys"]
    keys = [{name: value for name, value in (key | each).items() if value is not None} for each in published]
    web.documents[KEYS] = {"keys": [*keys, {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}]}
    verifier = tokens()

    try:
        found = await verifier.verify_token(idp.token(PUBLIC))
    except ProviderFailed:
        found = None

    assert (found is not None) == is_good


@pytest.mark.parametrize(("others", "is_good"), [(0, True), (1, False)])
async def test_a_token_without_a_key_id_is_good_where_there_is_one_key(
    idp: Provider, web: Web, others: int, is_good: bool
) -> None:
    [key] = idp.jwks()["keys"]
    web.documents[KEYS] = {"keys": [key, *({**key, "kid": f"other-{number}"} for number in range(others))]}

    assert (await tokens().verify_token(idp.token(PUBLIC, key_id=None)) is not None) == is_good


@pytest.mark.parametrize(
    ("algorithm", "curve", "is_good"),
    [
        ("RS256", None, True),
        ("RS512", None, True),
        ("PS256", None, True),
        ("ES256", ec.SECP256R1(), True),
        ("ES384", ec.SECP384R1(), True),
        ("ES256K", ec.SECP256K1(), False),
    ],
)
async def test_a_key_verifies_with_the_algorithms_of_its_kind(
    idp: Provider, web: Web, algorithm: str, curve: ec.EllipticCurve | None, is_good: bool
) -> None:
    keys: dict[str, Key] = {"key-1": ec.generate_private_key(curve)} if curve else idp.published
    other = Provider(ISSUER, keys)
    web.documents[KEYS] = other.jwks()

    found = await tokens().verify_token(other.token(PUBLIC, algorithm=algorithm))

    assert (found is not None) == is_good


@pytest.mark.parametrize(
    "discovery",
    [
        {"issuer": ISSUER, "jwks_uri": "http://id.example/keys"},
        {"issuer": f"{ISSUER}/", "jwks_uri": KEYS},
        {"jwks_uri": KEYS},
        {"issuer": ISSUER},
        [],
        None,
    ],
)
async def test_keys_come_only_from_where_the_issuer_itself_says(idp: Provider, web: Web, discovery: object) -> None:
    web.documents |= {DISCOVERY: discovery, "http://id.example/keys": idp.jwks()}

    with pytest.raises(ProviderFailed):
        await tokens().verify_token(idp.token(PUBLIC))

    assert web.asked == [DISCOVERY]
    assert await tokens(oidc_jwks_url=KEYS).verify_token(idp.token(PUBLIC))


async def test_keys_are_fetched_again_only_when_they_are_old_or_one_is_missing(
    idp: Provider, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = tokens(oidc_jwks_url=KEYS)
    old, new = idp.token(PUBLIC), Provider(ISSUER, {"key-2": new_rsa_key()})
    web.documents[KEYS] = {"keys": [*idp.jwks()["keys"], *new.jwks()["keys"]]}

    for token in (old, new.token(PUBLIC, key_id="key-2"), old):
        assert await verifier.verify_token(token)
    assert len(web.asked) == 1

    # A key that the provider has withdrawn counts until its keys are old.
    web.documents[KEYS] = new.jwks()
    assert await verifier.verify_token(old)
    monkeypatch.setattr(oidc, "KEYS_SECONDS", -1)
    assert await verifier.verify_token(old), "it was asked just now"
    monkeypatch.setattr(oidc, "UNKNOWN_KEY_SECONDS", 0)
    assert await verifier.verify_token(old) is None
    assert len(web.asked) == 2


async def test_an_issuer_that_ends_in_a_slash_is_named_with_it_and_asked_without(idp: Provider, web: Web) -> None:
    issuer = f"{ISSUER}/"
    web.documents[DISCOVERY]["issuer"] = issuer
    verifier = OidcTokens(Settings(oidc_issuer=issuer, public_url=PUBLIC))

    assert await verifier.verify_token(idp.token(PUBLIC, iss=issuer))
    assert await verifier.verify_token(idp.token(PUBLIC)) is None


@pytest.mark.parametrize(("scope", "scp"), [("read delete", None), (None, ["read", "delete"]), ("read", "delete")])
@pytest.mark.usefixtures("web")
async def test_scopes_are_read_from_both_claims(idp: Provider, scope: object, scp: object) -> None:
    found = await tokens().verify_token(idp.token(PUBLIC, scope=scope, scp=scp))

    assert isinstance(found, CallerToken)
    assert found.access.scopes == {"read", "delete"}


@pytest.mark.parametrize(("spare", "is_good"), [(0, True), (-1, False)])
async def test_a_document_is_read_up_to_its_bound(
    idp: Provider, web: Web, monkeypatch: pytest.MonkeyPatch, spare: int, is_good: bool
) -> None:
    web.documents[DISCOVERY] = {"issuer": ISSUER, "jwks_uri": KEYS}
    size = len(as_json(web.documents[KEYS]))
    monkeypatch.setattr(oidc, "DOCUMENT_BYTES", size + spare)

    try:
        found = await tokens().verify_token(idp.token(PUBLIC))
    except ProviderFailed:
        found = None

    assert (found is not None) == is_good


async def test_a_provider_that_fails_is_left_alone_for_a_while(
    idp: Provider, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = tokens(oidc_jwks_url=KEYS)
    keys, web.documents[KEYS] = web.documents[KEYS], None
    for _ in range(3):
        with pytest.raises(ProviderFailed):
            await verifier.verify_token(idp.token(PUBLIC))
    assert web.asked == [KEYS]

    monkeypatch.setattr(oidc, "UNKNOWN_KEY_SECONDS", 0)
    web.documents[KEYS] = keys
    assert await verifier.verify_token(idp.token(PUBLIC))
    assert web.asked == [KEYS] * 2

    # Its last keys stay in use while it is down, and an unknown one is unknown.
    web.documents[KEYS] = None
    monkeypatch.setattr(oidc, "KEYS_SECONDS", 0)
    assert await verifier.verify_token(idp.token(PUBLIC))
    assert await verifier.verify_token(idp.token(PUBLIC, key_id="key-9", key=new_rsa_key())) is None


async def test_a_token_that_is_too_long_is_not_even_looked_at(
    idp: Provider, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = idp.token(PUBLIC)
    monkeypatch.setattr(oidc, "TOKEN_CHARS", len(token) - 1)
    assert await tokens().verify_token(token) is None
    assert web.asked == []

    monkeypatch.setattr(oidc, "TOKEN_CHARS", len(token))
    assert await tokens().verify_token(token)
