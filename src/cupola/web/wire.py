"""The wire's spellings of agents and their versions; definitions and endpoints have rooms of their own."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from cupola.agents import Agent, AgentVersion, Failure, Phase, VersionStatus
from cupola.identity import identity_of
from cupola.web.definitions import Text, show_definition
from cupola.web.endpoint import show_endpoint

MAX_METADATA = 16


class NewVersion(BaseModel):
    """The body of a create: `definition` as sent, the rest checked.

    `blueprint_reference` and `digital_worker_type` are taken and not kept: an agent's blueprint is derived from its
    guid here, and there are no digital workers. What only the service may set is ignored.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    definition: dict[str, Any]
    description: Text | None = None
    metadata: dict[Annotated[Text, Field(max_length=64)], Annotated[Text, Field(max_length=512)]] | None = Field(
        None, max_length=MAX_METADATA
    )
    draft: StrictBool | None = None
    blueprint_reference: dict[str, Any] | None = None
    digital_worker_type: str | None = None


def show_failure(failure: Failure) -> dict[str, Any]:
    """`error` of a failed version, and `additionalInfo` of a 424: `code` and `message` plus the evidence."""
    return {
        "code": failure.code,
        "message": failure.message,
        "details": [dict(detail) for detail in failure.details],
        "phase": failure.phase.value,
        "exit_code": failure.exit_code,
        "probes": [{"at": round(p.at, 3), "outcome": p.outcome} for p in failure.probes],
        "log": list(failure.log),
    }


_PHASES = tuple(Phase)


def show_version(version: AgentVersion, agent: Agent) -> dict[str, Any]:
    """`AgentVersionDetails` (control-plane.md §2.2), with `state` for readers of the old guide.

    Beside the wire: `provisioning.phase` while it runs, and `warnings`.
    """
    guid = agent.guid
    shown: dict[str, Any] = {
        "object": "agent.version",
        "id": f"{version.agent}:{version.version}",
        "name": version.agent,
        "version": version.version,
        "description": version.description,
        "metadata": dict(version.metadata),
        "created_at": int(version.created_at),
        "definition": show_definition(version.definition),
        "status": version.status.value,
        "state": version.status.value,
        "draft": version.draft,
        "error": None if version.failure is None else show_failure(version.failure),
        "agent_guid": guid,
        "instance_identity": identity_of(guid, "instance"),
        "blueprint": identity_of(guid, "blueprint"),
        "blueprint_reference": {
            "type": "ManagedAgentIdentityBlueprint",
            "blueprint_id": identity_of(guid, "blueprint")["client_id"],
        },
        "warnings": list(version.warnings),
    }
    if version.status is VersionStatus.CREATING and version.phase is not None:
        done = _PHASES[: _PHASES.index(version.phase)]
        shown["provisioning"] = {"phase": version.phase.value, "done": [phase.value for phase in done]}
    return shown


def show_agent(agent: Agent, latest: AgentVersion | None) -> dict[str, Any]:
    """`AgentDetails` (control-plane.md §2.1)."""
    state = "enabled" if agent.enabled else "disabled"
    return {
        "object": "agent",
        "id": agent.name,
        "name": agent.name,
        "versions": {} if latest is None else {"latest": show_version(latest, agent)},
        "agent_endpoint": show_endpoint(agent, latest),
        "instance_identity": {**identity_of(agent.guid, "instance"), "status": "active"},
        "blueprint": {**identity_of(agent.guid, "blueprint"), "status": "active"},
        "blueprint_reference": {
            "type": "ManagedAgentIdentityBlueprint",
            "blueprint_id": identity_of(agent.guid, "blueprint")["client_id"],
        },
        "agent_card": agent.card,
        "state": state,
        "configuration_state": state,
        "state_source": None,
        "digital_worker_type": None,
    }
