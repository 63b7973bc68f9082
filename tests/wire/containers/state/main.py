"""An agent that does with a state store what it is told, through the official client, and tells what came of it.

An invocation is `{"store": name, "settings": {…}, "steps": [[method, arguments], …]}`. Each step is a method of
`FoundryStateStore`; `"$2"` stands for the etag that step 2 brought.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from azure.ai.agentserver.core.storage import (  # type: ignore[import-not-found,import-untyped,unused-ignore]  # installed where it runs
    FoundryStateStore,
    FoundryStorageError,
)
from azure.ai.agentserver.invocations import InvocationAgentServerHost  # type: ignore[import-not-found,import-untyped,unused-ignore]  # likewise
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

app = InvocationAgentServerHost()


@app.invoke_handler  # type: ignore[untyped-decorator,unused-ignore]  # see the import
async def invoke(request: Request) -> Response:
    asked = await request.json()
    done: list[Any] = []
    if asked.get("bare"):
        async with FoundryStateStore(asked["store"], **asked["settings"]) as store:
            await run(store, asked["steps"], done)
    else:
        async with await FoundryStateStore.get_or_create(asked["store"], **asked["settings"]) as store:
            await run(store, asked["steps"], done)
    return JSONResponse(done)


async def run(store: Any, steps: list[Any], done: list[Any]) -> None:
    for method, arguments in steps:
        resolved = {name: etag_of(value, done) for name, value in arguments.items()}
        try:
            done.append(plain(await getattr(store, method)(**resolved)))
        except FoundryStorageError as error:
            shown = {name: getattr(error, name, None) for name in ("message", "status_code", "param", "current_etag")}
            done.append({"error": type(error).__name__, **shown})


def etag_of(value: Any, done: list[Any]) -> Any:
    if isinstance(value, str) and value.startswith("$"):
        before = done[int(value[1:])]
        return before.get("etag") or before["current_etag"]
    return value


def plain(result: Any) -> Any:
    """The client's models as what they say in JSON."""
    if hasattr(result, "keys") and isinstance(getattr(result, "keys", None), list):  # a page
        page = {name: getattr(result, name) for name in ("first_id", "last_id", "has_more")}
        return {**page, "keys": [plain(key) for key in result.keys]}
    if isinstance(result, Mapping):
        return {name: plain(value) for name, value in result.items()}
    return result


if __name__ == "__main__":
    app.run()
