"""The variables that a sandbox is started with (container-contract.md §2).

Pure. What only the driver knows (`HOME`, `PORT`, the path of the CA bundle) is added there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from cupola.agents import AgentVersion
from cupola.sessions import Sandbox

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_ENDPOINT_NAMES = ("AZURE_AI_PROJECT_ENDPOINT", "PROJECT_ENDPOINT", "AZURE_AI_PROJECTS_ENDPOINT")

PERSONAL = frozenset({"FOUNDRY_AGENT_SESSION_ID", "FOUNDRY_AGENT_SESSION_GUID", "IDENTITY_HEADER"})
"""Of the variables below, those in which sandboxes of one version differ."""


@dataclass(frozen=True, slots=True)
class CallbackEndpoint:
    """Where the sandboxes of one driver reach the platform: https for callbacks, plain http for tokens."""

    host: str
    https_port: int
    identity_port: int

    def project(self, project: str) -> str:
        return f"https://{_bracketed(self.host)}:{self.https_port}/api/projects/{project}"

    @property
    def identity(self) -> str:
        return f"http://{_bracketed(self.host)}:{self.identity_port}/msi/token"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def sandbox_environment(
    version: AgentVersion,
    sandbox: Sandbox,
    callbacks: CallbackEndpoint,
    *,
    identity_header: str,
    agent_guid: str,
    client_ids: Mapping[str, str],
) -> dict[str, str]:
    """The definition's own variables, then the platform's, which win.

    `client_ids` are those of the agent's `instance` and `blueprint` identities. A sandbox that is bound late learns of
    its session later (`hooks.py`).
    """
    endpoint = callbacks.project(sandbox.project)
    platform = {
        "FOUNDRY_HOSTING_ENVIRONMENT": "cupola",
        "FOUNDRY_PROJECT_ENDPOINT": endpoint,
        "FOUNDRY_PROJECT_ARM_ID": f"/cupola/projects/{sandbox.project}",
        "FOUNDRY_AGENT_NAME": sandbox.agent,
        "FOUNDRY_AGENT_VERSION": sandbox.version,
        "FOUNDRY_AGENT_ID": agent_guid,
        **({} if sandbox.is_bound_late else session_variables(sandbox.session_id, sandbox.session_guid)),
        "FOUNDRY_AGENT_INSTANCE_CLIENT_ID": client_ids["instance"],
        "FOUNDRY_AGENT_BLUEPRINT_CLIENT_ID": client_ids["blueprint"],
        "AGENT_NAME": sandbox.agent,
        "AGENT_ID": agent_guid,
        "IDENTITY_ENDPOINT": callbacks.identity,
        "IDENTITY_HEADER": identity_header,
        "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        # Tasks and leases are not served: the adapters keep them in $HOME instead (container-contract.md §7.16).
        "AGENTSERVER_TASKS_BACKEND": "local",
    }
    own = {
        name: endpoint if _is_local_endpoint(name, value) else value
        for name, value in version.definition.environment.items()
    }
    return {"AZURE_AI_PROJECT_ENDPOINT": endpoint, **own, **platform}


def session_variables(session_id: str, session_guid: str) -> dict[str, str]:
    """What a sandbox is told of its session: at its start, or when it is given one."""
    return {"FOUNDRY_AGENT_SESSION_ID": session_id, "FOUNDRY_AGENT_SESSION_GUID": session_guid}


def _is_local_endpoint(name: str, value: str) -> bool:
    """Whether a variable is the client's view of this platform, which no sandbox can reach: it gets ours instead."""
    if name not in _ENDPOINT_NAMES:
        return False
    parts = urlsplit(value)
    return parts.hostname in _LOOPBACK and parts.path.startswith("/api/projects/")
