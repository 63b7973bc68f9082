"""What stands between a caller and an agent: its delay, its rate, and what it does to a stream.

Every figure is taken beside the agent reached directly and through nginx, in turns, in one run. Callers of the
platform speak https, so nginx is measured with TLS as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measure import Rate, medians, rates
from benchmarks.report import Goal, skipped
from benchmarks.servers import Certificates, Target, echo_agent, make_certificates, nginx, proxy_core

TOKEN = "t" * 800
"""As long as a real one."""

ADDED_MS, RATE, EVENT_MS = 0.4, 8000.0, 2.0


def proxy_core_goals(directory: Path) -> Iterator[Goal]:
    """The proxy core alone, with and without TLS."""
    certificates = make_certificates(directory)
    for secure in (None, certificates):
        with ExitStack() as stack:
            agent = stack.enter_context(echo_agent())
            ours = stack.enter_context(proxy_core(agent, secure, TOKEN))
            yield from compared(ours, agent, secure, directory)


def compared(ours: Target, agent: Target, certificates: Certificates | None, directory: Path) -> Iterator[Goal]:
    """The three figures of `ours` in front of an agent."""
    name = f"{ours.name}, {'https' if certificates else 'http'}"
    with nginx(agent, certificates, directory) as beside:
        targets = [agent, ours] if beside is None else [agent, ours, beside]
        without = "" if beside is not None else "; nginx is not installed"
        yield _added(name, medians(targets, events=False, rounds=8, each=150), without)
        yield _rate(name, rates(targets, directory), without)
        yield _event(name, medians(targets, events=True, rounds=5, each=12), without)


def _added(name: str, found: list[float], without: str) -> Goal:
    added = [value - found[0] for value in found[1:]]
    note = f"direct {found[0]:.3f} ms{without}"
    return Goal(
        f"{name}: added p50 at one client, ms",
        added[0],
        added[1] if len(added) > 1 else None,
        f"≤ {ADDED_MS:g}",
        added[0] <= ADDED_MS,
        note,
    )


def _rate(name: str, found: list[Rate] | None, without: str) -> Goal:
    title, goal = f"{name}: requests/s at 64 connections, one core", f"≥ {RATE:,.0f}"
    if found is None:
        return skipped(title, "wrk is not installed", goal)
    reference = found[2].per_second if len(found) > 2 else None
    note = f"direct {found[0].per_second:,.0f}; {found[1].per_cpu_second:,.0f} per second of its own time{without}"
    return Goal(title, found[1].per_second, reference, goal, found[1].per_second >= RATE, note)


def _event(name: str, found: list[float], without: str) -> Goal:
    reference = found[2] if len(found) > 2 else None
    note = f"direct {found[0]:.3f} ms{without}"
    return Goal(
        f"{name}: first event after it was written, p50 ms",
        found[1],
        reference,
        f"≤ {EVENT_MS:g}",
        found[1] <= EVENT_MS,
        note,
    )
