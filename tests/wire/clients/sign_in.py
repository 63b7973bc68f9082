"""Signs in with an unmodified DefaultAzureCredential and asks who is there."""

from __future__ import annotations

import time
from typing import Any

from sdk import Sdk, collect, main  # type: ignore[import-not-found]  # lies beside the script


async def sign_in(sdk: Sdk, arguments: list[str]) -> dict[str, Any]:
    began = time.monotonic()
    agents = await collect(sdk.agents.list())
    return {"agents": len(agents), "seconds": time.monotonic() - began}


if __name__ == "__main__":
    main(sign_in)
