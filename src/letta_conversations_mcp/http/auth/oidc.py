"""Access tokens of an OpenID provider: JWTs, verified with the provider's published keys.

A token must be signed with a public-key algorithm by a key that the provider publishes, name the issuer and the
audience exactly, and not be expired. Its scopes are read from `scope` (RFC 9068) or `scp` (Entra, Okta).
"""

from __future__ import annotations

import json
import logging
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import httpx
import jwt
from mcp.server.auth.provider import AccessToken

from letta_conversations_mcp.core.access import SCOPES, Access
from letta_conversations_mcp.http.auth.middleware import ProviderFailed
from letta_conversations_mcp.server.caller_view import CallerToken
from letta_conversations_mcp.settings import Settings

logger = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Public keys only: `none` proves nothing, and with HS256 a public key would do as the secret."""

TOKEN_TYPES = ("at+jwt", "application/at+jwt", "jwt")
"""Of access tokens (RFC 9068), and of providers that do not distinguish types."""

LEEWAY_SECONDS = 30
"""How much the provider's clock and ours may differ."""

SUBJECT_CHARS = 255
"""OpenID Connect's own limit."""

TOKEN_CHARS = 16_000
FETCH_SECONDS = 10
DOCUMENT_BYTES = 256_000
"""Largest set of keys that is read: a hundred times what providers publish."""

RSA_BITS = 2048
"""Shortest RSA key that is accepted (RFC 7518)."""

KEYS_SECONDS = 3600
"""How long the provider's keys are used before they are fetched again."""

UNKNOWN_KEY_SECONDS = 30
"""Least time between fetches for tokens with an unknown key: anybody can send such tokens."""


class SigningKeys:
    """The provider's public keys by their id, fetched when they are needed. While a provider is down, the keys that it
    published last stay in use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._fetching = anyio.Lock()
        self._keys: list[jwt.PyJWK] = []
        self._fetched_at = -float("inf")
        self._tried_at = -float("inf")

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key of this id; without one, the only key. Raises ProviderFailed when there are no keys at all."""
        if self._is_stale() or self._among(key_id) is None:
            await self._refresh(key_id)
        if not self._keys:
            raise ProviderFailed
        return self._among(key_id)

    def _is_stale(self) -> bool:
        return anyio.current_time() - self._fetched_at > KEYS_SECONDS

    def _among(self, key_id: str | None) -> jwt.PyJWK | None:
        found = [each for each in self._keys if key_id in (None, each.key_id)]
        return found[0] if len(found) == 1 else None

    async def _refresh(self, key_id: str | None) -> None:
        async with self._fetching:
            is_needed = self._is_stale() or self._among(key_id) is None
            if not is_needed or anyio.current_time() - self._tried_at < UNKNOWN_KEY_SECONDS:
                return
            self._tried_at = anyio.current_time()
            try:
                with anyio.fail_after(FETCH_SECONDS):
                    self._keys = await self._fetch()
            except (httpx.HTTPError, TimeoutError, ValueError, jwt.PyJWTError) as error:
                logger.error("the keys of %s cannot be fetched: %s", self._settings.oidc_issuer, type(error).__name__)
            else:
                self._fetched_at = anyio.current_time()

    async def _fetch(self) -> list[jwt.PyJWK]:
        async with httpx.AsyncClient(timeout=FETCH_SECONDS) as client:
            url = self._settings.oidc_jwks_url or await self._discover(client)
            document = await _get_json(client, url)
        return [each for each in jwt.PyJWKSet.from_dict(document).keys if _is_usable(each)]

    async def _discover(self, client: httpx.AsyncClient) -> str:
        base = self._settings.oidc_issuer.rstrip("/")
        document = await _get_json(client, f"{base}/.well-known/openid-configuration")
        url = str(document.get("jwks_uri", ""))
        if document.get("issuer") != self._settings.oidc_issuer:
            raise ValueError("the discovery document is another issuer's")
        if urlsplit(url).scheme != "https" and urlsplit(self._settings.oidc_issuer).scheme == "https":
            raise ValueError("the keys would come over plain http")
        return url


def _is_usable(key: jwt.PyJWK) -> bool:
    if key.public_key_use not in (None, "sig") or key.algorithm_name not in ALGORITHMS:
        return False
    return key.key_type != "RSA" or key.key.key_size >= RSA_BITS


async def _get_json(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """A JSON object of at most DOCUMENT_BYTES. Raises ValueError and httpx.HTTPError."""
    content = bytearray()
    async with client.stream("GET", url) as response:
        response.raise_for_status()
        async for part in response.aiter_bytes():
            content += part
            if len(content) > DOCUMENT_BYTES:
                raise ValueError("the document is too large")
    document: object = json.loads(content)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    return cast("dict[str, Any]", document)


class OidcTokens:
    """Verifies the provider's tokens (an SDK `TokenVerifier`)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._audience = settings.oidc_audience or settings.public_url
        self._keys = SigningKeys(settings)

    async def verify_token(self, token: str) -> AccessToken | None:
        """Raises ProviderFailed."""
        if len(token) > TOKEN_CHARS:
            return None
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS or str(header.get("typ", "jwt")).lower() not in TOKEN_TYPES:
                return None
            key = await self._keys.find(header.get("kid"))
            return self._verify(token, key) if key else None
        except jwt.PyJWTError as error:
            logger.info("a token was refused: %s", type(error).__name__)
            return None

    def _verify(self, token: str, key: jwt.PyJWK) -> AccessToken:
        claims: dict[str, Any] = jwt.decode(
            token,
            # The bare key with the list, because a JWK without `alg` would stand for one algorithm of its kind only.
            key.key,
            algorithms=[each for each in ALGORITHMS if _fits(each, key)],
            audience=self._audience,
            issuer=self._settings.oidc_issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
        subject = claims["sub"]
        if not subject or len(subject) > SUBJECT_CHARS:
            raise jwt.InvalidTokenError("sub is empty or too long")
        granted = _texts(claims.get("scope")) | _texts(claims.get("scp"))
        agents = (
            frozenset(_texts(claims.get(self._settings.oidc_agents_claim)))
            if self._settings.oidc_agents_claim
            else None
        )
        access = Access(
            # Names of the tokens file have no colon, so nobody there is taken for somebody here.
            name=f"oidc:{subject}",
            scopes=frozenset(scope for scope in SCOPES if scope in granted),
            agents=agents,
        )
        return CallerToken.of(
            access,
            subject=subject,
            resource=self._audience,
            expires_at=int(claims["exp"]) + LEEWAY_SECONDS,
            claims={"iss": self._settings.oidc_issuer},
        )


def _fits(algorithm: str, key: jwt.PyJWK) -> bool:
    """True if the key may be used with this algorithm: the one that it names or, for RSA without `alg`, any of RSA."""
    if key.algorithm_name == "RS256" and key.key_type == "RSA":
        return algorithm[:2] in ("RS", "PS")
    return algorithm == key.algorithm_name


def _texts(claim: object) -> frozenset[str]:
    """A claim that is a list, or a text with spaces between its parts."""
    if isinstance(claim, str):
        return frozenset(claim.split())
    if isinstance(claim, list):
        return frozenset(each for each in cast("list[object]", claim) if isinstance(each, str))
    return frozenset()
