"""Response storage, as containers on the current adapters use it (container-contract.md §4.1).

Items are kept under the ids that the container chose. The agent and session come from the container's token, the user
is that session's owner (`owner.py`); another user's response does not exist.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cupola.callbacks.owner import sandbox_of, user_of
from cupola.conversations import StoredResponse
from cupola.errors import BadRequest, Conflict, NotFound
from cupola.store import Store
from cupola.store import conversations as conversation_rows
from cupola.store import responses as rows
from cupola.web.auth import Tokens
from cupola.web.body import read_object
from cupola.web.paging import openai_list, page_from
from cupola.web.reply import json_reply


class Storage:
    """Handlers of `…/storage/…` on the containers' listener."""

    def __init__(self, store: Store, tokens: Tokens, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._tokens = tokens
        self._clock = clock

    async def create(self, request: Request) -> Response:
        """`POST storage/responses`: 409 if the id is taken, which the adapters swallow."""
        body = await read_object(request)
        response = body.get("response")
        if not isinstance(response, dict) or not isinstance(response.get("id"), str):
            raise BadRequest("'response' must be an object with an id.", param="response")
        items = _list_of(body, "input_items", dict)
        history = _list_of(body, "history_item_ids", str)
        stored = self._stored(request, await self._user(request), response, _with_ids(items), history)

        def change(conn: Any) -> bool:
            _require_own_conversation(conn, stored)
            made = rows.create_response(conn, stored, _with_ids(items))
            if made:
                rows.save_response(conn, stored)
            return made

        if not await self._store.write(change):
            raise Conflict(f"Response '{stored.id}' already exists.", code="already_exists")
        return json_reply({"id": stored.id}, 201)

    async def update(self, request: Request) -> Response:
        """`POST storage/responses/{id}`: the whole response as it is now."""
        body = await read_object(request)
        known = await self._load(request)
        await self._store.write(lambda conn: rows.save_response(conn, replace(known, body=body)))
        return json_reply({"id": known.id})

    async def get(self, request: Request) -> Response:
        return json_reply((await self._load(request)).body)

    async def delete(self, request: Request) -> Response:
        known = await self._load(request)
        await self._store.write(lambda conn: rows.delete_response(conn, known.project, known.id))
        return json_reply({"id": known.id, "object": "response", "deleted": True})

    async def input_items(self, request: Request) -> Response:
        known = await self._load(request)
        page = page_from(request.query_params)
        items = await self._store.read(
            lambda conn: rows.get_items(conn, known.project, known.input_item_ids, known.user)
        )
        return json_reply(openai_list([item for item in items if item is not None], page))

    async def history(self, request: Request) -> Response:
        """`GET storage/history/item_ids`: oldest first, all of them unless `limit` is positive."""
        project = sandbox_of(request).project
        previous = request.query_params.get("previous_response_id")
        conversation = request.query_params.get("conversation_id")
        user = await self._user(request)

        def question(conn: Any) -> Sequence[str] | None:
            if previous is not None:
                known = rows.get_response(conn, project, previous)
                if known is None or known.user != user:
                    return None
                return known.context_item_ids
            if conversation is not None:
                talk = conversation_rows.get_conversation(conn, project, conversation)
                if talk is not None and talk.user != user:
                    return None
                return rows.history_of_conversation(conn, project, conversation)
            return ()

        ids = await self._store.read(question)
        if ids is None:
            raise NotFound(f"Response or conversation '{previous or conversation}' not found.")
        limit = _limit(request)
        return json_reply(list(ids[-limit:] if limit > 0 else ids))

    async def items(self, request: Request) -> Response:
        """`POST storage/items/batch/retrieve`: aligned with the ids asked for, null for what is unknown."""
        wanted = (await read_object(request)).get("item_ids")
        if not isinstance(wanted, list) or not all(isinstance(item, str) for item in wanted):
            raise BadRequest("'item_ids' must be a list of strings.", param="item_ids")
        project, user = sandbox_of(request).project, await self._user(request)
        return json_reply(await self._store.read(lambda conn: rows.get_items(conn, project, wanted, user)))

    def _stored(
        self,
        request: Request,
        user: str,
        response: Mapping[str, Any],
        items: Sequence[Mapping[str, Any]],
        history: Sequence[str],
    ) -> StoredResponse:
        sandbox = sandbox_of(request)
        return StoredResponse(
            project=sandbox.project,
            id=response["id"],
            user=user,
            agent=sandbox.agent,
            session=sandbox.session,
            body=response,
            created_at=self._clock(),
            conversation=_conversation_of(response),
            input_item_ids=tuple(str(item["id"]) for item in items),
            history_item_ids=tuple(history),
            background=bool(response.get("background")),
        )

    async def _load(self, request: Request) -> StoredResponse:
        sandbox, wanted = sandbox_of(request), request.path_params["response"]
        user = await self._user(request)
        known = await self._store.read(lambda conn: rows.get_response(conn, sandbox.project, wanted))
        if known is None or known.agent != sandbox.agent or known.user != user:
            raise NotFound(f"Response '{wanted}' not found.", param="response_id")
        return known

    async def _user(self, request: Request) -> str:
        return await user_of(request, self._store, self._tokens)


def _conversation_of(response: Mapping[str, Any]) -> str | None:
    """The id of the conversation that a response belongs to, in either form. Raises BadRequest."""
    named = response.get("conversation")
    conversation = named.get("id") if isinstance(named, dict) else named
    if conversation is not None and not isinstance(conversation, str):
        raise BadRequest("'response.conversation' must be an id, or an object with one.", param="response.conversation")
    return conversation


def _require_own_conversation(conn: Any, response: StoredResponse) -> None:
    """Raises NotFound when a response would write into another user's conversation."""
    if response.conversation is None:
        return
    talk = conversation_rows.get_conversation(conn, response.project, response.conversation)
    if talk is not None and talk.user != response.user:
        raise NotFound(f"Conversation '{response.conversation}' not found.", param="response.conversation")


def _list_of(body: Mapping[str, Any], field: str, kind: type) -> list[Any]:
    found = body.get(field) or []
    if not isinstance(found, list) or not all(isinstance(entry, kind) for entry in found):
        what = "strings" if kind is str else "objects"
        raise BadRequest(f"'{field}' must be a list of {what}.", param=field)
    return found


def _with_ids(items: Sequence[Any]) -> list[Mapping[str, Any]]:
    return [item for item in items if isinstance(item, dict) and isinstance(item.get("id"), str)]


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", "-1")
    try:
        return int(text)
    except ValueError as error:
        raise BadRequest("'limit' must be a number.", param="limit") from error
