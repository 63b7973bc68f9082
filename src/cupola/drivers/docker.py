"""Sandboxes as containers of a Docker or Podman engine, over its socket.

One driver for both: they speak one API, and differ in how they keep containers apart (`docker_network.py`).
This file is the conversation with the engine; what is said, and what the answers mean, are the pure functions
of `docker_container.py`, `docker_engine.py`, `docker_images.py` and `docker_credentials.py`. Errors of the
client library end here: callers see `StartFailed`, `DriverUnavailable` and `Conflict`.

A sandbox is reached at its own address where this host owns the bridge, else at a port published on
127.0.0.1. Left out: building images (`sandboxes/build.py`), code deployments (the process driver), engines
on other machines (their sandboxes could not call back).
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import tarfile
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import aiohttp
import orjson
import psutil
from aiodocker import Docker, DockerError
from aiodocker.containers import DockerContainer

from cupola.drivers.base import (
    LABEL_INSTALLATION,
    SANDBOX_HOME,
    CallbackReach,
    CodeSource,
    Found,
    Handle,
    HomeFiles,
    ImageSource,
    Life,
    Listener,
    Observation,
    Output,
    Report,
    SandboxSpec,
    Source,
    Step,
)
from cupola.drivers.docker_connect import ANSWER_TIMEOUT, FOLLOWING, open_engine, read_traits
from cupola.drivers.docker_container import (
    DRIVER,
    NOWHERE,
    container_config,
    container_name,
    explain_create,
    explain_start,
    has_unprivileged_user,
    inspected_address,
    listed_handle,
    observation,
    output_lines,
    parse_proc_net_tcp,
    used_cpu_seconds,
)
from cupola.drivers.docker_credentials import credentials_for
from cupola.drivers.docker_engine import (
    EngineTraits,
    docker_config_directory,
    read_docker_config,
    runs_natively,
)
from cupola.drivers.docker_errors import NO_ENGINE, engine_errors, unless_gone, unreachable
from cupola.drivers.docker_homes import DockerHomes
from cupola.drivers.docker_images import (
    PullProgress,
    Reference,
    explain_pull,
    parse_reference,
    wrong_architecture,
)
from cupola.drivers.docker_network import (
    addressing_of,
    create_sandbox_network,
    docker_reach,
    ensure_installation_network,
    gateway_of,
    podman_reach,
    remove_installation_networks,
    remove_network,
)
from cupola.drivers.docker_output import LogReader
from cupola.errors import StartFailed

FOLLOW_AGAIN = (0.1, 5.0)
"""Seconds until the log of a sandbox that still runs is asked for again: the first pause, and the longest."""

NETWORK = "network"
"""The key in `Handle.extra` under which a sandbox's own network stands, where it has one."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is true of the engine for all sandboxes. `network` is empty where each has its own."""

    traits: EngineTraits
    reach: CallbackReach
    network: str
    publish: bool


def local_addresses() -> Collection[str]:
    """Every address of this host."""
    return {address.address for each in psutil.net_if_addrs().values() for address in each}


async def connect(
    installation: str, *, environ: Mapping[str, str] | None = None, home: Path | None = None
) -> DockerDriver:
    """The driver for the first engine that answers, or `DriverUnavailable` with what was tried and why."""
    environ = os.environ if environ is None else environ
    home = Path.home() if home is None else home
    client, traits = await open_engine(environ, home)
    config = docker_config_directory(environ, home)
    return DockerDriver(client, installation, traits=traits, config=config)


class DockerDriver:
    """Sandboxes of one installation in one container engine. See `Driver` for what each call promises."""

    name = DRIVER

    def __init__(
        self,
        client: Docker,
        installation: str,
        *,
        traits: EngineTraits | None = None,
        config: Path | None = None,
        addresses: Callable[[], Collection[str]] = local_addresses,
        reaching_volumes: bool = True,
    ) -> None:
        """`config` is the directory of the user's Docker configuration, for credentials of registries.

        `traits` are asked of the engine when they are not given. Without `reaching_volumes`, files of homes are read
        and written by the engine even where this process could do it.
        """
        self._client = client
        self._installation = installation
        self._traits = traits
        self._config = config
        self._addresses = addresses
        self._place: Place | None = None
        self._addressing: Mapping[str, Any] = {}
        self._placing = asyncio.Lock()
        self._unprivileged: dict[str, bool] = {}
        self._opened_homes: set[str] = set()
        self._homes = DockerHomes(client, installation, reaching=reaching_volumes)

    @property
    def about(self) -> str:
        """The engine and its version, once it was asked."""
        return "a container engine" if self._traits is None else f"{self._traits.name} {self._traits.version}"

    async def callback_reach(self) -> CallbackReach:
        return (await self._find_place()).reach

    async def prepare(self, source: Source, report: Report) -> ImageSource:
        image = _image_of(source)
        pinned = source.content if isinstance(source, ImageSource) else None
        reference = parse_reference(image)
        place = await self._find_place()
        found = await self._inspect_image(pinned or image)
        if found is None and pinned is not None:
            found = await self._inspect_image(image)
        if found is None:
            await self._pull(image, reference, report)
            found = await self._inspect_image(image)
        if found is None:
            raise explain_pull(image, reference, "the pull ended before the image was complete")
        if pinned not in (None, found["Id"]):
            raise StartFailed(
                f"The image of this version was removed, and {image} names another one now: create a new version.",
                phase="pull",
                code="ImageError",
            )
        _check_platform(image, found, place.traits)
        self._unprivileged[image] = has_unprivileged_user(found)
        return ImageSource(image, str(found["Id"]))

    async def identify(self, image: str) -> str | None:
        found = await self._inspect_image(image)
        return None if found is None else str(found["Id"])

    async def start(self, spec: SandboxSpec) -> AsyncGenerator[Handle]:
        image = _image_of(spec.source)
        place = await self._find_place()
        network = place.network or await self._create_network(spec)
        try:
            container = await self._create(spec, place, network)
        except StartFailed:
            if not place.network:
                await self._remove_own_network(network)  # no handle names it yet
            raise
        extra = {} if place.network else {NETWORK: network}
        created = Handle(DRIVER, container.id, Step.CREATED, extra=extra)
        yield created
        if await self._needs_open_home(image, spec.home):
            await self._open_home(container, spec.home)
        await self._run(container, image)
        with engine_errors("look at a sandbox that it has just started"):
            address = inspected_address(await container.show(), publish=place.publish)
        yield replace(created, step=Step.STARTED, address=address or NOWHERE)

    async def poll(self, handle: Handle) -> Observation:
        place = await self._find_place()
        with engine_errors("look at a sandbox"):
            shown = await self._show(handle)
        if shown is None:
            return Observation(Life.GONE)
        return observation(shown["State"], told_of_memory=not place.traits.podman)

    async def end(self, handle: Handle, grace: float) -> None:
        container = self._client.containers.container(handle.reference)
        with engine_errors("end a sandbox"):
            async with asyncio.timeout(grace + ANSWER_TIMEOUT):
                await unless_gone(container.stop(t=math.ceil(grace)))

    async def stop(self, handle: Handle, grace: float) -> None:
        container = self._client.containers.container(handle.reference)
        with engine_errors("stop a sandbox"):
            async with asyncio.timeout(grace + ANSWER_TIMEOUT):
                await unless_gone(container.stop(t=math.ceil(grace)))
                await self._delete(container)
        if NETWORK in handle.extra:
            await self._remove_own_network(handle.extra[NETWORK])

    async def output(self, handle: Handle, tail: int) -> Sequence[str]:
        container = self._client.containers.container(handle.reference)
        with engine_errors("read the output of a sandbox"):
            try:
                return output_lines(await container.log(stdout=True, stderr=True, tail=max(tail, 0)), tail)
            except DockerError as error:
                if error.status == NO_ENGINE:
                    raise
                return []  # gone, or (Podman) never started

    async def follow(self, handle: Handle, after: str | None) -> AsyncGenerator[Output]:
        pause, longest = FOLLOW_AGAIN
        while True:
            running = (await self.poll(handle)).life is Life.RUNNING
            async with aclosing(self._read_log(handle, after, running)) as pieces:
                async for piece in pieces:
                    after = piece.mark
                    yield piece
            if not running:
                return
            # The log ends with the sandbox, which may still be going, or with the engine.
            await asyncio.sleep(pause)
            pause = min(longest, pause * 2)

    async def _read_log(self, handle: Handle, after: str | None, running: bool) -> AsyncGenerator[Output]:
        reader = LogReader(after)
        query = {**reader.query, "follow": int(running)}
        path = f"containers/{handle.reference}/logs"
        with engine_errors("follow the output of a sandbox"):
            try:
                async with self._client._query(path, params=query, timeout=FOLLOWING) as reply, reply:
                    async for data in reply.content.iter_any():
                        if lines := reader.feed(data):
                            yield Output(lines, reader.mark)
            except DockerError as error:
                if error.status == NO_ENGINE:
                    raise
                return  # gone, or (Podman) never started
        if not running and (lines := reader.rest()):
            yield Output(lines, reader.mark)

    async def listeners(self, handle: Handle) -> Sequence[Listener] | None:
        with engine_errors("look at the sockets of a sandbox"):
            shown = await self._show(handle)
            if shown is None or not shown["State"].get("Running"):
                return None
            seen = await asyncio.to_thread(_read_sockets, int(shown["State"]["Pid"]), str(shown["Id"]))
            return parse_proc_net_tcp(seen if seen is not None else await self._ask_for_sockets(handle))

    async def usage(self, handle: Handle) -> float | None:
        # Not `container.stats`: it does not know `one-shot`, and without that an engine watches for a second or two.
        path, params = f"containers/{handle.reference}/stats", {"stream": "false", "one-shot": "true"}
        with engine_errors("see what a sandbox uses"):
            shown = await unless_gone(self._read(path, params))
        return used_cpu_seconds(orjson.loads(shown)) if shown else None

    async def _read(self, path: str, params: Mapping[str, str]) -> bytes:
        """An answer of which Podman does not say that it is JSON; nothing where it only says that it is."""
        try:
            async with self._client._query(path, params=params) as reply, reply:
                return await reply.read()
        except json.JSONDecodeError:
            return b""

    async def list(self) -> Sequence[Found]:
        place = await self._find_place()
        label = f"{LABEL_INSTALLATION}={self._installation}"
        with engine_errors("list sandboxes"):
            containers = await self._client.containers.list(all=True, filters={"label": [label]})
        return [self._found(container._container, place) for container in containers]

    async def make_home(self, home: str, image: ImageSource | None) -> None:
        await self._homes.make(home, image, (await self._find_place()).traits)

    async def home_files(self, home: str, image: ImageSource | None) -> HomeFiles | None:
        return await self._homes.files(home, image, (await self._find_place()).traits)

    async def delete_home(self, home: str) -> None:
        await self._homes.delete(home)
        self._opened_homes.discard(home)

    async def copy_home(self, source: str, target: str) -> int:
        place = await self._find_place()
        self._opened_homes.discard(target)
        return await self._homes.copy(source, target, place.traits)

    async def aclose(self) -> None:
        self._homes.close()
        await self._client.close()

    async def remove_installation(self) -> None:
        """Removes the installation's networks. Its sandboxes must have been stopped; homes stay."""
        with engine_errors("remove the networks of this installation"):
            await remove_installation_networks(self._client, self._installation)
        self._place = None

    # Where sandboxes run

    async def _find_place(self) -> Place:
        async with self._placing:
            if self._place is None:
                with engine_errors("make a network for sandboxes"):
                    self._place = await self._make_place()
            return self._place

    async def _make_place(self) -> Place:
        self._traits = traits = self._traits or await read_traits(self._client)
        if traits.podman:
            return Place(traits, podman_reach(traits), "", publish=traits.rootless or not traits.shares_kernel)
        network = await ensure_installation_network(self._client, self._installation, self._addressing)
        self._addressing = addressing_of(network)
        gateway = gateway_of(network)
        reach = docker_reach(traits, gateway, await asyncio.to_thread(self._addresses))
        return Place(traits, reach, str(network["Id"]), publish=reach.bind != gateway)

    # Images

    async def _inspect_image(self, image: str) -> Mapping[str, Any] | None:
        with engine_errors(f"look at the image {image}"):
            return await unless_gone(self._client.images.inspect(image))

    async def _pull(self, image: str, reference: Reference, report: Report) -> None:
        config = {} if self._config is None else await asyncio.to_thread(read_docker_config, self._config)
        credentials = await credentials_for(reference.host, config)
        progress, clock = PullProgress(image), asyncio.get_running_loop().time
        report(f"pulling {image} from {reference.host}")
        try:
            async for event in self._client.images.pull(str(reference), auth=credentials, stream=True):
                if line := progress.feed(event, clock()):
                    report(line)
        except DockerError as error:
            if error.status == NO_ENGINE:
                raise unreachable(error) from error
            raise explain_pull(image, reference, error.message) from error
        except (TimeoutError, aiohttp.ClientError) as error:
            raise unreachable(error) from error

    # Starting

    async def _create_network(self, spec: SandboxSpec) -> str:
        with engine_errors("make a network for a sandbox"):
            return await create_sandbox_network(self._client, self._installation, spec.sandbox_id)

    async def _remove_own_network(self, network: str) -> None:
        with engine_errors("remove the network of a sandbox"):
            await remove_network(self._client, network)

    async def _create(self, spec: SandboxSpec, place: Place, network: str) -> DockerContainer:
        config = container_config(
            spec, self._installation, network=network, publish=place.publish, podman=place.traits.podman
        )
        name = container_name(self._installation, spec.sandbox_id)
        with engine_errors("create a sandbox"):
            if place.traits.podman:  # which forgets the labels of volumes that it makes by the way
                await self._homes.make(spec.home, None, place.traits)
            try:
                return await self._client.containers.create(config, name=name)
            except DockerError as error:
                if error.status == NO_ENGINE:
                    raise
                raise explain_create(config["Image"], error.status, error.message) from error

    async def _needs_open_home(self, image: str, home: str) -> bool:
        """Whether the image's user may not write into its home yet: a new volume belongs to root."""
        if image not in self._unprivileged:
            self._unprivileged[image] = has_unprivileged_user(await self._inspect_image(image) or {})
        return self._unprivileged[image] and home not in self._opened_homes

    async def _open_home(self, container: DockerContainer, home: str) -> None:
        """Makes a home writable for any user of the sandbox. May be repeated."""
        above = str(PurePosixPath(SANDBOX_HOME).parent)  # engines leave the mode of the place itself alone
        with engine_errors("make the home of a sandbox writable"):
            await container.put_archive(above, _open_home_archive())  # type: ignore[no-untyped-call]  # aiodocker
        self._opened_homes.add(home)

    async def _run(self, container: DockerContainer, image: str) -> None:
        with engine_errors("start a sandbox"):
            try:
                await container.start()
            except DockerError as error:
                if error.status == NO_ENGINE:
                    raise
                if "network" in error.message and "not found" in error.message:
                    self._place = None  # removed by someone (docker network prune): the next start makes it anew
                raise explain_start(image, error.message) from error

    # Looking

    async def _show(self, handle: Handle) -> Mapping[str, Any] | None:
        return await unless_gone(self._client.containers.container(handle.reference).show())

    def _found(self, container: Mapping[str, Any], place: Place) -> Found:
        handle = listed_handle(container, publish=place.publish)
        if not place.network:
            own = (container["Labels"] or {}).get("cupola.sandbox", "")
            handle = replace(handle, extra={NETWORK: container_name(self._installation, own)})
        return Found(handle, container["Labels"] or {})

    async def _ask_for_sockets(self, handle: Handle) -> str:
        container = self._client.containers.container(handle.reference)
        try:
            execution = await container.exec(["cat", "/proc/net/tcp", "/proc/net/tcp6"], stderr=False)
            pieces = []
            async with execution.start(detach=False) as stream:
                while (message := await stream.read_out()) is not None:
                    pieces.append(message.data)
        except DockerError as error:
            if error.status == NO_ENGINE:
                raise
            return ""  # ended meanwhile, or an image without `cat`
        return b"".join(pieces).decode(errors="replace")

    async def _delete(self, container: DockerContainer) -> None:
        try:
            await container.delete(force=True, v=True)
        except DockerError as error:
            if error.status == 409 and "in progress" in error.message:
                await unless_gone(container.wait(condition="removed"))
            elif error.status != 404:
                raise


def _image_of(source: Source) -> str:
    if isinstance(source, CodeSource):
        raise StartFailed(
            "The docker driver runs container images; a code deployment is run by the process driver.",
            phase="validate",
        )
    return source.image


def _check_platform(image: str, found: Mapping[str, Any], traits: EngineTraits) -> None:
    """Refuses foreign images, except in a virtual machine: those mostly emulate, else the start says so."""
    system, architecture = str(found.get("Os") or "linux"), str(found.get("Architecture") or "")
    if not traits.shares_kernel or not architecture:
        return
    if system != traits.os or not runs_natively(architecture, traits.architecture):
        raise wrong_architecture(image, f"{system}/{architecture}", f"{traits.os}/{traits.architecture}")


def _open_home_archive() -> bytes:
    """An archive that holds nothing but the home itself, writable for all.

    It ends with the two empty blocks that end an archive: Podman stops reading there, and takes more for an error.
    """
    entry = tarfile.TarInfo(PurePosixPath(SANDBOX_HOME).name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o777  # not sticky: the user may delete what was uploaded
    return entry.tobuf() + bytes(2 * tarfile.BLOCKSIZE)


def _read_sockets(pid: int, container_id: str) -> str | None:
    """The socket tables of a process on this host, or None when `pid` is not that container's here."""
    process = Path("/proc") / str(pid)
    try:
        if container_id not in (process / "cgroup").read_text():
            return None
        return (process / "net/tcp").read_text() + (process / "net/tcp6").read_text()
    except OSError:
        return None
