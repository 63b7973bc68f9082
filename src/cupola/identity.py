"""Who is asking: callers (people and programs) and sandboxes (containers calling back).

No I/O: tokens are made and read in `web/auth.py`, with the secret of the installation.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Role(StrEnum):
    """What a caller may do; each role may do what stands before it.

    `reader` sees agents and versions; `user` talks to agents in sessions of its own; `operator` changes agents and
    sees every session.
    """

    READER = "reader"
    USER = "user"
    OPERATOR = "operator"

    def covers(self, needed: Role) -> bool:
        ranks = tuple(Role)
        return ranks.index(self) >= ranks.index(needed)


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated client. `user` is the opaque isolation key that parts sessions and talk."""

    principal: str
    user: str
    role: Role = Role.OPERATOR


@dataclass(frozen=True, slots=True)
class SandboxIdentity:
    """A container that calls back: its token opens this project's callbacks and nothing else."""

    project: str
    agent: str
    version: str
    session: str
    sandbox: str


@dataclass(frozen=True, slots=True)
class Call:
    """What a call id stands for (`x-agent-foundry-call-id`): one request of `user` to one session."""

    user: str
    agent: str
    session: str


def identity_of(agent_guid: str, part: Literal["instance", "blueprint"]) -> dict[str, str]:
    """The `principal_id` and `client_id` of an agent's identity: derived from its guid, so the same for ever."""
    seed = uuid.UUID(agent_guid)
    return {
        "principal_id": str(uuid.uuid5(seed, f"{part}/principal")),
        "client_id": str(uuid.uuid5(seed, f"{part}/client")),
    }
