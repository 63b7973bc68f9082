"""The sessions of an agent's endpoint, over fake sandboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from cupola.errors import StartFailed
from cupola.identity import Role
from cupola.sessions import LIFETIME
from tests.support.agents import ECHO
from tests.support.platform import PROJECT, Answer, PlatformUnderTest
from tests.support.waiting import wait_until

SESSIONS = f"{PROJECT}/agents/a1/endpoint/sessions"


@pytest.fixture(autouse=True)
async def version(platform: PlatformUnderTest) -> Mapping[str, Any]:
    return await platform.create_version()


async def made(platform: PlatformUnderTest, body: Any = None) -> Mapping[str, Any]:
    answer = await platform.call("POST", SESSIONS, body or {})
    assert answer.status == 201, answer.body
    session: Mapping[str, Any] = answer.json()
    return session


async def got(platform: PlatformUnderTest, session_id: str) -> Mapping[str, Any]:
    shown: Mapping[str, Any] = (await platform.call("GET", f"{SESSIONS}/{session_id}")).json()
    return shown


def live(platform: PlatformUnderTest, session_id: str) -> bool:
    return platform.platform.sandboxes.live_of(("demo", "a1", session_id)) is not None


@pytest.mark.operation("sessions.create")
async def test_an_empty_create_takes_the_selected_version(platform: PlatformUnderTest) -> None:
    """`{}` goes by the version selector; the probed sandbox serves it at once."""
    session = await made(platform)
    assert session["version_indicator"] == {"type": "version_ref", "agent_version": "1"}
    assert session["status"] == "active"
    assert session["stopped_at"] is None
    assert session["expires_at"] == session["last_accessed_at"] + LIFETIME
    assert await got(platform, session["agent_session_id"]) == session


@pytest.mark.operation("sessions.create", "sessions.get")
async def test_a_named_session_starts_behind_the_answer(platform: PlatformUnderTest) -> None:
    """The id is the caller's; requests find the session that was made."""
    indicator = {"type": "version_ref", "agent_version": "1"}
    session = await made(platform, {"agent_session_id": "mine", "version_indicator": indicator})
    assert (session["agent_session_id"], session["status"]) == ("mine", "creating")
    await wait_until(lambda: live(platform, "mine"))
    assert (await got(platform, "mine"))["status"] == "active"
    assert (await platform.hear(agent_session_id="mine"))["agent_session_id"] == "mine"
    assert platform.place.starts["mine"] == 1


async def test_an_id_is_unique(platform: PlatformUnderTest) -> None:
    await made(platform, {"agent_session_id": "mine"})
    again = await platform.call("POST", SESSIONS, {"agent_session_id": "mine"})
    assert (again.status, again.error["code"], again.error["param"]) == (409, "conflict", "agent_session_id")


@pytest.mark.operation("sessions.stop")
async def test_stop_keeps_the_session_and_may_be_repeated(platform: PlatformUnderTest) -> None:
    """It goes idle, and the next request resumes it."""
    session_id = (await made(platform))["agent_session_id"]
    for _ in range(2):
        answer = await platform.call("POST", f"{SESSIONS}/{session_id}:stop")
        assert (answer.status, answer.body) == (204, b"")
    stopped = await got(platform, session_id)
    assert (stopped["status"], stopped["stopped_at"]) == ("idle", int(platform.clock.now))
    assert not platform.place.sandboxes
    await platform.hear(agent_session_id=session_id)
    assert (await got(platform, session_id))["status"] == "active"


@pytest.mark.operation("sessions.delete")
async def test_deleted_is_gone_and_deleted_again(platform: PlatformUnderTest) -> None:
    """204 also for what never was; a deleted session does not come back by being asked for."""
    session_id = (await made(platform))["agent_session_id"]
    for wanted in (session_id, session_id, "never-was"):
        assert (await platform.call("DELETE", f"{SESSIONS}/{wanted}")).status == 204
    assert (await platform.call("GET", f"{SESSIONS}/{session_id}")).status == 404
    assert not platform.place.sandboxes
    assert not platform.place.homes


@pytest.mark.operation("sessions.list")
async def test_lists_in_pages(platform: PlatformUnderTest) -> None:
    """In either order, with both generations' cursors, newest first by default."""
    ids = [(await made(platform, {"agent_session_id": f"s{n}"}))["agent_session_id"] for n in range(3)]
    first = (await platform.call("GET", f"{SESSIONS}?limit=2")).json()
    assert [entry["agent_session_id"] for entry in first["data"]] == ids[:0:-1]
    assert (first["has_more"], first["last_id"], first["pagination_token"]) == (True, "s1", "s1")
    for cursor in ("after", "pagination_token"):
        rest = (await platform.call("GET", f"{SESSIONS}?limit=2&{cursor}=s1")).json()
        assert [entry["agent_session_id"] for entry in rest["data"]] == ["s0"]
        assert (rest["has_more"], rest["last_id"]) == (False, None)
    ascending = (await platform.call("GET", f"{SESSIONS}?order=asc")).json()
    assert [entry["agent_session_id"] for entry in ascending["data"]] == ids


async def test_users_see_their_own(platform: PlatformUnderTest) -> None:
    """Another user's session is neither listed nor to be had; an operator sees all."""
    ann, bob = platform.caller("ann", Role.USER), platform.caller("bob", Role.USER)
    session_id = (await ann("POST", SESSIONS, {})).json()["agent_session_id"]
    assert [entry["agent_session_id"] for entry in (await ann("GET", SESSIONS)).json()["data"]] == [session_id]
    assert (await bob("GET", SESSIONS)).json()["data"] == []
    for method, path in (("GET", ""), ("POST", ":stop"), ("DELETE", "")):
        refused = await bob(method, f"{SESSIONS}/{session_id}{path}")
        assert (refused.status, refused.error["code"]) == (403, "session_not_accessible")
    assert (await got(platform, session_id))["status"] == "active"
    assert [entry["agent_session_id"] for entry in (await platform.call("GET", SESSIONS)).json()["data"]] == [
        session_id
    ]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"agent_session_id": "a b"}, 400, "agent_session_id"),
        ({"agent_session_id": "x" * 129}, 400, "agent_session_id"),
        ({"agent_session_id": 5}, 400, "agent_session_id"),
        ({"version_indicator": {"type": "alias", "agent_version": "1"}}, 400, "version_indicator.type"),
        ({"version_indicator": {"agent_version": "@latest"}}, 400, "version_indicator.agent_version"),
        ({"version_indicator": {}}, 400, "version_indicator.agent_version"),
        ({"version_indicator": {"agent_version": "9"}}, 404, "version_indicator.agent_version"),
        ({"version_indicator": "1"}, 400, "version_indicator"),
    ],
)
async def test_what_cannot_be_is_refused(platform: PlatformUnderTest, body: Any, status: int, param: str) -> None:
    """With the field's name; nothing is made."""
    answer = await platform.call("POST", SESSIONS, body)
    assert (answer.status, answer.error["param"]) == (status, param)
    assert (await platform.call("GET", SESSIONS)).json()["data"] == []


async def test_a_failed_session_says_why(platform: PlatformUnderTest) -> None:
    """Its status is `failed`, with the evidence; deleting it is the way out."""
    broken = replace(ECHO, fails=StartFailed("no room", phase="create", code="ProvisioningError"))
    platform.place.behaviour = broken
    await made(platform, {"agent_session_id": "mine"})

    async with asyncio.timeout(5):
        while (shown := await got(platform, "mine"))["status"] != "failed":
            await asyncio.sleep(0.005)
    error = shown["error"]
    assert (error["phase"], error["message"]) == ("create", "no room")
    assert (await platform.call("DELETE", f"{SESSIONS}/mine")).status == 204


async def test_a_disabled_agent_begins_none(platform: PlatformUnderTest) -> None:
    """What it has can still be seen and ended."""
    session_id = (await made(platform))["agent_session_id"]
    await platform.call("POST", f"{PROJECT}/agents/a1:disable")
    refused: Answer = await platform.call("POST", SESSIONS, {})
    assert (refused.status, refused.error["code"]) == (403, "agent_disabled")
    assert (await got(platform, session_id))["status"] == "active"
    assert (await platform.call("DELETE", f"{SESSIONS}/{session_id}")).status == 204


async def test_what_does_not_exist_is_named(platform: PlatformUnderTest) -> None:
    for path, param in ((f"{SESSIONS}/nope", "agent_session_id"), (SESSIONS.replace("a1", "a9"), "agent_name")):
        missing = await platform.call("GET", path)
        assert (missing.status, missing.error["param"]) == (404, param)
