"""Talks to an agent that is there: plain, streamed, chained, in a conversation, in a session; reads it all back."""

from __future__ import annotations

from typing import Any

from sdk import Sdk, call, collect, main  # type: ignore[import-not-found]  # lies beside the script


async def invoke(sdk: Sdk, arguments: list[str]) -> dict[str, Any]:
    (name,) = arguments
    client, reference = await sdk.openai(name)

    def create(**fields: Any) -> Any:
        extra = {**reference.get("extra_body", {}), **fields.pop("extra_body", {})}
        return client.responses.create(**fields, extra_body=extra)

    plain = await call(create(input="alpha"))
    kinds, deltas = await streamed(create(input="beta", stream=True))
    chained = await call(create(input="gamma", previous_response_id=plain.id))
    retrieved = await call(client.responses.retrieve(plain.id))
    input_items = await collect(await call(client.responses.input_items.list(plain.id)))

    conversation = await call(client.conversations.create())
    first = await call(create(input="delta", conversation=conversation.id))
    # The stream of a second turn must see the first, which the platform stored a moment ago.
    _, second = await streamed(create(input="epsilon", conversation=conversation.id, stream=True))
    third = await call(create(input="zeta", conversation=conversation.id))
    items = await collect(await call(client.conversations.items.list(conversation.id, order="asc")))

    session = plain.model_extra["agent_session_id"]
    again = await call(create(input="eta", extra_body={"agent_session_id": session}))
    return {
        "plain": plain.model_dump(),
        "kinds": kinds,
        "deltas": deltas,
        "chained": chained.output_text,
        "retrieved": retrieved.model_dump(),
        "input_items": [item.model_dump() for item in input_items],
        "first": first.output_text,
        "second": "".join(second),
        "third": third.output_text,
        "items": [item.model_dump() for item in items],
        "conversation_sessions": [
            first.model_extra.get("agent_session_id"),
            third.model_extra.get("agent_session_id"),
        ],
        "session": session,
        "again": again.model_dump(),
    }


async def streamed(stream: Any) -> tuple[list[str], list[str]]:
    """The kinds of all events, and the pieces of text."""
    kinds: list[str] = []
    deltas: list[str] = []

    def take(event: Any) -> None:
        kinds.append(event.type)
        if event.type == "response.output_text.delta":
            deltas.append(event.delta)

    events = await call(stream)
    if hasattr(events, "__aiter__"):
        async for event in events:
            take(event)
    else:
        for event in events:
            take(event)
    return kinds, deltas


if __name__ == "__main__":
    main(invoke)
