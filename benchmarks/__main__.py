"""`make bench`: measures, prints a table, writes `benchmarks/results.json`.

`--core` measures the proxy core only, for work on it. Short and bounded: about three minutes in all.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.forking import forking_goals
from benchmarks.gateway import proxy_core_goals
from benchmarks.platform_cases import platform_goals
from benchmarks.report import Goal, print_table, write_results
from benchmarks.sessions_at_rest import sessions_at_rest_goals
from benchmarks.store import store_goals

RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", action="store_true", help="the proxy core only")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cupola-bench-") as scratch:
        goals: list[Goal] = []
        try:
            for goal in _all(Path(scratch), core_only=arguments.core):
                goals.append(goal)
        finally:
            print_table(goals)
            write_results(goals, arguments.results)


def _all(scratch: Path, *, core_only: bool) -> Iterator[Goal]:
    if not core_only:
        yield from platform_goals(scratch)
        yield from forking_goals(scratch)
    yield from proxy_core_goals(scratch)
    if not core_only:
        yield from store_goals(scratch)
        yield from sessions_at_rest_goals(scratch)


if __name__ == "__main__":
    main()
