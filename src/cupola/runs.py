"""Runs: the life of each sandbox that ever began, and the lines that it wrote.

A sandbox has a row while it exists; its run stays, so that what it wrote can still be read, and why it ended be told.
What is kept of a run ends with its session, its agent, or its time (`output_days`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cupola.agents import Failure


class StartType(StrEnum):
    """Why a sandbox was started."""

    PROBE = "probe"
    """To see whether a new version answers."""

    WARM = "warm"
    """To be there before a session asks."""

    COLD = "cold"
    """For a new session."""

    RESUME = "resume"
    """For a session that slept."""


class Stream(StrEnum):
    """Where a line of a log comes from: the sandbox's output, or the platform's view of the sandbox."""

    STDOUT = "stdout"
    STDERR = "stderr"
    STATUS = "status"


class Part(StrEnum):
    """The two parts of a run: before its sandbox was ready, and since."""

    START = "start"
    SERVE = "serve"


@dataclass(frozen=True, slots=True)
class OutputLine:
    """One line that a sandbox has written, without its end. `at` is in unix seconds."""

    at: float
    stream: Stream
    text: str


@dataclass(frozen=True, slots=True)
class Run:
    """One life of one sandbox. Times are unix seconds; what has not happened yet is None.

    `session` is None until a session takes the sandbox. `failure` is the evidence where it did not come up or ended
    by itself.
    """

    sandbox: str
    project: str
    agent: str
    version: str
    driver: str
    start_type: StartType
    began_at: float
    session: str | None = None
    ready_at: float | None = None
    ended_at: float | None = None
    end_reason: str | None = None
    failure: Failure | None = None

    def part(self, at: float) -> Part:
        """Which part of the run an instant belongs to; that of becoming ready ends the start."""
        return Part.SERVE if self.ready_at is not None and at > self.ready_at else Part.START
