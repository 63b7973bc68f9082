"""Following sandboxes: errors of a driver or a disk lose nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from cupola.drivers.base import Handle, Output, Step
from cupola.drivers.fake import FakeDriver, FakePlace
from cupola.errors import DriverUnavailable
from cupola.runs import OutputLine, Stream
from cupola.sandboxes.kept import KeptOutput, Position
from cupola.sandboxes.output import Collector
from tests.support.waiting import wait_until

HANDLE = Handle("flaky", "s1", Step.STARTED)
LINES = [OutputLine(float(number), Stream.STDOUT, f"line {number}") for number in range(5)]


class FlakyDriver(FakeDriver):
    """Tells two lines each time that it is asked, and then breaks, until there are none left."""

    def __init__(self) -> None:
        super().__init__(FakePlace())
        self.asked: list[str | None] = []

    async def follow(self, handle: Handle, after: str | None) -> AsyncGenerator[Output]:
        self.asked.append(after)
        position = int(after or 0)
        if lines := LINES[position : position + 2]:
            yield Output(lines, str(position + len(lines)))
            raise DriverUnavailable("The engine does not answer.")


class FullDisk(KeptOutput):
    """Refuses the second piece once."""

    refused = False

    def append(self, sandbox: str, lines: Sequence[OutputLine], mark: str) -> bool:
        if mark == "4" and not self.refused:
            self.refused = True
            raise OSError(28, "No space left on device")
        return super().append(sandbox, lines, mark)


async def test_errors_lose_nothing(tmp_path: Path) -> None:
    """After an error it goes on where the files end: each line is there once."""
    driver, kept, heard = FlakyDriver(), FullDisk(tmp_path, 64 * 1024), list[str]()
    collector = Collector(
        kept, hide=lambda sandbox, text: text, on_kept=heard.append, on_full=heard.append, again=(0, 0)
    )
    collector.follow("s1", driver, HANDLE)
    collector.follow("s1", driver, HANDLE)
    await wait_until(lambda: driver.asked[-1:] == ["5"])
    await collector.aclose()
    assert driver.asked == [None, "2", "2", "4", "5"]
    assert kept.refused
    assert kept.read("s1", Position())[0] == LINES
    assert heard == ["s1"] * 3


async def test_the_rest_is_read_whoever_followed(tmp_path: Path) -> None:
    """Also of a sandbox that nobody followed; what cannot be told is given up."""
    driver, kept = FlakyDriver(), KeptOutput(tmp_path, 64 * 1024)
    heard = list[str]()
    collector = Collector(kept, hide=lambda sandbox, text: text, on_kept=heard.append, on_full=heard.append)
    await collector.finish("s1", driver, HANDLE)
    assert kept.read("s1", Position())[0] == LINES[:2]
