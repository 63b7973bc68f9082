"""Background responses: polled, cancelled, streamed, left and taken up again; with whichever client."""

from __future__ import annotations

import asyncio
from typing import Any

from sdk import Sdk, call, main, refusal  # type: ignore[import-not-found]  # lies beside the script

DEADLINE = 60.0


async def background(sdk: Sdk, arguments: list[str]) -> dict[str, Any]:
    name, what = arguments
    client, reference = await sdk.openai(name)
    responses = client.responses

    def create(**fields: Any) -> Any:
        return call(responses.create(**fields, **reference))

    if what == "streamed":
        return await left_and_taken_up(responses, create)
    polled = await create(input="count 3", background=True)
    running = await create(input="count 1000", background=True)
    delete_running = await refusal(lambda: responses.delete(running.id))
    cancelled = await call(responses.cancel(running.id))
    again = await call(responses.cancel(running.id))
    sync = await create(input="hello")
    finished = await ended(responses, polled.id)
    found: dict[str, Any] = {
        "begun": polled.model_dump(),
        "finished": finished.model_dump(),
        "text": finished.output_text,
        "delete_running": delete_running,
        "cancelled": cancelled.status,
        "again": again.status,
        "retrieved_cancelled": (await call(responses.retrieve(running.id))).status,
        "cancel_sync": await refusal(lambda: responses.cancel(sync.id)),
        "cancel_finished": await refusal(lambda: responses.cancel(polled.id)),
        "replay_unstreamed": await refusal(lambda: responses.retrieve(polled.id, stream=True)),
        "replay_sync": await refusal(lambda: responses.retrieve(sync.id, stream=True)),
        "chained": (await create(input="next", previous_response_id=polled.id)).output_text,
    }
    await call(responses.delete(polled.id))
    found["deleted"] = await refusal(lambda: responses.retrieve(polled.id))
    return found


async def left_and_taken_up(responses: Any, create: Any) -> dict[str, Any]:
    """Reads the first events of a stream, leaves, and reads the rest of it later."""
    stream = await create(input="count 30", background=True, stream=True)
    first = await some(stream, 6)
    await call(stream.close())
    response_id = first[0].response.id
    during = await call(responses.retrieve(response_id))
    rest = await some(
        await call(responses.retrieve(response_id, stream=True, starting_after=first[-1].sequence_number))
    )
    replayed = await some(await call(responses.retrieve(response_id, stream=True)))
    after = await ended(responses, response_id)
    return {
        "during": during.status,
        "first": [event.sequence_number for event in first],
        "rest": [event.sequence_number for event in rest],
        "replayed": [event.sequence_number for event in replayed],
        "kinds": [event.type for event in (*first, *rest)],
        "after": after.status,
        "text": after.output_text,
    }


async def some(stream: Any, number: int = 1_000_000) -> list[Any]:
    """The first events of a stream, from whichever client."""
    found: list[Any] = []
    if hasattr(stream, "__aiter__"):
        async for event in stream:
            found.append(event)
            if len(found) == number:
                break
    else:
        for event in stream:
            found.append(event)
            if len(found) == number:
                break
    return found


async def ended(responses: Any, response_id: str) -> Any:
    """Polls as the documentation says."""
    async with asyncio.timeout(DEADLINE):
        while True:
            response = await call(responses.retrieve(response_id))
            if response.status not in ("queued", "in_progress"):
                return response
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    main(background)
