"""The wire's spellings of agents, versions and definitions, read and written.

Two generations of clients describe one thing: 2.0.0b3 says `image` and `container_protocol_versions`, today's SDK
`container_configuration.image` and `protocol_versions` (control-plane.md §2.2.1). Both are read into one
`Definition`; what is shown echoes the caller's own spelling and adds the other generation's names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cupola.agents import (
    CPU_RANGE,
    DEFAULT_CPU,
    DEFAULT_MEMORY,
    IDLE_TIMEOUT_RANGE,
    LATEST,
    MEMORY_RANGE,
    Agent,
    AgentVersion,
    CodeConfiguration,
    Definition,
    Failure,
    Phase,
    ProtocolVersion,
    VersionRule,
    VersionStatus,
)
from cupola.errors import BadRequest
from cupola.identity import identity_of

PROTOCOLS = (
    "responses",
    "invocations",
    "invocations_ws",
    "activity",
    "a2a",
    "mcp",
    "voice",
    "voice_conversation_engine",
)
PROTOCOL_VERSIONS = ("v1", "1.0.0", "2.0.0")
_OLD_PROTOCOL_NAMES = {"activity_protocol": "activity"}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_RESERVED = ("FOUNDRY_", "AGENT_")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)(Gi|Mi)\Z")
_UNITS = {"Gi": 1024**3, "Mi": 1024**2}
_IMAGE = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d+)?/)?"
    r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?\Z"
)
M = TypeVar("M", bound=BaseModel)
MAX_TOOLS = 128
MAX_METADATA = 16


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Quantity = Annotated[str, BeforeValidator(_number_as_text)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _ProtocolVersion(_Wire):
    protocol: str
    version: str = "2.0.0"


class _ContainerConfiguration(_Wire):
    image: str | None = None


class _CodeConfiguration(_Wire):
    runtime: str
    entry_point: list[str] = Field(min_length=1)
    dependency_resolution: Literal["bundled", "remote_build"] = "bundled"


class _SessionConfiguration(_Wire):
    idle_timeout_seconds: int | None = Field(None, ge=IDLE_TIMEOUT_RANGE[0], le=IDLE_TIMEOUT_RANGE[1])


class _Definition(_Wire):
    kind: str
    image: str | None = None
    container_configuration: _ContainerConfiguration | None = None
    code_configuration: _CodeConfiguration | None = None
    container_protocol_versions: list[_ProtocolVersion] | None = None
    protocol_versions: list[_ProtocolVersion] | None = None
    cpu: Quantity | None = None
    memory: Quantity | None = None
    environment_variables: dict[str, str] | None = None
    tools: list[dict[str, Any]] | None = Field(None, max_length=MAX_TOOLS)
    session_configuration: _SessionConfiguration | None = None


class NewVersion(_Wire):
    """The body of a create: `definition` as sent, the rest checked."""

    definition: dict[str, Any]
    description: str | None = None
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        None, max_length=MAX_METADATA
    )
    draft: bool = False


def read_model(model: type[M], body: object, *, prefix: str = "") -> M:
    """`body` as `model`, or a BadRequest that names the field, its value and what is allowed."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        field = f"{prefix}{path}" if path else prefix.rstrip(".") or "body"
        shown = "" if first["type"] == "missing" else f" It is {_brief(first.get('input'))}."
        raise BadRequest(f"'{field}': {first['msg']}.{shown}", code="invalid_payload", param=field) from error


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def read_definition(body: Mapping[str, Any], *, code_sha256: str | None = None) -> Definition:
    """A hosted definition in either spelling. Raises BadRequest naming the field.

    `code_sha256` is that of the uploaded zip of a code deployment, None for a JSON create.
    """
    wire = read_model(_Definition, body, prefix="definition.")
    if wire.kind != "hosted":
        raise BadRequest(
            f"'definition.kind' is {_brief(wire.kind)}; Cupola runs hosted agents, so it must be 'hosted'.",
            param="definition.kind",
        )
    image = _image_of(wire)
    code = _code_of(wire, image, code_sha256)
    return Definition(
        image=image,
        code=code,
        protocols=_protocols_of(wire),
        cpu=_cpu_of(wire.cpu),
        memory=_memory_of(wire.memory),
        environment=_environment_of(wire.environment_variables or {}),
        tools=tuple(wire.tools or ()),
        idle_timeout=None if wire.session_configuration is None else wire.session_configuration.idle_timeout_seconds,
        spelling=dict(body),
    )


def _image_of(wire: _Definition) -> str | None:
    newer = None if wire.container_configuration is None else wire.container_configuration.image
    if wire.image and newer and wire.image != newer:
        raise BadRequest(
            "'definition.image' and 'definition.container_configuration.image' name different images; send one.",
            param="definition.image",
        )
    image = wire.image or newer
    if image is None:
        return None
    if not _IMAGE.fullmatch(image):
        message = (
            f"The image reference {_brief(image)} is malformed: "
            "write [registry/]name[:tag] or name@sha256:<64 hex>, the name in lower case."
        )
        raise BadRequest(
            message,
            param="definition.image" if wire.image else "definition.container_configuration.image",
            details=[{"code": "InvalidContainerImage", "message": message}],
        )
    return image


def _code_of(wire: _Definition, image: str | None, sha256: str | None) -> CodeConfiguration | None:
    code = wire.code_configuration
    if (image is None) == (code is None):
        raise BadRequest(
            "A hosted definition needs exactly one of 'container_configuration' (in 2.0.0b3: 'image') "
            "and 'code_configuration'.",
            param="definition.container_configuration",
        )
    if code is None:
        if sha256 is not None:
            raise BadRequest("A zip was uploaded, but the definition names an image.", param="definition")
        return None
    if sha256 is None:
        raise BadRequest(
            "'definition.code_configuration' needs its code: send multipart/form-data with the parts "
            "'metadata' and 'code' (create_version_from_code in the SDK).",
            param="definition.code_configuration",
        )
    return CodeConfiguration(code.runtime, tuple(code.entry_point), code.dependency_resolution, sha256)


def _protocols_of(wire: _Definition) -> tuple[ProtocolVersion, ...]:
    field = "protocol_versions" if wire.protocol_versions else "container_protocol_versions"
    listed = wire.protocol_versions or wire.container_protocol_versions or [_ProtocolVersion(protocol="responses")]
    found = []
    for index, entry in enumerate(listed):
        name = _OLD_PROTOCOL_NAMES.get(entry.protocol, entry.protocol)
        param = f"definition.{field}.{index}"
        if name not in PROTOCOLS:
            raise BadRequest(
                f"'{param}.protocol' is {_brief(entry.protocol)}; it must be one of {', '.join(PROTOCOLS)}.",
                param=f"{param}.protocol",
            )
        if entry.version not in PROTOCOL_VERSIONS:
            message = (
                f"Unsupported {name} protocol version {_brief(entry.version)}. "
                f"Please use one of {', '.join(PROTOCOL_VERSIONS)}."
            )
            raise BadRequest(
                message,
                param=f"{param}.version",
                details=[{"code": "ProtocolVersionNotSupported", "message": message}],
            )
        found.append(ProtocolVersion(name, entry.version))
    return tuple(found)


def _tier_error(field: str, value: str, allowed: str) -> BadRequest:
    return BadRequest(
        f"CPU and Memory must be specified as a valid resource tier: '{field}' is {_brief(value)}; {allowed}.",
        param=f"definition.{field}",
    )


def _cpu_of(text: str | None) -> float:
    if text is None:
        return DEFAULT_CPU
    allowed = f'it must be a number of vCPUs from {CPU_RANGE[0]:g} to {CPU_RANGE[1]:g}, such as "1"'
    try:
        cpu = float(text)
    except ValueError as error:
        raise _tier_error("cpu", text, allowed) from error
    if not math.isfinite(cpu) or not CPU_RANGE[0] <= cpu <= CPU_RANGE[1]:
        raise _tier_error("cpu", text, allowed)
    return cpu


def _memory_of(text: str | None) -> int:
    if text is None:
        return DEFAULT_MEMORY
    allowed = 'it must be from 1Gi to 8Gi, such as "2Gi"'
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise _tier_error("memory", text, allowed)
    memory = int(float(match[1]) * _UNITS[match[2]])
    if not MEMORY_RANGE[0] <= memory <= MEMORY_RANGE[1]:
        raise _tier_error("memory", text, allowed)
    return memory


def _environment_of(variables: Mapping[str, str]) -> dict[str, str]:
    for name, value in variables.items():
        param = f"definition.environment_variables.{name[:80]}"
        if not _VARIABLE.fullmatch(name):
            raise BadRequest(
                f"The variable name {_brief(name)} is not allowed: "
                "use letters, digits and underscores, not starting with a digit.",
                param=param,
            )
        if name.upper().startswith(_RESERVED):
            raise BadRequest(
                f"The variable name {_brief(name)} is reserved: names starting with FOUNDRY_ or AGENT_ "
                "are set by the platform.",
                param=param,
            )
        if "\0" in value:
            raise BadRequest(f"The value of {_brief(name)} holds a NUL character.", param=param)
    return dict(variables)


def show_definition(definition: Definition) -> dict[str, Any]:
    """The definition as the caller wrote it, with the other generation's names beside."""
    shown = {name: value for name, value in definition.spelling.items() if value is not None}
    if definition.image is not None:
        shown.setdefault("image", definition.image)
        shown.setdefault("container_configuration", {"image": definition.image})
    protocols = [{"protocol": p.protocol, "version": p.version} for p in definition.protocols]
    shown.setdefault("protocol_versions", shown.get("container_protocol_versions") or protocols)
    shown.setdefault("container_protocol_versions", shown["protocol_versions"])
    if definition.code is not None:
        shown["code_configuration"] = {**shown["code_configuration"], "content_hash": definition.code.sha256}
    shown.setdefault("cpu", f"{definition.cpu:g}")
    shown.setdefault("memory", f"{definition.memory / 1024**3:g}Gi")
    shown.setdefault("environment_variables", {})
    shown["kind"] = "hosted"
    return shown


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


def show_endpoint(agent: Agent, latest: AgentVersion | None) -> dict[str, Any]:
    """`agent_endpoint` (control-plane.md §2.3): what was set, and the defaults of what was not."""
    protocols = ["responses"] if latest is None else sorted({p.protocol for p in latest.definition.protocols})
    shown = {
        "version_selector": {
            "version_selection_rules": [
                {"type": "FixedRatio", "agent_version": rule.version, "traffic_percentage": rule.percentage}
                for rule in agent.rules
            ]
            or [{"type": "FixedRatio", "agent_version": LATEST, "traffic_percentage": 100}]
        },
        "protocol_configuration": {name: {} for name in protocols},
        "protocols": protocols,
        "authorization_schemes": [{"type": "Entra"}],
    }
    return {**shown, **agent.endpoint}


def read_rules(endpoint: Mapping[str, Any]) -> tuple[VersionRule, ...]:
    """The version selector of an endpoint configuration. Raises BadRequest naming the rule."""
    selector = endpoint.get("version_selector")
    if selector is not None and not isinstance(selector, Mapping):
        raise BadRequest("'version_selector' must be an object.", param="agent_endpoint.version_selector")
    rules = None if selector is None else selector.get("version_selection_rules")
    if rules is None:
        return ()
    if not isinstance(rules, list):
        raise BadRequest("'version_selection_rules' must be a list of rules.", param="agent_endpoint.version_selector")
    found = []
    for index, rule in enumerate(rules):
        param = f"agent_endpoint.version_selector.version_selection_rules.{index}"
        if not isinstance(rule, Mapping) or rule.get("type", "FixedRatio") != "FixedRatio":
            raise BadRequest(f"'{param}' must be a rule of type FixedRatio.", param=param)
        percentage = rule.get("traffic_percentage")
        if isinstance(percentage, bool) or not isinstance(percentage, int) or not 0 <= percentage <= 100:
            raise BadRequest(
                f"'{param}.traffic_percentage' is {_brief(percentage)}; it must be a whole number from 0 to 100.",
                param=f"{param}.traffic_percentage",
            )
        version = rule.get("agent_version")
        if not isinstance(version, str) or not version:
            raise BadRequest(f"'{param}.agent_version' must name a version.", param=f"{param}.agent_version")
        found.append(VersionRule(version, percentage))
    total = sum(rule.percentage for rule in found)
    if found and total != 100:
        raise BadRequest(
            f"The traffic percentages add up to {total}; they must add up to 100.",
            param="agent_endpoint.version_selector.version_selection_rules",
        )
    return tuple(found)
