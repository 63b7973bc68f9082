"""How many sandboxes wait for new sessions: what is decided, and what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupola.drivers.fake import Behaviour, Moment
from cupola.drivers.fake_hooks import Hooks
from cupola.sandboxes.warm import Plan, Pool, Waiting, decide
from tests.support.agents import ECHO
from tests.support.platform import DEFINITION, PROJECT, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until
from tests.support.warm import LATE, create_with_pool, pool_of, settle_pools, sizes, warm_of

VERSIONS = f"{PROJECT}/agents/a1/versions"
OWN = "/cupola/projects/demo/agents/a1"
V1, V2 = ("demo", "a1", "1"), ("demo", "a1", "2")


def minted(*ids: str) -> tuple[Waiting, ...]:
    return tuple(Waiting(id, False, float(number)) for number, id in enumerate(ids))


def late(*ids: str) -> tuple[Waiting, ...]:
    return tuple(Waiting(id, True, float(number)) for number, id in enumerate(ids))


# What is decided


def test_what_is_missing_is_started() -> None:
    """What waits and what starts already counts."""
    plan = decide([Pool(V1, wanted=5, waiting=minted("a", "b"), starting=1)], room=10, slots=10)
    assert plan == Plan((V1, V1), frozenset(), frozenset({"a", "b"}))


def test_versions_are_served_in_turn() -> None:
    """Neither room nor slots are exceeded."""
    pools = [Pool(V1, wanted=5), Pool(V2, wanted=5)]
    assert decide(pools, room=3, slots=10).start == (V1, V2, V1)
    assert decide(pools, room=10, slots=2).start == (V1, V2)
    assert decide(pools, room=-1, slots=2).start == ()


def test_a_failed_start_is_not_repeated_yet() -> None:
    """The pool keeps what it has; later one is tried, and no second beside it."""
    plan = decide([Pool(V1, wanted=3, waiting=minted("a"), tries=0)], room=9, slots=9)
    assert plan == Plan((), frozenset(), frozenset({"a"}))
    assert decide([Pool(V1, wanted=3, tries=1)], room=9, slots=9).start == (V1,)
    assert decide([Pool(V1, wanted=3, tries=1, starting=1)], room=9, slots=9).start == ()


def test_what_is_too_much_is_stopped() -> None:
    """The longest waiting stay."""
    plan = decide([Pool(V1, wanted=1, waiting=minted("a", "b", "c"))], room=9, slots=9)
    assert plan == Plan((), frozenset({"b", "c"}), frozenset({"a"}))


def test_the_probed_sandbox_may_stay_beyond_the_pool() -> None:
    """Until it is idle: without a pool, or beside sandboxes that are bound late, among which it does not count."""
    assert decide([Pool(V1, wanted=0, waiting=minted("a"))], room=9, slots=9) == Plan((), frozenset(), frozenset())
    plan = decide([Pool(V1, wanted=2, binds_late=True, waiting=minted("a") + late("b"))], room=9, slots=9)
    assert plan == Plan((V1,), frozenset(), frozenset({"b"}))


def test_an_abandoned_version_keeps_nothing() -> None:
    """Nor does a disabled agent."""
    plan = decide([Pool(V1, wanted=0, spare=0, waiting=minted("a") + late("b"))], room=9, slots=9)
    assert plan.stop == {"a", "b"}


a_pool = st.builds(
    Pool,
    version=st.sampled_from([V1, V2]),
    wanted=st.integers(0, 6),
    spare=st.integers(0, 1),
    binds_late=st.booleans(),
    waiting=st.lists(
        st.builds(Waiting, id=st.text("abcdefgh", min_size=1, max_size=1), late=st.booleans(), since=st.floats(0, 9)),
        unique_by=lambda one: one.id,
        max_size=8,
    ).map(tuple),
    starting=st.integers(0, 3),
    tries=st.integers(0, 4),
)


@given(pool=a_pool, room=st.integers(-2, 9), slots=st.integers(-2, 4))
def test_every_plan_comes_closer_and_then_rests(pool: Pool, room: int, slots: int) -> None:
    """It never exceeds anything, never stops what it counts on, and has nothing to stop once it was carried out."""
    plan = decide([pool], room=room, slots=slots)
    assert len(plan.start) <= max(0, min(room, slots, pool.tries, pool.wanted - len(plan.pooled)))
    assert not plan.stop & plan.pooled
    assert len(plan.pooled) <= pool.wanted
    left = replace(pool, waiting=tuple(one for one in pool.waiting if one.id not in plan.stop))
    assert len(left.waiting) <= pool.wanted + pool.spare
    again = decide([left], room=room, slots=slots)
    assert (again.stop, again.pooled) == (frozenset(), plan.pooled)


# How a pool is declared and resized


@pytest.mark.operation("cupola.list_warm_pools")
async def test_a_version_says_how_many_wait(platform: PlatformUnderTest) -> None:
    """The probed one is the first of them; the metadata is shown as it was sent."""
    made = await create_with_pool(platform, 3)
    assert made["metadata"] == {"warm_pool": "3"}
    await settle_pools(platform)
    assert len(platform.running()) == len(warm_of(platform)) == 3
    assert sizes(await pool_of(platform)) == {"warm_pool": 3, "wanted": 3, "ready": 3, "starting": 0}


async def test_the_setting_is_for_versions_that_do_not_say(tmp_path: Path) -> None:
    """A version that says 0 has none."""
    async with open_platform(tmp_path, ECHO, warm_pool=2) as platform:
        await platform.create_version()
        await platform.create_version("a2", DEFINITION)
        await settle_pools(platform)
        assert len(warm_of(platform)) == 4
        await platform.call("POST", "/cupola/projects/demo/agents/a2/versions/1:warm", {"warm_pool": 0})
        await settle_pools(platform)
        assert [live.row.agent for live in warm_of(platform)].count("a2") == 1


@pytest.mark.parametrize("size", ["-1", "101", "1000", "many", "", "1.5", "²"])
async def test_a_size_that_cannot_be_is_refused(platform: PlatformUnderTest, size: str) -> None:
    """In a sentence; nothing is made."""
    body = {"definition": DEFINITION, "metadata": {"warm_pool": size}}
    answer = await platform.call("POST", VERSIONS, body)
    assert (answer.status, answer.error["param"]) == (400, "metadata.warm_pool")
    assert "a whole number from 0 to 100" in answer.error["message"]
    assert (await platform.call("GET", f"{PROJECT}/agents/a1")).status == 404


async def test_another_size_alone_makes_no_version(platform: PlatformUnderTest) -> None:
    """It takes effect on the version that exists; whatever else is in the metadata makes a new one."""
    await create_with_pool(platform, 3, team="x")
    await settle_pools(platform)
    before = sorted(platform.running())
    made = await create_with_pool(platform, 4, team="x")
    assert (made["version"], made["metadata"]) == ("1", {"warm_pool": "4", "team": "x"})
    await settle_pools(platform)
    assert len(warm_of(platform)) == 4
    assert set(before) < set(platform.running())
    assert (await create_with_pool(platform, 4, team="y"))["version"] == "2"


@pytest.mark.operation("cupola.resize_warm_pool")
async def test_an_operator_has_the_last_word_until_another_is_declared(platform: PlatformUnderTest) -> None:
    """Deploying the same again does not take it back; declaring another number, or null, does."""
    await create_with_pool(platform, 3)
    answer = await platform.call("POST", f"{OWN}/versions/1:warm", {"warm_pool": 1})
    assert (answer.status, answer.json()["warm_pool"]) == (200, 1)
    await create_with_pool(platform, 3)
    assert (await pool_of(platform))["warm_pool"] == 1
    await platform.call("POST", f"{OWN}/versions/1:warm", {"warm_pool": None})
    assert (await pool_of(platform))["warm_pool"] == 3
    await platform.call("POST", f"{OWN}/versions/1:warm", {"warm_pool": 1})
    await create_with_pool(platform, 2)
    assert (await pool_of(platform))["warm_pool"] == 2
    await platform.create_version("a1")
    assert (await pool_of(platform))["warm_pool"] == 0


async def test_a_resized_pool_needs_no_start_of_the_version(platform: PlatformUnderTest) -> None:
    """It grows and shrinks."""
    await platform.create_version()
    await platform.call("POST", f"{OWN}/versions/1:warm", {"warm_pool": 4})
    await settle_pools(platform)
    assert len(warm_of(platform)) == 4
    await platform.call("POST", f"{OWN}/versions/1:warm", {"warm_pool": 2})
    await settle_pools(platform)
    assert len(warm_of(platform)) == len(platform.running()) == 2


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("a1/versions/1:warm", {"warm_pool": 101}, 400, "warm_pool"),
        ("a1/versions/1:warm", {"warm_pool": "3"}, 400, "warm_pool"),
        ("a1/versions/1:warm", {"warm_pool": True}, 400, "warm_pool"),
        ("a1/versions/1:warm", {}, 400, "warm_pool"),
        ("a1/versions/7:warm", {"warm_pool": 1}, 404, "agent_version"),
        ("a9/versions/1:warm", {"warm_pool": 1}, 404, "agent_name"),
    ],
)
async def test_bad_sizes_are_named(
    platform: PlatformUnderTest, path: str, body: Mapping[str, Any], status: int, param: str
) -> None:
    """By field."""
    await platform.create_version()
    answer = await platform.call("POST", f"/cupola/projects/demo/agents/{path}", body)
    assert (answer.status, answer.error["param"]) == (status, param)


async def test_pools_of_no_agent_are_not_found(platform: PlatformUnderTest) -> None:
    """Rather than none."""
    assert (await platform.call("GET", OWN + "/warm")).status == 404


async def test_the_status_shows_pools_and_starts(tmp_path: Path) -> None:
    """Of all agents; what waits has no session, what runs says how it started."""
    async with open_platform(tmp_path, LATE) as platform:
        await create_with_pool(platform, 1)
        await settle_pools(platform)
        await platform.hear(agent_session_id="mine")
        status = (await platform.call("GET", "/cupola/status")).json()
        assert [(one["session"], one["start"]) for one in status["running"] if not one["warm"]] == [("mine", "warm")]
        [pool] = status["warm_pools"]
        assert (pool["agent"], pool["version"], pool["binds_late"]) == ("a1", "1", True)


async def test_what_is_not_wanted_any_more_when_it_is_ready_stops(tmp_path: Path) -> None:
    """A pool that was taken back while it was filled."""
    released = asyncio.Event()
    released.set()
    behaviour = Behaviour(hangs=Moment.START, released=released, handler=ECHO.handler)
    async with open_platform(tmp_path, behaviour) as platform:
        await create_with_pool(platform, 3)
        await platform.hear()
        released.clear()
        await platform.platform.warm.once()
        await wait_until(lambda: len(platform.running()) == 4)
        await platform.call("POST", f"{OWN}/versions/1:warm", {"warm_pool": 0})
        await platform.platform.warm.once()
        released.set()
        await settle_pools(platform)
        assert len(warm_of(platform)) == 1


# Where pools are, and where not


async def test_the_pool_follows_the_traffic(platform: PlatformUnderTest) -> None:
    """A new version takes it over; what waited for the old one stops, the probed one too."""
    await create_with_pool(platform, 2)
    await settle_pools(platform)
    await create_with_pool(platform, 3, release="2")
    await settle_pools(platform)
    assert [live.row.version for live in warm_of(platform)] == ["2"] * 3
    assert len(platform.running()) == 3
    assert len(platform.place.homes) == 3


async def test_without_a_pool_the_old_versions_probed_sandbox_stops_too(platform: PlatformUnderTest) -> None:
    """Nobody can be given it any more by the selector."""
    await platform.create_version()
    await settle_pools(platform)
    await create_with_pool(platform, 0, release="2")
    await settle_pools(platform)
    assert [live.row.version for live in warm_of(platform)] == ["2"]


async def test_weights_decide_which_versions_have_pools(platform: PlatformUnderTest) -> None:
    """Every version with a weight above 0; back again as well."""
    for release in "12":
        await create_with_pool(platform, 2, release=release)

    async def weigh(*weights: int) -> None:
        rules = [
            {"type": "FixedRatio", "agent_version": str(number), "traffic_percentage": weight}
            for number, weight in enumerate(weights, start=1)
        ]
        endpoint = {"agent_endpoint": {"version_selector": {"version_selection_rules": rules}}}
        assert (await platform.call("PATCH", f"{PROJECT}/agents/a1", endpoint)).status == 200
        await settle_pools(platform)

    def waiting() -> list[str]:
        return sorted(live.row.version for live in warm_of(platform))

    await weigh(90, 10)
    assert waiting() == ["1", "1", "2", "2"]
    await weigh(100, 0)
    assert waiting() == ["1", "1"]
    await weigh(0, 100)
    assert waiting() == ["2", "2"]


async def test_a_version_without_traffic_keeps_the_probed_one_only(platform: PlatformUnderTest) -> None:
    """Whoever names it is served from that, until it is idle."""
    await create_with_pool(platform, 1, release="1")
    rules = [{"type": "FixedRatio", "agent_version": "1", "traffic_percentage": 100}]
    endpoint = {"agent_endpoint": {"version_selector": {"version_selection_rules": rules}}}
    await platform.call("PATCH", f"{PROJECT}/agents/a1", endpoint)
    await create_with_pool(platform, 5, release="2")
    await settle_pools(platform)
    assert sorted(live.row.version for live in warm_of(platform)) == ["1", "2"]
    platform.clock.now += 901
    await platform.platform.reaper.once()
    assert [live.row.version for live in warm_of(platform)] == ["1"]


async def test_a_disabled_agent_has_no_pool(platform: PlatformUnderTest) -> None:
    """It fills again when the agent is enabled."""
    await create_with_pool(platform, 2)
    await settle_pools(platform)
    await platform.call("POST", f"{PROJECT}/agents/a1:disable")
    await settle_pools(platform)
    assert platform.running() == []
    await platform.call("POST", f"{PROJECT}/agents/a1:enable")
    await settle_pools(platform)
    assert len(platform.running()) == 2


async def test_deleting_stops_what_waits_and_what_starts(tmp_path: Path) -> None:
    """Sandboxes and homes; nothing is started afterwards."""
    released = asyncio.Event()
    released.set()
    behaviour = Behaviour(hangs=Moment.START, released=released, handler=ECHO.handler)
    async with open_platform(tmp_path, behaviour) as platform:
        await create_with_pool(platform, 3)
        released.clear()
        await platform.platform.warm.once()
        await wait_until(lambda: len(platform.running()) == 3)
        deleted = await platform.call("DELETE", f"{VERSIONS}/1")
        assert deleted.status == 200
        await settle_pools(platform)
        assert platform.running() == []
        assert platform.place.homes == {}


async def test_no_warm_sandbox_starts_for_a_version_on_its_way_out(platform: PlatformUnderTest) -> None:
    """Also when the pool has not heard of it yet: the row is refused."""
    await create_with_pool(platform, 2)
    version = await platform.version_row("a1", "1")
    agent = (await platform.platform.warm.of_agent("demo", "a1"))[0].wish.agent
    await platform.call("DELETE", f"{VERSIONS}/1")
    starting = platform.platform.sandboxes.warm_starts.begin(agent, version)
    await asyncio.wait([starting])
    assert "not active any more" in str(starting.exception())
    assert platform.running() == []


# How it is kept


async def test_idle_time_is_no_reason_to_stop_a_pool(tmp_path: Path) -> None:
    """Only the probed sandbox beyond it, which is not bound late as the others are, stops."""
    async with open_platform(tmp_path, LATE) as platform:
        await create_with_pool(platform, 2)
        await settle_pools(platform)
        assert len(platform.running()) == 3
        platform.clock.now += 100_000
        await platform.platform.reaper.once()
        await settle_pools(platform)
        assert [live.row.is_bound_late for live in warm_of(platform)] == [True, True]
        assert len(platform.running()) == 2


async def test_what_is_taken_is_replaced(tmp_path: Path) -> None:
    """In the background, for the next session."""
    async with open_platform(tmp_path, LATE) as platform:
        await create_with_pool(platform, 2)
        await settle_pools(platform)
        for number in range(5):
            await platform.hear(agent_session_id=f"s{number}")
            await settle_pools(platform)
            assert (await pool_of(platform))["ready"] == 3
        assert all(platform.place.starts[f"s{number}"] == 0 for number in range(5))


async def test_a_warm_sandbox_that_ended_by_itself_is_replaced(platform: PlatformUnderTest) -> None:
    """The reaper finds it, the pool fills up."""
    await create_with_pool(platform, 2)
    await settle_pools(platform)
    dead = warm_of(platform)[0].row.id
    platform.place.sandboxes[dead].exit(1)
    await platform.platform.reaper.once()
    await settle_pools(platform)
    assert dead not in platform.running()
    assert len(warm_of(platform)) == 2


async def test_only_a_few_start_at_once(tmp_path: Path) -> None:
    """Sessions that somebody waits for need the machine, too."""
    released = asyncio.Event()
    released.set()
    behaviour = Behaviour(hangs=Moment.START, released=released, handler=ECHO.handler)
    async with open_platform(tmp_path, behaviour) as platform:
        await create_with_pool(platform, 9)
        released.clear()
        for _ in range(3):
            await platform.platform.warm.once()
        await wait_until(lambda: len(platform.running()) == 5)
        assert sizes(await pool_of(platform)) == {"warm_pool": 9, "wanted": 9, "ready": 1, "starting": 4}
        released.set()
        await settle_pools(platform)
        assert len(warm_of(platform)) == 9


async def test_a_start_that_fails_is_repeated_later_and_later(platform: PlatformUnderTest) -> None:
    """Not in a loop; why is shown; another size tries at once."""
    await create_with_pool(platform, 4)
    platform.place.behaviour = Behaviour(exit_code=7)
    pauses, starts = [], []
    for _ in range(8):
        before = platform.place.starts.total()
        await settle_pools(platform)
        starts.append(platform.place.starts.total() - before)
        trouble = (await pool_of(platform))["trouble"]
        assert "exit code 7" in trouble["reason"]
        pauses.append(trouble["retry_at"] - int(platform.clock.now))
        await settle_pools(platform)
        platform.clock.now = trouble["retry_at"]
    assert starts == [3, 1, 1, 1, 1, 1, 1, 1]
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]
    platform.clock.now -= 1
    platform.place.behaviour = ECHO
    await settle_pools(platform)
    assert (await pool_of(platform))["ready"] == 1
    await platform.call("POST", f"{OWN}/versions/1:warm", {"warm_pool": 3})
    await settle_pools(platform)
    assert (await pool_of(platform))["trouble"] is None
    assert (await pool_of(platform))["ready"] == 3


async def test_the_loop_fills_the_pool_by_itself(tmp_path: Path) -> None:
    """As long as it runs, whatever changes."""
    async with open_platform(tmp_path, LATE) as platform:
        loop = asyncio.create_task(platform.platform.warm.run())
        await create_with_pool(platform, 2)
        await wait_until(lambda: sum(live.row.is_bound_late for live in warm_of(platform)) == 2)
        await asyncio.gather(*(platform.hear(agent_session_id=f"s{n}") for n in range(2)))
        await wait_until(lambda: sum(live.row.is_bound_late for live in warm_of(platform)) == 2)
        loop.cancel()
        await asyncio.wait([loop])


# Room


async def test_a_pool_takes_only_the_room_that_there_is(tmp_path: Path) -> None:
    """And says so."""
    async with open_platform(tmp_path, ECHO, max_sandboxes=3) as platform:
        await create_with_pool(platform, 5)
        await settle_pools(platform)
        assert len(platform.running()) == 3
        assert (await pool_of(platform))["waits_for_room"]


async def test_warm_sandboxes_are_the_first_to_make_room(tmp_path: Path) -> None:
    """Before a session's that has been quiet for longer; the pool does not take the room back."""
    async with open_platform(tmp_path, ECHO, max_sandboxes=3) as platform:
        await create_with_pool(platform, 2)
        await settle_pools(platform)
        await platform.hear(agent_session_id="quiet")
        platform.clock.now += 100
        await platform.hear(agent_session_id="second")
        await settle_pools(platform)
        await platform.hear(agent_session_id="third")
        await settle_pools(platform)
        sessions = {live.session.id for live in platform.platform.sandboxes.live if live.session is not None}
        assert sessions == {"quiet", "second", "third"}
        assert len(platform.running()) == 3


async def test_starts_of_a_pool_make_room_too(tmp_path: Path) -> None:
    """One that nobody waits for is given up."""
    async with open_platform(tmp_path, ECHO, max_sandboxes=2) as platform:
        await create_with_pool(platform, 2)
        await platform.hear()
        platform.place.behaviour = Behaviour(hangs=Moment.START, handler=ECHO.handler)
        await platform.platform.warm.once()
        await wait_until(lambda: len(platform.running()) == 2)
        platform.place.behaviour = ECHO
        await platform.hear(agent_session_id="s")
        assert len(platform.running()) == 2
        assert len(platform.platform.sandboxes.warm_starts) == 0


# After a restart


async def test_a_pool_outlives_the_server(tmp_path: Path) -> None:
    """The same sandboxes, with what they are: those without a session yet take any."""
    async with open_platform(tmp_path, LATE) as platform:
        await create_with_pool(platform, 2)
        await settle_pools(platform)
        before, starts = sorted(platform.running()), platform.place.starts.total()
        await platform.restart()
        await settle_pools(platform)
        assert (sorted(platform.running()), platform.place.starts.total()) == (before, starts)
        await platform.hear(agent_session_id="mine")
        assert platform.place.starts["mine"] == 0
        platform.clock.now += 100_000
        await platform.platform.reaper.once()
        assert len(warm_of(platform)) == 1


async def test_one_that_cannot_wait_any_more_is_undone(tmp_path: Path) -> None:
    """It is replaced."""
    async with open_platform(tmp_path, LATE) as platform:
        await create_with_pool(platform, 1)
        await settle_pools(platform)
        [waiting] = [live for live in warm_of(platform) if live.row.is_bound_late]
        await platform.crash()
        sandbox = platform.place.sandboxes[waiting.row.id]
        sandbox.behaviour = replace(LATE, hooks=Hooks(before=500))
        await platform.open()
        assert waiting.row.id not in platform.running()
        await settle_pools(platform)
        assert [live.row.is_bound_late for live in warm_of(platform)].count(True) == 1


async def test_half_started_ones_are_undone(tmp_path: Path) -> None:
    """With their homes."""
    released = asyncio.Event()
    released.set()
    behaviour = Behaviour(hangs=Moment.START, released=released, handler=ECHO.handler)
    async with open_platform(tmp_path, behaviour) as platform:
        await create_with_pool(platform, 3)
        released.clear()
        await platform.platform.warm.once()
        await wait_until(lambda: len(platform.running()) == 3)
        await platform.crash()
        assert len(platform.running()) == 3
        await platform.open()
        assert len(platform.running()) == 1
        released.set()
        await settle_pools(platform)
        assert len(platform.running()) == len(platform.place.homes) == 3


async def test_stopping_the_platform_leaves_nothing_warm(tmp_path: Path) -> None:
    """Sandboxes, rows and homes; the next start fills the pool anew, bound late from the first on."""
    async with open_platform(tmp_path, LATE) as platform:
        await create_with_pool(platform, 2)
        await settle_pools(platform)
        await platform.aclose()
        assert platform.running() == []
        assert platform.place.homes == {}
        await platform.open()
        await settle_pools(platform)
        assert [live.row.is_bound_late for live in warm_of(platform)] == [True, True]


# Containers that are not what they seem


async def test_a_container_that_only_names_the_hooks_has_a_pool_of_minted_ids(tmp_path: Path) -> None:
    """What it has shown is remembered."""
    async with open_platform(tmp_path, replace(LATE, hooks=Hooks(before=404))) as platform:
        await create_with_pool(platform, 3)
        await settle_pools(platform)
        assert [live.row.is_bound_late for live in warm_of(platform)] == [False] * 3
        assert (await pool_of(platform))["binds_late"] is False
        asked = platform.place.starts[""]
        await platform.restart()
        await platform.call("POST", f"{OWN}/versions/1:warm", {"warm_pool": 5})
        await settle_pools(platform)
        assert (len(warm_of(platform)), platform.place.starts[""]) == (5, asked)


async def test_a_hook_that_fails_holds_the_pool_back(tmp_path: Path) -> None:
    """As any start that fails."""
    async with open_platform(tmp_path, replace(LATE, hooks=Hooks(before=500))) as platform:
        await create_with_pool(platform, 1)
        await settle_pools(platform)
        assert [live.row.is_bound_late for live in warm_of(platform)] == [False]
        assert "POST /_agent/before-snapshot with 500" in (await pool_of(platform))["trouble"]["reason"]
        assert len(platform.running()) == len(platform.place.homes) == 1


async def test_a_version_made_before_hooks_were_known_learns_of_them(tmp_path: Path) -> None:
    """From the first sandbox of its pool."""
    async with open_platform(tmp_path, LATE) as platform:
        await create_with_pool(platform, 2)
        await platform.store.write(_forget_hooks)
        await platform.restart()
        await settle_pools(platform)
        assert (await pool_of(platform))["binds_late"] is True
        assert [live.row.is_bound_late for live in warm_of(platform)].count(True) == 2


def _forget_hooks(conn: Any) -> None:
    conn.exec_driver_sql("UPDATE versions SET binds_late = NULL")
