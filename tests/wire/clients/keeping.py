"""What is kept and what is not: stored responses, conversations, their items, pages, deletion; and what is refused."""

from __future__ import annotations

from typing import Any

from sdk import Sdk, call, collect, main, refusal  # type: ignore[import-not-found]  # lies beside the script


async def keeping(sdk: Sdk, arguments: list[str]) -> dict[str, Any]:
    (name,) = arguments
    client, reference = await sdk.openai(name)

    def create(**fields: Any) -> Any:
        return call(client.responses.create(**fields, **reference))

    def refused(**fields: Any) -> Any:
        return refusal(lambda: client.responses.create(**{"input": "x", **fields}, **reference))

    return {
        **await stored(client, create),
        **await conversations(client, create),
        "refused": {
            "stream_options": await refused(stream_options={"include_obfuscation": False}),
            "background": await refused(background=True, store=False),
            "both": await refused(conversation="conv_1", previous_response_id="caresp_" + "a" * 50),
            "malformed": await refused(previous_response_id="resp_1"),
            "unknown": await refused(previous_response_id="caresp_" + "a" * 50),
            "metadata": await refused(metadata={str(n): "" for n in range(17)}),
            "input": await refused(input=5),
        },
    }


async def stored(client: Any, create: Any) -> dict[str, Any]:
    """Kept with its input, unless it was not to be."""
    given = [{"role": "user", "content": text} for text in ("a", "b", "c")]
    kept = await create(input=given, metadata={"k": "v"})
    retrieved = await call(client.responses.retrieve(kept.id))
    pages = await call(client.responses.input_items.list(kept.id, limit=2))
    ascending = await collect(client.responses.input_items.list(kept.id, limit=1, order="asc"))
    behind = await call(client.responses.input_items.list(kept.id, after=ascending[1].id, order="asc"))
    streamed = await collect(create(input="s", stream=True))
    streamed_kept = await call(client.responses.retrieve(streamed[-1].response.id))
    unkept = await create(input="secret", store=False)
    chained = await create(input="secret", store=False, previous_response_id=kept.id)
    failed = await create(input="fail")
    deletion = await call(client.responses.delete(kept.id))
    return {
        "kept": kept.model_dump(),
        "retrieved": retrieved.model_dump(),
        "first_page": [[text_of(item) for item in pages.data], pages.has_more],
        "all_pages": [text_of(item) for item in ascending],
        "behind": [text_of(item) for item in behind.data],
        "stream_statuses": [event.response.status for event in streamed if hasattr(event, "response")],
        "streamed_kept": streamed_kept.status,
        "unkept": await refusal(lambda: client.responses.retrieve(unkept.id)),
        "chained": chained.status,
        "chained_unkept": await refusal(lambda: client.responses.retrieve(chained.id)),
        "failed": [failed.status, failed.error.code if failed.error else None],
        "deletion": None if deletion is None else str(deletion),
        "deleted": await refusal(lambda: client.responses.retrieve(kept.id)),
        "deleted_input": await refusal(lambda: client.responses.input_items.list(kept.id)),
    }


async def conversations(client: Any, create: Any) -> dict[str, Any]:
    """Made with items, changed, talked in, emptied, deleted."""
    message = {"type": "message", "role": "user", "content": "before"}
    made = await call(client.conversations.create(items=[message], metadata={"a": "1"}))
    updated = await call(client.conversations.update(made.id, metadata={"b": "2"}))
    retrieved = await call(client.conversations.retrieve(made.id))
    turn = await create(input="one", conversation=made.id)
    second = await create(input="two", conversation={"id": made.id})
    await create(input="not to be kept", conversation=made.id, store=False)
    items = client.conversations.items
    added = await call(items.create(made.id, items=[{**message, "content": "after"}]))
    ascending = await collect(items.list(made.id, order="asc", limit=2))
    newest = await call(items.list(made.id, limit=1, include=["message.output_text.logprobs"]))
    one = await call(items.retrieve(ascending[0].id, conversation_id=made.id))
    emptied = await call(items.delete(ascending[0].id, conversation_id=made.id))
    left = await collect(items.list(made.id))
    gone_item = await refusal(lambda: items.retrieve(ascending[0].id, conversation_id=made.id))
    deleted = await call(client.conversations.delete(made.id))
    return {
        "made": made.model_dump(),
        "updated": updated.metadata,
        "conversation": retrieved.model_dump(),
        "turns": [turn.conversation.id if turn.conversation else None, second.output_text],
        "sessions": [one.model_extra["agent_session_id"] for one in (turn, second)],
        "added": [text_of(item) for item in added.data],
        "items": [[item.role, text_of(item)] for item in ascending],
        "newest": [[text_of(item) for item in newest.data], newest.has_more],
        "one": text_of(one),
        "emptied": emptied.id == made.id,
        "left": len(left),
        "gone_item": gone_item,
        "deleted_conversation": deleted.model_dump(),
        "gone": await refusal(lambda: client.conversations.retrieve(made.id)),
        "gone_items": await refusal(lambda: items.list(made.id)),
        "still_there": (await call(client.responses.retrieve(turn.id))).status,
    }


def text_of(item: Any) -> str:
    return str(item.content[0].text)


if __name__ == "__main__":
    main(keeping)
