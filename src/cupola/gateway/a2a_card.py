"""An agent's A2A card: what other agents find when they look for it, and what it needs to have one.

The operator writes `agent_card` and enables `a2a` on the endpoint; the platform adds what only it knows: where the
agent is, what it speaks, and that a token is needed (control-plane.md §2.3 and §2.8).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cupola.agents import Agent, AgentVersion
from cupola.errors import NotFound
from cupola.gateway.a2a_wire import V0_3, V1_0

JSON_RPC, HTTP_JSON = "JSONRPC", "HTTP+JSON"


def require_offered(agent: Agent, latest: AgentVersion | None) -> Mapping[str, Any]:
    """The card as the operator wrote it. Raises NotFound with what is missing for the agent to speak A2A."""
    missing = []
    if not _enabled(agent, latest):
        missing.append('"agent_endpoint": {"protocol_configuration": {"responses": {}, "a2a": {}}}')
    if agent.card is None:
        missing.append('"agent_card": {"version": "1.0", "description": "…", "skills": [{"id": "…", "name": "…"}]}')
    if missing:
        raise NotFound(
            f"Agent '{agent.name}' does not speak A2A: PATCH /agents/{agent.name} with {{{', '.join(missing)}}} first.",
            code="a2a_not_enabled",
            param="agent_endpoint" if len(missing) == 2 or agent.card is not None else "agent_card",
        )
    if latest is not None and latest.definition.protocol("responses") is None:
        declared = ", ".join(p.protocol for p in latest.definition.protocols)
        raise NotFound(
            f"Agent '{agent.name}' cannot speak A2A, which is carried by the responses protocol; "
            f"its definition declares {declared}.",
            code="a2a_not_enabled",
            param="definition.protocol_versions",
        )
    assert agent.card is not None
    return agent.card


def _enabled(agent: Agent, latest: AgentVersion | None) -> bool:
    """What the endpoint says; if it names no protocols, what the definition declares."""
    configured, listed = agent.endpoint.get("protocol_configuration"), agent.endpoint.get("protocols")
    if configured is not None or listed is not None:
        return any("a2a" in names for names in (configured, listed) if isinstance(names, dict | list))
    return latest is not None and latest.definition.protocol("a2a") is not None


def card_of(agent: Agent, card: Mapping[str, Any], url: str) -> dict[str, Any]:
    """The card of A2A 0.3 §5.5, for callers who reach the agent at `url`."""
    return {
        **_written(agent, card),
        "protocolVersion": V0_3,
        "url": url,
        "preferredTransport": JSON_RPC,
        "additionalInterfaces": [{"transport": transport, "url": url} for transport in (JSON_RPC, HTTP_JSON)],
        "capabilities": {
            "streaming": True,
            "pushNotifications": False,
            "stateTransitionHistory": False,
            "extensions": [],
        },
        "securitySchemes": {"bearer": {"type": "http", **_BEARER}},
        "security": [{"bearer": []}],
        "supportsAuthenticatedExtendedCard": False,
    }


def card_1_0_of(agent: Agent, card: Mapping[str, Any], url: str) -> dict[str, Any]:
    """The same content as A2A 1.0 has it. HTTP+JSON is 0.3's only, as on Azure."""
    served = ((JSON_RPC, V1_0), (JSON_RPC, V0_3), (HTTP_JSON, V0_3))
    return {
        **_written(agent, card),
        "supportedInterfaces": [
            {"url": url, "protocolBinding": binding, "protocolVersion": version} for binding, version in served
        ],
        "capabilities": {
            "streaming": True,
            "pushNotifications": False,
            "extendedAgentCard": False,
            "extensions": [],
        },
        "securitySchemes": {"bearer": {"httpAuthSecurityScheme": _BEARER}},
        "securityRequirements": [{"schemes": {"bearer": {"list": []}}}],
    }


_BEARER = {"scheme": "bearer", "bearerFormat": "JWT"}


def _written(agent: Agent, card: Mapping[str, Any]) -> dict[str, Any]:
    """What the operator says, and that agents hear and speak text."""
    return {
        "name": agent.name,
        "description": str(card.get("description") or agent.name),
        "version": str(card.get("version") or "1.0"),
        "defaultInputModes": ["text"],
        "defaultOutputModes": ["text"],
        "skills": [_skill(skill) for skill in card.get("skills") or () if isinstance(skill, Mapping)],
    }


def _skill(skill: Mapping[str, Any]) -> dict[str, Any]:
    """A skill with the lists that the protocol wants and operators leave out."""
    name = str(skill.get("name") or skill.get("id") or "")
    return {
        "id": str(skill.get("id") or name),
        "name": name,
        "description": str(skill.get("description") or name),
        "tags": list(skill.get("tags") or ()),
        "examples": list(skill.get("examples") or ()),
    }
