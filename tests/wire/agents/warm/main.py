"""An agent on the official adapter that tells what it knows of its session, and uses a token from before it had one."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from azure.ai.agentserver.core import get_request_context
from azure.ai.agentserver.responses import ResponsesAgentServerHost, TextResponse
from azure.identity import DefaultAzureCredential

app = ResponsesAgentServerHost()
hosted = "IDENTITY_ENDPOINT" in os.environ
early_token = DefaultAzureCredential().get_token("https://ai.azure.com/.default").token if hosted else ""
told: dict[str, Any] = {"paused": 0, "restored": []}
if hosted:
    (Path.home() / "born").write_text(os.environ.get("FOUNDRY_AGENT_SESSION_ID", "without a session"))


@app.before_snapshot_handler  # type: ignore[untyped-decorator]  # as below
async def pause() -> None:
    told["paused"] += 1


@app.after_restore_handler  # type: ignore[untyped-decorator]  # as below
async def restored(context: Any) -> None:
    told["restored"].append(context.session_id)


@app.response_handler  # type: ignore[untyped-decorator]  # the adapter is not installed here
async def answer(request: Any, context: Any, cancelled: Any) -> Any:
    earlier = [item for item in await context.get_history() if item.get("role") == "user"]
    seen = {
        "environment": os.environ.get("FOUNDRY_AGENT_SESSION_ID"),
        "guid": os.environ.get("FOUNDRY_AGENT_SESSION_GUID"),
        "configured": app.config.session_id,
        "context": get_request_context().session_id,
        "born": (Path.home() / "born").read_text(),
        "earlier": len(earlier),
        "early_token": ask_platform(get_request_context().call_id),
        **told,
    }
    return TextResponse(context, request, text=json.dumps(seen))


def ask_platform(call_id: str) -> int:
    """The status of a call back with the token that was fetched at the start."""
    url = f"{os.environ['FOUNDRY_PROJECT_ENDPOINT']}/storage/history/item_ids?api-version=v1"
    headers = {"authorization": f"Bearer {early_token}", "x-agent-foundry-call-id": call_id}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


if __name__ == "__main__":
    app.run()
