"""Warm pools of a platform under test: agents with the hooks, and a pool that has come to rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cupola.drivers.fake import Behaviour
from cupola.drivers.fake_hooks import Hooks
from cupola.sandboxes.live import LiveSandbox
from tests.support.agents import echo
from tests.support.platform import DEFINITION, PROJECT, PlatformUnderTest
from tests.support.waiting import wait_until

LATE = Behaviour(handler=echo, hooks=Hooks())
"""An echo on an adapter whose containers can be given their session after their start."""


async def create_with_pool(platform: PlatformUnderTest, size: int, **metadata: str) -> Mapping[str, Any]:
    """A version of `a1` with a pool, after its provisioning has ended."""
    body = {"definition": DEFINITION, "metadata": {"warm_pool": str(size), **metadata}}
    answer = await platform.call("POST", f"{PROJECT}/agents/a1/versions", body)
    assert answer.status == 200, answer.body
    return await platform.settled("a1", answer.json()["version"])


async def settle_pools(platform: PlatformUnderTest) -> None:
    """Passes over the pools until there is nothing to start or to stop, and all of it is done."""
    sandboxes, pools = platform.platform.sandboxes, platform.platform.warm
    while True:
        sandboxes.live.changed.clear()
        await pools.once()
        await wait_until(lambda: not len(sandboxes.warm_starts) and not any(x.stopping for x in sandboxes.live))
        if not sandboxes.live.changed.is_set():
            return


def warm_of(platform: PlatformUnderTest) -> list[LiveSandbox]:
    return platform.platform.sandboxes.live.warm()


async def pool_of(platform: PlatformUnderTest, agent: str = "a1") -> Mapping[str, Any]:
    """The newest of the agent's pools, as it is shown."""
    answer = await platform.call("GET", f"/cupola/projects/demo/agents/{agent}/warm")
    assert answer.status == 200, answer.body
    pool: Mapping[str, Any] = answer.json()["data"][0]
    return pool


def sizes(pool: Mapping[str, Any]) -> dict[str, Any]:
    return {name: pool[name] for name in ("warm_pool", "wanted", "ready", "starting")}
