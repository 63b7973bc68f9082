"""Contexts and tasks of A2A: a context is a conversation, a task is a response. Nothing else is stored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cupola.conversations import Conversation, StoredResponse
from cupola.gateway.a2a_exchange import Exchange
from cupola.gateway.a2a_tasks import history_of, task_of
from cupola.gateway.a2a_wire import A2AError, Code, Sent, brief
from cupola.ids import is_response_id, new_conversation_id
from cupola.store import Store
from cupola.store import conversations as conversation_rows
from cupola.store import responses as response_rows

_NAMED = "a2a_context_id"
"""Where a conversation's metadata keeps the name that a caller gave the context."""
_CONVERSATION_ID = re.compile(r"conv_[A-Za-z0-9]{50}\Z")


@dataclass(frozen=True, slots=True)
class Context:
    """A context: the conversation that carries it, and how the caller knows it. `new` ones are not stored yet."""

    id: str
    conversation: str
    new: bool


@dataclass(frozen=True, slots=True)
class KnownTask:
    """A stored response as a task: with the id of its context and the items that it answers."""

    stored: StoredResponse
    context_id: str
    items: Sequence[Mapping[str, Any]]

    def task(self, body: Mapping[str, Any], length: int | None) -> dict[str, Any]:
        history = history_of(self.items, length)
        return task_of({**body, "id": self.stored.id}, self.context_id, history, self.stored.created_at)


class Contexts:
    """Finds, begins and drops contexts, and finds the tasks in them. `clock` gives unix seconds."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def continued(self, exchange: Exchange, sent: Sent) -> Context:
        """The context that a message belongs to: the one that it names, else its session's own, else a new one.

        A caller may name a context as he likes; the platform's own names must be those of his conversations.
        """
        if sent.task_id is not None:
            await self._refuse_to_add(exchange, sent.task_id)
        named = sent.context_id
        if named is None and exchange.session_id is None:
            made = new_conversation_id()
            return Context(made, made, new=True)
        if named is not None and (_CONVERSATION_ID.match(named) or is_response_id(named)):
            if not await self._has_conversation(exchange, named):
                raise A2AError(
                    Code.INVALID_PARAMS,
                    f"Context {brief(named)} does not exist; leave 'message.contextId' out to begin a new one.",
                )
            return Context(named, named, new=False)
        derived = _derived(exchange, "session" if named is None else "context", named or str(exchange.session_id))
        return Context(named or derived, derived, new=not await self._has_conversation(exchange, derived))

    async def _refuse_to_add(self, exchange: Exchange, task_id: str) -> None:
        """A response takes no further message: its context does."""
        known = await self.known_task(exchange, task_id)
        if known.stored.is_final:
            raise A2AError(
                Code.UNSUPPORTED_OPERATION,
                f"Task '{task_id}' is {known.stored.status}; to go on, send 'contextId': '{known.context_id}' "
                "without 'taskId'.",
            )
        raise A2AError(Code.UNSUPPORTED_OPERATION, f"Task '{task_id}' is still working and takes no further message.")

    async def _has_conversation(self, exchange: Exchange, wanted: str) -> bool:
        project = exchange.project
        found = await self._store.read(lambda conn: conversation_rows.get_conversation(conn, project, wanted))
        return found is not None and found.user == exchange.user

    async def store(self, exchange: Exchange, context: Context) -> None:
        """Keeps one that is new, before its first message is sent on."""
        conversation = Conversation(
            project=exchange.project,
            id=context.conversation,
            user=exchange.user,
            created_at=self._clock(),
            metadata={} if context.id == context.conversation else {_NAMED: context.id},
        )
        await self._store.write(lambda conn: conversation_rows.put_conversation(conn, conversation))

    async def drop(self, exchange: Exchange, context: Context) -> None:
        """Removes a context that was begun for nothing, unless somebody has said something in it meanwhile."""
        project, conversation = exchange.project, context.conversation

        def change(conn: Any) -> None:
            if not conversation_rows.history(conn, project, conversation):
                conversation_rows.delete_conversation(conn, project, conversation)

        await self._store.write(change)

    async def known_task(self, exchange: Exchange, task_id: str) -> KnownTask:
        """The caller's own task of this agent. Raises A2AError for any other, as if there were none."""
        project = exchange.project

        def question(conn: Any) -> tuple[StoredResponse | None, Conversation | None, Sequence[Any]]:
            stored = response_rows.get_response(conn, project, task_id)
            if stored is None or stored.user != exchange.user or stored.agent != exchange.agent:
                return None, None, ()
            context = stored.conversation
            talk = None if context is None else conversation_rows.get_conversation(conn, project, context)
            return stored, talk, response_rows.get_items(conn, project, stored.input_item_ids, stored.user)

        stored, talk, items = await self._store.read(question)
        if stored is None:
            raise A2AError(Code.TASK_NOT_FOUND, f"Task {brief(task_id)} does not exist.")
        exchange.scope["cupola.session_id"] = stored.session
        named = None if talk is None else talk.metadata.get(_NAMED)
        context_id = str(named or stored.conversation or stored.id)
        return KnownTask(stored, context_id, [item for item in items if item is not None])


def _derived(exchange: Exchange, kind: str, name: str) -> str:
    """The id of the conversation that carries a context of this name: the same for the same caller and agent."""
    seed = "\0".join((kind, exchange.project, exchange.agent, exchange.user, name))
    digest = hashlib.sha256(seed.encode()).hexdigest()
    return f"conv_{digest[:16]}00{digest[16:48]}"
