"""What every driver promises of the output of its sandboxes: each line once, over restarts, until the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from cupola.drivers.base import LONGEST_LINE, Driver, Handle, Output
from cupola.runs import OutputLine, Stream
from tests.contract import test_drivers as drivers
from tests.contract.place import Agent, Place, ask
from tests.contract.test_drivers import DEADLINE, address, serve, start

place = drivers.place


async def say(handle: Handle, text: str | bytes, stream: str = "stdout") -> None:
    body = text if isinstance(text, bytes) else f"{text}\n".encode()
    status, _ = await ask(address(handle), "POST", f"/say/{stream}", body)
    assert status == 200


async def listening(place: Place, agent: Agent = Agent.ECHO) -> Handle:
    """A sandbox that has written its first line: it answers a moment before."""
    handle = await serve(place, agent)

    async def written() -> bool:
        return "listening" in await place.driver.output(handle, 5)

    await drivers.eventually(written)
    return handle


async def until(pieces: AsyncGenerator[Output], last: str) -> tuple[list[OutputLine], str]:
    """The lines up to one that ends with `last`, and the mark behind them."""
    lines: list[OutputLine] = []
    async with asyncio.timeout(DEADLINE):
        async for piece in pieces:
            lines += piece.lines
            if any(line.text.endswith(last) for line in piece.lines):
                return lines, piece.mark
    raise AssertionError(f"the output ended without {last!r}: {lines}")


async def everything(driver: Driver, handle: Handle, after: str | None = None) -> list[OutputLine]:
    """The lines of a sandbox that has ended."""
    async with asyncio.timeout(DEADLINE):
        return [line async for piece in driver.follow(handle, after) for line in piece.lines]


def texts(lines: list[OutputLine]) -> list[str]:
    return [line.text for line in lines]


async def test_lines_come_as_they_are_written(place: Place) -> None:
    """Who follows a sandbox gets what it has written, and then each line when it is written, with its time."""
    handle = await serve(place)
    async with aclosing(place.driver.follow(handle, None)) as pieces:
        first, _ = await until(pieces, "listening")
        assert texts(first) == ["listening"]
        await say(handle, "one")
        assert texts((await until(pieces, "one"))[0]) == ["one"]
        await say(handle, "two\nthree\r")
        more, _ = await until(pieces, "three")
        assert texts(more) == ["two", "three"]
    times = [line.at for line in (*first, *more)]
    assert times == sorted(times)
    assert times[-1] > 1_700_000_000


async def test_the_streams_are_told_apart(place: Place) -> None:
    """Where the two streams are apart: an engine has two pipes, a process one file."""
    handle = await serve(place)
    async with aclosing(place.driver.follow(handle, None)) as pieces:
        await say(handle, "complaint", "stderr")
        lines, _ = await until(pieces, "complaint")
    wanted = Stream.STDOUT if place.name == "process" else Stream.STDERR
    assert lines[-1].stream is wanted


async def test_a_mark_is_good_after_a_restart(place: Place) -> None:
    """Another driver goes on behind the mark of an earlier one: no line is missing, none comes twice."""
    handle = await serve(place)
    async with aclosing(place.driver.follow(handle, None)) as pieces:
        await say(handle, "\n".join(f"line {number}" for number in range(100)))
        await say(handle, "complaint", "stderr")
        await until(pieces, "complaint")
        await say(handle, "\n".join(f"line {number}" for number in range(100, 150)))
        seen, mark = await until(pieces, "line 149")
    await say(handle, "between")
    await place.driver.aclose()
    driver = await place.restart()
    async with aclosing(driver.follow(handle, mark)) as pieces:
        await say(handle, "and after")
        lines, _ = await until(pieces, "and after")
        assert texts(lines) == ["between", "and after"]
    await driver.end(handle, 5)
    assert "line 149" not in texts(await everything(driver, handle, mark))
    whole = texts(await everything(driver, handle))
    assert [text for text in whole if text.startswith("line")] == [f"line {number}" for number in range(150)]
    assert len(seen) > 0


async def test_following_ends_with_the_sandbox(place: Place) -> None:
    """When it has ended, its last words are read and the following ends; until a stop they can be read again."""
    handle = await listening(place)
    pieces = place.driver.follow(handle, None)
    following = asyncio.ensure_future(until(pieces, "bye"))
    await place.driver.end(handle, 10)
    lines, _ = await following
    assert texts(lines) == ["listening", "bye"]
    async with asyncio.timeout(DEADLINE):
        assert [piece async for piece in pieces] == []
    assert texts(await everything(place.driver, handle)) == ["listening", "bye"]
    await place.driver.end(handle, 0)
    await place.driver.stop(handle, 0)
    assert await everything(place.driver, handle) == []
    await place.driver.end(handle, 0)


async def test_the_output_of_a_crash(place: Place) -> None:
    """What a process that ended by itself has written can be read."""
    handle = await start(place.driver, place.spec(place.source(Agent.CRASH)))
    assert sorted(texts(await everything(place.driver, handle))) == ["first line", "second line"]


async def test_what_is_no_line_and_no_text(place: Place) -> None:
    """Long lines come in pieces that tear no character, bytes that are no text are marked, a last line needs no end."""
    handle = await listening(place, Agent.STUBBORN)
    long = "ä" * LONGEST_LINE * 2
    await say(handle, long)
    await say(handle, b"\xff\x00\xfe binary\n")
    await say(handle, b"\n")
    await say(handle, b"no end")
    await place.driver.end(handle, 0)
    lines = texts(await everything(place.driver, handle))
    assert lines[0] == "listening"
    binary = next(at for at, text in enumerate(lines) if "binary" in text)
    pieces = lines[1:binary]
    assert len(pieces) > 1
    assert all(len(piece.encode()) <= LONGEST_LINE for piece in pieces)
    assert "".join(pieces) == long
    assert lines[binary] == "\ufffd\x00\ufffd binary"
    assert lines[binary + 1 :] == ["", "no end"]
