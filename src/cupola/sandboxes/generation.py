"""Which official adapter answers in a sandbox and what it can do, learned from the sandbox itself.

A definition's protocol version is no evidence: the guide that most users follow declares `v1` for any image. Adapters
name themselves in `x-platform-server`; those from before that header say `ready` instead of `healthy`, as other
containers may too, so their second probe is looked at as well. Sources: container-contract.md §1 and §3.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

import orjson

from cupola.drivers.base import Address
from cupola.sandboxes.exchange import Reply, exchange

_TIMEOUT = 2.0
_NAMED = re.compile(r"azure-ai-agentserver-(\w+)/(\S+)")
_RELEASE = re.compile(r"(\d+)\.(\d+)")
_FIRST_CORE_WITH_HOOKS = (2, 3)


class Generation(StrEnum):
    """Adapters that understand the same calls, named by the protocol version that is theirs."""

    OLD = "v1"
    KEYS = "1.0.0"
    CURRENT = "2.0.0"


@dataclass(frozen=True, slots=True)
class Adapter:
    """`generation` is None for a container without an official adapter, or a silent one.

    `hooks` says whether it names itself as one that can be given its session after its start
    (`/_agent/before-snapshot`, `/_agent/after-restore`).
    """

    generation: Generation | None = None
    hooks: bool = False


async def learn_adapter(address: Address) -> Adapter:
    """What answers behind a ready sandbox. Nothing is raised: the first request finds out."""
    ready = await exchange(address, "GET", "/readiness", _TIMEOUT)
    if ready is None:
        return Adapter()
    server = ready.headers.get("x-platform-server", "")
    named = named_generation(server)
    if named is not None or not _says_ready(ready):
        return Adapter(named, names_hooks(server))
    liveness = await exchange(address, "GET", "/liveness", _TIMEOUT)
    is_old = liveness is not None and liveness.status == 200 and not liveness.body
    return Adapter(Generation.OLD if is_old else None)


def named_generation(server: str) -> Generation | None:
    """What an `x-platform-server` header says.

    Packages are mixed freely: `responses` 1.0 runs on a newer `core`, and decides about its headers by itself.
    """
    packages = dict(_NAMED.findall(server))
    if not packages:
        return None
    version = packages.get("responses") or packages.get("core", "")
    early = version.startswith("1.") if "responses" in packages else version.startswith("2.0.0b")
    return Generation.KEYS if early else Generation.CURRENT


def names_hooks(server: str) -> bool:
    """Whether the `core` in an `x-platform-server` header is one that has the snapshot hooks."""
    release = _RELEASE.match(dict(_NAMED.findall(server)).get("core", ""))
    return release is not None and (int(release[1]), int(release[2])) >= _FIRST_CORE_WITH_HOOKS


def _says_ready(reply: Reply) -> bool:
    try:
        return bool(orjson.loads(reply.body) == {"status": "ready"})
    except orjson.JSONDecodeError:
        return False
