"""Cupola's own routes: whether it serves, and what it holds. They stand beside the wire, under `/cupola/`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cupola import __version__
from cupola.api.warm import show_pool
from cupola.sandboxes.ready import Sandboxes
from cupola.sandboxes.warm import WarmPools
from cupola.store import Store
from cupola.store import counts as rows
from cupola.web.reply import json_reply


class Health:
    """Handlers."""

    def __init__(self, store: Store, sandboxes: Sandboxes, pools: WarmPools) -> None:
        self._pools = pools
        self._store = store
        self._sandboxes = sandboxes

    async def health(self, request: Request) -> Response:
        """`GET /cupola/health`: open, says nothing but that it serves."""
        return json_reply({"status": "healthy"})

    async def status(self, request: Request) -> Response:
        """`GET /cupola/status`: counts of what there is, what runs now, and what waits for sessions."""
        counts: dict[str, Any] = dict(await self._store.read(rows.counts))
        running = [
            {
                "agent": live.row.agent,
                "version": live.row.version,
                "session": live.row.session_id or None,
                "warm": live.session is None,
                "start": None if live.session is None else live.start_type.value,
                "driver": live.row.driver,
            }
            for live in self._sandboxes.live
        ]
        pools = [show_pool(state) for state in await self._pools.all()]
        return json_reply(
            {"version": __version__, **counts, "sandboxes": len(running), "running": running, "warm_pools": pools}
        )
