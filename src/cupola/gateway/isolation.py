"""Which user a request is for: its caller, or the one whom the caller names in a header (control-plane.md §1.6, §2.3).

Three ways lead to a user: by default he is the caller himself. An agent whose endpoint parts users by header takes
them from `x-ms-user-isolation-key`, of any caller who may use it. And a caller with the right to delegate may name one
in `x-ms-user-identity`. What comes out is opaque and the same for all agents; the three never give the same user.

Which agents part by header is remembered here, so that no request asks the store. The project's own `openai` base
belongs to no agent: delegation works there, and agents that part by header are to be asked on their own endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from cupola.errors import BadRequest, Forbidden
from cupola.identity import Caller, Isolation, Role, UserFrom, check_name, isolation_of

DELEGATED = "x-ms-user-identity"
ISOLATION_KEY = "x-ms-user-isolation-key"
OLDER_ISOLATION_KEY = "x-session-isolation-key"
_NAMES: Mapping[bytes, str] = {name.encode(): name for name in (DELEGATED, ISOLATION_KEY, OLDER_ISOLATION_KEY)}
_SESSIONS = "endpoint/sessions"
_CARDS = ("endpoint/protocols/a2a/agentCard/", "endpoint/protocols/a2a/.well-known/")
"""What an agent says about itself is for no user."""

Header = tuple[bytes, bytes]


class Users:
    """Decides for whom a request is. `user_key` makes the opaque key of a name."""

    def __init__(self, user_key: Callable[[str], str]) -> None:
        self._user_key = user_key
        self._by_header: set[tuple[str, str]] = set()

    def set_endpoint(self, project: str, agent: str, endpoint: Mapping[str, Any]) -> None:
        """To be told whenever an agent's endpoint configuration changes, and of all at the start."""
        if isolation_of(endpoint) is Isolation.HEADER:
            self._by_header.add((project, agent))
        else:
            self._by_header.discard((project, agent))

    def may_differ(self, headers: Iterable[Header]) -> bool:
        """Whether any request with these headers could be for somebody else than its caller."""
        return bool(self._by_header) or any(name in _NAMES for name, _ in headers)

    def check(self, project: str, agent: str, caller: Caller) -> None:
        """Raises BadRequest if the agent takes its user from a header and this caller's was taken elsewhere."""
        if (project, agent) in self._by_header and caller.user_from is not UserFrom.ISOLATION_KEY:
            raise BadRequest(
                f"Agent '{agent}' takes its user from the header {ISOLATION_KEY}, on its own endpoint only: "
                f"…/agents/{agent}/endpoint/protocols/openai.",
                param=ISOLATION_KEY,
            )

    def of_project(self, caller: Caller, headers: Iterable[Header]) -> Caller:
        """The caller on the project's own base."""
        return self._delegated(caller, _named(headers))

    def of_agent(
        self, project: str, agent: str, caller: Caller, headers: Iterable[Header], *, may_be_himself: bool = False
    ) -> Caller:
        """The caller on an agent's endpoint. An operator `may_be_himself` where nobody talks to the agent."""
        named = _named(headers)
        if (project, agent) not in self._by_header:
            return self._delegated(caller, named)
        keys = {named[name] for name in (ISOLATION_KEY, OLDER_ISOLATION_KEY) if name in named}
        if not keys and may_be_himself and caller.role is Role.OPERATOR:
            return self._delegated(caller, named)
        if len(keys) != 1:
            raise BadRequest(
                f"Agent '{agent}' parts its users by header: send one key per user in {ISOLATION_KEY}, 1 to 256 "
                "letters, digits and characters of '._:@-'.",
                param=ISOLATION_KEY,
            )
        if DELEGATED in named:
            raise BadRequest(
                f"Agent '{agent}' takes its user from {ISOLATION_KEY}; leave {DELEGATED} out.", param=DELEGATED
            )
        key = check_name(keys.pop(), ISOLATION_KEY)
        return caller.acting_for(self._user_key(f"isolation key {key}"), UserFrom.ISOLATION_KEY)

    def _delegated(self, caller: Caller, named: Mapping[str, str]) -> Caller:
        user = named.get(DELEGATED)
        if user is None:
            return caller
        if not caller.may_delegate:
            raise Forbidden(
                f"'{caller.principal}' may not act for others ({DELEGATED}). That takes the role 'operator' or the "
                "right to delegate: cupola tokens create --delegate, or the app role Cupola.Delegate of an issuer.",
                code="session_not_accessible",
                param=DELEGATED,
            )
        return caller.acting_for(self._user_key(f"delegated {check_name(user, DELEGATED)}"), UserFrom.DELEGATION)


class ForUsers:
    """Puts the caller as the user of the request into `cupola.caller`, on the routes of the data plane."""

    def __init__(self, app: ASGIApp, users: Users) -> None:
        self._app = app
        self._users = users

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = scope.get("cupola.caller")
        if caller is not None and self._users.may_differ(scope["headers"]):
            scope["cupola.caller"] = self._seen(scope, caller)
        await self._app(scope, receive, send)

    def _seen(self, scope: Scope, caller: Caller) -> Caller:
        # ["", "api", "projects", project, "agents" or "openai", agent, "endpoint/…"], as the routes read paths
        parts = scope["path"].split("/", 6)
        if len(parts) == 7 and (parts[1], parts[4]) == ("cupola", "agents") and parts[6].startswith("sessions"):
            return self._users.of_agent(parts[3], parts[5], caller, scope["headers"], may_be_himself=True)
        if len(parts) < 6 or parts[1] != "api" or parts[2] != "projects":
            return caller
        if parts[4] == "openai":
            return self._users.of_project(caller, scope["headers"])
        if parts[4] != "agents" or len(parts) < 7 or parts[6].partition("/")[0] != "endpoint":
            return caller
        if parts[6].startswith(_CARDS):
            return caller
        creates = scope.get("method") == "POST" and parts[6].rstrip("/") == _SESSIONS
        looks_after = parts[6].startswith(_SESSIONS) and not creates
        return self._users.of_agent(parts[3], parts[5], caller, scope["headers"], may_be_himself=looks_after)


def _named(headers: Iterable[Header]) -> Mapping[str, str]:
    """What the headers about users say. Raises BadRequest for one that is sent twice."""
    found: dict[str, str] = {}
    for header in headers:
        if header[0] in _NAMES:
            known = _NAMES[header[0]]
            if known in found:
                raise BadRequest(f"The header {known} was sent more than once; send one user.", param=known)
            found[known] = header[1].decode("latin-1")
    return found
