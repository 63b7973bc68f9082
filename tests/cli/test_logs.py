"""`cupola logs`, for a whole platform of fake sandboxes behind its listeners."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cupola.cli.output import Exit
from cupola.drivers.fake import Behaviour, FakeSandbox
from cupola.runs import Stream
from tests.support.agents import echo
from tests.support.announced import Shell, announced
from tests.support.platform import PROJECT, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

DAY = 24 * 3600


@dataclass(frozen=True, slots=True)
class World:
    """An agent with two sessions, of which one has ended, and the shell to look at them."""

    platform: PlatformUnderTest
    cupola: Shell
    ended: str
    running: str

    @property
    def sandbox(self) -> FakeSandbox:
        live = self.platform.platform.sandboxes.live_of(("demo", "a1", self.running))
        assert live is not None
        return self.platform.place.sandboxes[live.row.id]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_platform(tmp_path, Behaviour(handler=echo)) as platform:
        await platform.create_version()
        ended = str((await platform.hear())["agent_session_id"])
        platform.clock.now += 1
        platform.sandbox.print("early ünd \x1b[33mcoloured\x1b[0m \x1b]0;title\x07\x08.")
        platform.clock.now += 1
        await platform.call("POST", f"{PROJECT}/agents/a1/endpoint/sessions/{ended}:stop")
        platform.clock.now += DAY
        await platform.hear(agent_session_id="second-one")
        platform.clock.now += 1
        platform.sandbox.print("late", Stream.STDERR)
        async with announced(platform) as shell:
            yield World(platform, shell, ended, "second-one")


async def test_everything_of_an_agent(world: World) -> None:
    """Time, the short form of the session's id, a sign for the stream, and the line."""
    shown = await world.cupola("logs", "a1")
    short = world.ended[:8]
    assert shown.out.splitlines() == [
        f"2023-11-14 22:13:20 {short} * Sandbox begun (probe)",
        f"2023-11-14 22:13:20 {short} | listening",
        f"2023-11-14 22:13:20 {short} * Sandbox ready after 0.0 s",
        f"2023-11-14 22:13:21 {short} | early ünd \x1b[33mcoloured\x1b[0m \x1b]0;title\x07\x08.",
        f"2023-11-14 22:13:22 {short} * Sandbox ended: session stopped",
        "2023-11-15 22:13:22 second-one * Sandbox begun (cold)",
        "2023-11-15 22:13:22 second-one | listening",
        "2023-11-15 22:13:22 second-one * Sandbox ready after 0.0 s",
        "2023-11-15 22:13:23 second-one ! late",
    ]
    assert (shown.code, shown.err) == (0, "")


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--session", "second-one", "-n", "1"], ["late"]),
        (["--session", "second"], ["Sandbox begun (cold)", "listening", "Sandbox ready after 0.0 s", "late"]),
        (["--last", "--phase", "serve"], ["late"]),
        (["--since", "10s", "--phase", "serve"], ["late"]),
        (["--grep", "^(list|la)", "--since", "2023-11-15T00:00:00"], ["listening", "late"]),
        (["--grep", "l(isten|at)", "-n", "2"], ["listening", "late"]),
        (["--phase", "start", "--grep", "ready", "--version", "1", "-n", "1"], ["Sandbox ready after 0.0 s"]),
    ],
)
async def test_what_is_asked_for(world: World, options: list[str], wanted: list[str]) -> None:
    """The platform chooses what it can, the command the rest; with JSON each line is one object."""
    shown = await world.cupola("logs", "a1", *options, "--output", "json")
    assert shown.code == 0, shown.err
    assert [json.loads(line)["text"] for line in shown.out.splitlines()] == wanted


async def test_one_session_needs_no_name_before_its_lines(world: World) -> None:
    shown = await world.cupola("logs", "a1", "-s", world.ended[:6], "-n", "1")
    assert shown.out == "2023-11-14 22:13:22 * Sandbox ended: session stopped\n"


async def test_nothing_matches(world: World) -> None:
    """That is no error, and it is said beside the output."""
    shown = await world.cupola("logs", "a1", "--grep", "no such thing")
    assert (shown.code, shown.out) == (0, "")
    assert shown.err == "No lines: nothing that is kept of agent 'a1' matches.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none"], "Agent 'none' does not exist"),
        (["a1", "--session", "none"], "has no session 'none'"),
        (["a1", "--since", "yesterday"], "a duration such as 90s, 10m"),
        (["a1", "--grep", "("], "which is no regular expression"),
        (["a1", "--last", "--session", "x"], "give one of them"),
    ],
)
async def test_refusals(world: World, arguments: list[str], sentence: str) -> None:
    shown = await world.cupola("logs", *arguments)
    assert (shown.code, shown.out) == (Exit.REFUSED, "")
    assert sentence in shown.err


@pytest.mark.parametrize("options", [["-n", "1"], ["--grep", "late|new", "-n", "1"]])
async def test_following(world: World, options: list[str]) -> None:
    """What was, then what comes; it ends with the platform."""
    process = await world.cupola.begin("logs", "a1", "-f", "-o", "json", *options)
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(30):
        assert json.loads(await process.stdout.readline())["text"] == "late"
        for number in range(3):
            world.sandbox.print(f"new {number}")
            assert json.loads(await process.stdout.readline())["text"] == f"new {number}"
        await world.platform.platform.drain()
        assert await process.stdout.read() == b""
        assert await process.stderr.read() == b"That is all: the platform stops.\n"
        assert await process.wait() == 0


async def test_a_terminal_gets_colours_and_nothing_worse(world: World) -> None:
    """The agent's colours stay, what would move the cursor or change the title does not."""
    process = await world.cupola.in_terminal("logs", "a1", "--grep", "early")
    assert "early ünd \x1b[33mcoloured\x1b[0m .\x1b[0m" in process
    assert world.ended[:8] + "\x1b[0m" in process


async def test_a_failed_version_is_explained(tmp_path: Path) -> None:
    """What a sandbox wrote that no session ever had."""
    async with open_platform(tmp_path, Behaviour(exit_code=3, output=("KeyError: 'MODEL'",))) as platform:
        failed = await platform.create_version()
        await wait_until(lambda: platform.running() == [])
        async with announced(platform) as cupola:
            shown = await cupola("logs", "a1", "--phase", "start")
            assert "v1 probe | KeyError: 'MODEL'" in shown.out
            assert "v1 probe * Sandbox ended: did not become ready, exit code 3" in shown.out
            assert "cupola logs a1 --version 1 --phase start" in failed["error"]["message"]
