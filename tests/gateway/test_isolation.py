"""Whose request it is, and that nobody sees what is another's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from cupola.identity import Role
from tests.support.agents import echo
from tests.support.platform import DEFINITION, OPENAI, PROJECT, Answer, Caller, PlatformUnderTest, open_platform

AGENT = f"{PROJECT}/agents/a1"
SESSIONS = f"{AGENT}/endpoint/sessions"
INVOCATIONS = f"{AGENT}/endpoint/protocols/invocations"
PROJECT_OPENAI = f"{PROJECT}/openai/v1"
KEY, OLDER_KEY, DELEGATED = "x-ms-user-isolation-key", "x-session-isolation-key", "x-ms-user-identity"
BY_HEADER = {"authorization_schemes": [{"type": "Entra", "isolation_key_source": {"kind": "Header"}}]}
BY_CALLER = {"authorization_schemes": [{"type": "Entra", "isolation_key_source": {"kind": "Entra"}}]}


@dataclass
class Watched:
    """A platform, and what its containers were asked."""

    platform: PlatformUnderTest
    asked: list[Request]

    @property
    def users(self) -> list[str]:
        return [request.headers["x-agent-user-id"] for request in self.asked]

    async def part_by(self, endpoint: Mapping[str, Any], agent: str = "a1") -> None:
        path = f"{PROJECT}/agents/{agent}"
        changed = await self.platform.call("PATCH", path, {"agent_endpoint": endpoint})
        assert changed.status == 200, changed.body

    async def ask(self, by: Caller | None = None, base: str = OPENAI, **headers: str) -> Answer:
        body = {"input": "hello", **({} if "/agents/" in base else {"agent_reference": {"name": "a1"}})}
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await (by or self.platform.call)("POST", f"{base}/responses", body, headers=sent)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncGenerator[Watched]:
    asked: list[Request] = []

    async def noted(sandbox: FakeSandbox, request: Request) -> Reply:
        asked.append(request)
        return await echo(sandbox, request)

    async with open_platform(tmp_path, Behaviour(handler=noted)) as platform:
        await platform.create_version()
        asked.clear()
        yield Watched(platform, asked)


# Nobody sees what is another's


async def test_another_caller_sees_nothing(watched: Watched) -> None:
    """Sessions, conversations, items, responses and invocations of one user do not exist for another."""
    platform = watched.platform
    ann, bob = platform.caller("ann", Role.USER), platform.caller("bob", Role.USER)
    made = await ann("POST", f"{OPENAI}/conversations", {"items": [{"role": "user", "content": "secret"}]})
    conversation = made.json()["id"]
    item = (await ann("GET", f"{OPENAI}/conversations/{conversation}/items")).json()["data"][0]["id"]
    response = await platform.hear(by=ann, conversation=conversation)
    session, response_id = response["agent_session_id"], response["id"]
    invoked = await ann("POST", f"{INVOCATIONS}?agent_session_id={session}", {"say": "secret"})
    invocation = invoked.headers["x-agent-invocation-id"]
    watched.asked.clear()
    secrets = ("secret", "hello")
    for base in (OPENAI, OPENAI.removesuffix("/v1"), PROJECT_OPENAI, PROJECT_OPENAI.removesuffix("/v1")):
        ask = {"input": "mine?", "agent_reference": {"name": "a1"}}
        for method, path, body in (
            ("POST", f"{base}/responses", {**ask, "previous_response_id": response_id}),
            ("POST", f"{base}/responses", {**ask, "conversation": conversation}),
            ("POST", f"{base}/responses", {**ask, "conversation": conversation, "agent_session_id": session}),
            ("GET", f"{base}/responses/{response_id}", None),
            ("GET", f"{base}/responses/{response_id}?stream=true", None),
            ("POST", f"{base}/responses/{response_id}/cancel", None),
            ("GET", f"{base}/responses/{response_id}/input_items", None),
            ("DELETE", f"{base}/responses/{response_id}", None),
            ("GET", f"{base}/conversations/{conversation}", None),
            ("POST", f"{base}/conversations/{conversation}", {"metadata": {"a": "b"}}),
            ("GET", f"{base}/conversations/{conversation}/items", None),
            ("POST", f"{base}/conversations/{conversation}/items", {"items": [{"role": "user", "content": "x"}]}),
            ("GET", f"{base}/conversations/{conversation}/items/{item}", None),
            ("DELETE", f"{base}/conversations/{conversation}/items/{item}", None),
            ("DELETE", f"{base}/conversations/{conversation}", None),
        ):
            refused = await bob(method, path, body)
            assert (refused.status, refused.error["code"]) == (404, "not_found"), (method, path, refused.body)
            assert not any(word in refused.body.decode() for word in secrets)
        foreign = await bob("POST", f"{base}/responses", {**ask, "agent_session_id": session})
        assert (foreign.status, foreign.error["code"]) == (403, "session_not_accessible")
    for method, path in (
        ("POST", f"{INVOCATIONS}?agent_session_id={session}"),
        ("GET", f"{SESSIONS}/{session}"),
        ("POST", f"{SESSIONS}/{session}:stop"),
        ("DELETE", f"{SESSIONS}/{session}"),
        ("GET", f"{INVOCATIONS}/docs/openapi.json?agent_session_id={session}"),
        ("GET", f"{INVOCATIONS}/{invocation}?agent_session_id={session}"),
        ("POST", f"{INVOCATIONS}/{invocation}/cancel?agent_session_id={session}"),
        ("GET", f"{INVOCATIONS}/{invocation}"),
        ("POST", f"{INVOCATIONS}/{invocation}/cancel"),
    ):
        refused = await bob(method, path, {} if method == "POST" else None)
        assert refused.status in (403, 404), (method, path, refused.body)
        assert refused.error["code"] in ("session_not_accessible", "not_found")
    assert (await bob("GET", SESSIONS)).json()["data"] == []
    assert watched.asked == [], "a container has seen a request of a stranger"
    assert (await ann("GET", f"{OPENAI}/responses/{response_id}")).status == 200
    items = (await ann("GET", f"{OPENAI}/conversations/{conversation}/items?order=asc")).json()["data"]
    assert items[0]["content"][0]["text"] == "secret"


async def test_a_sleeping_session_is_not_woken_by_a_stranger(watched: Watched) -> None:
    """Nor are its requests what keeps it from expiring."""
    platform = watched.platform
    ann, bob = platform.caller("ann", Role.USER), platform.caller("bob", Role.USER)
    session = (await platform.hear(by=ann))["agent_session_id"]
    platform.clock.now += 901
    await platform.platform.reaper.once()
    refused = await platform.ask(by=bob, agent_session_id=session)
    assert (refused.status, refused.error["code"]) == (403, "session_not_accessible")
    assert platform.running() == []


# The caller himself


async def test_by_default_the_caller_is_the_user(watched: Watched) -> None:
    """Isolation headers, which some SDKs always send, say nothing then; the key is the same for all agents."""
    ann = watched.platform.caller("ann", Role.USER)
    await watched.ask(ann)
    await watched.ask(ann, x_ms_user_isolation_key="bob", x_session_isolation_key="%%")
    await watched.part_by(BY_CALLER)
    await watched.ask(ann, x_ms_user_isolation_key="bob")
    await watched.platform.create_version("a2")
    watched.asked.pop()
    await watched.ask(ann, OPENAI.replace("a1", "a2"))
    assert set(watched.users) == {watched.platform.tokens.user_key("ann")}


# By header


async def test_an_agent_that_parts_by_header(watched: Watched) -> None:
    """One app, many users: each has sessions and talk of its own, in either spelling of the header."""
    await watched.part_by(BY_HEADER)
    app = watched.platform.caller("app", Role.USER)
    first = await watched.ask(app, x_ms_user_isolation_key="ann")
    again = await watched.ask(app, x_session_isolation_key="ann")
    other = await watched.ask(app, x_ms_user_isolation_key="bob")
    assert [first.status, again.status, other.status] == [200, 200, 200]
    users = watched.users
    assert users[0] == users[1] != users[2]
    keys = watched.platform.tokens.user_key
    assert not {keys("app"), keys("ann"), keys("bob")} & set(users)
    path = f"{OPENAI}/responses/{first.json()['id']}"
    assert (await app("GET", path, headers={KEY: "ann"})).status == 200
    assert (await app("GET", path, headers={KEY: "bob"})).status == 404
    conversation = (await app("POST", f"{OPENAI}/conversations", {}, headers={KEY: "ann"})).json()["id"]
    assert (await app("GET", f"{OPENAI}/conversations/{conversation}", headers={KEY: "ann"})).status == 200
    assert (await app("GET", f"{OPENAI}/conversations/{conversation}", headers={KEY: "bob"})).status == 404


async def test_the_key_is_the_same_for_all_agents(watched: Watched) -> None:
    """What one agent knows a user by, the next one does too."""
    await watched.part_by(BY_HEADER)
    await watched.platform.create_version("a2")
    await watched.part_by(BY_HEADER, "a2")
    watched.asked.clear()
    for base in (OPENAI, OPENAI.replace("a1", "a2")):
        assert (await watched.ask(base=base, x_ms_user_isolation_key="ann")).status == 200
    assert len(set(watched.users)) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {KEY: ""},
        {KEY: "a b"},
        {KEY: "a/b"},
        {KEY: "x" * 257},
        {KEY: "ann", OLDER_KEY: "bob"},
        {OLDER_KEY: "ä"},
        {KEY: "ann,bob"},
    ],
)
async def test_a_missing_or_malformed_key_is_named(watched: Watched, headers: dict[str, str]) -> None:
    """400 with the header's name, on every protocol, for everybody; the container is not asked."""
    await watched.part_by(BY_HEADER)
    watched.asked.clear()
    for call in (watched.platform.call, watched.platform.caller("app", Role.USER)):
        for method, path in (
            ("POST", f"{OPENAI}/responses"),
            ("POST", f"{OPENAI}/conversations"),
            ("POST", INVOCATIONS),
            ("GET", f"{INVOCATIONS}/x"),
        ):
            refused = await call(method, path, {"input": "x"}, headers=headers)
            assert (refused.status, refused.error["param"]) == (400, KEY), refused.body
            assert "256" in refused.error["message"]
    assert watched.asked == []


async def test_sessions_of_an_agent_that_parts_by_header(watched: Watched) -> None:
    """An app sees those of the user it names; an operator looks after all of them without being one of them."""
    await watched.part_by(BY_HEADER)
    app, operator = watched.platform.caller("app", Role.USER), watched.platform.call
    made = await app("POST", SESSIONS, {}, headers={OLDER_KEY: "ann"})
    assert made.status == 201, made.body
    session = made.json()["agent_session_id"]

    async def seen(call: Caller, **headers: str) -> list[str]:
        listed = await call("GET", SESSIONS, headers={name.replace("_", "-"): v for name, v in headers.items()})
        return [one["agent_session_id"] for one in listed.json()["data"]]

    assert await seen(app, x_ms_user_isolation_key="ann") == [session]
    assert await seen(app, x_ms_user_isolation_key="bob") == []
    assert await seen(operator) == [session]
    assert await seen(operator, x_ms_user_isolation_key="bob") == []
    foreign = await operator("GET", f"{SESSIONS}/{session}", headers={KEY: "bob"})
    assert (foreign.status, foreign.error["code"]) == (403, "session_not_accessible")
    for call, method, path in (
        (app, "GET", SESSIONS),
        (app, "GET", f"{SESSIONS}/{session}"),
        (app, "DELETE", f"{SESSIONS}/{session}"),
        (operator, "POST", SESSIONS),
        (operator, "POST", SESSIONS + "/"),
    ):
        refused = await call(method, path, {} if method == "POST" else None)
        assert refused.status in (400, 404), (method, path, refused.body)
        assert refused.error["param"] == KEY
    assert (await operator("POST", f"{SESSIONS}/{session}:stop")).status == 204


async def test_copies_and_moves_are_for_the_user_who_is_named(watched: Watched) -> None:
    """Beside the wire too: an app handles the sessions of its users, and no other's."""
    app = watched.platform.caller("app", Role.USER, delegate=True)
    asked = {"agent_session_id": "of-ann"}
    made = await app("POST", f"{OPENAI}/responses", {"input": "x", **asked}, headers={DELEGATED: "ann"})
    assert made.status == 200, made.body
    own = "/cupola/projects/demo/agents/a1/sessions/of-ann"
    for user, status in (("ann", 201), ("bob", 403), (None, 403)):
        headers = {} if user is None else {DELEGATED: user}
        assert (await app("POST", f"{own}/snapshots", {}, headers=headers)).status == status
    await watched.part_by(BY_HEADER)
    assert (await app("GET", f"{own}/snapshots")).error["param"] == KEY
    assert (await app("GET", f"{own}/snapshots", headers={KEY: "ann"})).status == 403  # another ann
    assert (await watched.platform.call("GET", f"{own}/snapshots")).status == 200


async def test_parting_by_header_outlives_a_restart_and_changes_at_once(watched: Watched) -> None:
    """It is known before the first request after a start, and forgotten with its agent."""
    platform = watched.platform
    await watched.part_by(BY_HEADER)
    await platform.restart()
    assert (await watched.ask()).status == 400
    await watched.part_by({"protocol_configuration": {"responses": {}}})
    assert (await watched.ask()).status == 400
    await watched.part_by({"authorization_schemes": None})
    assert (await watched.ask()).status == 200
    await watched.part_by(BY_HEADER)
    deleted = await platform.call("DELETE", f"{AGENT}?force=true")
    assert deleted.status == 200, deleted.body
    await platform.create_version()
    assert (await watched.ask()).status == 200


async def test_an_agent_may_part_by_header_from_its_beginning(watched: Watched) -> None:
    """Its first request needs the header; what it says about itself to A2A clients is for no user."""
    platform = watched.platform
    endpoint = {**BY_HEADER, "protocol_configuration": {"responses": {}, "a2a": {}}}
    card = {"version": "1", "skills": [{"id": "echo", "name": "Echo"}]}
    body = {"name": "a3", "definition": DEFINITION, "agent_endpoint": endpoint, "agent_card": card}
    created = await platform.call("POST", f"{PROJECT}/agents", body)
    assert created.status == 200, created.body
    await platform.settled("a3", "1")
    own = OPENAI.replace("a1", "a3")
    assert (await watched.ask(base=own)).error["param"] == KEY
    assert (await watched.ask(base=own, x_ms_user_isolation_key="ann")).status == 200
    a2a = f"{PROJECT}/agents/a3/endpoint/protocols/a2a"
    for path in ("agentCard/v0.3", "agentCard/v1.0", ".well-known/agent-card.json"):
        assert (await platform.call("GET", f"{a2a}/{path}")).status == 200
    assert (await platform.call("GET", f"{a2a}/v1/tasks/x")).error["param"] == KEY


async def test_an_unknown_kind_is_refused(watched: Watched) -> None:
    """And nothing is changed by it."""
    wrong = {"authorization_schemes": [{"type": "Entra", "isolation_key_source": {"kind": "Cookie"}}]}
    refused = await watched.platform.call("PATCH", AGENT, {"agent_endpoint": wrong})
    assert refused.status == 400
    assert refused.error["param"] == "agent_endpoint.authorization_schemes.0.isolation_key_source.kind"
    assert (await watched.ask()).status == 200


async def test_the_projects_base_sends_on_to_the_agents_own(watched: Watched) -> None:
    """There the user of such an agent cannot be known before the body is read; it must not be the app itself."""
    await watched.part_by(BY_HEADER)
    watched.asked.clear()
    for headers in ({}, {"x_ms_user_isolation_key": "ann"}, {"x_ms_user_identity": "ann"}):
        refused = await watched.ask(None, PROJECT_OPENAI, **headers)
        assert (refused.status, refused.error["param"]) == (400, KEY)
        assert "/agents/a1/endpoint/protocols/openai" in refused.error["message"]
    assert watched.asked == []


# Delegation


async def test_a_caller_with_the_right_acts_for_its_users(watched: Watched) -> None:
    """Operators and those who were given the right; on both bases; each user is one for all agents."""
    platform = watched.platform
    for call in (platform.call, platform.caller("app", Role.USER, delegate=True)):
        for base in (OPENAI, PROJECT_OPENAI):
            assert (await watched.ask(call, base, x_ms_user_identity="ann@example.com")).status == 200
    assert len(set(watched.users)) == 1
    keys = platform.tokens.user_key
    assert watched.users[0] not in (platform.user, keys("app"), keys("ann@example.com"))
    made = await platform.call("POST", f"{PROJECT_OPENAI}/conversations", {}, headers={DELEGATED: "ann@example.com"})
    path = f"{OPENAI}/conversations/{made.json()['id']}"
    assert (await platform.call("GET", path)).status == 404
    assert (await platform.call("GET", path, headers={DELEGATED: "ann@example.com"})).status == 200


async def test_without_the_right_nobody_acts_for_others(watched: Watched) -> None:
    """403 that says how to get it; the container is not asked."""
    for role in (Role.READER, Role.USER):
        call = watched.platform.caller("app", role)
        for base in (OPENAI, PROJECT_OPENAI):
            refused = await watched.ask(call, base, x_ms_user_identity="ann")
            assert (refused.status, refused.error["code"]) == (403, "session_not_accessible")
            assert refused.error["param"] == DELEGATED
            assert "--delegate" in refused.error["message"]
    assert watched.asked == []


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 257, "ä"])
async def test_a_malformed_user_is_named(watched: Watched, name: str) -> None:
    """The same characters as for isolation keys."""
    refused = await watched.ask(x_ms_user_identity=name)
    assert (refused.status, refused.error["param"]) == (400, DELEGATED)
    assert watched.asked == []


async def test_one_user_per_request(watched: Watched) -> None:
    """On an agent that parts by header, that header is the only one that names a user."""
    await watched.part_by(BY_HEADER)
    refused = await watched.ask(x_ms_user_isolation_key="ann", x_ms_user_identity="ann")
    assert (refused.status, refused.error["param"]) == (400, DELEGATED)


async def test_the_three_ways_never_lead_to_the_same_user(watched: Watched) -> None:
    """A principal, an isolation key and a delegated user of one name are three."""
    await watched.ask(watched.platform.caller("ann", Role.USER))
    await watched.ask(x_ms_user_identity="ann")
    await watched.part_by(BY_HEADER)
    await watched.ask(x_ms_user_isolation_key="ann")
    assert len(set(watched.users)) == 3
    assert all("ann" not in user for user in watched.users)


async def test_the_containers_call_id_stands_for_the_user(watched: Watched) -> None:
    """What the container calls back with opens that user's data, and its session belongs to him."""
    answer = await watched.ask(x_ms_user_identity="ann")
    (request,) = watched.asked
    call = watched.platform.tokens.call(request.headers["x-agent-foundry-call-id"])
    assert call.user == request.headers["x-agent-user-id"]
    assert call.session == orjson.loads(answer.body)["agent_session_id"]
    refused = await watched.platform.ask(agent_session_id=call.session)
    assert (refused.status, refused.error["code"]) == (403, "session_not_accessible")
