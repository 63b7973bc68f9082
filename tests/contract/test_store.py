"""What every store must do: the same body for each."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from cupola.agents import Agent, AgentVersion, VersionStatus
from cupola.conversations import Conversation, StoredResponse, failed_body
from cupola.errors import BadRequest, Conflict, CupolaError, SetupError
from cupola.sessions import LIFETIME, Desired, Observed, Sandbox, Session
from cupola.snapshots import SnapshotState
from cupola.state import StateItem, StateStore
from cupola.store import Page, Store
from cupola.store import agents as agent_rows
from cupola.store import conversations as conversation_rows
from cupola.store import invocations as invocation_rows
from cupola.store import responses as response_rows
from cupola.store import sandboxes as sandbox_rows
from cupola.store import sessions as session_rows
from cupola.store import snapshots as snapshot_rows
from cupola.store import state as state_rows
from tests.store import shapes
from tests.store.shapes import AGENT, PROJECT, USER, item

EVERYTHING = Page(limit=-1, order="asc")
P = ParamSpec("P")
T = TypeVar("T")
Order = Literal["asc", "desc"]

anything = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def ask(
    question: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
) -> Callable[[Connection], T]:
    """The question with these arguments, bound now rather than when it runs."""
    return lambda conn: question(conn, *args, **kwargs)


@pytest.fixture(params=["sqlite"])
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store.open(tmp_path / "cupola.db")
    yield store
    await store.aclose()


# Round trips


@anything
@given(shapes.agents)
async def test_an_agent_comes_back_as_it_was(store: Store, agent: Agent) -> None:
    """What put_agent was given is what get_agent returns."""
    await store.write(lambda c: agent_rows.put_agent(c, agent))
    assert await store.read(lambda c: agent_rows.get_agent(c, agent.project, agent.name)) == agent


@anything
@given(shapes.versions)
async def test_a_version_comes_back_as_it_was(store: Store, version: AgentVersion) -> None:
    """What put_version was given is what get_version returns."""
    await store.write(lambda c: agent_rows.put_agent(c, shapes.agent(version.agent, version.project)))
    await store.write(lambda c: agent_rows.put_version(c, version))
    key = (version.project, version.agent, version.version)
    assert await store.read(lambda c: agent_rows.get_version(c, *key)) == version


@anything
@given(shapes.sessions)
async def test_a_session_comes_back_as_it_was(store: Store, session: Session) -> None:
    """What put_session was given is what get_session returns."""
    await store.write(lambda c: session_rows.put_session(c, session))
    assert await store.read(lambda c: session_rows.get_session(c, *session.key)) == session


@anything
@given(shapes.sandboxes)
async def test_a_sandbox_comes_back_as_it_was(store: Store, sandbox: Sandbox) -> None:
    """What put_sandbox was given is what all_sandboxes returns, until it is deleted."""
    await store.write(lambda c: sandbox_rows.put_sandbox(c, sandbox))
    assert await store.read(sandbox_rows.all_sandboxes) == [sandbox]
    assert await store.write(lambda c: sandbox_rows.delete_sandbox(c, sandbox.id))
    assert await store.read(sandbox_rows.all_sandboxes) == []


@anything
@given(shapes.conversations)
async def test_a_conversation_comes_back_as_it_was(store: Store, conversation: Conversation) -> None:
    """What put_conversation was given is what get_conversation returns."""
    await store.write(lambda c: conversation_rows.put_conversation(c, conversation))
    found = await store.read(lambda c: conversation_rows.get_conversation(c, conversation.project, conversation.id))
    assert found == conversation


@anything
@given(shapes.responses)
async def test_a_response_comes_back_as_it_was(store: Store, response: StoredResponse) -> None:
    """What create_response was given is what get_response returns, whatever keys its body has."""
    await store.write(lambda c: response_rows.delete_response(c, response.project, response.id))
    assert await store.write(lambda c: response_rows.create_response(c, response, []))
    assert await store.read(lambda c: response_rows.get_response(c, response.project, response.id)) == response


@anything
@given(shapes.state_stores, shapes.state_items)
async def test_a_state_store_and_its_items_come_back_as_they_were(
    store: Store, state_store: StateStore, state_item: StateItem
) -> None:
    """What put_store and put_item were given is what get_store and get_item return."""

    def change(conn: Connection) -> None:
        state_rows.put_store(conn, state_store)
        state_rows.put_item(conn, state_store, USER, state_item)

    def question(conn: Connection) -> tuple[Any, ...]:
        found = state_rows.get_store(conn, state_store.project, state_store.agent, state_store.name)
        listed = state_rows.list_items(conn, state_store, USER, state_item.tags or {}, EVERYTHING, 4.5e9)
        return (
            found,
            state_rows.get_item(conn, state_store, USER, state_item.key, 4.5e9),
            [entry.id for entry in listed.items if entry.key == state_item.key],
        )

    await store.write(change)
    assert await store.read(question) == (state_store, state_item, [state_item.id])


# Agents and versions


async def _put_versions(store: Store, *versions: AgentVersion) -> None:
    def change(conn: Connection) -> None:
        for version in versions:
            if agent_rows.get_agent(conn, version.project, version.agent) is None:
                agent_rows.put_agent(conn, shapes.agent(version.agent, version.project))
            agent_rows.put_version(conn, version)

    await store.write(change)


async def test_putting_again_replaces_in_place(store: Store) -> None:
    """A changed agent keeps its place in the list."""
    for name in ("a", "b"):
        await store.write(ask(agent_rows.put_agent, shapes.agent(name)))
    await store.write(lambda c: agent_rows.put_agent(c, shapes.agent("a", enabled=False)))
    listed = (await store.read(lambda c: agent_rows.list_agents(c, PROJECT, EVERYTHING))).items
    assert [(agent.name, agent.enabled) for agent in listed] == [("a", False), ("b", True)]


async def test_projects_do_not_see_each_other(store: Store) -> None:
    """The same names in another project are other things."""
    await _put_versions(store, shapes.version("1"), shapes.version("2", project="other"))
    await store.write(lambda c: response_rows.create_response(c, shapes.response(), [item("msg_1")]))

    def question(conn: Connection) -> list[Any]:
        return [
            agent_rows.get_version(conn, PROJECT, AGENT, "2"),
            agent_rows.newest_versions(conn, "other", AGENT)[1:] or None,
            response_rows.get_response(conn, "other", "caresp_1"),
            response_rows.get_items(conn, "other", ["msg_1"], USER)[0],
        ]

    assert await store.read(question) == [None, None, None, None]
    assert await store.write(lambda c: agent_rows.delete_agent(c, "other", AGENT))
    assert await store.read(lambda c: agent_rows.get_version(c, PROJECT, AGENT, "1")) is not None


async def test_an_agent_takes_its_versions_with_it(store: Store) -> None:
    """delete_agent leaves none of its versions, and says whether there was an agent."""
    await _put_versions(store, shapes.version("1"), shapes.version("2"))
    assert await store.write(lambda c: agent_rows.delete_agent(c, PROJECT, AGENT))
    assert await store.read(lambda c: agent_rows.newest_versions(c, PROJECT, AGENT, True)) == []
    assert not await store.write(lambda c: agent_rows.delete_agent(c, PROJECT, AGENT))


async def test_a_version_needs_its_agent(store: Store) -> None:
    """A version of an agent that is gone meanwhile is a conflict, not an orphan."""
    with pytest.raises(Conflict):
        await store.write(lambda c: agent_rows.put_version(c, shapes.version()))


async def test_latest_is_the_newest_release(store: Store) -> None:
    """Drafts and deleted versions are never the latest; failed ones are."""
    await _put_versions(
        store,
        shapes.version("1"),
        shapes.version("2", status=VersionStatus.FAILED),
        shapes.version("3", status=VersionStatus.DELETED),
        shapes.version("draft-1", draft=True),
        shapes.version("1", agent="other"),
        shapes.version("draft-2", agent="drafts", draft=True),
    )
    latest = await store.read(lambda c: agent_rows.latest_version(c, PROJECT, AGENT))
    assert latest is not None
    assert latest.version == "2"
    names = [AGENT, "other", "drafts", "unknown"]
    several = await store.read(lambda c: agent_rows.latest_versions(c, PROJECT, names))
    assert {name: version.version for name, version in several.items()} == {AGENT: "2", "other": "1"}


async def test_versions_are_listed_with_drafts_only_on_request(store: Store) -> None:
    """newest_versions and list_versions leave drafts out unless told otherwise; both take `name:1` for a cursor."""
    await _put_versions(store, shapes.version("1"), shapes.version("draft-1", draft=True), shapes.version("2"))

    async def newest(drafts: bool) -> list[str]:
        found = await store.read(lambda c: agent_rows.newest_versions(c, PROJECT, AGENT, drafts))
        return [version.version for version in found]

    async def listed(after: str) -> list[str]:
        page = Page(after=after)
        found = await store.read(lambda c: agent_rows.list_versions(c, PROJECT, AGENT, page, include_drafts=True))
        return [version.version for version in found.items]

    assert await newest(False) == ["2", "1"]
    assert await newest(True) == ["2", "draft-1", "1"]
    assert await listed(f"{AGENT}:2") == await listed("2") == ["draft-1", "1"]


async def test_versions_in_some_statuses(store: Store) -> None:
    """versions_in looks through all projects."""
    active = shapes.version("1", status=VersionStatus.ACTIVE)
    creating = shapes.version("1", project="other")
    await _put_versions(store, active, creating, shapes.version("2", status=VersionStatus.FAILED))
    wanted = [VersionStatus.CREATING, VersionStatus.ACTIVE]
    assert await store.read(lambda c: agent_rows.versions_in(c, wanted)) == [active, creating]
    assert await store.read(lambda c: agent_rows.versions_in(c, [])) == []


async def test_code_is_in_use_as_long_as_a_version_has_it(store: Store) -> None:
    """code_in_use turns false with the last version made from the zip."""
    await _put_versions(store, shapes.version("1", definition=shapes.code("abc")))
    assert await store.read(lambda c: agent_rows.code_in_use(c, "abc"))
    assert await store.write(lambda c: agent_rows.delete_version(c, PROJECT, AGENT, "1"))
    assert not await store.read(lambda c: agent_rows.code_in_use(c, "abc"))


# Sessions and sandboxes


async def _put_sessions(store: Store, *sessions: Session) -> None:
    for session in sessions:
        await store.write(ask(session_rows.put_session, session))


async def test_sessions_by_caller_and_version(store: Store) -> None:
    """list_sessions can keep to one isolation key, sessions_of_version to one version."""
    await _put_sessions(store, shapes.session("a"), shapes.session("b", caller="user-b", version="2"))
    mine = await store.read(lambda c: session_rows.list_sessions(c, PROJECT, AGENT, EVERYTHING, caller=USER))
    everyone = await store.read(lambda c: session_rows.list_sessions(c, PROJECT, AGENT, EVERYTHING))
    second = await store.read(lambda c: session_rows.sessions_of_version(c, PROJECT, AGENT, "2"))
    assert [s.id for s in mine.items] == ["a"]
    assert [s.id for s in everyone.items] == ["a", "b"]
    assert [s.id for s in second] == ["b"]


async def test_live_sessions_are_those_to_look_after(store: Store) -> None:
    """Only a session that is wanted stopped and was last seen without a sandbox is left out."""
    every = [
        shapes.session(f"{desired}-{observed}", desired=desired, observed=observed)
        for desired in Desired
        for observed in Observed
    ]
    await _put_sessions(store, *every)
    left_out = {s.id for s in every} - {s.id for s in await store.read(session_rows.live_sessions)}
    assert left_out == {"stopped-none", "stopped-failed"}


async def test_a_session_expires_by_its_last_access(store: Store) -> None:
    """expired_sessions returns what the domain calls expired, and touching moves a session out of it."""
    await _put_sessions(
        store,
        shapes.session("old", last_accessed_at=100.0),
        shapes.session("touched", last_accessed_at=100.0),
        shapes.session("deleted", last_accessed_at=100.0, desired=Desired.DELETED),
        shapes.session("new", last_accessed_at=200.0),
    )
    accessed = {(PROJECT, AGENT, "touched"): 150.0, (PROJECT, AGENT, "new"): 120.0, (PROJECT, AGENT, "unknown"): 9.0}
    await store.write(lambda c: session_rows.touch_sessions(c, accessed))
    await store.write(lambda c: session_rows.touch_sessions(c, {}))

    async def expired(now: float) -> list[str]:
        return [s.id for s in await store.read(lambda c: session_rows.expired_sessions(c, now))]

    assert await expired(100.0 + LIFETIME) == ["old"]
    assert await expired(99.9 + LIFETIME) == []
    assert await expired(150.0 + LIFETIME) == ["old", "touched"]
    new = await store.read(lambda c: session_rows.get_session(c, PROJECT, AGENT, "new"))
    assert new is not None
    assert new.last_accessed_at == 200.0


async def test_expired_sessions_come_in_portions(store: Store) -> None:
    """Longest unused first; those that are being deleted already take nobody's place."""
    await _put_sessions(
        store,
        shapes.session("third", last_accessed_at=103.0),
        shapes.session("gone", last_accessed_at=100.0, desired=Desired.DELETED),
        shapes.session("second", last_accessed_at=102.0),
        shapes.session("first", last_accessed_at=101.0),
    )
    found = await store.read(lambda c: session_rows.expired_sessions(c, 200.0 + LIFETIME, 2))
    assert [session.id for session in found] == ["first", "second"]


async def test_usage_is_kept_and_never_goes_back(store: Store) -> None:
    """Of sessions and of sandboxes; what is unknown is passed over; the same total twice changes nothing."""
    await _put_sessions(store, shapes.session("s1"), shapes.session("s2"))
    await store.write(ask(sandbox_rows.put_sandbox, shapes.sandbox("b1")))

    async def keep(*sessions: Session, **sandboxes: float) -> None:
        await store.write(lambda c: session_rows.keep_usage(c, sessions))
        await store.write(lambda c: sandbox_rows.keep_usage(c, sandboxes))

    await keep(shapes.session("s1").to_used(10, 4), shapes.session("nobody").to_used(1, 1), b1=4.0, b2=1.0)
    for _ in range(2):
        await keep(shapes.session("s1").to_used(9, 3), b1=3.0)
        await keep()
        known = [await store.read(ask(session_rows.get_session, PROJECT, AGENT, id)) for id in ("s1", "s2")]
        assert [s and (s.used_seconds, s.used_cpu_seconds) for s in known] == [(10, 4), (0, 0)]
        assert [row.used_cpu_seconds for row in await store.read(sandbox_rows.all_sandboxes)] == [4]


async def test_a_conversation_stays_with_its_session(store: Store) -> None:
    """A binding lasts until the session is deleted, and the newest counts."""

    async def bound() -> str | None:
        return await store.read(lambda c: session_rows.session_of_conversation(c, PROJECT, AGENT, "conv_1"))

    await _put_sessions(store, shapes.session("s1"), shapes.session("s2"))
    assert await bound() is None
    for id in ("s1", "s2"):
        await store.write(ask(session_rows.bind_conversation, PROJECT, AGENT, "conv_1", id))
    assert await bound() == "s2"
    assert await store.write(lambda c: session_rows.delete_session(c, PROJECT, AGENT, "s1"))
    assert await bound() == "s2"
    assert await store.write(lambda c: session_rows.delete_session(c, PROJECT, AGENT, "s2"))
    assert await bound() is None


async def test_a_session_has_at_most_one_sandbox(store: Store) -> None:
    """The second sandbox of a session is a conflict; warm ones have none, and the first may be put again."""
    first = shapes.sandbox("sbx-1")
    await store.write(lambda c: sandbox_rows.put_sandbox(c, first))
    await store.write(lambda c: sandbox_rows.put_sandbox(c, replace(first, observed=Observed.READY)))
    for id in ("sbx-2", "sbx-3"):
        await store.write(ask(sandbox_rows.put_sandbox, shapes.sandbox(id, session=None)))
    with pytest.raises(Conflict, match="s1"):
        await store.write(lambda c: sandbox_rows.put_sandbox(c, shapes.sandbox("sbx-4")))
    with pytest.raises(Conflict, match="s1"):
        await store.write(lambda c: sandbox_rows.put_sandbox(c, shapes.sandbox("sbx-2", session="s1")))
    await store.write(lambda c: sandbox_rows.put_sandbox(c, shapes.sandbox("sbx-5", agent="other")))
    found = await store.read(lambda c: sandbox_rows.sandbox_of_session(c, PROJECT, AGENT, "s1"))
    assert found == replace(first, observed=Observed.READY)
    ids = [sandbox.id for sandbox in await store.read(sandbox_rows.all_sandboxes)]
    assert ids == ["sbx-1", "sbx-2", "sbx-3", "sbx-5"]


# Snapshots


async def _snapshot_ids(store: Store, session: str = "s1", caller: str | None = None) -> list[str]:
    listed = ask(snapshot_rows.list_snapshots, PROJECT, AGENT, session, Page(), caller)
    return [snapshot.id for snapshot in (await store.read(listed)).items]


async def test_a_snapshot_comes_back_as_it_was(store: Store) -> None:
    """Whatever it holds; putting it again replaces it where it stands."""
    first = shapes.snapshot(note="before the upgrade", size=1 << 40)
    for made in (first, shapes.snapshot("snap-2"), replace(first, size=1)):
        await store.write(ask(snapshot_rows.put_snapshot, made))
    assert await store.read(ask(snapshot_rows.get_snapshot, PROJECT, "snap-1")) == replace(first, size=1)
    assert await store.read(ask(snapshot_rows.get_snapshot, "elsewhere", "snap-1")) is None
    assert await _snapshot_ids(store) == ["snap-2", "snap-1"]
    assert await store.write(ask(snapshot_rows.delete_snapshot, PROJECT, "snap-1"))
    assert not await store.write(ask(snapshot_rows.delete_snapshot, PROJECT, "snap-1"))


async def test_snapshots_are_listed_for_their_session_and_caller(store: Store) -> None:
    """Those being made too, but not what is nobody's."""
    for made in (
        shapes.snapshot("snap-1"),
        shapes.snapshot("snap-2", state=SnapshotState.MAKING),
        shapes.snapshot("snap-3", state=SnapshotState.SPARE),
        shapes.snapshot("snap-4", session="s2"),
        shapes.snapshot("snap-5", caller="user-b"),
        shapes.snapshot("snap-6", agent="other"),
    ):
        await store.write(ask(snapshot_rows.put_snapshot, made))
    assert await _snapshot_ids(store) == ["snap-5", "snap-2", "snap-1"]
    assert await _snapshot_ids(store, caller=USER) == ["snap-2", "snap-1"]
    unfinished = await store.read(snapshot_rows.unfinished_snapshots)
    assert [snapshot.id for snapshot in unfinished] == ["snap-2", "snap-3"]


async def test_what_goes_releases_its_snapshots(store: Store) -> None:
    """A session its own caller's, an agent all; what is returned is what is nobody's now."""
    for made in (
        shapes.snapshot("snap-1"),
        shapes.snapshot("snap-2", session="s2"),
        shapes.snapshot("snap-3", caller="user-b"),
        shapes.snapshot("snap-4", agent="other"),
    ):
        await store.write(ask(snapshot_rows.put_snapshot, made))
    released = await store.write(ask(snapshot_rows.release_of_session, PROJECT, AGENT, "s1", USER))
    assert released == [shapes.snapshot("snap-1", state=SnapshotState.SPARE)]
    released = await store.write(ask(snapshot_rows.release_of_agent, PROJECT, AGENT))
    assert [(snapshot.id, snapshot.state) for snapshot in released] == [
        (id, SnapshotState.SPARE) for id in ("snap-1", "snap-2", "snap-3")
    ]


# Invocations


async def test_an_invocation_comes_back_as_it_was(store: Store) -> None:
    """Under its project and agent only; a second one of its id changes nothing."""
    first = shapes.invocation(session="s1")
    for invocation in (first, shapes.invocation(agent="other", session="s2"), shapes.invocation(session="s3")):
        await store.write(ask(invocation_rows.put_invocation, invocation))
    assert await store.read(ask(invocation_rows.get_invocation, PROJECT, AGENT, first.id)) == first
    assert await store.read(ask(invocation_rows.get_invocation, PROJECT, AGENT, "inv_2")) is None
    assert await store.read(ask(invocation_rows.get_invocation, "elsewhere", AGENT, first.id)) is None


async def test_old_invocations_are_deleted(store: Store) -> None:
    """Those made before the time that is given, of all agents."""
    made = [shapes.invocation(f"inv_{n}", agent=f"a{n % 2}", created_at=float(n)) for n in range(4)]
    for invocation in made:
        await store.write(ask(invocation_rows.put_invocation, invocation))
    assert await store.write(ask(invocation_rows.delete_invocations, 2.0)) == 2
    found = [await store.read(ask(invocation_rows.get_invocation, PROJECT, i.agent, i.id)) for i in made]
    assert found == [None, None, *made[2:]]


# Responses and conversations


async def _body(store: Store, id: str = "caresp_1") -> Any:
    found = await store.read(lambda c: response_rows.get_response(c, PROJECT, id))
    return None if found is None else found.body


async def test_a_response_is_created_once(store: Store) -> None:
    """The second create of an id says so and changes nothing."""
    first = shapes.response()
    assert await store.write(lambda c: response_rows.create_response(c, first, [item("msg_in")]))
    again = shapes.response(status="completed")
    assert not await store.write(lambda c: response_rows.create_response(c, again, [item("msg_in", "changed")]))
    assert await _body(store) == first.body
    assert await store.read(lambda c: response_rows.get_items(c, PROJECT, ["msg_in"], USER)) == [item("msg_in")]


async def test_a_response_becomes_the_context_of_the_next(store: Store) -> None:
    """History is what it was given, its input and its output, oldest first."""
    begun = shapes.response(history_item_ids=("old_1", "old_2"))
    await store.write(lambda c: response_rows.create_response(c, begun, [item("in_1"), item("in_2")]))
    ended = shapes.response(status="completed", output=("out_1", "out_2"))
    await store.write(lambda c: response_rows.save_response(c, ended))
    context = await store.read(lambda c: response_rows.history_of_response(c, PROJECT, "caresp_1"))
    assert context == ("old_1", "old_2", "in_1", "in_2", "out_1", "out_2")
    outputs = await store.read(lambda c: response_rows.get_items(c, PROJECT, ["out_1", "out_2"], USER))
    assert outputs == [item("out_1"), item("out_2")]
    assert await store.read(lambda c: response_rows.history_of_response(c, PROJECT, "unknown")) is None


async def test_what_is_final_stays_final(store: Store) -> None:
    """A late body that is not final changes nothing; a later final one does."""
    completed = shapes.response(status="completed", output=("out_1",))
    await store.write(lambda c: response_rows.save_response(c, completed))
    late = shapes.response(output=("out_1", "out_2"))
    await store.write(lambda c: response_rows.save_response(c, late))
    assert await _body(store) == completed.body
    failed = replace(completed, body=failed_body(completed.body, "The sandbox ended.", 5.0))
    await store.write(lambda c: response_rows.save_response(c, failed))
    assert await _body(store) == failed.body


async def test_in_progress_responses_of_some_sessions(store: Store) -> None:
    """Unfinished responses are found by their session, or all of them."""
    for id, session, status in (("r1", "s1", "in_progress"), ("r2", "s2", "queued"), ("r3", "s1", "completed")):
        made = shapes.response(id, status=status, session=session)
        await store.write(ask(response_rows.create_response, made, []))

    async def ids(sessions: list[tuple[str, str, str]] | None) -> list[str]:
        found = await store.read(lambda c: response_rows.in_progress_responses(c, sessions))
        return [response.id for response in found]

    assert await ids(None) == ["r1", "r2"]
    assert await ids([(PROJECT, AGENT, "s1")]) == ["r1"]
    assert await ids([]) == []


async def test_a_deleted_response_is_gone(store: Store) -> None:
    """delete_response says whether there was one; those that continued it keep their history."""
    await store.write(lambda c: response_rows.create_response(c, shapes.response(), [item("in_1")]))
    assert await store.write(lambda c: response_rows.delete_response(c, PROJECT, "caresp_1"))
    assert not await store.write(lambda c: response_rows.delete_response(c, PROJECT, "caresp_1"))
    assert await _body(store) is None
    assert await store.read(lambda c: response_rows.get_items(c, PROJECT, ["in_1"], USER)) == [item("in_1")]


async def test_items_are_aligned_and_belong_to_their_user(store: Store) -> None:
    """Unknown ids and those of others give None in their places, and nobody writes over another's item."""
    await store.write(lambda c: response_rows.put_items(c, PROJECT, USER, [item("a"), item("b")]))
    await store.write(lambda c: response_rows.put_items(c, PROJECT, "user-b", [item("a", "not yours"), item("c")]))
    ids = ["b", "unknown", "a", "c", "b"]
    found = await store.read(lambda c: response_rows.get_items(c, PROJECT, ids, USER))
    assert found == [item("b"), None, item("a"), None, item("b")]
    many = [f"msg_{number}" for number in range(1203)]
    await store.write(lambda c: response_rows.put_items(c, PROJECT, USER, [item(id) for id in many]))
    found = await store.read(lambda c: response_rows.get_items(c, PROJECT, many, USER))
    assert [entry and entry["id"] for entry in found] == many


async def test_an_item_needs_an_id(store: Store) -> None:
    """An input item without an id is refused by its place, and nothing of the request is kept."""
    with pytest.raises(BadRequest) as refused:
        await store.write(lambda c: response_rows.create_response(c, shapes.response(), [item("a"), {"type": "x"}]))
    assert refused.value.param == "items[1].id"
    assert await _body(store) is None
    assert await store.read(lambda c: response_rows.get_items(c, PROJECT, ["a"], USER)) == [None]


async def test_a_conversation_remembers_in_the_order_in_which_things_came(store: Store) -> None:
    """Items put in directly and those of its responses stand where they came, none of them twice."""
    conv = "conv_1"

    async def history() -> tuple[str, ...]:
        return await store.read(lambda c: response_rows.history_of_conversation(c, PROJECT, conv))

    await store.write(lambda c: conversation_rows.add_items(c, PROJECT, conv, USER, [item("direct_1")]))
    one, two = shapes.response("r1", conversation=conv), shapes.response("r2", conversation=conv)
    await store.write(lambda c: response_rows.create_response(c, one, [item("in_1")]))
    await store.write(lambda c: response_rows.create_response(c, two, [item("in_2"), item("direct_1")]))
    assert await history() == ("direct_1", "in_1", "in_2")
    unfinished = shapes.response("r1", output=("out_1",))
    await store.write(lambda c: response_rows.save_response(c, unfinished))
    assert await history() == ("direct_1", "in_1", "in_2")
    for id, output in (("r2", "out_2"), ("r1", "out_1"), ("r1", "out_1")):
        ended = shapes.response(id, status="completed", output=(output,))
        await store.write(ask(response_rows.save_response, ended))
    await store.write(lambda c: conversation_rows.add_items(c, PROJECT, conv, USER, [item("in_1"), item("direct_2")]))
    assert await history() == ("direct_1", "in_1", "in_2", "out_2", "out_1", "direct_2")
    assert await store.read(lambda c: response_rows.history_of_conversation(c, PROJECT, "unknown")) == ()


async def test_a_response_written_once_at_its_end_joins_its_conversation_whole(store: Store) -> None:
    """The oldest adapters create a response when it is final: input and output go in together."""
    made = shapes.response(status="completed", output=("out_1",), conversation="conv_1")
    await store.write(lambda c: response_rows.create_response(c, made, [item("in_1")]))
    found = await store.read(lambda c: response_rows.history_of_conversation(c, PROJECT, "conv_1"))
    assert found == ("in_1", "out_1")


async def test_items_leave_a_conversation(store: Store) -> None:
    """A deleted item is neither listed nor found in its conversation; a deleted conversation is empty."""
    await store.write(lambda c: conversation_rows.put_conversation(c, shapes.conversation()))
    added = [item("a"), item("b"), item("c")]
    await store.write(lambda c: conversation_rows.add_items(c, PROJECT, "conv_1", USER, added))

    async def listed() -> list[Any]:
        return (await store.read(lambda c: conversation_rows.list_items(c, PROJECT, "conv_1", EVERYTHING))).items

    assert await listed() == added
    assert await store.read(lambda c: conversation_rows.get_item(c, PROJECT, "conv_1", "b")) == item("b")
    assert await store.write(lambda c: conversation_rows.delete_item(c, PROJECT, "conv_1", "b"))
    assert not await store.write(lambda c: conversation_rows.delete_item(c, PROJECT, "conv_1", "b"))
    assert await store.read(lambda c: conversation_rows.get_item(c, PROJECT, "conv_1", "b")) is None
    assert await listed() == [item("a"), item("c")]
    assert await store.write(lambda c: conversation_rows.delete_conversation(c, PROJECT, "conv_1"))
    assert await store.read(lambda c: conversation_rows.get_conversation(c, PROJECT, "conv_1")) is None
    assert await listed() == []
    assert not await store.write(lambda c: conversation_rows.delete_conversation(c, PROJECT, "conv_1"))


# State


async def _put_state(store: Store, state_store: StateStore, *kept: StateItem, user: str = USER) -> None:
    def change(conn: Connection) -> None:
        state_rows.put_store(conn, state_store)
        for one in kept:
            state_rows.put_item(conn, state_store, user, one)

    await store.write(change)


async def test_state_belongs_to_one_agent_and_one_user(store: Store) -> None:
    """Stores of one name in other agents and projects, and items of one key of other users, are others."""
    mine, others = shapes.state_store(), [shapes.state_store(agent="b"), shapes.state_store(project="c")]
    await _put_state(store, mine, shapes.state_item(value={"of": "mine"}))
    for other in others:
        await _put_state(store, other, shapes.state_item(value={"of": "other"}))
    await _put_state(store, mine, shapes.state_item(value={"of": "another user"}), user="user-b")
    await store.write(lambda c: state_rows.delete_stores(c, PROJECT, "b"))
    found = await store.read(lambda c: state_rows.get_item(c, mine, USER, "k", 1.0))
    assert found is not None
    assert found.value == {"of": "mine"}
    assert await store.read(lambda c: state_rows.get_item(c, others[0], USER, "k", 1.0)) is None
    assert await store.read(lambda c: state_rows.get_item(c, others[1], USER, "k", 1.0)) is not None


async def test_a_store_takes_its_items_with_it(store: Store) -> None:
    """Also when its agent is deleted; changing a store keeps them."""
    await store.write(ask(agent_rows.put_agent, shapes.agent()))
    await _put_state(store, shapes.state_store(), shapes.state_item())
    await _put_state(store, shapes.state_store(description="changed"))
    assert await store.read(lambda c: state_rows.get_item(c, shapes.state_store(), USER, "k", 1.0)) is not None
    await store.write(lambda c: agent_rows.delete_agent(c, PROJECT, AGENT))
    assert await store.read(lambda c: state_rows.get_store(c, PROJECT, AGENT, "notes")) is None
    await _put_state(store, shapes.state_store())
    assert await store.read(lambda c: state_rows.get_item(c, shapes.state_store(), USER, "k", 1.0)) is None
    await store.write(lambda c: state_rows.delete_store(c, shapes.state_store()))
    assert await store.read(lambda c: state_rows.get_store(c, PROJECT, AGENT, "notes")) is None


async def test_expired_state_is_invisible_before_it_is_removed(store: Store) -> None:
    """No question finds it, its key is free for an item of its own place, and removing goes some at a time."""
    kept = shapes.state_store()
    await _put_state(store, kept, *(shapes.state_item(key, expires_at=10.0 + n) for n, key in enumerate("abc")))
    await _put_state(store, kept, shapes.state_item("d"))

    async def keys(now: float) -> list[str]:
        listed = await store.read(lambda c: state_rows.list_items(c, kept, USER, {}, EVERYTHING, now))
        return [one.key for one in listed.items]

    assert await keys(9.0) == ["a", "b", "c", "d"]
    assert await keys(11.0) == ["c", "d"]
    assert await store.read(lambda c: state_rows.get_item(c, kept, USER, "b", 11.0)) is None
    await _put_state(store, kept, shapes.state_item("b", id="it_again", updated_at=11.0))
    assert await keys(11.0) == ["c", "d", "b"]
    counts = [await store.write(lambda c: state_rows.delete_expired(c, 20.0, 1)) for _ in range(3)]
    assert counts == [1, 1, 0]
    assert await keys(0.0) == ["d", "b"]


# Paging

_projects = count()


async def _agents_named(store: Store, names: list[str]) -> str:
    """A project of its own with these agents, all of one instant, made in this order."""
    project = f"project-{next(_projects)}"
    for name in names:
        await store.write(ask(agent_rows.put_agent, shapes.agent(name, project)))
    return project


async def _page(store: Store, project: str, page: Page) -> tuple[list[str], bool]:
    found = await store.read(lambda c: agent_rows.list_agents(c, project, page))
    return [agent.name for agent in found.items], found.has_more


_name_lists = st.lists(st.text("abcdef", min_size=1, max_size=4), unique=True, max_size=12)
_orders = st.sampled_from(["asc", "desc"])


@anything
@given(_name_lists, st.integers(1, 5), _orders)
async def test_a_walk_is_the_whole_list(store: Store, names: list[str], limit: int, order: Order) -> None:
    """Page by page, forwards and backwards, a walk meets everything once, in order, and knows when it ends."""
    project = await _agents_named(store, names)
    wanted = names if order == "asc" else names[::-1]
    assert await _page(store, project, Page(-1, order)) == (wanted, False)
    walked, has_more, after = list[str](), bool(names), None
    while has_more:
        found, has_more = await _page(store, project, Page(limit, order, after=after))
        assert found
        walked, after = walked + found, found[-1]
    assert walked == wanted
    if names:
        assert await _page(store, project, Page(limit, order, after=wanted[-1])) == ([], False)
        back, has_more, before = list[str](), True, wanted[-1]
        while has_more:
            found, has_more = await _page(store, project, Page(limit, order, before=before))
            back, before = found + back, (found or [before])[0]
        assert back == wanted[:-1]


@anything
@given(_name_lists.filter(lambda names: len(names) >= 2), st.data(), _orders)
async def test_after_and_before_cut_out_what_is_between(
    store: Store, names: list[str], data: st.DataObject, order: Order
) -> None:
    """With both cursors a page holds what stands strictly between them."""
    project = await _agents_named(store, names)
    wanted = names if order == "asc" else names[::-1]
    after, before = (data.draw(st.integers(0, len(names) - 1)) for _ in range(2))
    page = Page(-1, order, after=wanted[after], before=wanted[before])
    assert await _page(store, project, page) == (wanted[after + 1 : before], False)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_cursor_that_names_nothing_gives_an_empty_page(store: Store, order: Order) -> None:
    """An unknown id, or one deleted during the walk, ends the walk; so does one of another project."""
    project = await _agents_named(store, ["a", "b", "c"])
    other = await _agents_named(store, ["elsewhere"])
    await store.write(lambda c: agent_rows.delete_agent(c, project, "b"))
    for name in ("b", "unknown", "elsewhere"):
        assert await _page(store, project, Page(20, order, after=name)) == ([], False)
        assert await _page(store, project, Page(20, order, before=name)) == ([], False)
    assert await _page(store, other, Page(20, order)) == (["elsewhere"], False)


async def test_pages_stay_where_they_are_while_others_insert(store: Store) -> None:
    """What comes during a walk stands at the end of an ascending one and in front of a descending one."""
    project = await _agents_named(store, ["a", "b", "c", "d"])
    for order, rest in (("desc", ["b", "a"]), ("asc", ["c", "d", "new-desc", "new-asc"])):
        first, _ = await _page(store, project, Page(2, order))  # type: ignore[arg-type]  # loop variable, not a literal
        await store.write(ask(agent_rows.put_agent, shapes.agent(f"new-{order}", project)))
        page = Page(20, order, after=first[-1])  # type: ignore[arg-type]  # loop variable, not a literal
        assert await _page(store, project, page) == (rest, False)


async def test_items_of_a_conversation_are_paged(store: Store) -> None:
    """The default page is the newest twenty; cursors are item ids."""
    ids = [f"msg_{number}" for number in range(25)]
    await store.write(lambda c: conversation_rows.add_items(c, PROJECT, "conv_1", USER, [item(id) for id in ids]))
    first = await store.read(lambda c: conversation_rows.list_items(c, PROJECT, "conv_1", Page()))
    assert [entry["id"] for entry in first.items] == ids[:4:-1]
    assert first.has_more
    rest = await store.read(lambda c: conversation_rows.list_items(c, PROJECT, "conv_1", Page(after=ids[5])))
    assert [entry["id"] for entry in rest.items] == ids[4::-1]
    assert not rest.has_more


# Reading and writing


async def test_a_failing_change_fails_alone(store: Store) -> None:
    """Of many changes at once, one that fails leaves nothing behind and takes nobody with it."""

    def half(conn: Connection) -> None:
        agent_rows.put_agent(conn, shapes.agent("half"))
        raise ValueError("changed my mind")

    def good(name: str) -> Any:
        return store.write(lambda c: agent_rows.put_agent(c, shapes.agent(name)))

    def orphan() -> Any:
        return store.write(lambda c: agent_rows.put_version(c, shapes.version(agent="nobody")))

    outcomes = await asyncio.gather(
        good("a"), store.write(half), good("b"), orphan(), good("c"), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), ValueError, type(None), Conflict, type(None)]
    names, _ = await _page(store, PROJECT, EVERYTHING)
    assert names == ["a", "b", "c"]


async def test_a_read_sees_what_was_submitted_before(store: Store) -> None:
    """Also what nobody waits for, and changes run in the order of their submission."""
    for number in range(50):
        change = shapes.agent(last_number=number)
        store.write_later(ask(agent_rows.put_agent, change))
        found = await store.read(lambda c: agent_rows.get_agent(c, PROJECT, AGENT))
        assert found == change
    for number in range(50):
        change = shapes.agent(last_number=number)
        store.write_later(ask(agent_rows.put_agent, change))
    assert await store.read(lambda c: agent_rows.get_agent(c, PROJECT, AGENT)) == shapes.agent(last_number=49)


async def test_a_write_returns_what_the_change_returned(store: Store) -> None:
    """A change may look before it writes, and its answer comes back."""

    def count_up(conn: Connection) -> int:
        found = agent_rows.get_agent(conn, PROJECT, AGENT) or shapes.agent()
        agent_rows.put_agent(conn, replace(found, last_number=found.last_number + 1))
        return found.last_number + 1

    numbers = await asyncio.gather(*(store.write(count_up) for _ in range(100)))
    assert numbers == list(range(1, 101))


async def test_a_write_whose_caller_leaves_still_happens(store: Store) -> None:
    """Cancelling the caller does not cancel the change."""
    task = asyncio.create_task(store.write(lambda c: agent_rows.put_agent(c, shapes.agent())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.read(lambda c: agent_rows.get_agent(c, PROJECT, AGENT)) is not None


async def test_closing_commits_what_is_queued(store: Store, tmp_path: Path) -> None:
    """After aclose everything submitted is in the database, and further calls say that the store is closed."""
    for number in range(300):
        change = shapes.agent(f"a{number}")
        store.write_later(ask(agent_rows.put_agent, change))
    await store.aclose()
    await store.aclose()
    with pytest.raises(SetupError, match="closed"):
        await store.read(sandbox_rows.all_sandboxes)
    with pytest.raises(SetupError, match="closed"):
        await store.write(sandbox_rows.all_sandboxes)
    again = Store.open(tmp_path / "cupola.db")
    try:
        names, _ = await _page(again, PROJECT, EVERYTHING)
        assert len(names) == 300
    finally:
        await again.aclose()


_WRITES_UNTIL_KILLED = """
import asyncio, sys
from pathlib import Path
from cupola.store import Store, agents
from tests.store import shapes

async def main():
    store = Store.open(Path(sys.argv[1]))
    for number in range(10_000):
        await store.write(lambda c: agents.put_agent(c, shapes.agent(last_number=number)))
        print(number, flush=True)

asyncio.run(main())
"""


async def test_what_write_returned_survives_a_kill(tmp_path: Path) -> None:
    """SIGKILL in the middle of writing loses nothing that was reported as written, and the store opens again."""
    database = tmp_path / "killed.db"
    command = [sys.executable, "-c", _WRITES_UNTIL_KILLED, str(database)]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, path])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as writer:
        assert writer.stdout is not None
        reported = [int(writer.stdout.readline()) for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        reported += [int(line) for line in writer.stdout.read().splitlines()]
    store = Store.open(database)
    try:
        found = await store.read(lambda c: agent_rows.get_agent(c, PROJECT, AGENT))
        assert found is not None
        assert found.last_number >= reported[-1]
    finally:
        await store.aclose()


async def test_a_full_disk_is_named(store: Store) -> None:
    """A write that finds no room says where; the neighbours and the store go on."""

    def fill(conn: Connection) -> None:
        (pages,) = conn.exec_driver_sql("PRAGMA page_count").one()
        conn.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        try:
            response_rows.put_items(conn, PROJECT, USER, [item("big", "x" * 10_000_000)])
        finally:
            conn.exec_driver_sql("PRAGMA max_page_count = 1073741823")

    good = [store.write(ask(agent_rows.put_agent, shapes.agent(f"a{n}"))) for n in range(3)]
    outcomes = await asyncio.gather(good[0], store.write(fill), *good[1:], return_exceptions=True)
    failed = outcomes[1]
    assert isinstance(failed, CupolaError)
    assert failed.code == "storage_full"
    assert "No space is left" in failed.message
    names, _ = await _page(store, PROJECT, EVERYTHING)
    done = [outcome is None for outcome in (outcomes[0], *outcomes[2:])]
    assert names == [f"a{number}" for number, was_done in enumerate(done) if was_done]
    await store.write(lambda c: agent_rows.put_agent(c, shapes.agent("later")))
