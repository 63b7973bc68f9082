"""Agents of `agents/` on a running platform, one of each kind for all tests that talk to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import httpx

from .packing import code_zip, wait_until_active

AGENTS = Path(__file__).parent / "agents"
ADAPTERS: Mapping[str, str] = {
    "stable": "azure-ai-agentserver-invocations==1.2.0\nazure-ai-agentserver-core==2.2.0\n",
    "prerelease": "azure-ai-agentserver-invocations==1.2.0\nazure-ai-agentserver-core==2.3.0b2\n",
    "activity": "azure-ai-agentserver-activity==1.0.0b4\nazure-ai-agentserver-core==2.3.0b2\n",
    "sockets": "websockets==17.4\n",
}


def deployed(
    rest: httpx.Client, folder: str, requirements: str, *protocols: str, environment: Mapping[str, str] | None = None
) -> str:
    """The name of a new agent whose version is active."""
    name = f"{folder}-{uuid4().hex[:10]}"
    package = code_zip(AGENTS / folder, *protocols, requirements=ADAPTERS[requirements], environment=environment)
    created = rest.post(f"/agents/{name}/versions", **package)
    assert created.status_code in (200, 201), created.text
    wait_until_active(rest, name, created.json()["version"])
    return name


def endpoint(name: str, protocol: str) -> str:
    return f"/agents/{name}/endpoint/protocols/{protocol}"


class Deployments:
    """Makes each kind of agent when it is first asked for."""

    def __init__(self, rest: httpx.Client) -> None:
        self._rest = rest
        self._made: dict[str, str] = {}

    def invocations(self, adapter: str, *, bare: bool = False) -> str:
        """One that speaks invocations and WebSockets; a `bare` one has no handlers."""
        environment = {"BARE": "1"} if bare else {}
        return self._of("invocations", adapter, "invocations", "invocations_ws", environment=environment)

    def activity(self) -> str:
        return self._of("activity", "activity", "activity")

    def plain(self) -> str:
        """One without any adapter, on WebSockets."""
        return self._of("sockets", "sockets", "invocations_ws")

    def _of(self, folder: str, adapter: str, *protocols: str, environment: Mapping[str, str] | None = None) -> str:
        kind = f"{folder} {adapter} {environment}"
        if kind not in self._made:
            self._made[kind] = deployed(self._rest, folder, adapter, *protocols, environment=environment)
        return self._made[kind]
