"""The docker driver on a real engine (Docker or Podman, whichever is found): what only an engine can show."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiodocker import Docker

from cupola.drivers.base import (
    SANDBOX_PORT,
    Address,
    CodeSource,
    Handle,
    ImageSource,
    Life,
    Listener,
    Observation,
    SandboxSpec,
    Step,
)
from cupola.drivers.docker import DockerDriver, connect
from cupola.drivers.docker_connect import read_traits
from cupola.errors import Conflict, DriverUnavailable, StartFailed
from tests.contract.place_docker import image_with_command, open_client, remove_everything

pytestmark = pytest.mark.engine

MIB = 1024 * 1024
DEADLINE = 30.0
"""Seconds after which what a test waits for will not come."""

SERVE = (
    "import http.server, os\n"
    "class Files(http.server.SimpleHTTPRequestHandler):\n"
    "    def log_message(self, *args): pass\n"
    "os.chdir(os.environ['HOME'])\n"
    "http.server.ThreadingHTTPServer(('', int(os.environ['PORT'])), Files).serve_forever()\n"
)


@dataclass
class Engine:
    """A driver of an installation of its own, and images to start."""

    client: Docker
    driver: DockerDriver
    installation: str
    stack: AsyncExitStack
    bundle: Path

    async def image(self, *command: str, **config: Any) -> str:
        """An image with that command, there until the test ends."""
        name = f"cupola-engine-{self.installation}:{uuid4().hex[:8]}"
        return await self.stack.enter_async_context(image_with_command(self.client, name, command, **config))

    def spec(self, image: str, **changes: Any) -> SandboxSpec:
        fields: dict[str, Any] = {
            "sandbox_id": uuid4().hex[:12],
            "source": ImageSource(image),
            "environment": {},
            "cpu": 0.5,
            "memory": 64 * MIB,
            "home": "h1",
            "labels": {},
            "ca_bundle": self.bundle,
        }
        return SandboxSpec(**(fields | changes))

    async def start(self, image: str, **changes: Any) -> Handle:
        handles = [handle async for handle in self.driver.start(self.spec(image, **changes))]
        assert [handle.step for handle in handles] == [Step.CREATED, Step.STARTED]
        return handles[-1]

    async def run(self, script: str, **changes: Any) -> Handle:
        return await self.start(await self.image("python3", "-c", script), **changes)

    async def output_of(self, script: str, **changes: Any) -> str:
        """What a script prints, once it has ended."""
        handle = await self.run(script, **changes)
        await self.end(handle)
        return "\n".join(await self.driver.output(handle, 100))

    async def end(self, handle: Handle) -> Observation:
        async def over() -> bool:
            return (await self.driver.poll(handle)).life is not Life.RUNNING

        await eventually(over)
        return await self.driver.poll(handle)

    async def inspect(self, handle: Handle) -> Mapping[str, Any]:
        return await self.client.containers.container(handle.reference).show()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    """An installation of its own, of which nothing is left at the end."""
    installation = f"test-{uuid4().hex[:12]}"
    bundle = tmp_path / "ca.pem"
    bundle.write_text("certificates")
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_client())
        driver = await connect(installation)
        stack.push_async_callback(driver.aclose)
        images = await stack.enter_async_context(AsyncExitStack())
        stack.push_async_callback(remove_everything, client, installation)
        yield Engine(client, driver, installation, images, bundle)


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await look():
            await asyncio.sleep(0.02)


async def fetch(address: Address | None, path: str = "/") -> bytes:
    """The body of one GET, or an OSError."""
    assert address is not None
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
    return answer.partition(b"\r\n\r\n")[2]


async def serving(engine: Engine, **changes: Any) -> Handle:
    """A sandbox that serves the files of its home."""
    handle = await engine.run(SERVE, **changes)

    async def answers() -> bool:
        try:
            return bool(await fetch(handle.address))
        except OSError:
            return False

    await eventually(answers)
    return handle


async def test_a_whole_life(engine: Engine) -> None:
    """Prepared, started, reached, listed, stopped, gone."""
    told: list[str] = []
    await engine.driver.prepare(ImageSource(await engine.image("true")), told.append)
    assert told == []  # what is here is not pulled
    handle = await serving(engine, labels={"cupola.session": "s"})
    assert await engine.driver.poll(handle) == Observation(Life.RUNNING)
    (found,) = await engine.driver.list()
    assert found.handle == handle
    assert found.labels["cupola.session"] == "s"
    await engine.driver.stop(handle, 0)
    assert await engine.driver.poll(handle) == Observation(Life.GONE)
    assert await engine.driver.list() == []
    await engine.driver.delete_home("h1")
    await engine.driver.delete_home("h1")


async def test_concurrent_starts_share_one_network(engine: Engine) -> None:
    """Whoever is first makes the network; all the others use it."""
    other = await connect(engine.installation)
    try:
        reaches = await asyncio.gather(
            *(driver.callback_reach() for driver in (engine.driver, other) for _ in range(3))
        )
    finally:
        await other.aclose()
    assert len(set(reaches)) == 1
    filters = {"label": [f"cupola.installation={engine.installation}"]}
    assert len(await engine.client.networks.list(filters=filters)) <= 1


async def test_a_removed_network_comes_back(engine: Engine) -> None:
    """After `docker network prune` one start fails, and the next finds the platform where it was."""
    reach = await engine.driver.callback_reach()
    filters = {"label": [f"cupola.installation={engine.installation}"]}
    if not await engine.client.networks.list(filters=filters):
        pytest.skip("on this engine every sandbox has a network of its own")
    other = await connect(engine.installation)
    await other.remove_installation()
    await other.aclose()
    image = await engine.image("python3", "-c", SERVE)
    with pytest.raises(StartFailed):
        await engine.start(image)
    await engine.start(image, home="h2")
    assert await engine.driver.callback_reach() == reach


async def test_the_platform_is_reached(engine: Engine) -> None:
    """A sandbox reaches what listens where callback_reach says."""
    reach = await engine.driver.callback_reach()
    met = asyncio.Event()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.set()
        writer.close()

    async with await asyncio.start_server(meet, reach.bind, 0) as server:
        port = server.sockets[0].getsockname()[1]
        await engine.run(f"import socket; socket.create_connection(({reach.host!r}, {port}), 5)")
        async with asyncio.timeout(DEADLINE):
            await met.wait()


async def test_sandboxes_do_not_reach_each_other(engine: Engine) -> None:
    """A sandbox that this host reaches is closed to its neighbour."""
    first = await serving(engine)
    shown = (await engine.inspect(first))["NetworkSettings"]["Networks"]
    (host,) = [network["IPAddress"] for network in shown.values()]
    said = await engine.output_of(
        "import socket\n"
        "try:\n"
        f"    socket.create_connection(({host!r}, {SANDBOX_PORT}), 2)\n"
        "    print('reached')\n"
        "except OSError as error:\n"
        "    print('closed')\n",
        home="h2",
    )
    assert said == "closed"


async def test_a_published_port(engine: Engine) -> None:
    """Where the engine's networks cannot be reached from here, a local port leads to the sandbox."""
    if (await read_traits(engine.client)).podman:
        pytest.skip("for Podman this is decided by its being rootless")
    client = Docker(url=engine.client._connection_info)
    far = DockerDriver(client, engine.installation, addresses=lambda: ["127.0.0.1"])
    try:
        assert (await far.callback_reach()).host == "host.docker.internal"
        image = await engine.image("python3", "-c", SERVE)
        handle = [handle async for handle in far.start(engine.spec(image))][-1]
        assert handle.address is not None
        assert handle.address.host == "127.0.0.1"

        async def answers() -> bool:
            try:
                return bool(await fetch(handle.address))
            except OSError:
                return False

        await eventually(answers)
        assert [found.handle for found in await far.list()] == [handle]
    finally:
        await far.aclose()


async def test_memory_is_enforced(engine: Engine) -> None:
    """A sandbox that takes too much is killed, and it is seen why."""
    handle = await engine.run("hoard = []\nwhile True: hoard.append(bytearray(b'x') * (4 << 20))")
    assert await engine.end(handle) == Observation(Life.EXITED, 137, out_of_memory=True)


async def test_limits_and_privileges(engine: Engine) -> None:
    """CPU and processes are limited, all capabilities are gone, and no program gets new ones."""
    said = await engine.output_of("print(open('/proc/self/status').read())")
    status = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    (found,) = await engine.driver.list()
    limits = (await engine.inspect(found.handle))["HostConfig"]
    assert limits["PidsLimit"] == 512
    assert limits["NanoCpus"] == 500_000_000
    assert limits["Memory"] == limits["MemorySwap"] == 64 * MIB


async def test_processes_are_counted(engine: Engine) -> None:
    """A fork bomb ends at the limit."""
    said = await engine.output_of(
        "import os, time\n"
        "made = 0\n"
        "try:\n"
        "    while made < 2000:\n"
        "        if os.fork() == 0: time.sleep(60)\n"
        "        made += 1\n"
        "except OSError: print(made < 512, flush=True)\n",
        memory=1024 * MIB,
    )
    assert said == "True"


async def test_a_home_survives(engine: Engine) -> None:
    """What a sandbox wrote into HOME is there for the next one, until the home is deleted."""
    write = "import os, pathlib; pathlib.Path(os.environ['HOME'], 'note').write_text('kept')"
    read = "import os; print(os.listdir(os.environ['HOME']))"
    handle = await engine.run(write)
    assert (await engine.end(handle)).exit_code == 0
    with pytest.raises((Conflict, DriverUnavailable), match=r"in use|being used"):
        await engine.driver.delete_home("h1")
    await engine.driver.stop(handle, 0)
    assert await engine.output_of(read) == "['note']"
    for found in await engine.driver.list():
        await engine.driver.stop(found.handle, 0)
    await engine.driver.delete_home("h1")
    assert await engine.output_of(read) == "[]"


async def test_an_unprivileged_user_has_a_home(engine: Engine) -> None:
    """An image with a user of its own writes into a new home and into an old one."""
    image = await engine.image(
        "python3",
        "-c",
        "import os\nopen(os.path.join(os.environ['HOME'], 'note'), 'a').write('x')\nprint(os.getuid())",
        User="1234",
    )
    for _ in range(2):
        handle = await engine.start(image)
        assert await engine.end(handle) == Observation(Life.EXITED, 0)
        assert await engine.driver.output(handle, 5) == ["1234"]
        await engine.driver.stop(handle, 0)


async def test_certificates_are_there(engine: Engine) -> None:
    """The bundle is where the variables say, and cannot be written."""
    said = await engine.output_of(
        "import os\n"
        "path = os.environ['SSL_CERT_FILE']\n"
        "print(open(path).read(), path == os.environ['REQUESTS_CA_BUNDLE'], os.access(path, os.W_OK))\n"
    )
    assert said == "certificates True False"


async def test_a_missing_image_is_named(engine: Engine) -> None:
    """A pull that cannot succeed ends with the name that users know."""
    told: list[str] = []
    image = f"registry.invalid/cupola/{engine.installation}:1"
    with pytest.raises(StartFailed) as caught:
        await engine.driver.prepare(ImageSource(image), told.append)
    assert (caught.value.phase, caught.value.code) == ("pull", "ImageError")
    assert image in caught.value.message
    assert {detail["code"] for detail in caught.value.details} <= {"ImagePullBackOff", "InvalidContainerImage"}
    assert caught.value.details
    assert told == [f"pulling {image} from registry.invalid"]


async def test_an_unreachable_registry_is_named(engine: Engine) -> None:
    """A registry that nobody runs is told from an image that does not exist."""
    with pytest.raises(StartFailed, match="could not be reached") as caught:
        await engine.driver.prepare(ImageSource("127.0.0.1:1/agent:1"), lambda line: None)
    assert [detail["code"] for detail in caught.value.details] == ["ImagePullBackOff"]


async def test_an_image_that_went_away(engine: Engine) -> None:
    """A start from an image that is no longer here is refused in the create phase."""
    with pytest.raises(StartFailed) as caught:
        await engine.start(f"cupola-engine-{engine.installation}:none")
    assert (caught.value.phase, caught.value.code) == ("create", "ImageError")


async def test_a_foreign_image_is_refused(engine: Engine) -> None:
    """An image for another processor is named before anything is started."""
    foreign = "s390x"
    name = f"cupola-engine-{engine.installation}:foreign"
    archive = foreign_image(name, foreign)
    async with engine.client._query(
        "images/load", "POST", data=archive, headers={"content-type": "application/x-tar"}
    ) as loaded:
        await loaded.read()
    try:
        with pytest.raises(StartFailed) as caught:
            await engine.driver.prepare(ImageSource(name), lambda line: None)
    finally:
        await engine.client.images.delete(name, force=True)
    assert (caught.value.phase, caught.value.code) == ("validate", "ImageError")
    assert f"linux/{foreign}" in caught.value.message
    assert "docker build --platform linux/" in caught.value.message


def foreign_image(name: str, architecture: str) -> bytes:
    """An image of nothing for another processor, as `docker save` would write it."""
    layer = pack({"empty": b""})
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["/agent"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    return pack(
        {
            "config.json": json.dumps(config).encode(),
            "layer.tar": layer,
            "manifest.json": json.dumps(manifest).encode(),
        }
    )


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pack(files: Mapping[str, bytes]) -> bytes:
    """An archive without padding: Podman takes what comes after the end for an error."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
        end = tar.offset
    return archive.getvalue()[: end + 2 * tarfile.BLOCKSIZE]


@pytest.mark.parametrize(
    ("command", "said"),
    [("/no/such/agent", "check CMD and ENTRYPOINT"), ("/etc/passwd", "chmod +x")],
)
async def test_a_command_that_cannot_run(engine: Engine, command: str, said: str) -> None:
    """A command that is missing or not executable fails the start with its remedy."""
    image = await engine.image(command)
    with pytest.raises(StartFailed) as caught:
        await engine.start(image)
    assert caught.value.phase == "start"
    assert said in caught.value.message
    assert [found.handle.step for found in await engine.driver.list()] == [Step.CREATED]


async def test_a_foreign_program(engine: Engine) -> None:
    """A program that the kernel does not understand fails the start, or (runc since 1.1) is named in the output."""
    spec = engine.spec(await engine.image("/home/session/agent"))
    starting = engine.driver.start(spec)
    handle = await anext(starting)
    container = engine.client.containers.container(handle.reference)
    archive = pack({"session/agent": b"\x7fELF"})
    await container.put_archive("/home", archive)  # type: ignore[no-untyped-call]  # aiodocker
    refused: StartFailed | None = None
    try:
        handle = await anext(starting)
    except StartFailed as error:
        refused = error
    if refused is not None:
        assert (refused.phase, refused.code, refused.exit_code) == ("start", "ImageError", 126)
        return
    assert (await engine.end(handle)).exit_code not in (0, None)
    assert "exec format error" in "\n".join(await engine.driver.output(handle, 5))


async def test_output_after_the_end(engine: Engine) -> None:
    """What was printed before a crash can be read after it, however soon it came."""
    handle = await engine.run("import sys\nfor n in range(50): print('line', n)\nsys.exit(7)")
    assert await engine.end(handle) == Observation(Life.EXITED, 7)
    assert await engine.driver.output(handle, 2) == ["line 48", "line 49"]


async def test_listeners_are_seen(engine: Engine) -> None:
    """Every listening socket is seen with the address that it is bound to."""
    handle = await engine.run(
        "import socket, time\n"
        "held = [socket.create_server((host, port)) for host, port in (('127.0.0.1', 8088), ('', 9000))]\n"
        "print('bound', flush=True)\n"
        "time.sleep(600)\n"
    )

    async def bound() -> bool:
        return "bound" in await engine.driver.output(handle, 5)

    await eventually(bound)
    wanted = {Listener("127.0.0.1", 8088), Listener("0.0.0.0", 9000)}
    assert set(await engine.driver.listeners(handle) or ()) == wanted
    inside = await engine.driver._ask_for_sockets(handle)  # as for an engine in a virtual machine
    assert "0100007F:1F98" in inside


async def test_code_is_refused(engine: Engine) -> None:
    """A code deployment is not for this driver, and the sentence says whose it is."""
    source = CodeSource(Path("/code"), (), ("python3",))
    with pytest.raises(StartFailed, match="process driver") as caught:
        await engine.driver.prepare(source, lambda line: None)
    assert caught.value.phase == "validate"
