"""The keys of an issuer: fetched seldom, shared, and good for as long as nothing better is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cupola.errors import IssuerUnavailable
from cupola.issuers import read_issuer
from cupola.web.issuer_keys import DISTANCE, FRESH, IssuerKeys, NotAnIssuer, fetch, read_key
from tests.support.issuer import CONFIGURATION, ISSUER, KEYS, FakeIssuer
from tests.support.waiting import wait_until


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def issuer() -> FakeIssuer:
    return FakeIssuer("k1")


@pytest.fixture
async def keys(issuer: FakeIssuer, clock: Clock) -> AsyncGenerator[IssuerKeys]:
    keys = IssuerKeys(read_issuer(ISSUER), issuer.fetch, clock)
    yield keys
    await keys.aclose()


async def test_keys_are_fetched_once(keys: IssuerKeys, issuer: FakeIssuer) -> None:
    """The configuration, then the keys that it names; then no more."""
    for _ in range(3):
        found = await keys.find("k1")
        assert found is not None
        assert (found.id, found.algorithm) == ("k1", "RS256")
    assert issuer.asked == [CONFIGURATION, KEYS]


async def test_those_who_wait_share_one_fetch(keys: IssuerKeys, issuer: FakeIssuer) -> None:
    """Also when one of them gives up meanwhile."""
    issuer.gate.clear()
    waiting = [asyncio.create_task(keys.find("k1")) for _ in range(5)]
    await wait_until(lambda: issuer.asked == [CONFIGURATION])
    waiting[0].cancel()
    issuer.gate.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(key is not None and not isinstance(key, BaseException) for key in found[1:])
    assert issuer.asked == [CONFIGURATION, KEYS]


async def test_an_unknown_key_id_asks_once_more_and_not_oftener(
    keys: IssuerKeys, issuer: FakeIssuer, clock: Clock
) -> None:
    """A rotation is noticed at the first token; made-up key ids do not make us hammer the issuer."""
    await keys.find("k1")
    issuer.rotate("k2")
    clock.now += DISTANCE
    both = await asyncio.gather(keys.find("k2"), keys.find("k2"))
    assert [key.id for key in both if key is not None] == ["k2", "k2"]
    assert await keys.find("k1") is None
    for number in range(100):
        assert await keys.find(f"made up {number}") is None
    assert issuer.asked == [CONFIGURATION, KEYS] * 2


async def test_old_keys_are_renewed_without_anybody_waiting(keys: IssuerKeys, issuer: FakeIssuer, clock: Clock) -> None:
    """Who comes then gets the old key at once; the withdrawn one is gone afterwards."""
    await keys.find("k1")
    issuer.rotate("k2")
    clock.now += FRESH + 1
    issuer.gate.clear()
    assert await keys.find("k1") is not None
    issuer.gate.set()
    await wait_until(lambda: issuer.asked == [CONFIGURATION, KEYS] * 2)
    assert await keys.find("k2") is not None
    assert await keys.find("k1") is None


async def test_known_keys_work_while_the_issuer_is_away(keys: IssuerKeys, issuer: FakeIssuer, clock: Clock) -> None:
    """However old they are; unknown ones are just not known."""
    await keys.find("k1")
    issuer.away = True
    clock.now += 100 * FRESH
    assert await keys.find("k1") is not None
    assert await keys.find("k2") is None


async def test_without_keys_it_says_who_is_away(keys: IssuerKeys, issuer: FakeIssuer, clock: Clock) -> None:
    """At once for those who come soon after; and it recovers by itself."""
    issuer.away = True
    for _ in range(3):
        with pytest.raises(IssuerUnavailable, match=r"issuer\.example"):
            await keys.find("k1")
    assert issuer.asked == [CONFIGURATION]
    issuer.away = False
    clock.now += DISTANCE
    assert await keys.find("k1") is not None


def _configuration(**fields: Any) -> bytes:
    return orjson.dumps({"issuer": ISSUER, "jwks_uri": KEYS, **fields})


@pytest.mark.parametrize(
    ("configuration", "keys_document", "sentence"),
    [
        (b"<html>", b"{}", "does not answer with JSON"),
        (b"[]", b"{}", "JSON object"),
        (_configuration(issuer="https://other.example"), b"{}", "another issuer"),
        (_configuration(issuer=[ISSUER]), b"{}", "another issuer"),
        (_configuration(jwks_uri="http://issuer.example/keys"), b"{}", "https"),
        (_configuration(jwks_uri=None), b"{}", "jwks_uri"),
        (_configuration(), b"{}", "no key"),
        (_configuration(), orjson.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}]}), "no key"),
    ],
)
async def test_what_is_no_issuer(configuration: bytes, keys_document: bytes, sentence: str) -> None:
    """Each is named for what it is."""

    async def answers(address: str) -> bytes:
        return configuration if address == CONFIGURATION else keys_document

    with pytest.raises(NotAnIssuer, match=sentence):
        await IssuerKeys(read_issuer(ISSUER), answers).find("k1")


def _jwk(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, **fields: Any) -> dict[str, Any]:
    issuer = FakeIssuer("k")
    issuer.private = private
    return {**issuer.entry(), **fields}


def test_keys_for_other_purposes_are_passed_over() -> None:
    """Encryption, other algorithms and curves, short and secret keys, and what is no key at all."""
    usual = _jwk(rsa.generate_private_key(65537, 2048))
    assert read_key(usual) is not None
    for entry in (
        {**usual, "use": "enc"},
        {**usual, "alg": "PS256"},
        {**usual, "alg": "HS256"},
        {**usual, "kid": 5},
        {**usual, "n": "!"},
        {"kty": "RSA"},
        {"kty": "oct", "k": "c2VjcmV0"},
        _jwk(rsa.generate_private_key(65537, 1024)),
        _jwk(ec.generate_private_key(ec.SECP384R1())),
        "key",
    ):
        assert read_key(entry) is None, entry
    curve = read_key(_jwk(ec.generate_private_key(ec.SECP256R1())))
    assert curve is not None
    assert curve.algorithm == "ES256"


Answer = Callable[[str], bytes]


@asynccontextmanager
async def answering(head: bytes, body: bytes) -> AsyncGenerator[str]:
    """The address of a server that says this to everybody."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + head + b"\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_fetching() -> None:
    """The body of a 200; of anything else only whether asking again might help."""
    async with answering(b"200 OK", b"{}") as address:
        assert await fetch(address) == b"{}"
    for head, kind in (
        (b"404 Not Found", NotAnIssuer),
        (b"302 Found\r\nlocation: http://127.0.0.1:1/", NotAnIssuer),
        (b"429 Slow", IssuerUnavailable),
        (b"500 Oops", IssuerUnavailable),
    ):
        async with answering(head, b"") as address:
            with pytest.raises(IssuerUnavailable) as raised:
                await fetch(address)
            assert type(raised.value) is kind
            assert address in raised.value.message
    async with answering(b"200 OK", b" " * (1024 * 1024 + 1)) as address:
        with pytest.raises(NotAnIssuer, match="more than"):
            await fetch(address)
    with pytest.raises(IssuerUnavailable, match="cannot be reached"):
        await fetch(address)
