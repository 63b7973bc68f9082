"""A session's files by this generation's own methods: before its first request, while its agent works, and after."""

from __future__ import annotations

import io
from typing import Any

from control import Control  # type: ignore[import-not-found]  # lies beside the script
from sdk import Sdk, main, refusal  # type: ignore[import-not-found]  # lies beside the script

MAX_UPLOAD = 50 * 1024 * 1024


async def files(sdk: Sdk, arguments: list[str]) -> dict[str, Any]:
    agent, session = arguments
    control = Control(sdk)
    big = bytes(range(256)) * (MAX_UPLOAD // 256)
    await control.create_session(agent, session, "1")
    uploaded = await control.upload_file(agent, session, "data/in.csv", b"a,b\n1,2\n")
    for number in range(3):
        await control.upload_file(agent, session, f"/many/{number}", b"")
    await control.upload_file(agent, session, "big.bin", big)
    return {
        "ways": sorted(control.ways),
        "uploaded": dict(uploaded),
        "downloaded": (await control.download_file(agent, session, "/home/session/data/in.csv")).decode(),
        "big": await control.download_file(agent, session, "big.bin") == big,
        "home": [dict(entry) for entry in await control.list_files(agent, session)],
        "pages": [entry["name"] for entry in await control.list_files(agent, session, "many", limit=1)],
        "too large": await refusal(lambda: control.upload_file(agent, session, "huge.bin", big + b"x")),
        "missing": await refusal(lambda: control.download_file(agent, session, "none")),
        "outside": await refusal(lambda: control.download_file(agent, session, "../secret")),
        "not empty": await refusal(lambda: control.delete_file(agent, session, "many")),
        "deleted": await control.delete_file(agent, session, "many", recursive=True),
        "left": [entry["name"] for entry in await control.list_files(agent, session)],
        "streamed": dict(await control.upload_file(agent, session, "stream", io.BytesIO(b"abc")))
        if sdk.generation == "newest"
        else None,
    }


if __name__ == "__main__":
    main(files)
