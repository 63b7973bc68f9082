"""Log streams and the logs of an agent, over fake sandboxes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cupola.api.logs import LogLimits
from cupola.drivers.fake import Behaviour, FakeSandbox
from cupola.identity import Role
from cupola.runs import Stream
from tests.support.agents import echo
from tests.support.platform import PROJECT, Answer, Caller, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

AGENT = f"{PROJECT}/agents/a1"
OWN = "/cupola/projects/demo/agents/a1/logs"
TALKING = Behaviour(handler=echo, on_sigterm=lambda sandbox: sandbox.print("bye"))
BEGINNING = ["Sandbox begun (probe)", "listening", "Sandbox ready after 0.0 s"]
SHORT = LogLimits(total=30, silence=0.3, heartbeat=0.2, keep_alive=0.05)


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[PlatformUnderTest]:
    async with open_platform(tmp_path, TALKING) as opened:
        await opened.create_version()
        yield opened


def frames(body: bytes) -> list[Mapping[str, Any]]:
    """What an SDK's user sees: `log` events with one JSON line each."""
    found = []
    for frame in body.decode().split("\n\n")[:-1]:
        event, data = frame.split("\n")
        assert event == "event: log"
        found.append(orjson.loads(data.removeprefix("data: ")))
    return found


def messages(body: bytes) -> list[str]:
    return [row["message"] for row in frames(body)]


def rows(answer: Answer) -> list[Mapping[str, Any]]:
    assert answer.status == 200, answer.body
    return [orjson.loads(line) for line in answer.body.splitlines() if line]


def texts(answer: Answer) -> list[str]:
    return [row["text"] for row in rows(answer)]


async def begun(platform: PlatformUnderTest, by: Caller | None = None) -> str:
    return str((await platform.hear(by=by))["agent_session_id"])


def sandbox_of(platform: PlatformUnderTest, session: str) -> FakeSandbox:
    live = platform.platform.sandboxes.live_of(("demo", "a1", session))
    assert live is not None
    return platform.place.sandboxes[live.row.id]


async def stop(platform: PlatformUnderTest, session: str) -> None:
    platform.clock.now += 1
    assert (await platform.call("POST", f"{AGENT}/endpoint/sessions/{session}:stop")).status == 204
    platform.clock.now += 1


@asynccontextmanager
async def following(call: Caller, path: str) -> AsyncIterator[list[bytes]]:
    """The pieces that a reader has got so far; it leaves at the end, which must be noticed."""
    left, got = asyncio.Event(), list[bytes]()
    task = asyncio.create_task(call("GET", path, left=left, chunks=got))
    try:
        yield got
    finally:
        left.set()
        async with asyncio.timeout(5):
            await task


async def heard(got: list[bytes], text: str) -> None:
    await wait_until(lambda: text in b"".join(got).decode())


@pytest.mark.operation("sessions.logs", "sessions.logs_of_session")
async def test_history_over_all_lives_then_what_comes(platform: PlatformUnderTest) -> None:
    """Oldest first, with what the platform saw between the lines, and each line as it is written."""
    session = await begun(platform)
    platform.clock.now += 1
    sandbox_of(platform, session).print("a complaint", Stream.STDERR)
    await stop(platform, session)
    paths = (f"{AGENT}/versions/1/sessions/{session}:logstream", f"{AGENT}/sessions/{session}:logstream?tail=300")
    for path, live in zip(paths, ("first live", "second live"), strict=True):
        async with following(platform.call, path) as got:
            await heard(got, "session stopped")
            assert platform.running() == [], "a reader woke the session"
            await platform.hear(agent_session_id=session)
            platform.clock.now += 1
            sandbox_of(platform, session).print(live)
            await heard(got, live)
        told = messages(b"".join(got))
        assert told[0] == "Successfully connected to container"
        assert told[1:7] == [*BEGINNING, "a complaint", "bye", "Sandbox ended: session stopped"]
        assert told[-4:] == ["Sandbox begun (resume)", "listening", "Sandbox ready after 0.0 s", live]
        first = frames(b"".join(got))[4]
        assert first == {"timestamp": "2023-11-14T22:13:21.000Z", "stream": "stderr", "message": "a complaint"}
        await stop(platform, session)


@pytest.mark.operation("sessions.logs_of_session")
async def test_tail_and_no_following(platform: PlatformUnderTest) -> None:
    """azd's parameters: the last lines only, 50 unless told; without following the stream ends behind them."""
    session = await begun(platform)
    platform.clock.now += 1
    for number in range(100):
        sandbox_of(platform, session).print(f"line {number}")
    await stop(platform, session)
    path = f"{AGENT}/sessions/{session}:logstream?follow=false"
    last = messages((await platform.call("GET", f"{path}&tail=3")).body)
    assert last[1:] == ["line 99", "bye", "Sandbox ended: session stopped"]
    assert len(messages((await platform.call("GET", path)).body)) == 51
    await platform.hear(agent_session_id=session)
    await stop(platform, session)
    over = messages((await platform.call("GET", f"{path}&tail=10")).body)
    assert over[1:5] == ["line 97", "line 98", "line 99", "bye"]
    assert len(over) == 11
    whole = messages((await platform.call("GET", f"{AGENT}/versions/1/sessions/{session}:logstream?follow=false")).body)
    assert len(whole) == 1 + 3 + 100 + 2 + 5


@pytest.mark.operation("sessions.logs_of_session")
async def test_the_platforms_view(platform: PlatformUnderTest) -> None:
    """`kind=system`: the states of the session's sandboxes, in the other shape."""
    session = await begun(platform)
    await stop(platform, session)
    await platform.hear(agent_session_id=session)
    sandbox_of(platform, session).exit(3)
    await platform.platform.reaper.once()
    path = f"{AGENT}/sessions/{session}:logstream?kind=system&follow=false"
    found = frames((await platform.call("GET", path)).body)
    assert [row["session_state"] for row in found] == [
        "Starting",
        "Running",
        "Stopped",
        "Starting",
        "Running",
        "Failed",
    ]
    assert {(row["agent"], row["version"], row["session_id"]) for row in found} == {("a1", "1", session)}
    assert set(found[0]) == {"timestamp", "session_id", "session_state", "agent", "version", "last_accessed"}


@pytest.mark.parametrize("query", ["tail=0", "tail=301", "tail=x", "kind=all", "follow=perhaps"])
async def test_bad_parameters(platform: PlatformUnderTest, query: str) -> None:
    """Refused with the name of the parameter, before anything is streamed."""
    session = await begun(platform)
    answer = await platform.call("GET", f"{AGENT}/sessions/{session}:logstream?{query}")
    assert (answer.status, answer.error["param"]) == (400, query.partition("=")[0])


@pytest.mark.parametrize("query", ["tail=0", "since=yesterday", "phase=middle"])
async def test_bad_parameters_of_our_own(platform: PlatformUnderTest, query: str) -> None:
    answer = await platform.call("GET", f"{OWN}?{query}")
    assert (answer.status, answer.error["param"]) == (400, query.partition("=")[0])


@pytest.mark.operation("sessions.logs", "sessions.logs_of_session")
async def test_whose_logs(platform: PlatformUnderTest) -> None:
    """Users see those of their own sessions only, operators all; the version must be the session's."""
    session = await begun(platform)
    ann = platform.caller("ann", Role.USER)
    for path in (f"{AGENT}/sessions/{session}:logstream", f"{AGENT}/versions/1/sessions/{session}:logstream"):
        assert (await ann("GET", path)).error["code"] == "session_not_accessible"
        assert (await ann("GET", path.replace(session, "none"))).status == 404
    hers = await begun(platform, ann)
    assert {row["session"] for row in rows(await ann("GET", OWN))} == {hers}
    assert {row["session"] for row in rows(await platform.call("GET", OWN))} == {session, hers}
    assert (await ann("GET", f"{OWN}?session={session}")).status == 403
    wrong = await platform.call("GET", f"{AGENT}/versions/2/sessions/{session}:logstream")
    assert (wrong.status, wrong.error["param"]) == (404, "agent_version")
    assert (await platform.call("GET", OWN.replace("a1", "none"))).status == 404


async def test_silence_is_told_and_then_ends_the_stream(tmp_path: Path) -> None:
    """A heartbeat is no line: the stream ends after its time without one."""
    async with open_platform(tmp_path, TALKING, log_limits=SHORT) as platform:
        await platform.create_version()
        session = await begun(platform)
        answer = await platform.call("GET", f"{AGENT}/sessions/{session}:logstream")
        assert messages(answer.body)[-1] == "No logs since last 0.2 seconds"
        assert messages(answer.body).count("No logs since last 0.2 seconds") == 1


async def test_a_stream_ends_at_last(tmp_path: Path) -> None:
    """However much is written, it ends after its time."""
    async with open_platform(tmp_path, TALKING, log_limits=replace(SHORT, total=0.3)) as platform:
        await platform.create_version()
        session = await begun(platform)
        sandbox = sandbox_of(platform, session)

        async def talk() -> None:
            while True:
                sandbox.print("on and on")
                await asyncio.sleep(0.01)

        talking = asyncio.create_task(talk())
        async with asyncio.timeout(5):
            answer = await platform.call("GET", f"{AGENT}/sessions/{session}:logstream")
        talking.cancel()
        assert messages(answer.body)[-1] == "on and on"


async def test_readers_are_no_activity(platform: PlatformUnderTest) -> None:
    """A session that is only looked at goes idle, and its reader sees it."""
    session = await begun(platform)
    async with following(platform.call, f"{AGENT}/sessions/{session}:logstream") as got:
        await heard(got, "ready")
        platform.clock.now += 901
        await platform.platform.reaper.once()
        await heard(got, "Sandbox ended: idle")
    assert platform.running() == []


async def test_a_slow_reader_holds_up_nobody(platform: PlatformUnderTest) -> None:
    """While one reader takes nothing, everything is kept, and another reader sees it."""
    session = await begun(platform)
    path = f"{AGENT}/sessions/{session}:logstream"
    stuck = asyncio.create_task(platform.call("GET", path, left=asyncio.Event(), taken=asyncio.Event()))
    async with following(platform.call, path) as got:
        sandbox_of(platform, session).print("still heard")
        await heard(got, "still heard")
    assert not stuck.done()
    stuck.cancel()


async def test_readers_leave_when_the_platform_stops(platform: PlatformUnderTest) -> None:
    session = await begun(platform)
    readers = [
        asyncio.create_task(platform.call("GET", path))
        for path in (f"{AGENT}/sessions/{session}:logstream", f"{OWN}?follow=true")
    ]
    await asyncio.sleep(0)
    await platform.platform.drain()
    async with asyncio.timeout(5):
        assert [(await reader).status for reader in readers] == [200, 200]


@pytest.mark.operation("agents.logs_of_version")
async def test_the_retired_stream(platform: PlatformUnderTest) -> None:
    """Plain text, of all sandboxes of a version or of one session."""
    first, second = await begun(platform), await begun(platform)
    path = f"{AGENT}/versions/1/containers/default:logstream"
    async with following(platform.call, path) as got:
        sandbox_of(platform, second).print("from the second")
        await heard(got, "from the second")
    text = b"".join(got).decode().splitlines()
    assert text[0].endswith("status Successfully connected to container")
    assert "2023-11-14T22:13:20.000Z stdout listening" in text
    async with following(platform.call, f"{path}?replica_name={first}&tail=1&kind=system") as got:
        await heard(got, "Running")
    assert b"".join(got).decode().split()[1:] == [first, "Running", "a1", "1"]
    assert (await platform.call("GET", path.replace("/1/", "/9/"))).error["param"] == "agent_version"


@pytest.mark.operation("cupola.logs")
async def test_the_logs_of_an_agent(platform: PlatformUnderTest) -> None:
    """Of all its sandboxes, merged by time, each line with what it belongs to."""
    first, second = await begun(platform), await begun(platform)
    for number, session in enumerate((second, first, second)):
        platform.clock.now += 1
        sandbox_of(platform, session).print(f"line {number}")
    async with following(platform.call, f"{OWN}?follow=true") as got:
        await heard(got, "line 2")
    found = [orjson.loads(line) for line in b"".join(got).splitlines() if line]
    told = [(row["text"], row["session"]) for row in found if row["text"].startswith("line")]
    assert told == [("line 0", second), ("line 1", first), ("line 2", second)]
    row = next(row for row in found if row["text"] == "line 1")
    assert (row["version"], row["stream"], row["phase"], row["start_type"]) == ("1", "stdout", "serve", "probe")
    assert row["event"] is None


@pytest.mark.operation("cupola.logs")
async def test_what_is_asked_for(platform: PlatformUnderTest) -> None:
    """By session, version, time, phase, and number."""
    first, second = await begun(platform), await begun(platform)
    platform.clock.now += 1
    sandbox_of(platform, first).print("early")
    await stop(platform, first)
    platform.clock.now += 100
    sandbox_of(platform, second).print("late")
    await stop(platform, second)
    assert "late" not in texts(await platform.call("GET", f"{OWN}?session={first}"))
    assert texts(await platform.call("GET", f"{OWN}?since=10s")) == ["late", "bye", "Sandbox ended: session stopped"]
    assert texts(await platform.call("GET", f"{OWN}?since=2023-11-14T22:15:00Z"))[0] == "late"
    assert texts(await platform.call("GET", f"{OWN}?tail=2")) == ["bye", "Sandbox ended: session stopped"]
    assert texts(await platform.call("GET", f"{OWN}?version=2")) == []
    started = texts(await platform.call("GET", f"{OWN}?phase=start&session={first}"))
    assert started == BEGINNING
    served = texts(await platform.call("GET", f"{OWN}?phase=serve&session={first}"))
    assert served == ["early", "bye", "Sandbox ended: session stopped"]
    assert texts(await platform.call("GET", f"{OWN}?phase=serve&session={first}&tail=2")) == served[1:]


async def test_a_version_that_failed_is_explained(tmp_path: Path) -> None:
    """Its probe never had a session; its lines and its end are in the agent's logs, all of the start."""
    crash = Behaviour(exit_code=3, output=("loading", "ValueError: no model"))
    async with open_platform(tmp_path, crash) as platform:
        await platform.create_version()
        told = texts(await platform.call("GET", f"{OWN}?phase=start"))
        assert told[:3] == ["Sandbox begun (probe)", "loading", "ValueError: no model"]
        assert told[3].startswith("Sandbox ended: did not become ready, exit code 3: The agent's process ended")
        assert rows(await platform.caller("ann", Role.USER)("GET", OWN)) == []


async def test_a_deleted_session_leaves_the_stream(platform: PlatformUnderTest) -> None:
    """Its reader goes on over the others."""
    first, second = await begun(platform), await begun(platform)
    async with following(platform.call, f"{OWN}?follow=true") as got:
        await heard(got, first)
        await platform.call("DELETE", f"{AGENT}/endpoint/sessions/{first}")
        sandbox_of(platform, second).print("goes on")
        await heard(got, "goes on")
    assert first not in str(rows(await platform.call("GET", OWN)))


async def test_much_output(platform: PlatformUnderTest) -> None:
    """Thousands of lines come whole and in order, whether they were there or come."""
    session = await begun(platform)
    sandbox = sandbox_of(platform, session)
    for number in range(3000):
        sandbox.print(f"line {number}")
    async with following(platform.call, f"{OWN}?session={session}&follow=true") as got:
        await heard(got, "line 2999")
        for number in range(3000, 6000):
            sandbox.print(f"line {number}")
        await heard(got, "line 5999")
    found = [orjson.loads(line)["text"] for line in b"".join(got).splitlines() if line]
    assert [text for text in found if text.startswith("line")] == [f"line {number}" for number in range(6000)]
