"""The public keys of an OpenID Connect issuer: fetched once, kept, and fetched again when they may have changed.

Requests wait for a fetch only where there are no keys yet, or where a token names a key that is not known; all who
wait share one fetch, and fetches keep a distance, so that nobody can make this platform hammer its issuer. Keys that
are old are renewed in the background. While the issuer does not answer, the known keys keep working.
Source: OpenID Connect Discovery 1.0, RFC 7517.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import jwt
import orjson
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from cupola.errors import IssuerUnavailable
from cupola.issuers import Issuer, is_fetchable

log = structlog.get_logger()

FRESH = 3600.0
"""Seconds until known keys are asked for again: a key that the issuer has withdrawn lives on for no longer."""
DISTANCE = 10.0
"""Seconds between the beginnings of two fetches, whatever tokens are shown meanwhile."""
_TIMEOUT = aiohttp.ClientTimeout(total=10)
_MOST_BYTES = 1024 * 1024
_LEAST_RSA_BITS = 2048

Fetch = Callable[[str], Awaitable[bytes]]


class NotAnIssuer(IssuerUnavailable):
    """What answers there is no issuer, or another one: asking again will not help."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of an issuer, and the one algorithm that it is taken for."""

    id: str | None
    algorithm: str
    public: RSAPublicKey | EllipticCurvePublicKey


class IssuerKeys:
    """The keys of one issuer. Belongs to one event loop. `clock` gives unix seconds."""

    def __init__(self, issuer: Issuer, fetch: Fetch, clock: Callable[[], float] = time.time) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._keys: Sequence[Key] | None = None
        self._fetched_at = 0.0
        self._asked_at: float | None = None
        self._failure: IssuerUnavailable | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None) -> Key | None:
        """The key of that id; without an id the only one that there is. Raises IssuerUnavailable without any keys."""
        if self._keys is None:
            await self._shared_fetch()
        elif self._may_ask() and self._age() > FRESH:
            self._begin_fetch()
        found = self._known(key_id)
        if found is None and (self._fetching is not None or self._may_ask()):
            await self._shared_fetch()
            found = self._known(key_id)
        return found

    async def successor(self, key: Key) -> Key | None:
        """The only key that the issuer publishes now instead of `key`: a token without key id tells of no change."""
        if self._fetching is not None or self._may_ask():
            await self._shared_fetch()
        found = self._known(None)
        return found if found is not key else None

    async def aclose(self) -> None:
        """Breaks off a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _known(self, key_id: str | None) -> Key | None:
        keys = self._keys or ()
        if key_id is None:
            return keys[0] if len(keys) == 1 else None
        return next((key for key in keys if key.id == key_id), None)

    def _age(self) -> float:
        return abs(self._clock() - self._fetched_at)  # a clock that was set back must not make keys last for ever

    def _may_ask(self) -> bool:
        if self._fetching is not None:
            return False
        return self._asked_at is None or abs(self._clock() - self._asked_at) >= DISTANCE

    async def _shared_fetch(self) -> None:
        if self._may_ask():
            self._begin_fetch()
        if self._fetching is not None:
            await asyncio.shield(self._fetching)
        if self._keys is None:
            raise self._failure or IssuerUnavailable(f"The issuer {self._issuer.name} was not asked for its keys.")

    def _begin_fetch(self) -> None:
        self._asked_at = self._clock()
        self._fetching = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            self._keys, self._fetched_at, self._failure = await self._read_keys(), self._clock(), None
        except IssuerUnavailable as error:
            self._failure = error
            log.warning("keys not fetched", reason=error.message, known_keys=len(self._keys or ()))
        finally:
            self._fetching = None

    async def _read_keys(self) -> Sequence[Key]:
        issuer = self._issuer
        configuration = await self._json(issuer.discovery)
        if not issuer.is_named(configuration.get("issuer")):
            raise NotAnIssuer(
                f"{issuer.discovery} describes another issuer, {configuration.get('issuer')!r}: "
                f"set oidc_issuer to the issuer's own name."
            )
        address = configuration.get("jwks_uri")
        if not isinstance(address, str) or not is_fetchable(address):
            raise NotAnIssuer(f"{issuer.discovery} names no https address of keys ('jwks_uri').")
        entries = (await self._json(address)).get("keys")
        keys = [] if not isinstance(entries, list) else [key for entry in entries if (key := read_key(entry))]
        if not keys:
            raise NotAnIssuer(f"{address} holds no key of an algorithm that Cupola takes (RS256, ES256).")
        return keys

    async def _json(self, address: str) -> Mapping[str, Any]:
        try:
            document = orjson.loads(await self._fetch(address))
        except orjson.JSONDecodeError as error:
            raise NotAnIssuer(f"{address} does not answer with JSON, as an OpenID Connect issuer does.") from error
        if not isinstance(document, dict):
            raise NotAnIssuer(f"{address} does not answer with a JSON object, as an OpenID Connect issuer does.")
        return document


def read_key(entry: object) -> Key | None:
    """A key of a key set; None for what signs nothing that we take (other algorithms, weak or secret keys)."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") not in ("RSA", "EC"):
        return None
    try:
        public = jwt.PyJWK({**entry, "alg": "RS256" if entry["kty"] == "RSA" else "ES256"}).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    key_id = entry.get("kid")
    if not isinstance(key_id, str | None):
        return None
    if isinstance(public, RSAPublicKey) and public.key_size >= _LEAST_RSA_BITS and entry.get("alg") in (None, "RS256"):
        return Key(key_id, "RS256", public)
    if isinstance(public, EllipticCurvePublicKey) and isinstance(public.curve, SECP256R1):
        return Key(key_id, "ES256", public) if entry.get("alg") in (None, "ES256") else None
    return None


async def fetch(address: str) -> bytes:
    """What an address of the issuer answers. Raises IssuerUnavailable; NotAnIssuer where asking again will not help."""
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=True) as session,
            session.get(address, headers={"accept": "application/json"}, allow_redirects=False) as reply,
        ):
            if reply.status != 200:
                known = NotAnIssuer if 300 <= reply.status < 500 and reply.status != 429 else IssuerUnavailable
                raise known(f"{address} answers {reply.status}, not with what an OpenID Connect issuer says.")
            body = b""
            async for chunk in reply.content.iter_chunked(65_536):
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise NotAnIssuer(f"{address} answers with more than {_MOST_BYTES} bytes.")
            return body
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        why = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        raise IssuerUnavailable(
            f"The issuer of callers' tokens cannot be reached at {address}: {why}. Try again in a moment."
        ) from error
