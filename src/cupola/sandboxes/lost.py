"""Responses whose sandbox went away: nobody will finish them, so they end `failed` with the reason.

The adapters leave a response `in_progress` for ever when they are killed (container-contract.md §1); the platform
reaps it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cupola.conversations import StoredResponse, failed_body
from cupola.sandboxes.live import LiveSandbox, SessionKey
from cupola.sessions import Session
from cupola.store import Store
from cupola.store import responses as rows


class LostResponses:
    """Ends what was running. `clock` gives unix seconds."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def sandbox_ended(self, session: Session, reason: str) -> None:
        """The sandbox of `session` has ended; nobody goes on with what it left."""

        def change(conn: Any) -> None:
            for response in rows.in_progress_responses(conn, [session.key]):
                self._fail(conn, response, reason)

        if await self._store.read(lambda conn: rows.in_progress_responses(conn, [session.key])):
            await self._store.write(change)

    async def platform_restarted(
        self, adopted: Mapping[SessionKey, LiveSandbox]
    ) -> list[tuple[LiveSandbox, StoredResponse]]:
        """After a restart nobody waits for foreground responses, and only adopted sandboxes finish background ones.

        These are returned, each with its sandbox: somebody must follow them to their end.
        """

        def change(conn: Any) -> list[tuple[LiveSandbox, StoredResponse]]:
            going_on = []
            for response in rows.in_progress_responses(conn, None):
                live = adopted.get((response.project, response.agent, response.session or ""))
                if response.background and live is not None:
                    going_on.append((live, response))
                else:
                    self._fail(conn, response, "The platform was restarted while this response was running.")
            return going_on

        return await self._store.write(change)

    async def end(self, response: StoredResponse, reason: str) -> None:
        """One response that nobody goes on with, unless it has ended meanwhile."""

        def change(conn: Any) -> None:
            known = rows.get_response(conn, response.project, response.id)
            if known is not None and not known.is_final:
                self._fail(conn, known, reason)

        await self._store.write(change)

    def _fail(self, conn: Any, response: StoredResponse, reason: str) -> None:
        rows.save_response(conn, replace(response, body=failed_body(response.body, reason, self._clock())))
