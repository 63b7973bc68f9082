"""The networks that keep sandboxes apart and let them reach the platform.

Docker: one bridge network for the installation, on which containers may not talk to each other
(`enable_icc=false`). Podman's bridges have no such option, but keep whole networks apart (`isolate`): there
every sandbox has a network of its own, removed with it.

Both are found by the installation's label. Two platforms may make the network at the same moment, and engines
allow two networks of one name: the older one stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiodocker import Docker, DockerError
from aiodocker.networks import DockerNetwork

from cupola.drivers.base import LABEL_INSTALLATION, LABEL_SANDBOX, CallbackReach
from cupola.drivers.docker_container import container_name, network_name
from cupola.drivers.docker_engine import EngineTraits

DOCKER_HOST_NAME = "host.docker.internal"
PODMAN_HOST_NAME = "host.containers.internal"

NO_TALK_AMONG_SANDBOXES = {"com.docker.network.bridge.enable_icc": "false"}
KEPT_APART = {"isolate": "true"}


def gateway_of(network: Mapping[str, Any]) -> str:
    """The host's IPv4 address on an inspected network, empty when it has none."""
    configs = (network.get("IPAM") or {}).get("Config") or ()
    return next((str(part["Gateway"]) for part in configs if "." in part.get("Gateway", "")), "")


def addressing_of(network: Mapping[str, Any]) -> Mapping[str, Any]:
    """What makes a network anew with the addresses of an inspected one."""
    configs = (network.get("IPAM") or {}).get("Config") or ()
    kept = [{key: part[key] for key in ("Subnet", "Gateway") if key in part} for part in configs]
    return {"Config": kept} if kept else {}


def docker_reach(traits: EngineTraits, gateway: str, local_addresses: Iterable[str]) -> CallbackReach:
    """Through the bridge when its host end is ours, else (Docker Desktop, rootless) by its name for us."""
    if traits.shares_kernel and gateway in set(local_addresses):
        return CallbackReach(bind=gateway, host=gateway)
    return CallbackReach(bind="127.0.0.1", host=DOCKER_HOST_NAME)


def podman_reach(traits: EngineTraits) -> CallbackReach:
    """By Podman's name for us. Every sandbox has a gateway of its own, so we bind what serves them all.

    In a Podman machine the name leads to this host's loopback.
    """
    bind = "0.0.0.0" if traits.shares_kernel else "127.0.0.1"  # noqa: S104 - see above; callbacks need a token
    return CallbackReach(bind=bind, host=PODMAN_HOST_NAME)


async def ensure_installation_network(
    client: Docker, installation: str, addressing: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Finds or makes the installation's own bridge, and returns its inspection.

    `addressing` is that of the time before, if there was one: the platform listens at its gateway.
    """
    name = network_name(installation)
    if not await _named(client, name):
        await _create(client, name, {LABEL_INSTALLATION: installation}, NO_TALK_AMONG_SANDBOXES, addressing)
    oldest, *others = await _named(client, name)
    for other in others:
        await remove_network(client, other["Id"])
    return oldest


async def create_sandbox_network(client: Docker, installation: str, sandbox_id: str) -> str:
    """Makes the network of one sandbox, kept apart from all others; returns its name. May be repeated."""
    name = container_name(installation, sandbox_id)
    labels = {LABEL_INSTALLATION: installation, LABEL_SANDBOX: sandbox_id}
    await _create(client, name, labels, KEPT_APART, {})
    return name


async def remove_network(client: Docker, network: str) -> None:
    """Removes a network by name or id; one that is not there is done."""
    try:
        await DockerNetwork(client, network).delete()  # type: ignore[no-untyped-call]  # aiodocker
    except DockerError as error:
        if error.status != 404:
            raise


async def remove_installation_networks(client: Docker, installation: str) -> None:
    """Removes every network with the installation's label."""
    for network in await client.networks.list(filters={"label": [f"{LABEL_INSTALLATION}={installation}"]}):
        await remove_network(client, network["Id"])


async def _named(client: Docker, name: str) -> list[Mapping[str, Any]]:
    """The networks of exactly this name, oldest first: the engine's filter also matches parts of names."""
    listed = await client.networks.list(filters={"name": [name]})
    exact = [network for network in listed if network["Name"] == name]
    return sorted(exact, key=lambda network: (network["Created"], network["Id"]))


async def _create(
    client: Docker, name: str, labels: Mapping[str, str], options: Mapping[str, str], addressing: Mapping[str, Any]
) -> None:
    config: dict[str, Any] = {
        "Name": name,
        "Driver": "bridge",
        "CheckDuplicate": True,
        "Labels": dict(labels),
        "Options": dict(options),
    }
    if addressing:
        config["IPAM"] = dict(addressing)
    try:
        await client.networks.create(config)
    except DockerError as error:
        if error.status != 409 and "already exists" not in error.message:
            raise
