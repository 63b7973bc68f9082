"""Keeping what a response was, while its bytes pass by.

Containers on the current adapters store their responses themselves (`callbacks/storage.py`); a plain container stores
nothing. So the gateway keeps a copy of the beginning and the end of every stored response, and steps back wherever
the container has written its own. The last event of a stream goes on only when it is kept: what a caller has seen
finished survives a crash.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cupola.conversations import FINAL_STATUSES, StoredResponse, failed_body
from cupola.gateway.asking import ITEM_REFERENCE
from cupola.store import Store
from cupola.store import responses as rows


@dataclass(frozen=True, slots=True)
class Asked:
    """What a response answers. `row` is the response to be, with no body yet; `store` whether it is to be kept."""

    row: StoredResponse
    previous: str | None
    input_items: Sequence[Mapping[str, Any]]
    store: bool = True


class Recorder:
    """Writes responses as the gateway saw them. `clock` gives unix seconds."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    async def keep(self, asked: Asked, body: Mapping[str, Any]) -> None:
        """Keeps `body`, unless the container has stored its own last word already; returns when it is committed."""
        if not asked.store:
            return

        def change(conn: Any) -> None:
            known = rows.get_response(conn, asked.row.project, asked.row.id)
            if known is not None and (known.is_final or body.get("status") not in FINAL_STATUSES):
                return
            if known is None:
                known = self._new(conn, asked, body)
                rows.create_response(conn, known, _with_bodies(asked.input_items))
            rows.save_response(conn, replace(known, body=body))

        await self._store.write(change)

    async def end(self, found: StoredResponse, body: Mapping[str, Any]) -> None:
        """Keeps the last word of a response that is there, unless somebody else has kept one."""

        def change(conn: Any) -> None:
            known = rows.get_response(conn, found.project, found.id)
            if known is not None and not known.is_final:
                rows.save_response(conn, replace(known, body=body))

        await self._store.write(change)

    async def fail(self, found: StoredResponse, reason: str) -> None:
        """Ends a response that nobody will finish."""

        def change(conn: Any) -> None:
            known = rows.get_response(conn, found.project, found.id)
            if known is not None and not known.is_final:
                rows.save_response(conn, replace(known, body=failed_body(known.body, reason, self._clock())))

        await self._store.write(change)

    def _new(self, conn: Any, asked: Asked, body: Mapping[str, Any]) -> StoredResponse:
        row = asked.row
        history: tuple[str, ...] = ()
        if asked.previous is not None:
            history = rows.history_of_response(conn, row.project, asked.previous) or ()
        elif row.conversation is not None:
            history = tuple(rows.history_of_conversation(conn, row.project, row.conversation))
        return replace(
            row,
            body=body,
            created_at=self._clock(),
            input_item_ids=tuple(str(item["id"]) for item in asked.input_items),
            history_item_ids=history,
        )


def _with_bodies(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """All but references: these name an item that is stored, and must not be stored over it."""
    return [item for item in items if item.get("type") != ITEM_REFERENCE]
