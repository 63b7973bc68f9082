"""What is written in one turn of the loop goes out together, in order, and no later than the next turn."""

from __future__ import annotations

import asyncio
from typing import Any

from cupola.web.gathered import AT_ONCE, GatheredTransport


class Wire(asyncio.Transport):
    """What reaches the connection."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = self.aborted = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 7


def gathered() -> tuple[GatheredTransport, Wire]:
    wire = Wire()
    return GatheredTransport(wire, asyncio.get_running_loop()), wire


async def test_one_write_for_a_turn() -> None:
    """The head and the body of a reply are one; what comes in the next turn is another."""
    transport, wire = gathered()
    transport.write(b"head ")
    transport.write(b"body")
    assert (wire.written, transport.get_write_buffer_size()) == ([], 16)
    await asyncio.sleep(0)
    assert (wire.written, transport.get_write_buffer_size()) == ([b"head body"], 7)
    transport.write(b"event")
    await asyncio.sleep(0)
    assert wire.written == [b"head body", b"event"]


async def test_a_buffer_may_be_used_again() -> None:
    transport, wire = gathered()
    buffer = bytearray(b"first")
    transport.write(buffer)
    buffer[:] = b"other"
    await asyncio.sleep(0)
    assert wire.written == [b"first"]


async def test_much_does_not_wait() -> None:
    """A writer who does not pause fills the connection, which tells him when it is full; the order stays."""
    transport, wire = gathered()
    transport.write(b"head")
    transport.write(bytes(AT_ONCE))
    transport.write(b"tail")
    assert wire.written == [b"head" + bytes(AT_ONCE)]
    await asyncio.sleep(0)
    assert wire.written[1:] == [b"tail"]


async def test_closing_sends_what_was_written() -> None:
    transport, wire = gathered()
    transport.write(b"last words")
    transport.close()
    assert (wire.written, wire.closed) == ([b"last words"], True)
    await asyncio.sleep(0)
    assert wire.written == [b"last words"]


async def test_aborting_drops_it() -> None:
    transport, wire = gathered()
    transport.write(b"never")
    transport.abort()
    await asyncio.sleep(0)
    assert (wire.written, wire.aborted) == ([], True)


async def test_nothing_is_written_to_a_connection_that_has_gone() -> None:
    transport, wire = gathered()
    transport.write(b"too late")
    wire.closed = True
    await asyncio.sleep(0)
    assert wire.written == []
