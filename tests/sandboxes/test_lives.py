"""What is kept of sandboxes: their runs and their output, over ends, crashes and restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cupola.drivers.fake import Behaviour, FakeSandbox
from cupola.runs import Run, StartType
from cupola.sandboxes.kept import KeptOutput, Position
from cupola.store import runs as rows
from tests.support.agents import echo
from tests.support.platform import PROJECT, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

DAY = 24 * 3600


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[PlatformUnderTest]:
    async with open_platform(
        tmp_path, Behaviour(handler=echo, on_sigterm=lambda sandbox: sandbox.print("bye"))
    ) as opened:
        yield opened


def kept_of(platform: PlatformUnderTest) -> KeptOutput:
    return KeptOutput(platform.installation.layout.output, platform.settings.output_bytes)


def texts(platform: PlatformUnderTest, sandbox: str) -> list[str]:
    return [line.text for _, line in kept_of(platform).read_back(sandbox)][::-1]


async def runs(platform: PlatformUnderTest, agent: str = "a1") -> list[Run]:
    return await platform.store.read(lambda conn: rows.runs_of(conn, rows.Which("demo", agent)))


async def session(platform: PlatformUnderTest, id: str | None = None) -> str:
    """A session whose sandbox is ready."""
    heard = await (platform.hear() if id is None else platform.hear(agent_session_id=id))
    return str(heard["agent_session_id"])


async def written(platform: PlatformUnderTest, sandbox: FakeSandbox, text: str) -> None:
    """Prints a line and waits until it is kept."""
    sandbox.print(text)
    await wait_until(lambda: text in texts(platform, sandbox.spec.sandbox_id))


async def test_the_lives_of_a_session(platform: PlatformUnderTest) -> None:
    """A probe that a session takes, a stop, a resume: one run each, with what the sandbox wrote."""
    await platform.create_version()
    (probe,) = await runs(platform)
    assert (probe.start_type, probe.session, probe.version) == (StartType.PROBE, None, "1")
    assert probe.ready_at is not None
    id = await session(platform)
    (taken,) = await runs(platform)
    assert taken == replace(probe, session=id)
    platform.clock.now += 5
    await platform.call("POST", f"{PROJECT}/agents/a1/endpoint/sessions/{id}:stop")
    (stopped,) = await runs(platform)
    assert (stopped.ended_at, stopped.end_reason) == (platform.clock.now, "session stopped")
    assert stopped.failure is None
    assert texts(platform, stopped.sandbox) == ["listening", "bye"]
    await session(platform, id)
    first, second = await runs(platform)
    assert (first, second.start_type, second.session) == (stopped, StartType.RESUME, id)
    other = await session(platform)
    assert [run.start_type for run in await runs(platform) if run.session == other] == [StartType.COLD]


async def test_what_never_came_up(tmp_path: Path) -> None:
    """A failed probe has its evidence and its output, though there never was a session."""
    crash = Behaviour(exit_code=3, output=("first line", "ValueError: no"))
    async with open_platform(tmp_path, crash) as platform:
        assert (await platform.create_version())["status"] == "failed"
        (run,) = await runs(platform)
        assert run.failure is not None
        assert (run.failure.exit_code, run.ready_at, run.end_reason) == (3, None, "did not become ready")
        assert run.ended_at is not None
        assert texts(platform, run.sandbox) == ["first line", "ValueError: no"]


async def test_what_ended_by_itself(platform: PlatformUnderTest) -> None:
    """A crash while it served: exit code and last words."""
    await platform.create_version()
    await session(platform)
    platform.sandbox.print("MemoryError: too much")
    platform.sandbox.exit(7)
    await platform.platform.reaper.once()
    (run,) = await runs(platform)
    assert run.failure is not None
    assert (run.end_reason, run.failure.exit_code) == ("ended by itself", 7)
    assert texts(platform, run.sandbox)[-1] == "MemoryError: too much"


async def test_a_killed_server_loses_nothing(platform: PlatformUnderTest) -> None:
    """What was kept stays, what was written meanwhile is read after the restart, nothing is there twice."""
    await platform.create_version()
    id = await session(platform)
    sandbox = platform.sandbox
    await written(platform, sandbox, "before")
    await platform.crash()
    sandbox.print("meanwhile")
    await platform.open()
    await written(platform, sandbox, "after")
    assert texts(platform, sandbox.spec.sandbox_id) == ["listening", "before", "meanwhile", "after"]
    (run,) = await runs(platform)
    assert (run.session, run.ended_at) == (id, None)


async def test_a_sandbox_that_died_with_the_server(platform: PlatformUnderTest) -> None:
    """Its last words are read at the restart, and its run is closed."""
    await platform.create_version()
    await session(platform)
    sandbox = platform.sandbox
    await written(platform, sandbox, "before")
    await platform.crash()
    sandbox.print("last words")
    sandbox.exit(1)
    await platform.open()
    (run,) = await runs(platform)
    assert run.ended_at is not None
    assert texts(platform, run.sandbox) == ["listening", "before", "last words"]


async def test_a_sandbox_that_is_gone_after_a_restart(platform: PlatformUnderTest) -> None:
    """Its run is closed as well: an engine that lost its containers leaves no run open."""
    await platform.create_version()
    await platform.crash()
    platform.place.sandboxes.pop(platform.sandbox.spec.sandbox_id).exit(137)
    await platform.open()
    (first, *_) = await runs(platform)
    assert first.ended_at is not None


async def test_output_goes_with_its_session(platform: PlatformUnderTest) -> None:
    """Deleting a session removes its runs and what they wrote; others stay."""
    await platform.create_version()
    ids = [await session(platform), await session(platform)]
    sandboxes = {run.session: run.sandbox for run in await runs(platform)}
    await wait_until(lambda: len(kept_of(platform).sandboxes()) == 2)
    await platform.call("DELETE", f"{PROJECT}/agents/a1/endpoint/sessions/{ids[0]}")
    assert [run.session for run in await runs(platform)] == [ids[1]]
    assert kept_of(platform).sandboxes() == [sandboxes[ids[1]]]
    await platform.call("DELETE", f"{PROJECT}/agents/a1?force=true")
    assert await runs(platform) == []
    assert kept_of(platform).sandboxes() == []


async def test_secrets_that_we_gave_are_not_kept(platform: PlatformUnderTest) -> None:
    """A sandbox that prints its environment does not write its sign-in to disk."""
    await platform.create_version()
    sandbox = platform.sandbox
    secret = sandbox.environment["IDENTITY_HEADER"]
    token = platform.tokens.mint_client()[0]
    sandbox.print(f"header {secret} token {token} end")
    await written(platform, sandbox, "done")
    assert texts(platform, sandbox.spec.sandbox_id)[1] == "header [redacted] token [redacted] end"


async def test_a_session_stays_within_its_share(tmp_path: Path) -> None:
    """Over all its sandboxes, however often it was stopped and however much they wrote."""
    share = 64 * 1024
    async with open_platform(tmp_path, Behaviour(handler=echo), output_bytes=share) as platform:
        await platform.create_version()
        id = await session(platform)
        for life in range(4):
            for number in range(40):
                await written(platform, platform.sandbox, f"life {life} line {number} {'x' * 500}")
            await platform.call("POST", f"{PROJECT}/agents/a1/endpoint/sessions/{id}:stop")
            await session(platform, id)
        kept = kept_of(platform)
        assert sum(map(kept.size, kept.sandboxes())) <= share * 9 / 8
        assert len(kept.sandboxes()) < 5
        assert len(await runs(platform)) == 5


async def test_retention(tmp_path: Path) -> None:
    """What ended too long ago goes; beyond the total bound what ended first goes; strays go; what runs stays."""
    async with open_platform(
        tmp_path, Behaviour(handler=echo), output_days=2, output_total_bytes=64 * 1024
    ) as platform:
        retention, kept = platform.platform.retention, kept_of(platform)
        await platform.create_version()
        ids = []
        for _ in range(3):
            ids.append(await session(platform))
            found = {run.session: run.sandbox for run in await runs(platform)}
            sandbox = platform.place.sandboxes[found[ids[-1]]]
            await written(platform, sandbox, "x" * 30_000)
            await platform.call("POST", f"{PROJECT}/agents/a1/endpoint/sessions/{ids[-1]}:stop")
            platform.clock.now += DAY
        kept.append("stray", kept.read(sandbox.spec.sandbox_id, Position())[0], "1")
        await retention.once()
        assert [run.session for run in await runs(platform)] == ids[2:]
        assert len(kept.sandboxes()) == 1
        running = await session(platform)
        platform.clock.now += 10 * DAY
        await retention.once()
        assert [run.session for run in await runs(platform)] == [running]
