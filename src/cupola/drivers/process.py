"""Runs code deployments as child processes: what works with nothing but Python.

Each sandbox is a process session of its own with its own HOME, a port of its own on 127.0.0.1, and an
environment that holds nothing of ours. Where bubblewrap works it also has its own file system, /tmp and
process space. Output goes straight to a file, and all that we know of a sandbox stands in one small JSON file
that is written before the process starts; so sandboxes outlive a killed server and the next one adopts them,
and this driver keeps nothing in memory. What lies where on disk is in `process_files`, what concerns running
processes in `process_tree`, what the machine offers in `process_surroundings`.

Limits hold where control groups are writable. Elsewhere a process may map no more than `memory` bytes of
private memory (per process, by `ulimit -d`), and cpu is not limited.

Left out, and the reason to prefer a container engine: **the network is the host's**. A sandbox reaches what
listens on this machine, other sandboxes included. Images cannot run here at all.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

from cupola.drivers import bubblewrap as bwrap
from cupola.drivers import cgroups
from cupola.drivers import process_tree as tree
from cupola.drivers.base import (
    LABEL_INSTALLATION,
    SANDBOX_HOME,
    Address,
    CallbackReach,
    CodeSource,
    Found,
    Handle,
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
from cupola.drivers.home_copy import Copying
from cupola.drivers.host_files import HostFiles
from cupola.drivers.process_files import Record, SandboxFiles, last_lines
from cupola.drivers.process_output import Tail
from cupola.drivers.process_surroundings import Surroundings, look_around
from cupola.drivers.threads import finished
from cupola.errors import DriverUnavailable, StartFailed

HOST = "127.0.0.1"

TICK = 0.01
"""Seconds between looks at a process that was told to end."""

LOOKS_AT_OUTPUT = (0.05, 1.0)
"""Seconds between looks at the output of a process: while it talks, and at most, while it is silent."""
LOOKS_AT_SILENT_PROCESS = 5
"""Of so many looks at its output, one asks whether a silent process still runs."""

PORTS = range(20_000, 32_768)
"""Where sandboxes listen: well above what services use, below what Linux (32768) and macOS (49152) give by chance."""

KILL_PATIENCE = 10.0
"""Seconds that the kernel gets to remove killed processes; more only passes when a disk hangs."""


class ProcessDriver:
    """The `Driver` for child processes; see the module for what it promises.

    `root` holds homes, output and the files about sandboxes. `bubblewrap` is where that program lies,
    `"auto"` to use it if it is there and works, None to do without; `groups` likewise for control groups.
    """

    name = "process"

    def __init__(
        self,
        root: Path,
        installation: str,
        *,
        bubblewrap: Path | Literal["auto"] | None = "auto",
        groups: Literal["auto"] | None = "auto",
    ) -> None:
        self._files = SandboxFiles(root.absolute())
        self._installation = installation
        self._bubblewrap = bubblewrap
        self._groups = groups
        self._surroundings: Surroundings | None = None
        self._looking = asyncio.Lock()
        self._reserving = asyncio.Lock()
        self._copying = Copying()

    async def surroundings(self) -> Surroundings:
        """What this machine offers, found out once; also to tell people how sandboxes are kept apart."""
        async with self._looking:
            if self._surroundings is None:
                self._surroundings = await asyncio.to_thread(self._look_around)
            return self._surroundings

    async def callback_reach(self) -> CallbackReach:
        await self.surroundings()
        return CallbackReach(bind=HOST, host=HOST)

    async def prepare(self, source: Source, report: Report) -> CodeSource:
        if isinstance(source, ImageSource):
            raise _needs_an_engine(source)
        if not await asyncio.to_thread(source.directory.is_dir):
            raise StartFailed(
                f"The unpacked code is not at {source.directory} any more; create the version again.",
                phase="validate",
                code="CodeError",
            )
        return source

    async def identify(self, image: str) -> str | None:
        return None

    async def start(self, spec: SandboxSpec) -> AsyncGenerator[Handle]:
        if not isinstance(spec.source, CodeSource):
            raise _needs_an_engine(spec.source)
        surroundings = await self.surroundings()
        try:
            async with self._reserving:
                record = await finished(asyncio.to_thread(self._reserve, spec, surroundings))
        except OSError as error:
            raise StartFailed(
                f"The sandbox's directories in {self._files.root} could not be made: {error}.", phase="create"
            ) from error
        yield self._handle(record)
        try:
            record = await finished(asyncio.to_thread(self._spawn, spec, spec.source, record, surroundings))
        except OSError as error:
            raise StartFailed(f"The agent's process could not be started: {error}.", phase="start") from error
        yield self._handle(record)

    async def poll(self, handle: Handle) -> Observation:
        record = self._files.read(handle.reference)
        if record is not None and record.process is None:
            return await asyncio.to_thread(self._observe, handle.reference)  # it has to be searched for
        return self._observe(handle.reference)

    async def end(self, handle: Handle, grace: float) -> None:
        record = await asyncio.to_thread(self._read_found, handle.reference)
        if record is None:
            return
        if record.process is not None:
            await self._ask_to_end(record, grace)
        await asyncio.to_thread(self._kill, record)

    async def stop(self, handle: Handle, grace: float) -> None:
        record = await asyncio.to_thread(self._read_found, handle.reference)
        if record is None:
            return
        if record.process is not None:
            await self._ask_to_end(record, grace)
        await asyncio.to_thread(self._undo, record)

    async def follow(self, handle: Handle, after: str | None) -> AsyncGenerator[Output]:
        try:
            tail = Tail(self._files.output(handle.reference), None if after is None else int(after))
        except FileNotFoundError:
            return
        with tail:
            shortest, longest = LOOKS_AT_OUTPUT
            pause, silent = shortest, 0
            while True:
                # Asked before the look, so that what is there is all; seldom when it is silent, for it costs most.
                asked = pause < longest or silent % LOOKS_AT_SILENT_PROCESS == 0
                ended = asked and (await self.poll(handle)).life is not Life.RUNNING
                silent += 1
                while lines := tail.read(ended=ended):
                    yield Output(lines, str(tail.position))
                    tail.release()
                    pause, silent = shortest, 0
                if ended:
                    return
                await asyncio.sleep(pause)
                pause = min(longest, pause * 2)

    async def output(self, handle: Handle, tail: int) -> Sequence[str]:
        return await asyncio.to_thread(last_lines, self._files.output(handle.reference), tail)

    async def listeners(self, handle: Handle) -> Sequence[Listener] | None:
        record = self._files.read(handle.reference)
        if record is None or record.process is None:
            return None
        return await asyncio.to_thread(tree.listeners, record)

    async def usage(self, handle: Handle) -> float | None:
        record = self._files.read(handle.reference)
        if record is None or record.process is None:
            return None
        return await asyncio.to_thread(tree.cpu_seconds, record)

    async def list(self) -> Sequence[Found]:
        records = await asyncio.to_thread(self._records)
        return [Found(self._handle(record), record.labels) for record in records]

    async def make_home(self, home: str, image: ImageSource | None) -> None:
        await self.surroundings()  # which makes the directories
        await asyncio.to_thread(self._files.home(home).mkdir, mode=0o700, exist_ok=True)

    async def home_files(self, home: str, image: ImageSource | None) -> HostFiles | None:
        directory = self._files.home(home)
        if not await asyncio.to_thread(directory.is_dir):
            return None
        return HostFiles(directory, self._files.drafts)

    async def delete_home(self, home: str) -> None:
        await asyncio.to_thread(self._files.remove_home, home)

    async def copy_home(self, source: str, target: str) -> int:
        await asyncio.to_thread(self._files.remove_home, target)
        if not await asyncio.to_thread(self._files.home(source).is_dir):
            return 0
        await asyncio.to_thread(self._files.make_home, target)
        return await self._copying.copy(self._files.home(source), self._files.home(target))

    async def aclose(self) -> None:
        """Only threads are held: what a driver knows stands in files."""
        self._copying.close()

    # What is known of sandboxes

    def _read_found(self, sandbox_id: str) -> Record | None:
        """The record, with the process that a crash kept us from writing down."""
        record = self._files.read(sandbox_id)
        if record is not None and record.process is None:
            marked = tree.marked(sandbox_id)
            if marked:
                return replace(record, process=tree.identity(min(marked, key=lambda one: one.create_time()).pid))
        return record

    def _records(self) -> Sequence[Record]:
        found = []
        for record in map(self._read_found, self._files.known()):
            if record is not None and record.labels.get(LABEL_INSTALLATION) == self._installation:
                found.append(record)
        return found

    def _handle(self, record: Record) -> Handle:
        if record.process is None:
            return Handle(self.name, record.sandbox_id, Step.CREATED)
        return Handle(
            self.name,
            record.sandbox_id,
            Step.STARTED,
            Address(HOST, record.port),
            {"process": record.process},
        )

    # Starting

    def _look_around(self) -> Surroundings:
        if os.name != "posix":
            raise DriverUnavailable(
                "Child processes as sandboxes need Linux or macOS; on Windows run Cupola in WSL, or use Docker Desktop."
            )
        self._files.make_directories()
        return look_around(self._bubblewrap, self._groups)

    def _reserve(self, spec: SandboxSpec, surroundings: Surroundings) -> Record:
        self._files.make_home(spec.home)
        taken = {record.port for record in map(self._files.read, self._files.known()) if record is not None}
        record = Record(
            sandbox_id=spec.sandbox_id,
            labels=dict(spec.labels),
            port=_free_port(taken),
            boxed=surroundings.bubblewrap is not None,
            groups=tuple(map(str, surroundings.cgroups.paths(f"cupola-{self._installation}-{spec.sandbox_id}"))),
        )
        self._files.output(spec.sandbox_id).touch(mode=0o600)
        self._files.write(record)
        return record

    def _spawn(self, spec: SandboxSpec, source: CodeSource, record: Record, surroundings: Surroundings) -> Record:
        """Starts the process and writes it down in one go, so that no cancellation comes between."""
        surroundings.cgroups.create(
            f"cupola-{self._installation}-{spec.sandbox_id}", cgroups.Limits(spec.memory, spec.cpu)
        )
        command = [*source.command]
        if surroundings.bubblewrap is not None:
            box = bwrap.Box(
                readable=self._readable(source),
                directory=source.directory,
                home=self._files.home(spec.home),
                ca_bundle=spec.ca_bundle,
            )
            command = bwrap.wrap(surroundings.bubblewrap, box, surroundings.system, command)
        prologue = cgroups.joining(record.group_paths)
        if "memory" not in surroundings.limits:
            prologue += f"ulimit -d {spec.memory // 1024} 2>/dev/null || :\n"
        with self._files.output(spec.sandbox_id).open("ab") as output:
            pid = tree.begin(
                ["/bin/sh", "-c", f'{prologue}exec "$@"', "sh", *command],
                environment=self._environment(spec, source, record),
                directory=source.directory,
                output=output,
            )
        record = replace(record, process=tree.identity(pid))
        self._files.write(record)
        return record

    def _readable(self, source: CodeSource) -> tuple[Path, ...]:
        private = (self._files.root, Path.home())
        shown = (*bwrap.interpreter_paths(source.command, private), source.directory, *source.import_path)
        return tuple(dict.fromkeys(path for path in shown if path.exists()))

    def _environment(self, spec: SandboxSpec, source: CodeSource, record: Record) -> dict[str, str]:
        program = Path(source.command[0])
        search = ["/usr/local/bin", "/usr/bin", "/bin"]
        if program.is_absolute():
            search.insert(0, str(program.parent))
        imports = [*map(str, source.import_path), *filter(None, [spec.environment.get("PYTHONPATH")])]
        ca_bundle = bwrap.CA_BUNDLE if record.boxed else str(spec.ca_bundle)
        return {
            "LANG": "C.UTF-8",
            "PATH": ":".join(search),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            **spec.environment,
            **({"PYTHONPATH": ":".join(imports)} if imports else {}),
            "HOME": SANDBOX_HOME if record.boxed else str(self._files.home(spec.home)),
            "PORT": str(record.port),
            "DEFAULT_AD_PORT": str(record.port),
            "SSL_CERT_FILE": ca_bundle,
            "REQUESTS_CA_BUNDLE": ca_bundle,
            tree.MARK: spec.sandbox_id,
        }

    # Looking and stopping

    def _observe(self, sandbox_id: str) -> Observation:
        record = self._files.read(sandbox_id)
        if record is None:
            return Observation(Life.GONE)
        if not record.ended:
            if record.process is None:
                record = self._read_found(sandbox_id)
                if record is None or record.process is None:
                    return Observation(Life.GONE)
            alive, exit_code = tree.look_at(record)
            if alive:
                return Observation(Life.RUNNING)
            record = self._write_end(record, exit_code)
        return Observation(Life.EXITED, record.exit_code, record.out_of_memory)

    def _write_end(self, record: Record, exit_code: int | None) -> Record:
        """Keeps how a process ended: its parent learns that once only."""
        killed = exit_code in (None, 128 + signal.SIGKILL) and cgroups.out_of_memory(record.group_paths)
        record = replace(record, ended=True, exit_code=exit_code, out_of_memory=killed)
        self._files.write_end(record)
        return record

    async def _ask_to_end(self, record: Record, grace: float) -> None:
        """SIGTERM to the agent itself, until `grace` is over or it has ended."""
        told = False
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and self._observe(record.sandbox_id).life is Life.RUNNING:
            told = told or tree.tell(record)
            await asyncio.sleep(TICK)

    def _kill(self, record: Record) -> None:
        """Ends every process of the sandbox."""
        deadline = time.monotonic() + KILL_PATIENCE
        while tree.kill_all(record) and time.monotonic() < deadline:
            time.sleep(TICK)

    def _undo(self, record: Record) -> None:
        """Ends every process of the sandbox and removes what was made for it; the home stays."""
        self._kill(record)
        deadline = time.monotonic() + KILL_PATIENCE
        while not cgroups.remove(record.group_paths) and time.monotonic() < deadline:
            time.sleep(TICK)
        self._files.remove(record.sandbox_id)


def _needs_an_engine(source: ImageSource) -> StartFailed:
    return StartFailed(
        f"The image {source.image!r} needs a container engine, and none is in use here. Install one and "
        "start Cupola again (Debian and Ubuntu: apt install docker.io, or podman; macOS and Windows: "
        "Docker Desktop or Podman Desktop), or deploy the agent's code as a zip (code_configuration).",
        phase="validate",
        code="ImageError",
    )


def _free_port(taken: set[int]) -> int:
    """A TCP port that nobody listens on; one that a sleeping sandbox was promised is not given again.

    It lies below those that the kernel gives to whoever asks for any: between this look and the agent's bind, nobody
    on this machine gets it by chance.
    """
    first = secrets.randbelow(len(PORTS))
    for port in chain(PORTS[first:], PORTS[:first]):
        if port not in taken and _is_free(port):
            return port
    raise OSError(errno.EADDRINUSE, f"no TCP port from {PORTS.start} to {PORTS.stop - 1} is free on {HOST}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
