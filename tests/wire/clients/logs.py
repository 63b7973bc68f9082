"""Follows a session's logs with the SDK's own method until a line is there, and tells what came."""

from __future__ import annotations

from typing import Any

from control import Control  # type: ignore[import-not-found]  # lies beside the script
from sdk import Sdk, main  # type: ignore[import-not-found]  # lies beside the script


async def script(sdk: Sdk, arguments: list[str]) -> dict[str, Any]:
    agent, version, session, last = arguments
    control = Control(sdk)
    return {"frames": await control.logs(agent, version, session, last), "ways": sorted(control.ways)}


main(script)
