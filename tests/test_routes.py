"""Every route that clients reach asks for a token and a role."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from cupola import routes
from cupola.errors import Forbidden
from cupola.identity import Caller, Role, UserFrom
from tests.support import platform as support
from tests.support.agents import ECHO
from tests.support.platform import PlatformUnderTest, open_platform

TOKENLESS = {"/cupola/health", "/openapi.json"}
"""The only paths that need no token; a further one is a decision, and belongs in SECURITY.md."""


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncGenerator[PlatformUnderTest]:
    async with open_platform(tmp_path, ECHO) as under_test:
        yield under_test


def table(platform: PlatformUnderTest) -> list[tuple[str, str, Role | None]]:
    """Method, a path and role of every route of the clients' listener but those of WebSockets."""
    found = []
    for route in platform.platform.routes:
        if isinstance(route, routes.NeedingSocket):
            continue
        assert isinstance(route, routes.Needing), f"{route} was made by neither call() nor raw()"
        path = re.sub(r"{project}", "demo", route.path)
        method = next(method for method in sorted(route.methods or ()) if method != "HEAD")
        found.append((method, re.sub(r"{\w+(:\w+)?}", "x", path), route.needs))
    return found


async def test_only_the_open_paths_need_no_role_and_no_token(platform: PlatformUnderTest) -> None:
    """A route that is added without a role fails here."""
    assert routes.OPEN == TOKENLESS
    nobody = support.Caller(platform.platform.clients, None)
    for method, path, needs in table(platform):
        assert (needs is None) == (path in TOKENLESS), f"{method} {path} must name the role that it needs"
        assert ((await nobody(method, path)).status == 401) == (path not in TOKENLESS)


@pytest.mark.parametrize("role", list(Role))
async def test_every_route_lets_in_its_role_and_no_lower_one(platform: PlatformUnderTest, role: Role) -> None:
    """Who lacks a role learns which one, and how to get it; who has it gets past the door."""
    call = platform.caller("ann", role)
    for method, path, needs in table(platform):
        answer = await call(method, path, {})
        if needs is None or role.covers(needs):
            assert answer.status not in (401, 403), (method, path, answer.body)
            assert answer.status < 500 or answer.status == 501, (method, path, answer.body)
            continue
        assert (answer.status, answer.error["code"]) == (403, "forbidden"), (method, path, answer.body)
        assert answer.error["message"] == (
            f"'ann' has the role '{role}', and this needs '{needs}'. "
            f"An operator can make a token with more: cupola tokens create --role {needs}."
        )


def test_who_comes_from_an_issuer_is_sent_back_there() -> None:
    """A local token would be somebody else."""
    ann = Caller("ann of https://issuer.example", "key", Role.READER, issuer="https://issuer.example")
    with pytest.raises(Forbidden, match=r"administrator of https://issuer\.example assign Cupola\.User"):
        routes.require(ann, Role.USER)


def test_who_acts_for_a_user_learns_that_this_is_why() -> None:
    """An operator who acts for a user is no operator meanwhile."""
    operator = Caller("app", "key", Role.OPERATOR).acting_for("other", UserFrom.DELEGATION)
    with pytest.raises(Forbidden, match=r"'user' while it acts for a user \(x-ms-user-identity\)"):
        routes.require(operator, Role.OPERATOR)
