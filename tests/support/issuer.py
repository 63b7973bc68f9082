"""An OpenID Connect issuer in-process: its documents, and tokens signed with its key."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from cupola.errors import IssuerUnavailable

ISSUER = "https://issuer.example/tenant"
CONFIGURATION = f"{ISSUER}/.well-known/openid-configuration"
KEYS = "https://issuer.example/keys"

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class FakeIssuer:
    """Signs with one key, which may be changed. `away` makes it unreachable; `gate` holds its answers back."""

    def __init__(self, key_id: str | None = "k1", name: str = ISSUER) -> None:
        self.name = name
        self.private: Private
        self.asked: list[str] = []
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.rotate(key_id)

    def rotate(self, key_id: str | None, private: Private | None = None) -> None:
        self.key_id = key_id
        self.private = private or rsa.generate_private_key(65537, 2048)

    async def fetch(self, address: str) -> bytes:
        self.asked.append(address)
        await self.gate.wait()
        if self.away:
            raise IssuerUnavailable(f"The issuer cannot be reached at {address}.")
        if address.endswith("/.well-known/openid-configuration"):
            return orjson.dumps({"issuer": self.name, "jwks_uri": KEYS})
        assert address == KEYS
        return orjson.dumps({"keys": [self.entry()]})

    def entry(self) -> dict[str, Any]:
        """Its public key as it publishes it: like Entra, without the algorithm."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            entry = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        else:
            entry = ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        shown = {name: value for name, value in entry.items() if name not in ("key_ops", "alg")}
        return shown | ({} if self.key_id is None else {"kid": self.key_id})

    def token(self, claims: dict[str, Any], *, algorithm: str | None = None, key: Any = None, **header: Any) -> str:
        """A token with exactly these claims."""
        usual = "RS256" if isinstance(self.private, rsa.RSAPrivateKey) else "ES256"
        headers = {**({} if self.key_id is None else {"kid": self.key_id}), **header}
        payload = json.dumps(claims).encode()  # not by way of a library that knows which claims make sense
        return jwt.PyJWS().encode(payload, self.private if key is None else key, algorithm or usual, headers=headers)
