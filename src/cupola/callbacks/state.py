"""State stores, as containers use them through `FoundryStateStore` (container-contract.md §4.3).

Project and agent come from the sandbox's token. In a store with user isolation the user comes from the call id, and
another user's items do not exist. `x-ms-user-id` may name that same user, or, outside of any call, the one whose
session the sandbox serves: an agent may not choose whose items it sees.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from cupola import ids, state
from cupola.callbacks.owner import CALL_ID, sandbox_of, user_of_call
from cupola.errors import BadRequest, Conflict, Forbidden, NotFound
from cupola.secrecy import brief
from cupola.state import StateItem, StateItemRef, StateStore
from cupola.store import Page, Store
from cupola.store import agents as agent_rows
from cupola.store import sessions as session_rows
from cupola.store import state as rows
from cupola.web.auth import Tokens
from cupola.web.body import parse_object, read_bytes, read_object
from cupola.web.paging import page_from
from cupola.web.reply import json_reply

DELEGATED_USER = "x-ms-user-id"
_TAG = "tags."
_MANY_DIGITS = re.compile(rb"[0-9]{19}")


class StateStores:
    """Handlers of `…/storage/state_stores…` on the containers' listener."""

    def __init__(self, store: Store, tokens: Tokens, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._tokens = tokens
        self._clock = clock

    # Stores

    async def create(self, request: Request) -> Response:
        """`POST state_stores`: 409 if the agent has one of this name."""
        body, sandbox, now = await read_object(request), sandbox_of(request), self._clock()
        made = StateStore(
            project=sandbox.project,
            agent=sandbox.agent,
            name=state.read_name(body.get("name"), "name"),
            id=ids.new_state_store_id(),
            created_at=now,
            updated_at=now,
            user_isolation=state.read_isolation(body.get("user_isolation")),
            item_ttl_seconds=state.read_ttl(body.get("item_ttl_seconds")),
            description=state.read_description(body.get("description")),
            tags=state.read_tags(body.get("tags")),
        )

        def change(conn: Any) -> None:
            if agent_rows.get_agent(conn, made.project, made.agent) is None:
                raise NotFound(f"Agent '{made.agent}' was deleted, and its state stores with it.")
            if rows.get_store(conn, made.project, made.agent, made.name) is not None:
                raise Conflict(f"State store '{made.name}' already exists.", code="already_exists", param="name")
            rows.put_store(conn, made)

        await self._store.write(change)
        return json_reply(show_store(made), 201)

    async def get(self, request: Request) -> Response:
        return json_reply(show_store(await self._store.read(partial(_load, request=request))))

    async def update(self, request: Request) -> Response:
        """`PATCH state_stores/{store}`: description and tags; null clears, what is not named stays."""
        body, now = await read_object(request), self._clock()

        def change(conn: Any) -> StateStore:
            changed = _load(conn, request).to_described(body, now)
            rows.put_store(conn, changed)
            return changed

        return json_reply(show_store(await self._store.write(change)))

    async def delete(self, request: Request) -> Response:
        """With all items, of all users. A store that is not there is deleted already."""
        sandbox, name = sandbox_of(request), _name(request)

        def change(conn: Any) -> StateStore | None:
            known = rows.get_store(conn, sandbox.project, sandbox.agent, name)
            if known is not None:
                rows.delete_store(conn, known)
            return known

        known = await self._store.write(change)
        return json_reply({**_id_of(known), "object": "state_store", "name": name, "deleted": True})

    # Items

    async def create_item(self, request: Request) -> Response:
        """`POST …/items`: 409 if the key is taken."""
        sent, now = await _sent_item(request), self._clock()
        key = state.read_name(sent.key, "key")

        def change(conn: Any) -> StateItem:
            store = _load(conn, request)
            user = self._user(conn, request, store)
            if rows.get_item(conn, store, user, key, now) is not None:
                raise Conflict(f"Item '{key}' already exists.", code="already_exists", param="key")
            return _write(conn, store, user, None, key, sent, now)

        return _reply(show_ref(await self._store.write(change)), 201)

    async def put_item(self, request: Request) -> Response:
        """`PUT …/items/{key}`: makes or replaces it, as far as `If-Match` allows."""
        sent, now, key = await _sent_item(request), self._clock(), _key(request)

        def change(conn: Any) -> tuple[StateItem, bool]:
            store = _load(conn, request)
            user = self._user(conn, request, store)
            current = rows.get_item(conn, store, user, key, now)
            state.check_match(request.headers.get("if-match"), key, current)
            return _write(conn, store, user, current, key, sent, now), current is None

        item, is_new = await self._store.write(change)
        return _reply(show_ref(item), 201 if is_new else 200)

    async def get_item(self, request: Request) -> Response:
        now, key = self._clock(), _key(request)

        def question(conn: Any) -> StateItem | None:
            store = _load(conn, request)
            return rows.get_item(conn, store, self._user(conn, request, store), key, now)

        item = await self._store.read(question)
        if item is None:
            raise NotFound(f"Item {brief(key)} does not exist.", param="key")
        return _reply({**show_key(item), "value": item.value})

    async def delete_item(self, request: Request) -> Response:
        """Without `If-Match`, an item that is not there is deleted already."""
        now, key = self._clock(), _key(request)

        def change(conn: Any) -> StateItem | None:
            store = _load(conn, request)
            user = self._user(conn, request, store)
            current = rows.get_item(conn, store, user, key, now)
            state.check_match(request.headers.get("if-match"), key, current)
            rows.delete_item(conn, store, user, key)
            return current

        known = await self._store.write(change)
        return json_reply({**_id_of(known), "object": "state_store.item", "key": key, "deleted": True})

    async def list_keys(self, request: Request) -> Response:
        """`GET …/items:keys`: in the order of their creation, those that have all tags `tags.<key>=<value>`."""
        page, tags, now = _page(request), _tags_wanted(request), self._clock()

        def question(conn: Any) -> Any:
            store = _load(conn, request)
            return rows.list_items(conn, store, self._user(conn, request, store), tags, page, now)

        found = await self._store.read(question)
        shown = [show_key(item) for item in found.items]
        return json_reply(
            {
                "object": "list",
                "data": shown,
                "first_id": shown[0]["id"] if shown else None,
                "last_id": shown[-1]["id"] if shown else None,
                "has_more": found.has_more,
            }
        )

    def _user(self, conn: Any, request: Request, store: StateStore) -> str:
        """Under whom the items stand. Raises BadRequest or Forbidden."""
        caller, named = user_of_call(request, self._tokens), request.headers.get(DELEGATED_USER)
        if named is not None:
            caller = _delegated(conn, request, caller, named)
        if not store.user_isolation:
            return state.SHARED
        if caller is None:
            raise BadRequest(
                f"State store '{store.name}' keeps the items of each user apart, and this call says for whom it is by "
                f"neither {CALL_ID} nor {DELEGATED_USER}; hand on the call id of the request that you are serving.",
                param=CALL_ID,
            )
        return caller


def show_store(store: StateStore) -> dict[str, Any]:
    return {
        "id": store.id,
        "object": "state_store",
        "name": store.name,
        "user_isolation": store.user_isolation,
        "item_ttl_seconds": store.item_ttl_seconds,
        "description": store.description,
        "tags": store.tags or {},
        "created_at": int(store.created_at),
        "updated_at": int(store.updated_at),
    }


def show_ref(item: StateItemRef) -> dict[str, Any]:
    """What a write answers: neither value nor tags."""
    return {
        "id": item.id,
        "object": "state_store.item",
        "key": item.key,
        "etag": item.etag,
        "created_at": int(item.created_at),
        "updated_at": int(item.updated_at),
    }


def show_key(item: StateItemRef) -> dict[str, Any]:
    return {**show_ref(item), "tags": item.tags}


def _reply(item: Mapping[str, Any], status: int = 200) -> Response:
    return json_reply(item, status, {"ETag": item["etag"]})


def _id_of(known: StateStore | StateItem | None) -> dict[str, str]:
    """Clients tell by the id whether there was anything to delete."""
    return {} if known is None else {"id": known.id}


def _load(conn: Any, request: Request) -> StateStore:
    sandbox, name = sandbox_of(request), _name(request)
    store = rows.get_store(conn, sandbox.project, sandbox.agent, name)
    if store is None:
        raise NotFound(f"State store {brief(name)} does not exist.", param="name")
    return store


def _write(
    conn: Any, store: StateStore, user: str, current: StateItem | None, key: str, sent: _Sent, now: float
) -> StateItem:
    """The item as it is after the write: value and tags as a whole, a new etag, a new life."""
    item = StateItem(
        key=key,
        id=ids.new_state_item_id() if current is None else current.id,
        value=sent.value,
        etag=ids.new_etag(),
        created_at=now if current is None else current.created_at,
        updated_at=now,
        expires_at=store.expiry(now),
        tags=sent.tags,
    )
    rows.put_item(conn, store, user, item)
    return item


def _delegated(conn: Any, request: Request, caller: str | None, named: str) -> str:
    """The user that the header names, if it is the one whom this sandbox serves. Raises Forbidden."""
    if caller is None:
        session = session_rows.get_session(conn, *_session_key(request))
        caller = None if session is None else session.caller
    if named != caller:
        raise Forbidden(
            f"{DELEGATED_USER} may name the user of the call that the agent is serving, or, outside of a call, the "
            "owner of its session; it names somebody else.",
            param=DELEGATED_USER,
        )
    return named


def _session_key(request: Request) -> tuple[str, str, str]:
    sandbox = sandbox_of(request)
    return (sandbox.project, sandbox.agent, sandbox.session)


def _name(request: Request) -> str:
    """The store that the path names. Raises BadRequest."""
    return _decoded(request.path_params["store"], "name")


def _key(request: Request) -> str:
    """The item that the path names. Raises BadRequest."""
    return _decoded(request.path_params["key"], "key")


def _decoded(segment: str, param: str) -> str:
    """A name that stands in the path in base64url without padding. Raises BadRequest."""
    try:
        text = base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise BadRequest(
            f"'{segment[:80]}' in the path must be the {param} in UTF-8 and base64url without padding.", param=param
        ) from error
    return state.read_name(text, param)


@dataclass(frozen=True, slots=True)
class _Sent:
    """What a write brings. `key` only where the path does not name it."""

    key: object
    value: Mapping[str, Any]
    tags: Mapping[str, str] | None


async def _sent_item(request: Request) -> _Sent:
    """The body of a write. Raises BadRequest."""
    raw = await read_bytes(request)
    body = parse_object(raw)
    _check_value(body.get("value"))
    if _MANY_DIGITS.search(raw):
        json.loads(raw, parse_int=_check_number)  # the faster parser makes floats of such numbers
    return _Sent(body.get("key"), body["value"], state.read_tags(body.get("tags")))


def _check_number(digits: str) -> None:
    if not -(2**63) <= int(digits) < 2**64:
        raise BadRequest(
            f"The number {digits[:40]} in 'value' has more than 64 bits; keep it as a string.", param="value"
        )


def _check_value(value: object) -> None:
    if not isinstance(value, dict):
        raise BadRequest("'value' must be a JSON object.", param="value")
    size = len(orjson.dumps(value))
    if size > state.MAX_VALUE:
        raise BadRequest(
            f"'value' has {size} bytes as JSON; an item keeps at most {state.MAX_VALUE} (1 MB). "
            "Keep what is larger in files under $HOME.",
            param="value",
        )


def _page(request: Request) -> Page:
    page = page_from(request.query_params)
    if page.after is not None and page.before is not None:
        raise BadRequest("'after' and 'before' exclude each other: a page goes one way.", param="before")
    return page


def _tags_wanted(request: Request) -> Mapping[str, str]:
    """Raises BadRequest for what no item can have."""
    wanted: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name.startswith(_TAG):
            key = name.removeprefix(_TAG)
            if wanted.setdefault(key, value) != value:
                raise BadRequest(f"'{name}' stands there twice; a tag has one value.", param=name)
    return state.read_tags(wanted) or {}
