"""Who is asking: callers (people and programs) and sandboxes (containers calling back).

No I/O: tokens are made and read in `web/auth.py`, with the secret of the installation.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated client. `user` is the opaque isolation key that parts sessions and talk."""

    principal: str
    user: str


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
