"""Lists on the wire: the cursor shape and the query parameters behind it (control-plane.md §1.5).

The SDK ignores `has_more` and goes on while `last_id` is set, so the last page says `last_id: null`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from starlette.datastructures import QueryParams

from cupola.errors import BadRequest
from cupola.secrecy import brief
from cupola.store.paging import Page, PageOf

T = TypeVar("T")
MAX_LIMIT = 100


def page_from(query: QueryParams, *, limit: int = 20, order: Literal["asc", "desc"] = "desc") -> Page:
    """`limit` (1 to 100), `order`, `after` (azd: `pagination_token`), `before`; what is missing is as given here.

    Raises BadRequest naming the parameter.
    """
    wanted = query.get("order", order)
    if wanted not in ("asc", "desc"):
        raise BadRequest(f"'order' is {brief(wanted)}; it must be asc or desc.", param="order")
    text = query.get("limit")
    if text is not None:
        limit = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_LIMIT)) else 0
    if text is not None and not 1 <= limit <= MAX_LIMIT:
        raise BadRequest(f"'limit' is {brief(text)}; it must be a number from 1 to {MAX_LIMIT}.", param="limit")
    return Page(
        limit=limit,
        order="asc" if wanted == "asc" else "desc",
        after=query.get("after") or query.get("pagination_token") or None,
        before=query.get("before") or None,
    )


def cursor_list(page: PageOf[T], show: Callable[[T], Mapping[str, Any]], id_of: Callable[[T], str]) -> dict[str, Any]:
    """The cursor shape; azd's `pagination_token` rides along."""
    ids = [id_of(item) for item in page.items]
    last = ids[-1] if ids and page.has_more else None
    return {
        "object": "list",
        "data": [show(item) for item in page.items],
        "first_id": ids[0] if ids else None,
        "last_id": last,
        "pagination_token": last,
        "has_more": page.has_more,
    }


def openai_list(items: Sequence[Mapping[str, Any]], page: Page) -> dict[str, Any]:
    """One page of `items` (oldest first) in OpenAI's shape, whose clients do honour `has_more`."""
    ordered = list(items) if page.order == "asc" else list(reversed(items))
    ids = [item.get("id") for item in ordered]
    begin = ids.index(page.after) + 1 if page.after in ids else (len(ids) if page.after else 0)
    end = ids.index(page.before) if page.before in ids else len(ids)
    shown = ordered[begin:end][: page.limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0].get("id") if shown else None,
        "last_id": shown[-1].get("id") if shown else None,
        "has_more": begin + len(shown) < end,
    }
