"""Follows what runs and keeps what it writes: one task for each live sandbox, none at rest.

The driver says what comes after a mark, the files keep it with the next one; so whatever breaks off a task, the next
goes on where the files end. Before a sandbox is removed, what is left is read here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

import structlog

from cupola.drivers.base import Driver, Handle, Output
from cupola.errors import CupolaError
from cupola.runs import OutputLine
from cupola.sandboxes.kept import KeptOutput

log = structlog.get_logger()

AGAIN = (1.0, 60.0)
"""Seconds until a sandbox is followed again after an error: the first pause, and the longest."""
_PATIENCE = 10.0
"""Seconds that a driver gets to tell the rest of what a sandbox wrote."""

Hide = Callable[[str, str], str]
"""Takes out of a sandbox's text what it must not show: the sandbox's id, the text."""


class Collector:
    """Keeps the output of sandboxes. `on_kept` hears of each piece, `on_full` when a sandbox has filled a segment."""

    def __init__(
        self,
        kept: KeptOutput,
        *,
        hide: Hide,
        on_kept: Callable[[str], None],
        on_full: Callable[[str], None],
        again: tuple[float, float] = AGAIN,
    ) -> None:
        self._kept = kept
        self._hide = hide
        self._on_kept = on_kept
        self._on_full = on_full
        self._again = again
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def follow(self, sandbox: str, driver: Driver, handle: Handle) -> None:
        """Keeps what the sandbox writes from now on, and what it has written since it was last followed."""
        if sandbox not in self._tasks:
            self._tasks[sandbox] = asyncio.create_task(self._follow(sandbox, driver, handle))

    def look(self, sandbox: str, driver: Driver, handle: Handle) -> None:
        """Follows it anew, which looks at once: what a driver stamps when it sees it is from before this."""
        task = self._tasks.pop(sandbox, None)
        if task is not None:
            task.cancel()
        self.follow(sandbox, driver, handle)

    async def finish(self, sandbox: str, driver: Driver, handle: Handle) -> None:
        """Keeps the rest of what a sandbox that has ended has written. An unreachable driver has no rest."""
        await self._let_go(sandbox)
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._read(sandbox, driver, handle)
        except (TimeoutError, CupolaError, OSError) as error:
            log.warning("the last output of a sandbox was not kept", sandbox=sandbox, reason=str(error))

    async def aclose(self) -> None:
        """Lets go of all; whoever follows them next goes on from there."""
        await asyncio.gather(*(self._let_go(sandbox) for sandbox in list(self._tasks)))

    async def _let_go(self, sandbox: str) -> None:
        task = self._tasks.pop(sandbox, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _follow(self, sandbox: str, driver: Driver, handle: Handle) -> None:
        """Until all is read, or for ever: an error is logged, and after a pause it goes on."""
        pause, longest = self._again
        while True:
            try:
                return await self._read(sandbox, driver, handle)
            except (CupolaError, OSError) as error:
                log.warning("the output of a sandbox is not kept just now", sandbox=sandbox, reason=str(error))
            except Exception:
                # The edge of a background loop.
                log.exception("keeping the output of a sandbox failed", sandbox=sandbox)
            await asyncio.sleep(pause)
            pause = min(longest, pause * 2)

    async def _read(self, sandbox: str, driver: Driver, handle: Handle) -> None:
        async with aclosing(driver.follow(handle, self._kept.mark(sandbox))) as pieces:
            async for piece in pieces:
                self._keep(sandbox, piece)

    def _keep(self, sandbox: str, piece: Output) -> None:
        """Never breaks off between the write and the next mark: nothing in here waits."""
        full = self._kept.append(sandbox, [self._clean(sandbox, line) for line in piece.lines], piece.mark)
        self._on_kept(sandbox)
        if full:
            self._on_full(sandbox)

    def _clean(self, sandbox: str, line: OutputLine) -> OutputLine:
        text = self._hide(sandbox, line.text)
        return line if text is line.text else replace(line, text=text)
