"""Tokens of an OpenID Connect issuer, such as Entra: who holds one, and what he may do here.

Only RS256 and ES256 with a key that the issuer publishes: which algorithm is right is the key's to say, not the
token's. What can be refused without a signature (issuer, audience, time) is refused before keys are looked for, so
that guessing costs little.
Sources: RFC 7519, RFC 8725; control-plane.md §1.2.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import jwt
import structlog

from cupola.errors import Forbidden, IssuerUnavailable, SetupError, Unauthenticated
from cupola.identity import Caller, Role
from cupola.issuers import Issuer
from cupola.web.issuer_keys import Fetch, IssuerKeys, Key, NotAnIssuer, fetch

log = structlog.get_logger()

LEEWAY = 60.0
"""Seconds by which the issuer's clock and ours may differ."""
DELEGATE = "delegate"
_ALGORITHMS = frozenset({"RS256", "ES256"})
_ROLES: Mapping[str, Role] = {name: role for role in Role for name in (role.value, f"Cupola.{role.value.title()}")}
_DELEGATES = frozenset({DELEGATE, "Cupola.Delegate"})
_UNCHECKED: Any = {"verify_signature": False}
_SIGNATURE_ONLY: Any = {f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}


@dataclass(frozen=True, slots=True)
class Rules:
    """What a token must say, and what its claims mean."""

    audience: str = "https://ai.azure.com"
    role_claim: str = "roles"
    roles: Mapping[str, Role] = field(default_factory=dict)
    default_role: Role | None = None

    def role_of(self, values: Collection[str]) -> Role | None:
        """The highest role that the values give, else the default."""
        known = self.roles or _ROLES
        found = [role for value in values if (role := known.get(value)) is not None]
        return max(found, key=tuple(Role).index, default=self.default_role)


class OidcCallers:
    """Reads the tokens of one issuer. `user_key` makes the opaque key that stands for a principal."""

    def __init__(
        self,
        issuer: Issuer,
        rules: Rules,
        user_key: Callable[[str], str],
        fetch: Fetch = fetch,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.issuer = issuer
        self._rules = rules
        self._user_key = user_key
        self._clock = clock
        self._keys = IssuerKeys(issuer, fetch, clock)

    async def begin(self) -> None:
        """Gets the keys. Raises SetupError when there is no such issuer; one that is only away may come later."""
        try:
            await self._keys.find(None)
        except NotAnIssuer as error:
            raise SetupError(f"oidc_issuer is not the address of an issuer: {error.message}") from error
        except IssuerUnavailable as error:
            log.warning("issuer away", issuer=self.issuer.name, reason=error.message)

    async def aclose(self) -> None:
        await self._keys.aclose()

    async def identify(self, token: str) -> tuple[Caller, float]:
        """Who holds the token, and until when that may be remembered.

        Raises Unauthenticated, Forbidden for somebody without a role, IssuerUnavailable while there are no keys.
        """
        try:
            header = jwt.get_unverified_header(token)
            self._check(jwt.decode(token, options=_UNCHECKED))
        except jwt.InvalidTokenError as error:
            raise Unauthenticated("The token is not a JSON Web Token.") from error
        claims = await self._verified(token, header)
        return self._caller(claims), float(claims["exp"]) + LEEWAY

    async def _verified(self, token: str, header: Mapping[str, Any]) -> Mapping[str, Any]:
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
            raise Unauthenticated("The token is not signed with RS256 or ES256.")
        if not isinstance(key_id, str | None):
            raise Unauthenticated("The token's key id ('kid') is not a string.")
        key = await self._keys.find(key_id)
        claims = None if key is None else _signed(token, algorithm, key)
        if claims is None and key_id is None and key is not None:
            key = await self._keys.successor(key)
            claims = None if key is None else _signed(token, algorithm, key)
        if claims is None:
            raise Unauthenticated(f"The token is not signed with a key that {self.issuer.name} publishes.")
        return claims

    def _check(self, claims: Mapping[str, Any]) -> None:
        """Raises Unauthenticated unless issuer, audience and time are right."""
        if not self.issuer.is_named(claims.get("iss")):
            raise Unauthenticated(
                f"The token is not from {self.issuer.name}, whose tokens this platform takes. Sign in there."
            )
        named = claims.get("aud")
        if self._rules.audience not in (named if isinstance(named, list) else [named]):
            raise Unauthenticated(
                f"The token is for another audience; this platform takes tokens for {self._rules.audience}."
            )
        now, expires, begins = self._clock(), claims.get("exp"), claims.get("nbf", 0)
        if not _is_time(expires) or not _is_time(begins):
            raise Unauthenticated("The token does not say in numbers when it expires ('exp', 'nbf').")
        if expires + LEEWAY <= now:
            raise Unauthenticated("The token has expired; ask for a new one.")
        if begins - LEEWAY > now:
            raise Unauthenticated("The token is not valid yet ('nbf'); are the clocks right?")

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        subject = claims.get("oid") or claims.get("sub")
        if not isinstance(subject, str):
            raise Unauthenticated("The token names nobody ('oid' or 'sub').")
        principal = f"{subject} of {self.issuer.name}"  # no local principal has spaces in its name
        values = _words(_at(claims, self._rules.role_claim))
        role = self._rules.role_of(values)
        if role is None:
            raise Forbidden(
                f"'{principal}' is signed in and has no role here: its token's claim '{self._rules.role_claim}' "
                "names none. Let the issuer's administrator assign Cupola.Reader, Cupola.User or Cupola.Operator, or "
                "the platform's operator set oidc_roles or oidc_default_role."
            )
        delegate = not _DELEGATES.isdisjoint(values)
        return Caller(principal, self._user_key(principal), role, issuer=self.issuer.name, delegate=delegate)


def _signed(token: str, algorithm: str, key: Key) -> Mapping[str, Any] | None:
    """What a token says, if it is signed with that key."""
    if algorithm != key.algorithm:
        return None
    try:
        claims: Mapping[str, Any] = jwt.decode(token, key.public, algorithms=[key.algorithm], options=_SIGNATURE_ONLY)
    except jwt.InvalidTokenError:
        return None
    return claims


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _at(claims: Mapping[str, Any], name: str) -> object:
    """The claim of that name, or the one that its dots lead to."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _words(value: object) -> list[str]:
    """The values of a claim: a list of strings, or words."""
    if isinstance(value, str):
        return value.split()
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []
