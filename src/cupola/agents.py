"""Agents, their versions, and the definition that a version freezes.

Pure rules: no I/O, no HTTP. The wire's many spellings are read and written in `web/wire.py`; here stands the one
internal form. Sources: control-plane.md §2.1 to §2.4 and §3.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from cupola.errors import BadRequest, Conflict, NotFound
from cupola.secrecy import brief

GIB = 1024**3
DEFAULT_CPU = 1.0
DEFAULT_MEMORY = 2 * GIB
CPU_RANGE = (0.5, 4.0)
MEMORY_RANGE = (1 * GIB, 8 * GIB)
IDLE_TIMEOUT_RANGE = (120, 14400)
"""Seconds; the newest of the documented ranges (control-plane.md §3)."""

AZURE_CPU_RANGE = (0.25, 4.0)
AZURE_CPU_STEP = 0.25
AZURE_MEMORY_RANGE = (GIB // 2, 8 * GIB)
AZURE_MEMORY_PER_CPU = 2 * GIB
"""Azure takes fixed pairs: every quarter of a vCPU with twice as many GiB (control-plane.md §3)."""

WARM_POOL = "warm_pool"
"""The key of a version's metadata that says how many sandboxes wait for new sessions."""
MAX_WARM_POOL = 100

MAX_VERSIONS = 1000
"""Versions that an agent may have at once."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")


class VersionStatus(StrEnum):
    CREATING = "creating"
    ACTIVE = "active"
    FAILED = "failed"
    DELETING = "deleting"
    DELETED = "deleted"


class Phase(StrEnum):
    """The steps from a definition to an answering sandbox, in order."""

    VALIDATE = "validate"
    PULL = "pull"
    BUILD = "build"
    CREATE = "create"
    START = "start"
    PROBE = "probe"


@dataclass(frozen=True, slots=True)
class ProtocolVersion:
    """What gateway and container speak: `responses` in version `2.0.0`, for instance."""

    protocol: str
    version: str


@dataclass(frozen=True, slots=True)
class CodeConfiguration:
    """A code deployment: `sha256` is that of the uploaded zip, in hex."""

    runtime: str
    entry_point: tuple[str, ...]
    dependency_resolution: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Definition:
    """What a version freezes. Exactly one of `image` and `code` is set. `memory` is in bytes, `cpu` in vCPUs.

    `spelling` is the caller's own JSON, echoed as it came beside the other generation's names.
    """

    image: str | None
    code: CodeConfiguration | None
    protocols: tuple[ProtocolVersion, ...]
    cpu: float = DEFAULT_CPU
    memory: int = DEFAULT_MEMORY
    environment: Mapping[str, str] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()
    idle_timeout: int | None = None
    spelling: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "image": self.image,
            "code": None
            if self.code is None
            else {
                "runtime": self.code.runtime,
                "entry_point": list(self.code.entry_point),
                "dependency_resolution": self.code.dependency_resolution,
                "sha256": self.code.sha256,
            },
            "protocols": [[p.protocol, p.version] for p in self.protocols],
            "cpu": self.cpu,
            "memory": self.memory,
            "environment": dict(self.environment),
            "tools": [dict(tool) for tool in self.tools],
            "idle_timeout": self.idle_timeout,
            "spelling": dict(self.spelling),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        code = row["code"]
        return cls(
            image=row["image"],
            code=None
            if code is None
            else CodeConfiguration(
                code["runtime"], tuple(code["entry_point"]), code["dependency_resolution"], code["sha256"]
            ),
            protocols=tuple(ProtocolVersion(p, v) for p, v in row["protocols"]),
            cpu=row["cpu"],
            memory=row["memory"],
            environment=row["environment"],
            tools=tuple(row["tools"]),
            idle_timeout=row["idle_timeout"],
            spelling=row["spelling"],
        )

    def protocol(self, name: str) -> ProtocolVersion | None:
        """How it is declared; None if it is not. Asked for every request, so without a generator."""
        for declared in self.protocols:
            if declared.protocol == name:
                return declared
        return None

    def digest(self) -> str:
        """What the no-op rule compares: everything that a change of would change the sandbox (§2.2)."""
        content = {key: value for key, value in self.to_json().items() if key != "spelling"}
        content["other"] = {k: v for k, v in self.spelling.items() if v is not None and k not in _NORMALISED}
        container = self.spelling.get("container_configuration") or {}
        if container.get("registry_connection_id") is not None:
            content["registry"] = container["registry_connection_id"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_NORMALISED = frozenset(
    {
        "kind",
        "image",
        "container_configuration",
        "container_protocol_versions",
        "protocol_versions",
        "cpu",
        "memory",
        "environment_variables",
        "tools",
        "code_configuration",
        "session_configuration",
    }
)


@dataclass(frozen=True, slots=True)
class Probe:
    """One try of `GET /readiness`: `at` in seconds after the start, `outcome` a status code or what went wrong."""

    at: float
    outcome: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a sandbox did not come up: what stands on a failed version and on every 424.

    `log` holds at most the last 40 lines; `details` are `{code, message}` objects with the names users search for.
    """

    phase: Phase
    code: str
    message: str
    exit_code: int | None = None
    probes: tuple[Probe, ...] = ()
    log: tuple[str, ...] = ()
    details: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "phase": self.phase.value,
            "code": self.code,
            "message": self.message,
            "exit_code": self.exit_code,
            "probes": [{"at": p.at, "outcome": p.outcome} for p in self.probes],
            "log": list(self.log),
            "details": [dict(detail) for detail in self.details],
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        return cls(
            phase=Phase(row["phase"]),
            code=row["code"],
            message=row["message"],
            exit_code=row["exit_code"],
            probes=tuple(Probe(p["at"], p["outcome"]) for p in row["probes"]),
            log=tuple(row["log"]),
            details=tuple(row["details"]),
        )


@dataclass(frozen=True, slots=True)
class AgentVersion:
    """An immutable release of an agent. Times are unix seconds.

    `version` is a decimal string from `"1"`, or `draft-<unix ms>`. `phase` says how far a `creating` version has come.
    `image_content` is the engine's id of the image that was probed: all its sandboxes run that one, whatever the tag
    names later. `warm_pool` is the last word on how many sandboxes wait for its new sessions, None for the
    installation's default; `binds_late` whether its container can be given a session after its start, None while that
    is not known.
    """

    project: str
    agent: str
    version: str
    definition: Definition
    created_at: float
    status: VersionStatus = VersionStatus.CREATING
    phase: Phase | None = Phase.VALIDATE
    failure: Failure | None = None
    description: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    draft: bool = False
    warnings: tuple[str, ...] = ()
    image_content: str | None = None
    warm_pool: int | None = None
    binds_late: bool | None = None

    def to_phase(self, phase: Phase) -> Self:
        self._require(VersionStatus.CREATING)
        return replace(self, phase=phase)

    def to_active(self) -> Self:
        self._require(VersionStatus.CREATING)
        return replace(self, status=VersionStatus.ACTIVE, phase=None, failure=None)

    def to_failed(self, failure: Failure) -> Self:
        self._require(VersionStatus.CREATING)
        return replace(self, status=VersionStatus.FAILED, phase=failure.phase, failure=failure)

    def to_deleting(self) -> Self:
        return replace(self, status=VersionStatus.DELETING)

    def with_pool_of(self, metadata: Mapping[str, str]) -> Self:
        """The same version with the pool that `metadata` declares, where that differs from what was declared before."""
        declared = metadata.get(WARM_POOL)
        if declared == self.metadata.get(WARM_POOL):
            return self
        return replace(self, metadata=metadata, warm_pool=declared_pool(metadata))

    def _require(self, status: VersionStatus) -> None:
        if self.status is not status:
            raise Conflict(f"Version {self.agent}:{self.version} is {self.status}, not {status}.")

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.project, self.agent, self.version)

    @property
    def idle_timeout(self) -> int | None:
        return self.definition.idle_timeout

    @property
    def may_get_traffic(self) -> bool:
        """Whether the endpoint may name it as a target: no draft, and not failed or on its way out (§2.2)."""
        return not self.draft and self.status in (VersionStatus.CREATING, VersionStatus.ACTIVE)


LATEST = "@latest"
"""What a rule names instead of a version: the newest active one that is no draft."""


STAY, FOLLOW = "stay", "follow"
"""What sessions do when traffic goes elsewhere: stay with the version that they began on (the default), or go along."""


@dataclass(frozen=True, slots=True)
class VersionRule:
    """`percentage` (0 to 100) of new sessions begin on `version`, which may be `LATEST`."""

    version: str
    percentage: int


@dataclass(frozen=True, slots=True)
class Agent:
    """What a client addresses. `rules` empty means: all traffic to the latest version (§2.3).

    `last_number` is the highest version number ever given, so that a deleted number is never given again.
    `endpoint` and `card` are the wire's objects as the caller set them.
    """

    project: str
    name: str
    guid: str
    created_at: float
    last_number: int = 0
    enabled: bool = True
    rules: tuple[VersionRule, ...] = ()
    endpoint: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] | None = None

    @property
    def sessions_follow(self) -> bool:
        """Whether sessions leave a version that gets no traffic any more (`moves.followed_version`)."""
        selector = self.endpoint.get("version_selector") or {}
        return selector.get("sessions") == FOLLOW


def check_agent_name(name: str) -> None:
    """Raises BadRequest unless `name` starts and ends alphanumeric, holds only hyphens besides, and is ≤ 63 long."""
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"Agent name {brief(name)} is not allowed: use 1 to 63 letters, digits and hyphens, "
            "starting and ending with a letter or digit.",
            param="agent_name",
        )


def no_agent(project: str, name: str) -> NotFound:
    """The error for an agent that is not there."""
    return NotFound(f"Agent {brief(name)} does not exist in project {brief(project)}.", param="agent_name")


def choose_version(agent: Agent, versions: Sequence[AgentVersion], dice: random.Random) -> AgentVersion | None:
    """The version on which a new session begins, or None when none is active.

    `versions` are the agent's, newest first. Weighted rules count only where their version is active; without rules
    the newest active version that is no draft gets everything.
    """
    choices = choices_of(agent, versions)
    return dice.choices([v for v, _ in choices], [weight for _, weight in choices])[0] if choices else None


def choices_of(agent: Agent, versions: Sequence[AgentVersion]) -> list[tuple[AgentVersion, int]]:
    """The versions on which new sessions can begin by the endpoint's selector, with their weights."""
    active = {v.version: v for v in versions if v.status is VersionStatus.ACTIVE}
    latest = next((v for v in versions if v.version in active and not v.draft), None)
    if latest is not None:
        active[LATEST] = latest
    weighted = [(active[r.version], r.percentage) for r in agent.rules if r.version in active and r.percentage > 0]
    if weighted or agent.rules or latest is None:
        return weighted
    return [(latest, 100)]


def declared_pool(metadata: Mapping[str, str]) -> int | None:
    """The pool that a version's metadata declares; None where it declares none. Raises BadRequest."""
    declared = metadata.get(WARM_POOL)
    if declared is None:
        return None
    if not declared.isascii() or not declared.isdigit() or len(declared) > 3 or int(declared) > MAX_WARM_POOL:
        raise BadRequest(
            f"'metadata.{WARM_POOL}' is {brief(declared)}; it must be a whole number from 0 to {MAX_WARM_POOL}, as "
            "text: how many sandboxes wait for new sessions.",
            param=f"metadata.{WARM_POOL}",
        )
    return int(declared)


def latest_of(versions: Sequence[AgentVersion]) -> AgentVersion | None:
    """`versions.latest`: of the agent's versions, newest first, the first that is no draft, in whatever status."""
    return next((v for v in versions if not v.draft and v.status is not VersionStatus.DELETED), None)


def draft_name(now: float, taken: Callable[[str], bool]) -> str:
    """`draft-<unix ms>`, or the next millisecond that no other draft of the agent has."""
    moment = int(now * 1000)
    while taken(f"draft-{moment}"):
        moment += 1
    return f"draft-{moment}"


def without_version(rules: Sequence[VersionRule], version: str) -> tuple[VersionRule, ...]:
    """The rules after `version` is gone: the others share what it had in proportion; none left means the latest.

    Whole percentages that add up to 100, the largest remainders rounded up.
    """
    left = [rule for rule in rules if rule.version != version]
    total = sum(rule.percentage for rule in left)
    if total == 0:
        return ()
    exact = [rule.percentage * 100 / total for rule in left]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(left)), key=lambda index: shares[index] - exact[index])
    for index in by_remainder[: 100 - sum(shares)]:
        shares[index] += 1
    return tuple(replace(rule, percentage=share) for rule, share in zip(left, shares, strict=True))
