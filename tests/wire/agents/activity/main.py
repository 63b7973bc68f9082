"""The official activity adapter as its first sample has it: an echo on the M365 stack."""

from __future__ import annotations

from typing import Any

from azure.ai.agentserver.activity import ActivityAgentServerHost
from microsoft_agents.hosting.core import MemoryStorage

host = ActivityAgentServerHost(storage=MemoryStorage())


@host.agent_app.activity("message")  # type: ignore[untyped-decorator]
async def on_message(context: Any, state: Any) -> None:
    await context.send_activity(f"Echo: {context.activity.text}")


if __name__ == "__main__":
    host.run()
