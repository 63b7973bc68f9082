"""What a run of the benchmarks leaves behind: a table to read, a file to compare."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure beside the bare thing of the same run.

    `goal` is in words, `met` None where there is none or where it could not be measured; `note` says why, and under
    which conditions the figures were taken.
    """

    name: str
    ours: float | None
    reference: float | None
    goal: str = ""
    met: bool | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        if self.ours is None or not self.reference:
            return None
        return round(self.ours / self.reference, 3)


def skipped(name: str, why: str, goal: str = "") -> Goal:
    """A case that cannot run here."""
    return Goal(name, None, None, goal, None, f"skipped: {why}")


def machine() -> dict[str, object]:
    """What the figures were taken on, with the speed of a fixed loop: guests differ from minute to minute."""
    began = time.perf_counter()
    sum(range(3_000_000))
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "loop_ms": round((time.perf_counter() - began) * 1000, 1),
        "load": os.getloadavg()[0],
    }


def write_results(goals: Sequence[Goal], path: Path) -> None:
    rows = [{**asdict(goal), "ratio": goal.ratio} for goal in goals]
    path.write_text(json.dumps({"goals": rows, "machine": machine()}, indent=2) + "\n")


def print_table(goals: Sequence[Goal]) -> None:
    table = Table(title="Cupola beside the bare thing")
    for title in ("case", "ours", "reference", "ratio", "goal", "met", "note"):
        table.add_column(title, justify="right" if title in ("ours", "reference", "ratio") else "left")
    for goal in goals:
        table.add_row(
            goal.name,
            _figure(goal.ours),
            _figure(goal.reference),
            _figure(goal.ratio),
            goal.goal,
            {True: "yes", False: "NO", None: ""}[goal.met],
            goal.note,
        )
    console = Console(width=None if os.isatty(1) else 160)
    console.print(table)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
