"""An agent on the official adapter that tells who it is, by everything that it has read before it serves."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from pathlib import Path
from typing import Any

from azure.ai.agentserver.responses import ResponsesAgentServerHost, TextResponse
from azure.identity import DefaultAzureCredential
from azure.identity.aio import DefaultAzureCredential as AsyncDefaultAzureCredential

SCOPE = "https://ai.azure.com/.default"

app = ResponsesAgentServerHost()
credential = DefaultAzureCredential()
async_credential = AsyncDefaultAzureCredential()
remembered = os.environ["FOUNDRY_AGENT_SESSION_ID"]


@app.response_handler  # type: ignore[untyped-decorator]  # the adapter is not installed here
async def answer(request: Any, context: Any, cancelled: asyncio.Event) -> Any:
    notes = Path.home() / "notes"
    with notes.open("a") as file:
        file.write(f"{await context.get_input_text()}\n")
    token = await asyncio.to_thread(credential.get_token, SCOPE)
    async_token = await async_credential.get_token(SCOPE)
    told = {
        "remembered": remembered,
        "config": [app.config.session_id, app.config.session_guid],
        "environment": [os.environ["FOUNDRY_AGENT_SESSION_ID"], os.environ["FOUNDRY_AGENT_SESSION_GUID"]],
        "tokens": [claims(token.token), claims(async_token.token)],
        "history": len(await context.get_history()),
        "notes": notes.read_text().split(),
    }
    return TextResponse(context, request, text=json.dumps(told))


def claims(token: str) -> Any:
    middle = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))


if __name__ == "__main__":
    app.run()
