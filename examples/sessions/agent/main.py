"""A hosted agent that keeps a notebook in `$HOME`: what its session's files are for.

`GREETING` in the definition's environment tells one version from the next.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from azure.ai.agentserver.responses import (
    CreateResponse,
    ResponseContext,
    ResponsesAgentServerHost,
    TextResponse,
)

NOTES = Path.home() / "notes.txt"
GREETING = os.environ.get("GREETING", "Noted.")

app = ResponsesAgentServerHost()


@app.response_handler
async def note(request: CreateResponse, context: ResponseContext, cancelled: asyncio.Event) -> TextResponse:
    said = await context.get_input_text()
    with NOTES.open("a") as notes:
        notes.write(said + "\n")
    count = len(NOTES.read_text().splitlines())
    print(f"note {count}: {said}", flush=True)
    return TextResponse(context, request, text=f"{GREETING} Your notebook has {count} notes.")


if __name__ == "__main__":
    print("the notebook opens", flush=True)
    app.run()
