"""An agent's endpoint configuration and card, as PATCH sets them and GET shows them (control-plane.md §2.3).

Two generations again: today's clients enable protocols by the keys of `protocol_configuration`, those of 2.1 and 2.2
by the list `protocols`. Kept is the object as the caller wrote it, without what only the service may set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cupola.agents import FOLLOW, LATEST, STAY, Agent, AgentVersion, VersionRule, latest_of
from cupola.errors import BadRequest
from cupola.secrecy import brief
from cupola.web.body import read_model
from cupola.web.definitions import Text, read_protocol
from cupola.web.patch import merge_patch

_ENDPOINT = "agent_endpoint"
_RULES = f"{_ENDPOINT}.version_selector.version_selection_rules"
_READ_ONLY = ("publish_approval_status",)


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _IsolationKeySource(_Wire):
    kind: Literal["Entra", "Header"]


class _AuthorizationScheme(_Wire):
    type: Literal["Entra", "BotService", "BotServiceRbac", "BotServiceTenant"]
    isolation_key_source: _IsolationKeySource | None = None


class _Endpoint(_Wire):
    authorization_schemes: list[_AuthorizationScheme] | None = None
    protocol_configuration: dict[str, dict[str, Any]] | None = None
    protocols: list[str] | None = None


class _Skill(_Wire):
    id: Annotated[Text, Field(min_length=1)]
    name: Annotated[Text, Field(min_length=1)]
    description: Text | None = None
    tags: list[str] | None = None
    examples: list[str] | None = None


class _Card(_Wire):
    version: Annotated[Text, Field(min_length=1)]
    description: Text | None = None
    skills: list[_Skill]


def is_configured_by(body: Mapping[str, Any]) -> bool:
    """Whether a body brings an endpoint configuration or a card along."""
    return _ENDPOINT in body or "agent_card" in body


def check_configuration(body: Mapping[str, Any]) -> None:
    """Raises BadRequest where the body's endpoint or card could be right for no agent."""
    for field in (_ENDPOINT, "agent_card"):
        if not isinstance(body.get(field), dict | None):
            raise BadRequest(
                f"'{field}' is {brief(body[field])}; it must be an object, or null to go back to the defaults.",
                param=field,
            )


def configured(
    agent: Agent, body: Mapping[str, Any], versions: Sequence[AgentVersion], *, is_new: bool = False
) -> Agent:
    """The agent after a merge patch (RFC 7396) of `agent_endpoint` and `agent_card`.

    What is merged into is what GET shows, defaults included, unless the agent `is_new`. What results is checked as a
    whole: `versions` are the agent's, newest first and drafts included. Raises BadRequest naming the field; the agent
    stays as it was then.
    """
    check_configuration(body)
    if _ENDPOINT in body:
        shown = dict(agent.endpoint)
        if not is_new:
            shown.setdefault("protocol_configuration", _default_protocols(latest_of(versions)))
        agent = _with_endpoint(agent, shown, body[_ENDPOINT], versions)
    if "agent_card" in body:
        agent = replace(agent, card=_card(agent.card, body["agent_card"]))
    return agent


def _with_endpoint(
    agent: Agent, shown: Mapping[str, Any], patch: Mapping[str, Any] | None, versions: Sequence[AgentVersion]
) -> Agent:
    if patch is None:
        return replace(agent, endpoint={}, rules=())
    merged = merge_patch(shown if patch.get("protocol_configuration") else agent.endpoint, patch)
    for name in _READ_ONLY:
        merged.pop(name, None)
    read_model(_Endpoint, merged, prefix=f"{_ENDPOINT}.")
    _settle_protocols(merged, patch)
    if "version_selector" not in patch:
        return replace(agent, endpoint=merged)
    rules = read_rules(merged)
    _check_sessions(merged)
    _check_targets(agent, rules, versions)
    return replace(agent, endpoint=merged, rules=rules)


def _card(card: Mapping[str, Any] | None, patch: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if patch is None:
        return None
    merged: dict[str, Any] = merge_patch(card or {}, patch)
    read_model(_Card, merged, prefix="agent_card.")
    return merged


# Protocols


def _settle_protocols(merged: dict[str, Any], patch: Mapping[str, Any]) -> None:
    """Makes `protocol_configuration` the one truth; `protocols` stays only as the caller's spelling of it."""
    if patch.get("protocols", ...) is None and "protocol_configuration" not in patch:
        merged.pop("protocol_configuration", None)
    configuration = merged.get("protocol_configuration")
    if configuration is not None:
        configuration = _read_configuration(configuration)
    if "protocols" in patch and patch["protocols"] is not None:
        listed = [
            read_protocol(name, f"{_ENDPOINT}.protocols.{index}") for index, name in enumerate(merged["protocols"])
        ]
        if configuration is None or "protocol_configuration" not in patch:
            configuration = {name: (configuration or {}).get(name, {}) for name in listed}
        elif set(listed) != set(configuration):
            raise BadRequest(
                f"'{_ENDPOINT}.protocols' and '{_ENDPOINT}.protocol_configuration' enable different protocols "
                f"({', '.join(listed) or 'none'}; {', '.join(configuration) or 'none'}); send one of them.",
                param=f"{_ENDPOINT}.protocols",
            )
    else:
        merged.pop("protocols", None)
    if configuration is not None:
        merged["protocol_configuration"] = configuration


def _read_configuration(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """By the protocols' names of today, without what only the service may set."""
    found = {}
    for name, settings in configuration.items():
        today = read_protocol(name, f"{_ENDPOINT}.protocol_configuration.{name[:80]}")
        found[today] = {key: value for key, value in settings.items() if key != "access_boundaries"}
    return found


# Traffic


def read_rules(endpoint: Mapping[str, Any]) -> tuple[VersionRule, ...]:
    """The version selector of an endpoint configuration. Raises BadRequest naming the rule."""
    selector = endpoint.get("version_selector")
    if selector is not None and not isinstance(selector, Mapping):
        raise BadRequest(
            f"'version_selector' is {brief(selector)}; it must be an object.", param=f"{_ENDPOINT}.version_selector"
        )
    rules = None if selector is None else selector.get("version_selection_rules")
    if rules is None:
        return ()
    if not isinstance(rules, list):
        raise BadRequest(f"'version_selection_rules' is {brief(rules)}; it must be a list of rules.", param=_RULES)
    found = tuple(_read_rule(rule, f"{_RULES}.{index}") for index, rule in enumerate(rules))
    total = sum(rule.percentage for rule in found)
    if found and total != 100:
        raise BadRequest(f"The traffic percentages add up to {total}; they must add up to 100.", param=_RULES)
    return found


def _check_sessions(endpoint: Mapping[str, Any]) -> None:
    """`sessions`, beside the wire: whether sessions go along when traffic leaves their version."""
    wanted = (endpoint.get("version_selector") or {}).get("sessions", STAY)
    if wanted not in (STAY, FOLLOW):
        raise BadRequest(
            f"'version_selector.sessions' is {brief(wanted)}; it must be '{STAY}' or '{FOLLOW}'.",
            param=f"{_ENDPOINT}.version_selector.sessions",
        )


def _read_rule(rule: object, param: str) -> VersionRule:
    if not isinstance(rule, Mapping):
        raise BadRequest(f"'{param}' is {brief(rule)}; it must be a rule of type FixedRatio.", param=param)
    kind = rule.get("type", "FixedRatio")
    if kind != "FixedRatio":
        raise BadRequest(f"'{param}.type' is {brief(kind)}; the only type is FixedRatio.", param=f"{param}.type")
    percentage = rule.get("traffic_percentage")
    if isinstance(percentage, bool) or not isinstance(percentage, int) or not 0 <= percentage <= 100:
        raise BadRequest(
            f"'{param}.traffic_percentage' is {brief(percentage)}; it must be a whole number from 0 to 100.",
            param=f"{param}.traffic_percentage",
        )
    version = rule.get("agent_version")
    if not isinstance(version, str) or not version:
        raise BadRequest(
            f"'{param}.agent_version' is {brief(version)}; it must name a version as text, such as \"1\".",
            param=f"{param}.agent_version",
        )
    return VersionRule(version, percentage)


def _check_targets(agent: Agent, rules: Sequence[VersionRule], versions: Sequence[AgentVersion]) -> None:
    known = {version.version: version for version in versions}
    for index, rule in enumerate(rules):
        if rule.version == LATEST:
            continue
        version = known.get(rule.version)
        if version is not None and version.may_get_traffic:
            continue
        if version is None:
            reason = f"Agent '{agent.name}' has no version {brief(rule.version)}"
        elif version.draft:
            reason = f"Version '{version.version}' of agent '{agent.name}' is a draft"
        else:
            reason = f"Version '{version.version}' of agent '{agent.name}' is {version.status}"
        raise BadRequest(
            f"{reason}, so it cannot get traffic; name a version that is active or being created, or {LATEST}.",
            param=f"{_RULES}.{index}.agent_version",
        )


def with_rules(agent: Agent, rules: tuple[VersionRule, ...]) -> Agent:
    """The agent with other rules of traffic than its caller last set."""
    selector = {**(agent.endpoint.get("version_selector") or {}), "version_selection_rules": _show_rules(rules)}
    return replace(agent, rules=rules, endpoint={**agent.endpoint, "version_selector": selector})


# As it is shown


def show_endpoint(agent: Agent, latest: AgentVersion | None) -> dict[str, Any]:
    """`agent_endpoint`: what was set, and the defaults of what was not."""
    configuration = agent.endpoint.get("protocol_configuration")
    if configuration is None:
        configuration = _default_protocols(latest)
    shown = {
        "authorization_schemes": [{"type": "Entra"}],
        "protocols": list(configuration),
        **agent.endpoint,
        "protocol_configuration": configuration,
    }
    if not agent.rules:
        selector = agent.endpoint.get("version_selector") or {}
        shown["version_selector"] = {**selector, "version_selection_rules": _show_rules((VersionRule(LATEST, 100),))}
    return shown


def _default_protocols(latest: AgentVersion | None) -> dict[str, Any]:
    declared = ["responses"] if latest is None else sorted({p.protocol for p in latest.definition.protocols})
    return {name: {} for name in declared}


def _show_rules(rules: Sequence[VersionRule]) -> list[dict[str, Any]]:
    return [
        {"type": "FixedRatio", "agent_version": rule.version, "traffic_percentage": rule.percentage} for rule in rules
    ]
