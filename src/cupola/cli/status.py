"""`cupola status`: whether a platform runs, where, and what it holds."""

from __future__ import annotations

from typing import Any

from cupola.cli.options import Output, OutputOption, StateDir
from cupola.cli.output import say, say_json, say_table
from cupola.cli.state_dir import chosen_state_dir, running_in
from cupola.cli.warm import spoken
from cupola.installation import Running

_COUNTS = ("agents", "versions", "sessions", "sandboxes")


def status(state_dir: StateDir = None, output: OutputOption = Output.TEXT) -> None:
    """Show the endpoint, the driver and how many agents, versions, sessions and sandboxes there are."""
    from cupola.client import Client

    directory = chosen_state_dir(state_dir)
    running_in(directory)
    client = Client.of(directory)
    counts = client.get("/cupola/status")
    running, uptime = client.running, client.running.uptime()
    if output is Output.JSON:
        say_json({**counts, **running.to_json(), "uptime_seconds": round(uptime, 1), "state_dir": str(directory)})
        return
    say(f"Cupola runs (pid {running.pid}, up {_spoken(uptime)}).")
    say_table([*_where(running), ("state", str(directory)), *_how_many(counts), *_waiting(counts)])


def _where(running: Running) -> list[tuple[str, str]]:
    return [("endpoint", running.endpoint), ("driver", f"{running.driver} ({running.driver_reason})")]


def _how_many(counts: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(counts[name])) for name in _COUNTS if name in counts]


def _waiting(counts: dict[str, Any]) -> list[tuple[str, str]]:
    pools = [pool for pool in counts.get("warm_pools", ()) if pool["wanted"]]
    return [(f"warm {pool['agent']}:{pool['version']}", spoken(pool)) for pool in pools]


def _spoken(seconds: float) -> str:
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds) % 60} s" if minutes else f"{int(seconds)} s"
