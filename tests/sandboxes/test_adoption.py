"""New sessions in warm sandboxes: which of them, under which id, and what happens when it does not work."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from cupola.drivers.fake_hooks import Hooks
from cupola.errors import SetupError
from cupola.identity import Role
from cupola.sandboxes.live import LiveSandbox
from cupola.sessions import Session, SessionStatus
from cupola.store import sandboxes as sandbox_rows
from cupola.store import sessions as session_rows
from cupola.timings import SessionStart
from tests.support.agents import echo
from tests.support.platform import PROJECT, Caller, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until
from tests.support.warm import LATE, create_with_pool, settle_pools, warm_of

SESSIONS = f"{PROJECT}/agents/a1/endpoint/sessions"


async def filled(platform: PlatformUnderTest, size: int) -> PlatformUnderTest:
    await create_with_pool(platform, size)
    await settle_pools(platform)
    return platform


def live_of(platform: PlatformUnderTest, session: str) -> LiveSandbox:
    live = platform.platform.sandboxes.live_of(("demo", "a1", session))
    assert live is not None
    return live


def sandbox_of(platform: PlatformUnderTest, session: str) -> FakeSandbox:
    return platform.place.sandboxes[live_of(platform, session).row.id]


async def stored(platform: PlatformUnderTest, session: str) -> Session:
    found = await platform.store.read(lambda conn: session_rows.get_session(conn, "demo", "a1", session))
    assert found is not None
    return found


def starts(platform: PlatformUnderTest) -> int:
    return platform.place.starts.total()


# Which sandbox, which id


async def test_a_session_with_its_own_id_is_served_warm(tmp_path: Path) -> None:
    """Its sandbox was started without a session, and has this one's id and guid now."""
    async with open_platform(tmp_path, LATE) as platform:
        await filled(platform, 1)
        [waiting] = [live for live in warm_of(platform) if live.row.is_bound_late]
        assert "FOUNDRY_AGENT_SESSION_ID" not in platform.place.sandboxes[waiting.row.id].environment
        assert "FOUNDRY_AGENT_SESSION_GUID" not in platform.place.sandboxes[waiting.row.id].environment
        before = starts(platform)
        assert (await platform.hear(agent_session_id="mine"))["agent_session_id"] == "mine"
        assert (starts(platform), live_of(platform, "mine").start_type) == (before, SessionStart.WARM)
        environment, session = sandbox_of(platform, "mine").environment, await stored(platform, "mine")
        assert environment["FOUNDRY_AGENT_SESSION_ID"] == "mine"
        assert environment["FOUNDRY_AGENT_SESSION_GUID"] == session.guid
        assert (len(session.guid), session.guid) == (32, session.guid.lower())
        assert session.home == sandbox_of(platform, "mine").spec.home
        row = await platform.store.read(lambda conn: sandbox_rows.sandbox_of_session(conn, "demo", "a1", "mine"))
        assert row is not None
        assert (row.id, row.session_id, row.session_guid) == (waiting.row.id, "mine", session.guid)


async def test_sessions_without_ids_leave_those_that_take_any(tmp_path: Path) -> None:
    """They take the one that was started with an id first, and its id."""
    async with open_platform(tmp_path, LATE) as platform:
        await filled(platform, 2)
        [probed] = [live for live in warm_of(platform) if not live.row.is_bound_late]
        minted = probed.row.session_id
        assert (await platform.hear())["agent_session_id"] == minted
        assert [live.row.is_bound_late for live in warm_of(platform)] == [True, True]
        second = (await platform.hear())["agent_session_id"]
        assert sandbox_of(platform, second).environment["FOUNDRY_AGENT_SESSION_ID"] == second


async def test_without_hooks_an_id_of_its_own_starts_cold(platform: PlatformUnderTest) -> None:
    """What was started with another id cannot take it."""
    await filled(platform, 2)
    await platform.hear(agent_session_id="mine")
    assert live_of(platform, "mine").start_type is SessionStart.COLD
    assert len(warm_of(platform)) == 2
    warm = await platform.hear()
    assert live_of(platform, warm["agent_session_id"]).start_type is SessionStart.WARM


async def test_a_created_session_is_active_at_once(tmp_path: Path) -> None:
    """With an id of its own, and without."""
    async with open_platform(tmp_path, LATE) as platform:
        await filled(platform, 2)
        before = starts(platform)
        for body in ({"agent_session_id": "mine"}, {}):
            made = await platform.call("POST", SESSIONS, body)
            assert (made.status, made.json()["status"]) == (201, "active")
        assert starts(platform) == before
        again = await platform.call("POST", SESSIONS, {"agent_session_id": "mine"})
        assert (again.status, again.error["param"]) == (409, "agent_session_id")


async def test_conversations_and_invocations_are_served_warm(tmp_path: Path) -> None:
    """Also those that name a session."""
    async with open_platform(tmp_path, LATE) as platform:
        await filled(platform, 3)
        before = starts(platform)
        conversation = await platform.conversation()
        first = await platform.hear(conversation=conversation)
        assert live_of(platform, first["agent_session_id"]).start_type is SessionStart.WARM
        assert (await platform.hear(conversation=conversation))["agent_session_id"] == first["agent_session_id"]
        await platform.hear(conversation=await platform.conversation(), agent_session_id="named")
        assert live_of(platform, "named").start_type is SessionStart.WARM
        path = f"{PROJECT}/agents/a1/endpoint/protocols/invocations?agent_session_id=invoked"
        assert (await platform.call("POST", path, {})).headers["x-agent-session-id"] == "invoked"
        assert live_of(platform, "invoked").start_type is SessionStart.WARM
        assert starts(platform) == before


async def test_a_session_that_exists_never_adopts(tmp_path: Path) -> None:
    """It has a home of its own: stopped, failed, or made but never started."""
    async with open_platform(tmp_path, LATE) as platform:
        await platform.create_version()
        await platform.hear()  # takes the probed one
        await platform.hear(agent_session_id="stopped")
        sandbox_of(platform, "stopped").files["mine"] = b"kept"
        await platform.call("POST", f"{SESSIONS}/stopped:stop")
        platform.place.behaviour = Behaviour(exit_code=1)
        assert (await platform.ask(agent_session_id="failed")).status == 424
        version = await platform.version_row("a1", "1")
        agent = (await platform.platform.warm.of_agent("demo", "a1"))[0].wish.agent
        await platform.platform.sandboxes.begin_session(agent, version, platform.user, "made")
        homes = {id: (await stored(platform, id)).home for id in ("stopped", "failed", "made")}
        platform.place.behaviour = LATE
        await filled(platform, 3)
        waiting = [live.row.id for live in warm_of(platform)]
        for id, start in (("stopped", SessionStart.RESUME), ("failed", SessionStart.COLD), ("made", SessionStart.COLD)):
            await platform.hear(agent_session_id=id)
            assert live_of(platform, id).start_type is start
            assert sandbox_of(platform, id).spec.home == homes[id]
        assert sandbox_of(platform, "stopped").files == {"mine": b"kept"}
        assert [live.row.id for live in warm_of(platform)] == waiting


async def test_what_it_wrote_while_it_waited_is_the_sessions(tmp_path: Path) -> None:
    """Also in the session's next sandbox."""
    async with open_platform(tmp_path, LATE) as platform:
        await filled(platform, 1)
        [waiting] = [live for live in warm_of(platform) if live.row.is_bound_late]
        platform.place.sandboxes[waiting.row.id].files["made at start"] = b"x"
        await platform.hear(agent_session_id="mine")
        await platform.call("POST", f"{SESSIONS}/mine:stop")
        await platform.hear(agent_session_id="mine")
        assert live_of(platform, "mine").start_type is SessionStart.RESUME
        assert sandbox_of(platform, "mine").files == {"made at start": b"x"}
        assert sandbox_of(platform, "mine").environment["FOUNDRY_AGENT_SESSION_ID"] == "mine"


# A burst


@pytest.mark.parametrize("own_ids", [True, False])
async def test_a_burst_is_served_from_the_pool(tmp_path: Path, own_ids: bool) -> None:
    """Twenty new sessions at once, a pool of twenty: none starts cold, and no two share a sandbox."""
    async with open_platform(tmp_path, LATE) as platform:
        await filled(platform, 20)
        before = starts(platform)
        fields: list[dict[str, Any]] = [{"agent_session_id": f"s{n}"} if own_ids else {} for n in range(20)]
        heard = await asyncio.gather(*(platform.hear(**each) for each in fields))
        sessions = {one["agent_session_id"] for one in heard}
        assert len(sessions) == 20
        assert starts(platform) == before
        assert {live_of(platform, session).start_type for session in sessions} == {SessionStart.WARM}
        assert len({live_of(platform, session).row.id for session in sessions}) == 20


async def test_a_burst_is_served_from_a_pool_of_minted_ids(platform: PlatformUnderTest) -> None:
    """Of containers without the hooks, as long as no session brings an id."""
    await filled(platform, 20)
    heard = await asyncio.gather(*(platform.hear() for _ in range(20)))
    assert {live_of(platform, one["agent_session_id"]).start_type for one in heard} == {SessionStart.WARM}
    assert starts(platform) == 20


async def test_a_burst_larger_than_the_pool_starts_the_rest(tmp_path: Path) -> None:
    """Nobody is refused."""
    async with open_platform(tmp_path, LATE) as platform:
        await filled(platform, 5)
        await asyncio.gather(*(platform.hear(agent_session_id=f"s{n}") for n in range(9)))
        began = [live_of(platform, f"s{n}").start_type for n in range(9)]
        assert (began.count(SessionStart.WARM), began.count(SessionStart.COLD)) == (5, 4)


# Races


async def test_two_requests_with_one_new_id_get_one_sandbox(tmp_path: Path) -> None:
    """The second waits for the first one's adoption; only one warm sandbox is used."""
    released = asyncio.Event()
    async with open_platform(tmp_path, replace(LATE, hooks=Hooks(released=released))) as platform:
        await filled(platform, 3)
        before = len(platform.running())
        asking = [asyncio.create_task(platform.ask(agent_session_id="s")) for _ in range(5)]
        creating = asyncio.create_task(platform.call("POST", SESSIONS, {"agent_session_id": "s"}))
        await wait_until(lambda: any(r.path == "/_agent/after-restore" for r in _requests(platform)))
        released.set()
        assert {(await each).status for each in asking} == {200}
        assert (await creating).status == 201
        assert len(platform.running()) == before
        assert len(warm_of(platform)) == before - 1
        assert [r.path for r in _requests(platform)].count("/_agent/after-restore") == 1


def _requests(platform: PlatformUnderTest) -> list[Request]:
    return [request for sandbox in platform.place.sandboxes.values() for request in sandbox.requests]


async def test_another_caller_does_not_get_into_it(tmp_path: Path) -> None:
    """Also not while it is being adopted."""
    released = asyncio.Event()
    async with open_platform(tmp_path, replace(LATE, hooks=Hooks(released=released))) as platform:
        await filled(platform, 2)
        ann, bob = (platform.caller(name, Role.USER) for name in ("ann", "bob"))
        first = asyncio.create_task(platform.ask(by=ann, agent_session_id="s"))
        await wait_until(lambda: any(r.path == "/_agent/after-restore" for r in _requests(platform)))
        second = asyncio.create_task(platform.ask(by=bob, agent_session_id="s"))
        created = asyncio.create_task(bob("POST", SESSIONS, {"agent_session_id": "s"}))
        released.set()
        assert (await first).status == 200
        for answer in (await second, await created):
            assert (answer.status, answer.error["code"]) == (403, "session_not_accessible")


async def test_who_leaves_does_not_break_off_the_adoption(tmp_path: Path) -> None:
    """The session is there when the next request comes."""
    released = asyncio.Event()
    async with open_platform(tmp_path, replace(LATE, hooks=Hooks(released=released))) as platform:
        await filled(platform, 1)
        asking = asyncio.create_task(platform.ask(agent_session_id="s"))
        await wait_until(lambda: any(r.path == "/_agent/after-restore" for r in _requests(platform)))
        asking.cancel()
        await asyncio.wait([asking])
        released.set()
        await platform.hear(agent_session_id="s")
        assert live_of(platform, "s").start_type is SessionStart.WARM


async def test_deleting_what_is_being_adopted_deletes_it(tmp_path: Path) -> None:
    """Whoever comes first, nothing is left behind."""
    released = asyncio.Event()
    async with open_platform(tmp_path, replace(LATE, hooks=Hooks(released=released))) as platform:
        await filled(platform, 1)
        asking = asyncio.create_task(platform.call("POST", SESSIONS, {"agent_session_id": "s"}))
        await wait_until(lambda: any(r.path == "/_agent/after-restore" for r in _requests(platform)))
        deleting = asyncio.create_task(platform.call("DELETE", f"{PROJECT}/agents/a1/versions/1?force=true"))
        await wait_until(lambda: deleting.done() or not warm_of(platform))
        released.set()
        await asyncio.wait([asking, deleting])
        await wait_until(lambda: platform.running() == [] and platform.place.homes == {})
        assert await platform.store.read(lambda conn: session_rows.get_session(conn, "demo", "a1", "s")) is None


async def test_a_session_that_came_into_being_elsewhere_keeps_its_home(tmp_path: Path) -> None:
    """The sandbox that was told its id goes; the session starts in its own."""
    released = asyncio.Event()
    async with open_platform(tmp_path, replace(LATE, hooks=Hooks(released=released))) as platform:
        await filled(platform, 1)
        [waiting] = [live for live in warm_of(platform) if live.row.is_bound_late]
        asking = asyncio.create_task(platform.ask(agent_session_id="s"))
        await wait_until(lambda: any(r.path == "/_agent/after-restore" for r in _requests(platform)))
        version = await platform.version_row("a1", "1")
        agent = (await platform.platform.warm.of_agent("demo", "a1"))[0].wish.agent
        made = await platform.platform.sandboxes.begin_session(agent, version, platform.user, "s")
        released.set()
        assert (await asking).status == 200
        assert live_of(platform, "s").start_type is SessionStart.COLD
        assert sandbox_of(platform, "s").spec.home == made.home
        await wait_until(lambda: waiting.row.id not in platform.running())


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_interleaves_a_session_has_one_sandbox(tmp_path: Path, seed: int) -> None:
    """Requests, creates, stops, deletions and passes over the pool at once, some sandboxes refusing their session."""
    dice = random.Random(seed)
    async with open_platform(tmp_path, LATE, max_sandboxes=12) as platform:
        await filled(platform, 4)
        paths = [f"{SESSIONS}/s{number}" for number in range(5)]

        async def act() -> int:
            session = dice.randrange(5)
            for live in warm_of(platform):
                refuses = dice.random() < 0.2
                platform.place.sandboxes[live.row.id].behaviour = replace(
                    LATE, hooks=Hooks(after=500 if refuses else 200)
                )
            match dice.randrange(6):
                case 0:
                    return (await platform.call("POST", f"{paths[session]}:stop")).status
                case 1:
                    return (await platform.call("DELETE", paths[session])).status
                case 2:
                    return (await platform.call("POST", SESSIONS, {"agent_session_id": f"s{session}"})).status
                case 3:
                    await platform.platform.warm.once()
                    return 200
                case _:
                    return (await platform.ask(agent_session_id=f"s{session}")).status

        for _ in range(12):
            answers = await asyncio.gather(*(act() for _ in range(8)))
            assert set(answers) <= {200, 201, 204, 404, 409, 429}, answers
            told = [sandbox.environment.get("FOUNDRY_AGENT_SESSION_ID") for sandbox in _serving(platform)]
            assert len(told) == len(set(told)), told
        await settle_pools(platform)
        await wait_until(lambda: platform.platform.sandboxes.room == 12 - len(platform.platform.sandboxes.live))
        rows = await platform.store.read(sandbox_rows.all_sandboxes)
        assert sorted(row.id for row in rows) == sorted(platform.running())
        sessions = [row.session for row in rows if row.session is not None]
        assert len(sessions) == len(set(sessions))


def _serving(platform: PlatformUnderTest) -> list[FakeSandbox]:
    """The sandboxes that sessions have."""
    lives = [live for live in platform.platform.sandboxes.live if live.session is not None]
    return [platform.place.sandboxes[live.row.id] for live in lives if live.row.id in platform.place.sandboxes]


# When it does not work


async def test_a_sandbox_that_refuses_its_session_is_discarded(tmp_path: Path) -> None:
    """The request goes to the next one; the one that refused is gone, with its home."""
    async with open_platform(tmp_path, LATE) as platform:
        await filled(platform, 2)
        bad, good = [live.row.id for live in warm_of(platform) if live.row.is_bound_late]
        platform.place.sandboxes[bad].behaviour = replace(LATE, hooks=Hooks(after=500))
        before = starts(platform)
        await platform.hear(agent_session_id="s")
        assert live_of(platform, "s").row.id == good
        await wait_until(lambda: bad not in platform.running())
        assert starts(platform) == before
        rows = await platform.store.read(sandbox_rows.all_sandboxes)
        assert bad not in {row.id for row in rows}
        assert len(platform.place.homes) == len(platform.running())


@pytest.mark.parametrize("after", [400, 409, 500])
async def test_when_all_refuse_it_starts_cold(tmp_path: Path, after: int) -> None:
    """A request never fails because of a warm sandbox."""
    async with open_platform(tmp_path, replace(LATE, hooks=Hooks(after=after))) as platform:
        await filled(platform, 3)
        await platform.hear(agent_session_id="s")
        assert live_of(platform, "s").start_type is SessionStart.COLD
        await wait_until(lambda: len(platform.running()) == 2)  # the session's and the probed one


async def test_a_full_disk_costs_no_warm_sandbox_with_an_id(platform: PlatformUnderTest) -> None:
    """What nothing was told yet waits on for the next session."""
    await filled(platform, 1)
    [waiting] = warm_of(platform)
    write = platform.store.write

    async def full(change: Any) -> Any:
        raise SetupError("The disk is full.", code="storage_full")

    platform.store.write = full  # type: ignore[method-assign]  # the one way to fill up a disk here
    assert (await platform.ask()).error["code"] == "storage_full"
    platform.store.write = write  # type: ignore[method-assign]  # as above
    assert (await platform.hear())["agent_session_id"] == waiting.row.session_id


async def test_a_dead_one_is_passed_over(tmp_path: Path) -> None:
    """Whether it was to be bound late, or is found dead by the request."""
    async with open_platform(tmp_path, LATE) as platform:
        await filled(platform, 2)
        for live in warm_of(platform):
            platform.place.sandboxes[live.row.id].exit(1)
        await platform.hear(agent_session_id="s")
        assert live_of(platform, "s").start_type is SessionStart.COLD
        await platform.hear()


async def test_a_kill_in_the_middle_of_an_adoption_loses_nothing(tmp_path: Path) -> None:
    """The sandbox that may have been told a session goes to nobody else's; the session begins anew."""
    released = asyncio.Event()
    async with open_platform(tmp_path, replace(LATE, hooks=Hooks(released=released))) as platform:
        await filled(platform, 1)
        [waiting] = [live for live in warm_of(platform) if live.row.is_bound_late]
        sandbox = platform.place.sandboxes[waiting.row.id]
        asking = asyncio.create_task(platform.ask(agent_session_id="s"))
        await wait_until(lambda: any(r.path == "/_agent/after-restore" for r in sandbox.requests))
        await platform.crash()
        await asyncio.wait([asking])
        sandbox.restored = {"FOUNDRY_AGENT_SESSION_ID": "s"}  # as if the call had just come through
        released.set()
        await platform.open()
        await platform.hear(agent_session_id="t")
        assert sandbox_of(platform, "t") is not sandbox
        await platform.hear(agent_session_id="s")
        assert sorted(live.row.session_id for live in platform.platform.sandboxes.live if live.session) == ["s", "t"]
        rows = await platform.store.read(sandbox_rows.all_sandboxes)
        await wait_until(lambda: sandbox.address is None or waiting.row.id not in platform.running())
        assert len({row.session for row in rows if row.session}) == 2


async def test_the_platform_can_stop_in_the_middle_of_an_adoption(tmp_path: Path) -> None:
    """Who waits is told; nothing stays behind."""
    released = asyncio.Event()
    async with open_platform(tmp_path, replace(LATE, hooks=Hooks(released=released))) as platform:
        await filled(platform, 1)
        asking = asyncio.create_task(platform.ask(agent_session_id="s"))
        await wait_until(lambda: any(r.path == "/_agent/after-restore" for r in _requests(platform)))
        await platform.platform.sandboxes.stop_all(0)
        answer = await asking
        assert (answer.status, "was broken off" in answer.error["message"]) == (409, True)
        assert platform.running() == []


# Who it is to the platform


async def identity_token(platform: PlatformUnderTest, live: LiveSandbox) -> str:
    """What the sandbox gets when it asks the token endpoint with its own secret."""
    header = {"x-identity-header": platform.tokens.sandbox_secret(live.row.id)}
    answer = await Caller(platform.token_endpoint, None)(
        "GET", "/msi/token?resource=https://ai.azure.com", headers=header
    )
    assert answer.status == 200
    return str(answer.json()["access_token"])


async def test_a_token_fetched_while_warm_follows_the_sandbox(tmp_path: Path) -> None:
    """It acts for nobody, then for the session that was given to it and for no other, then for nobody."""
    seen: list[str] = []

    async def note(sandbox: FakeSandbox, request: Request) -> Reply:
        seen.append(request.headers["x-agent-foundry-call-id"])
        return await echo(sandbox, request)

    async with open_platform(tmp_path, Behaviour(handler=note, hooks=Hooks())) as platform:
        await filled(platform, 1)
        [waiting] = [live for live in warm_of(platform) if live.row.is_bound_late]
        sandbox = Caller(platform.callbacks, await identity_token(platform, waiting))
        await platform.hear()  # another session, in the probed sandbox
        [others] = seen
        path = f"{PROJECT}/storage/history/item_ids"

        async def ask(call_id: str) -> int:
            return (await sandbox("GET", path, headers={"x-agent-foundry-call-id": call_id})).status

        assert await ask(others) == 403
        await platform.hear(agent_session_id="mine")
        assert waiting.session is not None
        assert await ask(seen[-1]) == 200
        assert await ask(others) == 403
        fresh = Caller(platform.callbacks, await identity_token(platform, waiting))
        assert (await fresh("GET", path, headers={"x-agent-foundry-call-id": seen[-1]})).status == 200
        await platform.call("POST", f"{SESSIONS}/mine:stop")
        assert await ask(seen[-1]) == 401


async def test_a_session_is_idle_after_an_adoption_as_after_any_start(tmp_path: Path) -> None:
    """The time counts from the adoption, however long it has waited."""
    async with open_platform(tmp_path, LATE) as platform:
        await filled(platform, 1)
        platform.clock.now += 100_000
        await platform.hear(agent_session_id="s")
        platform.clock.now += 899
        await platform.platform.reaper.once()
        assert live_of(platform, "s")
        platform.clock.now += 1
        await platform.platform.reaper.once()
        assert (await stored(platform, "s")).status(platform.clock.now) is SessionStatus.IDLE
