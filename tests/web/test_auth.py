"""Tokens: who may ask what, and for how long."""

from __future__ import annotations

import base64

import jwt
import pytest
from starlette.types import Scope

from cupola.errors import Forbidden, Unauthenticated
from cupola.identity import Call, Role, SandboxIdentity
from cupola.web.auth import CLIENT_AUDIENCE, CLIENT_LIFETIME, Callers, Tokens, bearer

SECRET = b"s" * 32
SANDBOX = SandboxIdentity("demo", "a1", "1", "session", "sbx-1")
CALL = Call("user", "a1", "session")


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_clients_token_names_its_principal() -> None:
    """Whoever a token was made for is who asks, with a stable opaque key."""
    tokens = Tokens(SECRET)
    caller = tokens.caller(tokens.mint_client("ann")[0])
    assert caller.principal == "ann"
    assert caller.user == tokens.user_key("ann") != tokens.user_key("bob")
    assert "ann" not in caller.user


def test_a_sandboxs_token_names_its_sandbox() -> None:
    """All of the identity comes back."""
    tokens = Tokens(SECRET)
    assert tokens.sandbox(tokens.mint_sandbox(SANDBOX)[0]) == SANDBOX


def test_audiences_are_kept_apart() -> None:
    """A sandbox's token is none for clients' routes, a client's none for callbacks."""
    tokens = Tokens(SECRET)
    with pytest.raises(Unauthenticated, match="another audience"):
        tokens.caller(tokens.mint_sandbox(SANDBOX)[0])
    with pytest.raises(Unauthenticated, match="another audience"):
        tokens.sandbox(tokens.mint_client()[0])


async def test_tokens_expire_also_when_remembered() -> None:
    """The check is repeated once the token's time is over."""
    clock = Clock()
    tokens = Tokens(SECRET, clock)
    callers = Callers(tokens, clock=clock)
    token, expires = tokens.mint_client()
    assert expires == clock.now + CLIENT_LIFETIME
    assert callers.known(token) is None
    caller = await callers.identify(token)
    clock.now = expires - 1
    assert callers.known(token) is caller
    clock.now = expires
    assert callers.known(token) is None
    with pytest.raises(Unauthenticated, match="expired"):
        await callers.identify(token)


async def test_refused_tokens_leave_nothing_behind() -> None:
    """Guessing fills no memory: only good tokens are remembered, and no more than so many."""
    callers = Callers(Tokens(SECRET))
    for guess in ("", "a.b.c", "x" * 16_385, Tokens(b"t" * 32).mint_client()[0]):
        for _ in range(2):
            with pytest.raises(Unauthenticated):
                await callers.identify(guess)
        assert callers.known(guess) is None


@pytest.mark.parametrize("role", list(Role))
def test_a_clients_token_gives_its_role(role: Role) -> None:
    """And, where it was made so, the right to act for users."""
    tokens = Tokens(SECRET)
    caller = tokens.caller(tokens.mint_client("ann", role)[0])
    assert (caller.role, caller.delegate, caller.issuer) == (role, False, None)
    assert tokens.caller(tokens.mint_client("ann", role, delegate=True)[0]).delegate


def _older(**claims: object) -> str:
    usual = {"aud": CLIENT_AUDIENCE, "iss": "cupola", "exp": 9_999_999_999}
    return jwt.encode({**usual, **claims}, SECRET, algorithm="HS256")


def test_tokens_from_before_there_were_roles() -> None:
    """Only the owner had any then; nobody else becomes an operator by leaving the role out."""
    assert Tokens(SECRET).caller(_older(sub="local")).role is Role.OPERATOR
    for strange in (_older(sub="ann"), _older(sub="local", role="king"), _older(sub="local", role=[])):
        with pytest.raises(Unauthenticated, match="reader, user, operator"):
            Tokens(SECRET).caller(strange)


def test_another_installations_token_is_refused() -> None:
    """The sentence says which command loads the right variables."""
    with pytest.raises(Unauthenticated, match="cupola env"):
        Tokens(SECRET).caller(Tokens(b"t" * 32).mint_client()[0])


@pytest.mark.parametrize("spoil", [lambda t: t[:-4] + "AAAA", lambda t: "x" + t, lambda t: "", lambda t: "a.b.c"])
def test_a_tampered_token_is_refused(spoil: object) -> None:
    """Every byte counts."""
    tokens = Tokens(SECRET)
    assert callable(spoil)
    with pytest.raises(Unauthenticated):
        tokens.caller(spoil(tokens.mint_client()[0]))


def test_an_unsigned_token_is_refused() -> None:
    """`alg: none` is no algorithm of ours."""
    claims = {"aud": CLIENT_AUDIENCE, "sub": "ann", "exp": 9_999_999_999, "iss": "cupola"}
    with pytest.raises(Unauthenticated):
        Tokens(SECRET).caller(jwt.encode(claims, "", algorithm="none"))


def test_a_sandboxs_secret_is_its_own() -> None:
    """It is derived from the id, and does not open another sandbox's door."""
    tokens = Tokens(SECRET)
    secret = tokens.sandbox_secret("sbx-1")
    assert tokens.sandbox_of_secret(secret) == "sbx-1"
    for forged in ("", "sbx-1", secret.replace("sbx-1", "sbx-2"), secret[:-1], secret + "ä"):
        with pytest.raises(Unauthenticated, match="identity header"):
            tokens.sandbox_of_secret(forged)


def test_call_ids_outlive_the_process() -> None:
    """A call id carries what it stands for: another process with the same secret reads it."""
    call_id = Tokens(SECRET).call_id(CALL)
    assert Tokens(SECRET).call(call_id) == CALL
    assert Tokens(SECRET).call_id(CALL) == call_id


def test_forged_call_ids_are_refused() -> None:
    """Nobody makes up whose call it is."""
    tokens = Tokens(SECRET)
    payload, _, signature = tokens.call_id(CALL).removeprefix("call_").partition(".")
    other = base64.urlsafe_b64encode(b'["other","a1","session"]').rstrip(b"=").decode()
    for forged in ("", "call_", "call_x.y", f"call_{other}.{signature}", f"call_{payload}.", "call_ä.ä"):
        with pytest.raises(Forbidden, match="call id"):
            tokens.call(forged)


def scope(*headers: tuple[bytes, bytes]) -> Scope:
    return {"type": "http", "headers": list(headers)}


def test_the_bearer_token_of_a_request() -> None:
    """The scheme is read in any case; a missing or other one is named."""
    assert bearer(scope((b"authorization", b"bearer abc "))) == "abc"
    with pytest.raises(Unauthenticated, match="no token"):
        bearer(scope((b"api-key", b"abc")))
    for value in (b"Basic abc", b"Bearer ", b"Bearer", b""):
        with pytest.raises(Unauthenticated, match="Bearer <token>"):
            bearer(scope((b"authorization", value)))
