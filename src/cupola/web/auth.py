"""Bearer tokens: made for local clients and for sandboxes, checked on every request.

Both are JWTs signed with the installation's secret, told apart by audience: a sandbox's token opens the callbacks of
its own project and is refused by the clients' listener, and the other way round. Clients may also bring tokens of an
issuer (`oidc.py`). Tokens that were found good are remembered until they expire, since the check stands on the path of
every call; refused ones are not: to refuse one costs a few microseconds, to remember it would cost memory.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jwt
import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from cupola.errors import Forbidden, Unauthenticated
from cupola.identity import Call, Caller, Role, SandboxIdentity

CLIENT_AUDIENCE = "https://ai.azure.com"
SANDBOX_AUDIENCE = "cupola:callbacks"
LOCAL_PRINCIPAL = "local"
CLIENT_LIFETIME = 24 * 3600
SANDBOX_LIFETIME = 24 * 3600
_REMEMBERED = 10_000
_LONGEST_TOKEN = 16_384
_LOCAL_ISSUER = "cupola"
_UNCHECKED: Any = {"verify_signature": False}


class Tokens:
    """Makes and reads the tokens of one installation. `clock` gives unix seconds."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._clock = clock
        self._call_ids: OrderedDict[Call, str] = OrderedDict()

    def mint_client(
        self,
        principal: str = LOCAL_PRINCIPAL,
        role: Role = Role.OPERATOR,
        *,
        delegate: bool = False,
        lifetime: int = CLIENT_LIFETIME,
    ) -> tuple[str, int]:
        """A token for a local client, and when it expires (unix seconds)."""
        claims = {"aud": CLIENT_AUDIENCE, "sub": principal, "oid": principal, "role": role.value}
        return self._mint(claims | ({"delegate": True} if delegate else {}), lifetime)

    def mint_sandbox(self, identity: SandboxIdentity) -> tuple[str, int]:
        """A token for one sandbox, good for its callbacks only."""
        claims = {
            "aud": SANDBOX_AUDIENCE,
            "sub": identity.sandbox,
            "project": identity.project,
            "agent": identity.agent,
            "version": identity.version,
            "session": identity.session,
        }
        return self._mint(claims, SANDBOX_LIFETIME)

    def caller(self, token: str) -> Caller:
        """Who holds a client's token. Raises Unauthenticated."""
        return self.identify(token)[0]

    def identify(self, token: str) -> tuple[Caller, float]:
        """The same, and until when it holds."""
        claims = self._read(token, CLIENT_AUDIENCE)
        principal = claims["sub"]
        delegate = claims.get("delegate") is True
        return Caller(principal, self.user_key(principal), _role_in(claims), delegate=delegate), float(claims["exp"])

    def sandbox(self, token: str) -> SandboxIdentity:
        """Which sandbox holds a token. Raises Unauthenticated."""
        claims = self._read(token, SANDBOX_AUDIENCE)
        return SandboxIdentity(claims["project"], claims["agent"], claims["version"], claims["session"], claims["sub"])

    def sandbox_secret(self, sandbox_id: str) -> str:
        """The `IDENTITY_HEADER` of one sandbox: derived, so that none needs to be stored."""
        return f"{sandbox_id}.{self._sign('identity', sandbox_id)}"

    def sandbox_of_secret(self, header: str) -> str:
        """The sandbox that an `X-IDENTITY-HEADER` belongs to. Raises Unauthenticated."""
        sandbox_id, _, _ = header.partition(".")
        if not hmac.compare_digest(header.encode(), self.sandbox_secret(sandbox_id).encode()):
            raise Unauthenticated("The identity header is not the one that this sandbox was given.")
        return sandbox_id

    def user_key(self, principal: str) -> str:
        """The opaque, stable key that stands for a principal towards containers."""
        return self._sign("user", principal)

    def call_id(self, call: Call) -> str:
        """A call id that carries what it stands for, signed: it stays valid without a row."""
        known = self._call_ids.get(call)
        if known is not None:
            return known
        payload = base64.urlsafe_b64encode(orjson.dumps([call.user, call.agent, call.session])).rstrip(b"=").decode()
        made = self._call_ids[call] = f"call_{payload}.{self._sign('call', payload)[:32]}"
        if len(self._call_ids) > _REMEMBERED:
            self._call_ids.popitem(last=False)
        return made

    def call(self, call_id: str) -> Call:
        """What a call id stands for. Raises Forbidden for one that we did not make."""
        payload, _, signature = call_id.removeprefix("call_").partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("call", payload)[:32].encode()):
            raise Forbidden("The call id in x-agent-foundry-call-id was not made by this platform.")
        user, agent, session = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return Call(user, agent, session)

    def _sign(self, purpose: str, value: str) -> str:
        return hmac.new(self._secret, f"{purpose}:{value}".encode(), hashlib.sha256).hexdigest()

    def _mint(self, claims: Mapping[str, Any], lifetime: int) -> tuple[str, int]:
        now = int(self._clock())
        expires = now + lifetime
        return jwt.encode({**claims, "iat": now, "exp": expires, "iss": _LOCAL_ISSUER}, self._secret, "HS256"), expires

    def _read(self, token: str, audience: str) -> dict[str, Any]:
        options: Any = {"verify_exp": False, "verify_iat": False, "require": ["exp", "sub"]}
        try:
            claims: dict[str, Any] = jwt.decode(
                token, self._secret, algorithms=["HS256"], audience=audience, issuer=_LOCAL_ISSUER, options=options
            )
        except jwt.InvalidAudienceError as error:
            raise Unauthenticated(
                f"The token is for another audience; this address takes tokens for {audience}."
            ) from error
        except jwt.InvalidTokenError as error:
            raise Unauthenticated(
                "The token was not made by this Cupola installation. Load its variables in this shell "
                '(eval "$(cupola env)") so that DefaultAzureCredential() asks the right one.'
            ) from error
        if claims["exp"] <= self._clock():
            raise Unauthenticated("The token has expired; ask for a new one.")
        return claims


def _role_in(claims: Mapping[str, Any]) -> Role:
    """The role that a token of ours gives. Tokens without one are of the time when only the owner had any."""
    if "role" not in claims and claims["sub"] == LOCAL_PRINCIPAL:
        return Role.OPERATOR
    try:
        return Role(claims.get("role", ""))
    except ValueError as error:
        raise Unauthenticated(
            f"The token gives no role that this platform knows ({', '.join(Role)}); ask its operator for a new one."
        ) from error


class Issuer(Protocol):
    """What this module needs of `oidc.OidcCallers`."""

    async def identify(self, token: str) -> tuple[Caller, float]: ...


class Callers:
    """Who holds a client's token: this installation's own, or one of the issuer's if there is one.

    Without `local_tokens`, of this installation's only those of its owner are taken: the commands on this machine
    need them, and who can read the secret could make any.
    """

    def __init__(
        self,
        tokens: Tokens,
        issuer: Issuer | None = None,
        *,
        local_tokens: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tokens = tokens
        self._issuer = issuer
        self._local_tokens = local_tokens
        self._clock = clock
        self._known: OrderedDict[str, tuple[Caller, float]] = OrderedDict()

    def known(self, token: str) -> Caller | None:
        """The holder of a token that was found good before and has not expired."""
        known = self._known.get(token)
        return known[0] if known is not None and known[1] > self._clock() else None

    async def identify(self, token: str) -> Caller:
        """The holder of any token. Raises Unauthenticated, Forbidden, IssuerUnavailable."""
        if len(token) > _LONGEST_TOKEN:
            raise Unauthenticated(f"The token is longer than {_LONGEST_TOKEN} characters.")
        if self._issuer is not None and _issuer_in(token) != _LOCAL_ISSUER:
            caller, until = await self._issuer.identify(token)
        else:
            caller, until = self._tokens.identify(token)
            if not self._local_tokens and caller.principal != LOCAL_PRINCIPAL:
                raise Unauthenticated(
                    "This platform takes no tokens of `cupola tokens create` (local_tokens is false)."
                )
        self._known[token] = (caller, until)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return caller


def _issuer_in(token: str) -> object:
    """Whom a token names as its issuer, unchecked: says only who is to check it."""
    try:
        return jwt.decode(token, options=_UNCHECKED).get("iss")
    except jwt.InvalidTokenError:
        return None


def bearer(scope: Scope) -> str:
    """The bearer token of a request. Raises Unauthenticated with what is missing."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            if scheme.lower() != "bearer" or not token:
                raise Unauthenticated("The Authorization header must be 'Bearer <token>'.")
            return str(token.strip())
    raise Unauthenticated(
        "This request carries no token. Use DefaultAzureCredential() with the variables that `cupola env` prints; "
        "API keys are not supported on agent endpoints."
    )


class ClientAuth:
    """Lets only holders of a client's token through; puts `cupola.caller` into the scope."""

    def __init__(self, app: ASGIApp, callers: Callers, open_paths: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._callers = callers
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and scope["path"] not in self._open_paths:
            token = bearer(scope)
            scope["cupola.caller"] = self._callers.known(token) or await self._callers.identify(token)
        await self._app(scope, receive, send)


class SandboxAuth:
    """Lets only sandboxes through, each to its own project; puts `cupola.sandbox` into the scope."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            identity = self._tokens.sandbox(bearer(scope))
            path = scope["path"]
            own = f"/api/projects/{identity.project}/"
            if not path.startswith(own):
                raise Forbidden(f"The token of this sandbox opens {own} only.")
            scope["cupola.sandbox"] = identity
        await self._app(scope, receive, send)
