"""The wire's spellings of a hosted definition, read and written.

Two generations of clients describe one thing: 2.0.0b3 says `image` and `container_protocol_versions`, today's SDK
`container_configuration.image` and `protocol_versions` (control-plane.md §2.2.1). Both are read into one
`Definition`; what is shown echoes the caller's own spelling and adds the other generation's names.

Fields that nothing here acts on (`rai_config`, `telemetry_config`, …) are checked for their types, kept and shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

from cupola.agents import (
    AZURE_CPU_RANGE,
    AZURE_CPU_STEP,
    AZURE_MEMORY_PER_CPU,
    AZURE_MEMORY_RANGE,
    CPU_RANGE,
    DEFAULT_CPU,
    DEFAULT_MEMORY,
    GIB,
    IDLE_TIMEOUT_RANGE,
    MEMORY_RANGE,
    CodeConfiguration,
    Definition,
    ProtocolVersion,
)
from cupola.errors import BadRequest
from cupola.secrecy import brief
from cupola.web.body import read_model

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
AZURE_PROTOCOL_VERSIONS = ("1.0.0", "2.0.0")
"""The service has answered 400 to `v1` since April 2026."""
_OLD_PROTOCOL_NAMES = {"activity_protocol": "activity"}
_RESPONSES = ProtocolVersion("responses", "2.0.0")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_RESERVED = ("FOUNDRY_", "AGENT_")
_CPU = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?\Z")
_MEMORY = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(Gi|Mi)\Z")
_UNITS = {"Gi": GIB, "Mi": 1024**2}
_IMAGE = re.compile(
    r"(?P<name>"
    r"(?:(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?/)?"
    r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*)*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@sha256:[0-9a-f]{64}|@sha512:[0-9a-f]{128})?\Z"
)
_MAX_IMAGE_NAME = 255
_MAX_IMAGE = _MAX_IMAGE_NAME + 1 + 128 + 8 + 128
_MAX_VARIABLE = 128 * 1024 - 1
"""Bytes of `NAME=value`: what Linux passes to a program as one string."""
_MAX_ENVIRONMENT = 1024 * 1024
"""Bytes of all variables; Linux passes two megabytes at most, and the platform's own come on top."""
MAX_TOOLS = 128


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def without_nul(text: str) -> str:
    """Validator: neither programs nor every database take a NUL."""
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


Quantity = Annotated[str, BeforeValidator(_number_as_text)]
Text = Annotated[str, AfterValidator(without_nul)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _ProtocolVersion(_Wire):
    protocol: str
    version: str = _RESPONSES.version


class _ContainerConfiguration(_Wire):
    image: str | None = None
    registry_connection_id: Text | None = None


class _CodeConfiguration(_Wire):
    runtime: Text
    entry_point: list[Annotated[Text, Field(min_length=1)]] = Field(min_length=1)
    dependency_resolution: Literal["bundled", "remote_build"] = "bundled"


class _SessionConfiguration(_Wire):
    idle_timeout_seconds: int | None = Field(None, ge=IDLE_TIMEOUT_RANGE[0], le=IDLE_TIMEOUT_RANGE[1])


class _Tool(_Wire):
    type: Annotated[str, Field(min_length=1)]


class _RaiConfig(_Wire):
    rai_policy_name: str
    invocations_moderation: dict[str, Any] | None = None


class _TelemetryEndpoint(_Wire):
    kind: str
    endpoint: str | None = None
    protocol: str | None = None
    data: list[str] = Field(default_factory=list)
    auth: dict[str, Any] | None = None


class _TelemetryConfig(_Wire):
    endpoints: list[_TelemetryEndpoint] = Field(default_factory=list)


class WireDefinition(_Wire):
    """A definition in the spellings of all generations, as far as types go."""

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
    rai_config: _RaiConfig | None = None
    telemetry_config: _TelemetryConfig | None = None
    enable_memory_snapshot: StrictBool | None = None


def read_definition(
    body: Mapping[str, Any], *, code_sha256: str | None = None, azure_limits: bool = False
) -> Definition:
    """A hosted definition in either spelling. Raises BadRequest naming the field.

    `code_sha256` is that of the uploaded zip of a code deployment, None for a JSON create. With `azure_limits` what
    Azure is known to refuse is refused here, too.
    """
    kind = body.get("kind", "hosted")
    if isinstance(kind, str) and kind != "hosted":  # first: the other fields of another kind would only confuse
        raise BadRequest(
            f"'definition.kind' is {brief(kind)}; Cupola runs hosted agents, so it must be 'hosted'.",
            param="definition.kind",
        )
    wire = read_model(WireDefinition, body, prefix="definition.")
    image = _image_of(wire)
    code = _code_of(wire, image, code_sha256)
    cpu, memory = _size_of(wire.cpu, wire.memory, azure_limits)
    return Definition(
        image=image,
        code=code,
        protocols=_protocols_of(wire, AZURE_PROTOCOL_VERSIONS if azure_limits else PROTOCOL_VERSIONS),
        cpu=cpu,
        memory=memory,
        environment=_environment_of(wire.environment_variables or {}),
        tools=_tools_of(wire.tools or ()),
        idle_timeout=None if wire.session_configuration is None else wire.session_configuration.idle_timeout_seconds,
        spelling=dict(body),
    )


# What runs


def _image_of(wire: WireDefinition) -> str | None:
    newer = None if wire.container_configuration is None else wire.container_configuration.image
    if wire.image is not None and newer is not None and wire.image != newer:
        raise BadRequest(
            "'definition.image' and 'definition.container_configuration.image' name different images; send one.",
            param="definition.image",
        )
    image = newer if wire.image is None else wire.image
    if image is None:
        return None
    match = _IMAGE.fullmatch(image) if len(image) <= _MAX_IMAGE else None
    if match is None or len(match["name"]) > _MAX_IMAGE_NAME:
        message = (
            f"The image reference {brief(image)} is malformed: "
            "write [registry/]name[:tag] or name@sha256:<64 hex>, the name in lower case "
            f"and of at most {_MAX_IMAGE_NAME} characters."
        )
        raise BadRequest(
            message,
            param="definition.container_configuration.image" if wire.image is None else "definition.image",
            details=[{"code": "InvalidContainerImage", "message": message}],
        )
    return image


def _code_of(wire: WireDefinition, image: str | None, sha256: str | None) -> CodeConfiguration | None:
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


# What it speaks


def _protocols_of(wire: WireDefinition, allowed: Sequence[str]) -> tuple[ProtocolVersion, ...]:
    newer = _read_protocols("protocol_versions", wire.protocol_versions or (), allowed)
    older = _read_protocols("container_protocol_versions", wire.container_protocol_versions or (), allowed)
    if newer and older and set(newer) != set(older):
        raise BadRequest(
            "'definition.protocol_versions' and 'definition.container_protocol_versions' list different protocols; "
            "send one.",
            param="definition.container_protocol_versions",
        )
    return newer or older or (_RESPONSES,)


def _read_protocols(
    field: str, listed: Sequence[_ProtocolVersion], allowed: Sequence[str]
) -> tuple[ProtocolVersion, ...]:
    found: dict[str, ProtocolVersion] = {}
    for index, entry in enumerate(listed):
        param = f"definition.{field}.{index}"
        name = read_protocol(entry.protocol, f"{param}.protocol")
        if entry.version not in allowed:
            message = (
                f"Unsupported {name} protocol version {brief(entry.version)}. Please use one of {', '.join(allowed)}."
            )
            raise BadRequest(
                message,
                param=f"{param}.version",
                details=[{"code": "ProtocolVersionNotSupported", "message": message}],
            )
        known = found.setdefault(name, ProtocolVersion(name, entry.version))
        if known.version != entry.version:
            raise BadRequest(
                f"'{param}' declares {name} in version {entry.version}, and in {known.version} before; declare one.",
                param=f"{param}.version",
            )
    return tuple(found.values())


def read_protocol(name: object, param: str) -> str:
    """A protocol by its name of today. Raises BadRequest."""
    today = _OLD_PROTOCOL_NAMES.get(name, name) if isinstance(name, str) else None
    if today not in PROTOCOLS:
        raise BadRequest(f"'{param}' is {brief(name)}; it must be one of {', '.join(PROTOCOLS)}.", param=param)
    return today


# What it may use


def _tier_error(field: str, value: str, allowed: str) -> BadRequest:
    return BadRequest(
        f"CPU and Memory must be specified as a valid resource tier: '{field}' is {brief(value)}; {allowed}.",
        param=f"definition.{field}",
    )


def _size_of(cpu: str | None, memory: str | None, azure_limits: bool) -> tuple[float, int]:
    vcpus = _cpu_of(cpu, AZURE_CPU_RANGE if azure_limits else CPU_RANGE)
    size = _memory_of(memory, AZURE_MEMORY_RANGE if azure_limits else MEMORY_RANGE)
    if azure_limits:
        if not (vcpus / AZURE_CPU_STEP).is_integer():
            raise _tier_error("cpu", str(cpu), f"with Azure's limits it goes in steps of {AZURE_CPU_STEP:g}")
        if size != vcpus * AZURE_MEMORY_PER_CPU:
            needed = vcpus * AZURE_MEMORY_PER_CPU / GIB
            shown = f"{size / GIB:g}Gi" if memory is None else memory
            raise _tier_error("memory", shown, f"with Azure's limits a cpu of {vcpus:g} comes with {needed:g}Gi")
    return vcpus, size


def _cpu_of(text: str | None, limits: tuple[float, float]) -> float:
    if text is None:
        return DEFAULT_CPU
    cpu = float(text) if _CPU.fullmatch(text) else math.nan
    if not limits[0] <= cpu <= limits[1]:
        allowed = f'it must be a number of vCPUs from {limits[0]:g} to {limits[1]:g}, such as "1"'
        raise _tier_error("cpu", text, allowed)
    return cpu


def _memory_of(text: str | None, limits: tuple[int, int]) -> int:
    if text is None:
        return DEFAULT_MEMORY
    match = _MEMORY.fullmatch(text)
    memory = 0 if match is None else int(float(match[1]) * _UNITS[match[2]])
    if not limits[0] <= memory <= limits[1]:
        allowed = f'it must be from {limits[0] / GIB:g}Gi to {limits[1] / GIB:g}Gi, such as "2Gi"'
        raise _tier_error("memory", text, allowed)
    return memory


# What it is given


def _environment_of(variables: Mapping[str, str]) -> dict[str, str]:
    total = 0
    for name, value in variables.items():
        param = f"definition.environment_variables.{name[:80]}"
        if not _VARIABLE.fullmatch(name):
            raise BadRequest(
                f"The variable name {brief(name)} is not allowed: "
                "use letters, digits and underscores, not starting with a digit.",
                param=param,
            )
        if name.upper().startswith(_RESERVED):
            raise BadRequest(
                f"The variable name {brief(name)} is reserved: names starting with FOUNDRY_ or AGENT_ "
                "are set by the platform.",
                param=param,
            )
        if "\0" in value:
            raise BadRequest(f"The value of {brief(name)} holds a NUL character.", param=param)
        size = len(name) + 1 + len(value.encode())
        total += size
        if size > _MAX_VARIABLE:
            raise BadRequest(
                f"The variable {brief(name)} has {size:,} bytes; a program can be given {_MAX_VARIABLE:,} in one.",
                param=param,
            )
    if total > _MAX_ENVIRONMENT:
        raise BadRequest(
            f"The environment variables have {total:,} bytes in all; {_MAX_ENVIRONMENT:,} are allowed.",
            param="definition.environment_variables",
        )
    return dict(variables)


def _tools_of(tools: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    for index, tool in enumerate(tools):
        read_model(_Tool, tool, prefix=f"definition.tools.{index}.")
    return tuple(tools)


# As it is shown


def show_definition(definition: Definition) -> dict[str, Any]:
    """The definition as the caller wrote it, with the other generation's names beside."""
    shown = {name: value for name, value in definition.spelling.items() if value is not None}
    if definition.image is not None:
        shown["image"] = definition.image
        shown["container_configuration"] = {**shown.get("container_configuration", {}), "image": definition.image}
    protocols = [{"protocol": p.protocol, "version": p.version} for p in definition.protocols]
    listed = shown.get("protocol_versions") or shown.get("container_protocol_versions") or protocols
    for name in ("protocol_versions", "container_protocol_versions"):
        shown[name] = shown.get(name) or listed
    if definition.code is not None:
        shown["code_configuration"] = {**shown["code_configuration"], "content_hash": definition.code.sha256}
    shown.setdefault("cpu", f"{definition.cpu:g}")
    shown.setdefault("memory", f"{definition.memory / GIB:g}Gi")
    shown.setdefault("environment_variables", {})
    shown["kind"] = "hosted"
    return shown
