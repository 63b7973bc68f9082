"""Who is asking: callers (people and programs) and sandboxes (containers calling back).

No I/O: tokens are made and read in `web/auth.py` and `web/oidc.py`; which user a caller acts for is decided in
`gateway/isolation.py`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Self

from cupola.errors import BadRequest

_NAME = re.compile(r"[A-Za-z0-9._:@-]{1,256}")


class Role(StrEnum):
    """What a caller may do; each role may do what stands before it.

    `reader` sees agents and versions; `user` talks to agents in sessions of its own; `operator` changes agents and
    sees every session.
    """

    READER = "reader"
    USER = "user"
    OPERATOR = "operator"

    def covers(self, needed: Role) -> bool:
        return _RANKS[self] >= _RANKS[needed]


_RANKS = {role: rank for rank, role in enumerate(Role)}


class UserFrom(StrEnum):
    """Where the user of a request was taken from."""

    TOKEN = "token"  # noqa: S105 - no secret, a place
    DELEGATION = "x-ms-user-identity"
    ISOLATION_KEY = "x-ms-user-isolation-key"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated client. `user` is the opaque isolation key that parts sessions and talk.

    `issuer` is None for a token of this installation. With `delegate` the caller may name the user it acts for, which
    an operator may in any case.
    """

    principal: str
    user: str
    role: Role
    issuer: str | None = None
    delegate: bool = False
    user_from: UserFrom = UserFrom.TOKEN

    @property
    def may_delegate(self) -> bool:
        return self.delegate or self.role is Role.OPERATOR

    def acting_for(self, user: str, named_in: UserFrom) -> Self:
        """The same caller as one of its users: it sees what that user sees, also if it could see more by itself."""
        role = Role.USER if self.role.covers(Role.USER) else self.role
        return replace(self, user=user, role=role, delegate=False, user_from=named_in)


@dataclass(frozen=True, slots=True)
class SandboxIdentity:
    """A container that calls back: its token opens this project's callbacks and nothing else.

    `session` is empty in the token of one that did not know its session yet.
    """

    project: str
    agent: str
    version: str
    session: str
    sandbox: str


class Call(NamedTuple):
    """What a call id stands for (`x-agent-foundry-call-id`): one request of `user` to one session.

    A plain tuple, as `Invocation` is: one is made for every request.
    """

    user: str
    agent: str
    session: str


class Isolation(StrEnum):
    """What parts the users of an agent: `isolation_key_source.kind` of its authorization schemes (§2.3)."""

    ENTRA = "Entra"
    HEADER = "Header"


def isolation_of(endpoint: Mapping[str, Any]) -> Isolation:
    """How an endpoint configuration parts users: by header if any of its schemes says so."""
    schemes = endpoint.get("authorization_schemes")
    for scheme in schemes if isinstance(schemes, list) else ():
        source = scheme.get("isolation_key_source") if isinstance(scheme, Mapping) else None
        if isinstance(source, Mapping) and source.get("kind") == Isolation.HEADER:
            return Isolation.HEADER
    return Isolation.ENTRA


def check_name(value: str, what: str) -> str:
    """`value`, if it can name a user or principal (control-plane.md §1.6). Raises BadRequest that names `what`."""
    if not _NAME.fullmatch(value):
        raise BadRequest(
            f"{what} must be 1 to 256 letters, digits and characters of '._:@-'.", code="bad_request", param=what
        )
    return value


def identity_of(agent_guid: str, part: Literal["instance", "blueprint"]) -> dict[str, str]:
    """The `principal_id` and `client_id` of an agent's identity: derived from its guid, so the same for ever."""
    seed = uuid.UUID(agent_guid)
    return {
        "principal_id": str(uuid.uuid5(seed, f"{part}/principal")),
        "client_id": str(uuid.uuid5(seed, f"{part}/client")),
    }
