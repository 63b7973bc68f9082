"""Tokens of an issuer: which are taken, and what they allow."""

from __future__ import annotations

import hmac
from collections.abc import AsyncGenerator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cupola.errors import Forbidden, IssuerUnavailable, SetupError, Unauthenticated
from cupola.identity import Role
from cupola.issuers import read_issuer
from cupola.web.auth import Callers, Tokens
from cupola.web.issuer_keys import DISTANCE, NotAnIssuer
from cupola.web.oidc import LEEWAY, OidcCallers, Rules
from tests.support.issuer import CONFIGURATION, ISSUER, KEYS, FakeIssuer

TENANT = "11111111-2222-3333-4444-555555555555"
V1, V2 = f"https://sts.windows.net/{TENANT}/", f"https://login.microsoftonline.com/{TENANT}/v2.0"
AUDIENCE = "https://ai.azure.com"


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()
TOKENS = Tokens(b"s" * 32, CLOCK)


@pytest.fixture(autouse=True)
def clock() -> Clock:
    CLOCK.now = 1_700_000_000.0
    return CLOCK


@pytest.fixture
def issuer() -> FakeIssuer:
    return FakeIssuer()


def callers_of(issuer: FakeIssuer, **rules: Any) -> OidcCallers:
    return OidcCallers(read_issuer(issuer.name), Rules(**rules), TOKENS.user_key, issuer.fetch, CLOCK)


@pytest.fixture
async def callers(issuer: FakeIssuer) -> AsyncGenerator[OidcCallers]:
    callers = callers_of(issuer)
    yield callers
    await callers.aclose()


def claims(**fields: Any) -> dict[str, Any]:
    """Of a good token; a claim that is None is left out."""
    usual = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "subject",
        "oid": "ann",
        "roles": ["Cupola.User"],
        "nbf": CLOCK.now - 10,
        "exp": CLOCK.now + 3600,
    }
    return {name: value for name, value in {**usual, **fields}.items() if value is not None}


async def test_who_holds_a_token(callers: OidcCallers, issuer: FakeIssuer) -> None:
    """Object id, else subject; never confused with a local principal or with somebody of another issuer."""
    caller, until = await callers.identify(issuer.token(claims()))
    assert (caller.principal, caller.role, caller.issuer) == (f"ann of {ISSUER}", Role.USER, ISSUER)
    assert caller.user == TOKENS.user_key(f"ann of {ISSUER}") != TOKENS.user_key("ann")
    assert until == CLOCK.now + 3600 + LEEWAY
    by_subject, _ = await callers.identify(issuer.token(claims(oid=None)))
    assert by_subject.principal == f"subject of {ISSUER}"
    assert issuer.asked == [CONFIGURATION, KEYS]


async def test_elliptic_curves(issuer: FakeIssuer, callers: OidcCallers) -> None:
    """ES256 as well as RS256."""
    issuer.rotate("curve", ec.generate_private_key(ec.SECP256R1()))
    caller, _ = await callers.identify(issuer.token(claims()))
    assert caller.role is Role.USER


@pytest.mark.parametrize("name", [V1, V2])
async def test_entras_two_versions_are_one_person(name: str) -> None:
    """The same object id in the same tenant has the same sessions, however the client signed in."""
    issuer = FakeIssuer(name=V2)
    caller, _ = await callers_of(issuer).identify(issuer.token(claims(iss=name)))
    assert caller.principal == f"ann of {V2}"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"iss": "https://other.example"}, "not from https://issuer.example/tenant"),
        ({"iss": None}, "not from"),
        ({"iss": [ISSUER]}, "not from"),
        ({"aud": "api://other"}, "another audience"),
        ({"aud": None}, "another audience"),
        ({"aud": [AUDIENCE + "/"]}, "another audience"),
        ({"exp": 1_700_000_000.0 - LEEWAY}, "expired"),
        ({"exp": None}, "'exp'"),
        ({"exp": "tomorrow"}, "'exp'"),
        ({"exp": True}, "'exp'"),
        ({"exp": float("nan")}, "'exp'"),
        ({"exp": float("inf")}, "'exp'"),
        ({"nbf": 1_700_000_000.0 + LEEWAY + 1}, "not valid yet"),
        ({"nbf": "now"}, "'nbf'"),
        ({"oid": None, "sub": None}, "names nobody"),
        ({"oid": 5}, "names nobody"),
    ],
)
async def test_claims_that_are_wrong(
    callers: OidcCallers, issuer: FakeIssuer, wrong: dict[str, Any], sentence: str
) -> None:
    """Each is named, and none is a failure of ours."""
    with pytest.raises(Unauthenticated, match=sentence):
        await callers.identify(issuer.token(claims(**wrong)))


async def test_a_little_leeway_for_clocks(callers: OidcCallers, issuer: FakeIssuer) -> None:
    """Just expired and just not valid yet are fine; one audience of several is enough."""
    late = claims(exp=CLOCK.now - LEEWAY + 1, nbf=CLOCK.now - 100, aud=["other", AUDIENCE])
    early = claims(nbf=CLOCK.now + LEEWAY)
    for token in (issuer.token(late), issuer.token(early)):
        assert (await callers.identify(token))[0].role is Role.USER


async def test_the_key_says_which_algorithm_is_right(callers: OidcCallers, issuer: FakeIssuer) -> None:
    """No unsigned token, none that takes the public key for a shared secret, none of another algorithm."""
    public = issuer.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = jwt.utils.base64url_encode(b'{"alg":"HS256","typ":"JWT","kid":"k1"}')
    payload = issuer.token(claims()).split(".")[1].encode()
    signature = jwt.utils.base64url_encode(hmac.digest(public, header + b"." + payload, "sha256"))
    several = jwt.utils.base64url_encode(b'{"alg":["RS256"],"kid":"k1"}')
    curve = ec.generate_private_key(ec.SECP256R1())
    for forged in (
        jwt.encode(claims(), "", algorithm="none", headers={"kid": "k1"}),
        b".".join((header, payload, signature)).decode(),
        b".".join((several, payload, signature)).decode(),
        issuer.token(claims(), algorithm="PS256"),
        issuer.token(claims(), algorithm="ES256", key=curve),
    ):
        with pytest.raises(Unauthenticated):
            await callers.identify(forged)


async def test_signatures_and_keys_of_others(callers: OidcCallers, issuer: FakeIssuer) -> None:
    """Another key under the same id, an id that is not published, and a spoiled signature."""
    good = issuer.token(claims())
    with pytest.raises(Unauthenticated, match="not signed with a key that"):
        await callers.identify(issuer.token(claims(), key=rsa.generate_private_key(65537, 2048)))
    with pytest.raises(Unauthenticated, match="not signed with a key that"):
        await callers.identify(issuer.token(claims(), kid="k9"))
    with pytest.raises(Unauthenticated, match="not signed with a key that"):
        await callers.identify(good[:-8] + ("A" * 8))


async def test_tokens_without_a_key_id(issuer: FakeIssuer, callers: OidcCallers) -> None:
    """They are signed with the only key that there is, and a new one is noticed by its signature."""
    issuer.rotate(None)
    old = issuer.token(claims())
    assert (await callers.identify(old))[0].role is Role.USER
    issuer.rotate(None)
    new = issuer.token(claims())
    with pytest.raises(Unauthenticated):
        await callers.identify(new)
    CLOCK.now += DISTANCE
    assert (await callers.identify(new))[0].role is Role.USER
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            await callers.identify(old)
    assert issuer.asked == [CONFIGURATION, KEYS] * 2


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "ä.ö.ü", "e30.e30.", "..", "eyJhbGciOiJSUzI1NiJ9.W10.AA"])
async def test_what_is_no_token(callers: OidcCallers, issuer: FakeIssuer, token: str) -> None:
    """401, and the issuer is not asked about it."""
    with pytest.raises(Unauthenticated):
        await callers.identify(token)
    assert issuer.asked == []


async def test_tokens_that_cannot_be_right_cost_no_question(callers: OidcCallers, issuer: FakeIssuer) -> None:
    """Issuer, audience and time are looked at before keys are."""
    for wrong in ({"iss": "https://other.example"}, {"aud": "other"}, {"exp": CLOCK.now - 3600}):
        with pytest.raises(Unauthenticated):
            await callers.identify(issuer.token(claims(**wrong)))
    assert issuer.asked == []


@pytest.mark.parametrize(
    ("rules", "said", "role", "delegate"),
    [
        ({}, {"roles": ["Cupola.Reader"]}, Role.READER, False),
        ({}, {"roles": ["Cupola.Reader", "Cupola.Operator", "other"]}, Role.OPERATOR, False),
        ({}, {"roles": "user delegate"}, Role.USER, True),
        ({}, {"roles": ["Cupola.User", "Cupola.Delegate"]}, Role.USER, True),
        ({"default_role": Role.READER}, {"roles": None}, Role.READER, False),
        ({"default_role": Role.READER}, {"roles": [5, {}]}, Role.READER, False),
        ({"role_claim": "realm_access.roles"}, {"realm_access": {"roles": ["operator"]}}, Role.OPERATOR, False),
        ({"role_claim": "https://x.example/roles"}, {"https://x.example/roles": ["user"]}, Role.USER, False),
        ({"role_claim": "groups", "roles": {"g-1": Role.OPERATOR}}, {"groups": ["g-1"]}, Role.OPERATOR, False),
        ({"role_claim": "oid", "roles": {"ann": Role.USER}}, {}, Role.USER, False),
    ],
)
async def test_what_the_claims_allow(
    issuer: FakeIssuer, rules: dict[str, Any], said: dict[str, Any], role: Role, delegate: bool
) -> None:
    """The highest role counts, under whichever claim and names the operator chose."""
    caller, _ = await callers_of(issuer, **rules).identify(issuer.token(claims(**said)))
    assert (caller.role, caller.delegate) == (role, delegate)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({}, {"roles": None}),
        ({}, {"roles": ["cupola.operator", "Operator", "admin"]}),
        ({}, {"roles": {"operator": True}}),
        ({"roles": {"g-1": Role.OPERATOR}}, {"roles": ["operator"]}),
        ({"role_claim": "a.b.c"}, {"a": {"b": "operator"}}),
    ],
)
async def test_somebody_without_a_role_learns_how_to_get_one(
    issuer: FakeIssuer, rules: dict[str, Any], said: dict[str, Any]
) -> None:
    """Signed in is not let in. Where the operator names the values, the usual ones count no more."""
    with pytest.raises(Forbidden, match=r"'ann of .*' is signed in and has no role here.*oidc_default_role"):
        await callers_of(issuer, **rules).identify(issuer.token(claims(**said)))


async def test_an_issuer_that_is_none_stops_the_start(issuer: FakeIssuer) -> None:
    """With the setting's name; one that is only away does not."""

    async def wrong(address: str) -> bytes:
        raise NotAnIssuer(f"{address} answers 404.")

    with pytest.raises(SetupError, match=r"oidc_issuer.*404"):
        await OidcCallers(read_issuer(ISSUER), Rules(), TOKENS.user_key, wrong, CLOCK).begin()
    callers = callers_of(issuer)
    issuer.away = True
    await callers.begin()
    with pytest.raises(IssuerUnavailable, match=r"issuer\.example"):
        await callers.identify(issuer.token(claims()))
    issuer.away = False
    CLOCK.now += DISTANCE
    await callers.identify(issuer.token(claims()))


# Beside local tokens


async def test_local_tokens_and_the_issuers_are_taken_side_by_side(issuer: FakeIssuer) -> None:
    """Each by its own rules: a token of the issuer that calls itself ours is checked as ours."""
    callers = Callers(TOKENS, callers_of(issuer), clock=CLOCK)
    assert (await callers.identify(TOKENS.mint_client("bob", Role.READER)[0])).principal == "bob"
    assert (await callers.identify(issuer.token(claims()))).principal == f"ann of {ISSUER}"
    with pytest.raises(Unauthenticated):
        await callers.identify(issuer.token(claims(iss="cupola", role="operator")))
    with pytest.raises(Unauthenticated):
        await callers.identify(jwt.encode(claims(), b"s" * 32, "HS256", headers={"kid": "k1"}))


async def test_a_token_found_good_is_not_checked_again_until_it_expires(issuer: FakeIssuer) -> None:
    """Also when its issuer has become another one meanwhile."""
    callers = Callers(TOKENS, callers_of(issuer), clock=CLOCK)
    token = issuer.token(claims())
    assert callers.known(token) is None
    caller = await callers.identify(token)
    issuer.away = True
    CLOCK.now += 3600 + LEEWAY - 1
    assert callers.known(token) is caller
    CLOCK.now += 1
    assert callers.known(token) is None
    with pytest.raises(Unauthenticated, match="expired"):
        await callers.identify(token)


async def test_without_local_tokens_only_the_owner_signs_in_here(issuer: FakeIssuer) -> None:
    """The commands of this machine go on working."""
    callers = Callers(TOKENS, callers_of(issuer), local_tokens=False, clock=CLOCK)
    assert (await callers.identify(TOKENS.mint_client()[0])).role is Role.OPERATOR
    assert (await callers.identify(issuer.token(claims()))).role is Role.USER
    with pytest.raises(Unauthenticated, match="local_tokens"):
        await callers.identify(TOKENS.mint_client("bob")[0])
