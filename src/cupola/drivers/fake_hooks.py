"""The adapters' snapshot hooks as a fake sandbox has them: it takes one session, and refuses a second."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass

NAMES_HOOKS = "azure-ai-agentserver-core/2.3.0b2 (python/3.11) azure-ai-agentserver-responses/2.4.0b1 (python/3.11)"
"""`x-platform-server` of a container that has them."""
BEFORE_SNAPSHOT = "/_agent/before-snapshot"
AFTER_RESTORE = "/_agent/after-restore"


@dataclass(frozen=True, slots=True)
class Hooks:
    """The statuses with which the two answer; `released` is waited for before the second does."""

    before: int = 200
    after: int = 200
    released: asyncio.Event | None = None

    async def restore(self, environment: Mapping[str, str], body: bytes) -> tuple[int, Mapping[str, str]]:
        """The answer to after-restore: its status, and the variables that the process has from then on."""
        if self.released is not None:
            await self.released.wait()
        context = json.loads(body)["session_context"]
        if environment.get("FOUNDRY_AGENT_SESSION_ID", context["session_id"]) != context["session_id"]:
            return 409, {}
        return self.after, context["session_env_overrides"] if self.after == 200 else {}
