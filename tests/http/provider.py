"""An OpenID provider: publishes keys and signs tokens, good ones and all that can be wrong with one."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.rig.loopback import loopback_socket, serve_loopback

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def new_rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@dataclass
class Provider:
    """`published` are its keys by id. `asked` are the paths that were asked for."""

    issuer: str = ""
    published: dict[str, Key] = field(default_factory=lambda: {"key-1": new_rsa_key()})
    asked: list[str] = field(default_factory=list[str])
    fails: bool = False
    padding: int = 0
    names_itself: str = ""

    def token(
        self, audience: str, *, key_id: str | None = "key-1", key: Any = None, algorithm: str = "", **changes: Any
    ) -> str:
        """A token as the provider gives it, but for the changes; a claim that is None is left out."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": audience,
            "sub": "ann",
            "iat": now,
            "exp": now + 300,
            "scope": "openid read write delete",
        }
        headers: dict[str, Any] = {"typ": changes.pop("typ", "at+jwt"), "kid": key_id}
        claims = {name: value for name, value in (claims | changes).items() if value is not None}
        signing = key if key is not None else self.published[key_id or "key-1"]
        chosen = algorithm or ("ES256" if isinstance(signing, ec.EllipticCurvePrivateKey) else "RS256")
        headers = {name: value for name, value in headers.items() if value is not None}
        return jwt.encode(claims, signing, algorithm=chosen, headers=headers)

    def jwks(self) -> dict[str, Any]:
        keys: list[dict[str, Any]] = []
        for key_id, key in self.published.items():
            if isinstance(key, rsa.RSAPrivateKey):
                data = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
            else:
                data = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
            keys.append({**data, "kid": key_id, "use": "sig"})
        return {"keys": keys, "padding": "x" * self.padding}

    async def _answer(self, request: Request) -> JSONResponse:
        path = request.url.path
        self.asked.append(path)
        if self.fails:
            return JSONResponse({"error": "down"}, 500)
        if path == "/keys":
            return JSONResponse(self.jwks())
        return JSONResponse({"issuer": self.names_itself or self.issuer, "jwks_uri": f"{self.issuer}/keys"})


@asynccontextmanager
async def provider() -> AsyncGenerator[Provider]:
    """One that runs."""
    made = Provider()
    app = Starlette(routes=[Route("/{path:path}", made._answer)])  # pyright: ignore[reportPrivateUsage] its own
    async with serve_loopback(app, loopback_socket(), lifespan="off", log_level="critical") as url:
        made.issuer = url
        yield made
