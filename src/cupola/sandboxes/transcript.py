"""What sandboxes wrote and what became of them, told as one story: first what was, then what comes.

A reading walks over the runs that are meant, merges their lines by time, and puts between them what the platform saw:
begun, ready, ended. It remembers how far it has come in each, so that asking again gives what is new. It reads files
beside those who write them: readers hold up nobody, count as no activity and start nothing.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cupola.runs import OutputLine, Part, Run, Stream
from cupola.sandboxes.kept import KeptOutput, Position
from cupola.sandboxes.lives import Bell
from cupola.store import Store
from cupola.store import runs as rows

_BATCH = 256
_GATHER = 0.05
"""Seconds in which what comes is gathered, so that an agent that talks much does not wake its readers for each line."""
_LATE = 60.0
"""Seconds for which a run that has ended is still looked for: one may begin and end between two looks."""


class Event(StrEnum):
    """What the platform has seen of a sandbox."""

    BEGAN = "began"
    READY = "ready"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the story: what a sandbox wrote, or with an `event` what was seen of it. `run` is as of then."""

    run: Run
    at: float
    stream: Stream
    text: str
    event: Event | None = None

    @property
    def part(self) -> Part:
        return Part.START if self.event is Event.BEGAN else self.run.part(self.at)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which runs, and what of them: since when (unix seconds), one part only, what the platform saw only.

    `tail` is how many lines of what was.
    """

    which: rows.Which
    since: float | None = None
    part: Part | None = None
    only_events: bool = False
    tail: int | None = None

    def takes(self, entry: Entry) -> bool:
        if self.since is not None and entry.at < self.since:
            return False
        return self.part is None or entry.part is self.part


class Transcripts:
    """Opens readings."""

    def __init__(self, store: Store, kept: KeptOutput, bell: Bell, clock: Callable[[], float]) -> None:
        self._store = store
        self._kept = kept
        self._bell = bell
        self._clock = clock

    @contextmanager
    def open(self, wanted: Wanted) -> Iterator[Reading]:
        with self._bell.listening((wanted.which.project, wanted.which.agent)) as news:
            yield Reading(self._store, self._kept, wanted, self._bell, news, self._clock)


class Reading:
    """One reader's way through the story: `history` once, then `more` as often as it likes."""

    def __init__(
        self,
        store: Store,
        kept: KeptOutput,
        wanted: Wanted,
        bell: Bell,
        news: asyncio.Event,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._bell = bell
        self._kept = kept
        self._wanted = wanted
        self._news = news
        self._clock = clock
        self._readers: dict[str, _RunReader] = {}
        self._looked_at = wanted.since

    @property
    def over(self) -> bool:
        """Whether nothing will come any more: the platform stops."""
        return self._bell.closed

    async def history(self) -> AsyncIterator[Sequence[Entry]]:
        """What was until now, oldest first, in pieces."""
        await self._look()
        if self._wanted.tail is not None and self._wanted.part is None and not self._wanted.only_events:
            self._skip_to_the_last(self._wanted.tail)
        if self._wanted.tail is None:
            async for piece in self._pieces():
                yield piece
            return
        last = deque[Entry](maxlen=self._wanted.tail)
        async for piece in self._pieces():
            last.extend(piece)
        if last:
            yield list(last)

    async def more(self, timeout: float) -> Sequence[Entry]:
        """What is new, as soon as something is; nothing when nothing came within `timeout` seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while True:
            self._news.clear()
            await self._look()
            if found := [entry async for piece in self._pieces() for entry in piece]:
                return found
            if self.over:
                return []
            try:
                async with asyncio.timeout_at(until):
                    await self._news.wait()
            except TimeoutError:
                return []
            await asyncio.sleep(_GATHER)

    async def _look(self) -> None:
        """Learns which runs there are and what became of them."""
        since = self._looked_at
        self._looked_at = self._clock() - _LATE
        going = [sandbox for sandbox, reader in self._readers.items() if not reader.done]

        def question(conn: Any) -> tuple[list[Run], dict[str, Run]]:
            return rows.runs_of(conn, self._wanted.which, since=since), rows.get_runs(conn, going)

        runs, still_there = await self._store.read(question)
        for run in runs:
            if run.sandbox not in self._readers:
                self._readers[run.sandbox] = _RunReader(run, self._kept, self._wanted)
        for sandbox in going:
            reader = self._readers[sandbox]
            reader.run = still_there.get(sandbox, reader.run)
            reader.done = sandbox not in still_there  # deleted with its session

    def _skip_to_the_last(self, count: int) -> None:
        """Begins so late in each run that the last lines of all are among what is read, and not much else."""
        have, oldest = 0, float("inf")
        for reader in sorted(self._readers.values(), key=lambda reader: reader.run.ended_at or float("inf"))[::-1]:
            if have >= count and reader.run.ended_at is not None and reader.run.ended_at < oldest:
                reader.done = True
                continue
            found, first = reader.skip_to_the_last(count)
            have, oldest = have + found, min(oldest, first)

    async def _pieces(self) -> AsyncIterator[list[Entry]]:
        """Everything new, merged by time; others get their turn after each piece."""
        piece: list[Entry] = []
        going = [reader.new() for reader in self._readers.values() if not reader.done]
        for looked_at, entry in enumerate(heapq.merge(*going, key=lambda entry: entry.at), 1):
            if self._wanted.takes(entry):
                piece.append(entry)
            if looked_at % _BATCH == 0:
                if piece:
                    yield piece
                    piece = []
                await asyncio.sleep(0)
        if piece:
            yield piece


class _RunReader:
    """How far one run was told."""

    def __init__(self, run: Run, kept: KeptOutput, wanted: Wanted) -> None:
        self.run = run
        self.done = False
        self._kept = kept
        self._only_events = wanted.only_events
        self._position = Position() if wanted.since is None else self._first_since(wanted.since)
        self._began = self._ready = False

    def _first_since(self, since: float) -> Position:
        position = Position()
        for position, line in self._kept.read_back(self.run.sandbox):  # noqa: B007 - the last one is what is meant
            if line.at < since:
                break
        return position

    def skip_to_the_last(self, count: int) -> tuple[int, float]:
        """Begins with the last lines; how many those are, and the time of the first of them."""
        found, first, begin = 0, float("inf"), self._position
        for position, line in self._kept.read_back(self.run.sandbox):
            if found == count or position < self._position:
                break
            found, first, begin = found + 1, line.at, position
        self._position = begin
        return found, first

    def new(self) -> Iterator[Entry]:
        """What has not been told yet."""
        if not self._began:
            self._began = True
            yield self._event(Event.BEGAN, self.run.began_at, f"Sandbox begun ({self.run.start_type})")
        while lines := self._read():
            for line in lines:
                if self._is_ready_by(line.at):
                    yield self._tell_ready()
                yield Entry(self.run, line.at, line.stream, line.text)
        if self._is_ready_by(float("inf")):
            yield self._tell_ready()
        if self.run.ended_at is not None:
            self.done = True
            yield self._event(Event.ENDED, self.run.ended_at, _told_end(self.run))

    def _read(self) -> Sequence[OutputLine]:
        if self._only_events:
            return ()
        lines, self._position = self._kept.read(self.run.sandbox, self._position)
        return lines

    def _is_ready_by(self, at: float) -> bool:
        return not self._ready and self.run.ready_at is not None and at > self.run.ready_at

    def _tell_ready(self) -> Entry:
        self._ready = True
        assert self.run.ready_at is not None
        took = self.run.ready_at - self.run.began_at
        return self._event(Event.READY, self.run.ready_at, f"Sandbox ready after {took:.1f} s")

    def _event(self, event: Event, at: float, text: str) -> Entry:
        return Entry(self.run, at, Stream.STATUS, text, event)


def _told_end(run: Run) -> str:
    if run.failure is None:
        return f"Sandbox ended: {run.end_reason}"
    code = "" if run.failure.exit_code is None else f", exit code {run.failure.exit_code}"
    return f"Sandbox ended: {run.end_reason}{code}: {run.failure.message}"
