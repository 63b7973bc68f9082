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
import os
import signal
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import structlog

from cupola.drivers import cgroups
from cupola.drivers import process_tree as tree
from cupola.drivers.base import (
    LABEL_INSTALLATION,
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
from cupola.drivers.fork_parent import NotForked
from cupola.drivers.fork_server import FORK, Parents, forking_asked
from cupola.drivers.home_copy import Copying
from cupola.drivers.host_files import HostFiles
from cupola.drivers.process_files import Record, SandboxFiles, last_lines
from cupola.drivers.process_launch import Launcher
from cupola.drivers.process_output import Tail
from cupola.drivers.process_ports import HOST, free_port
from cupola.drivers.process_surroundings import Surroundings, look_around
from cupola.drivers.threads import finished
from cupola.errors import DriverUnavailable, StartFailed
from cupola.files import room_explained

log = structlog.get_logger()

LOOKS_AT_OUTPUT = (0.05, 1.0)
"""Seconds between looks at the output of a process: while it talks, and at most, while it is silent."""
LOOKS_AT_SILENT_PROCESS = 5
"""Of so many looks at its output, one asks whether a silent process still runs."""

RETIRING = 10.0
"""Seconds between looks for prepared parents that are not needed any more."""

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
        self._parents = Parents(self._files, installation)
        self._retiring: asyncio.Task[None] | None = None
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
        if record.parent is not None and self._retiring is None:
            self._retiring = asyncio.create_task(self._retire_parents())
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
        await asyncio.to_thread(tree.end_all, record, KILL_PATIENCE)

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
        with room_explained():
            await asyncio.to_thread(self._files.make_home, target)
        return await self._copying.copy(self._files.home(source), self._files.home(target))

    async def aclose(self) -> None:
        """Lets go of prepared parents and of threads; all else that a driver knows stands in files."""
        self._copying.close()
        if self._retiring is not None:
            self._retiring.cancel()
            await asyncio.wait([self._retiring])
        await asyncio.to_thread(self._parents.close)

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
            {"process": record.process} | ({} if record.warning is None else {"warning": record.warning}),
        )

    # Starting

    def _look_around(self) -> Surroundings:
        if os.name != "posix":
            raise DriverUnavailable(
                "Child processes as sandboxes need Linux or macOS; on Windows run Cupola in WSL, or use Docker Desktop."
            )
        self._files.make_directories()
        self._parents.tidy()
        return look_around(self._bubblewrap, self._groups)

    def _reserve(self, spec: SandboxSpec, surroundings: Surroundings) -> Record:
        self._files.make_home(spec.home)
        taken = {record.port for record in map(self._files.read, self._files.known()) if record is not None}
        record = Record(
            sandbox_id=spec.sandbox_id,
            labels=dict(spec.labels),
            port=free_port(taken),
            boxed=surroundings.bubblewrap is not None,
            groups=tuple(map(str, surroundings.cgroups.paths(f"cupola-{self._installation}-{spec.sandbox_id}"))),
        )
        self._files.output(spec.sandbox_id).touch(mode=0o600)
        self._files.write(record)
        return record

    def _spawn(self, spec: SandboxSpec, source: CodeSource, record: Record, surroundings: Surroundings) -> Record:
        """Starts the process and writes it down in one go, so that no cancellation comes between."""
        launcher = Launcher(self._installation, self._files.root, surroundings)
        launcher.make_group(record, spec)
        if forking_asked(spec):
            try:
                return self._parents.fork(launcher, spec, source, record)
            except NotForked as error:
                log.warning("started without forking", sandbox=spec.sandbox_id, reason=str(error))
                tree.end_all(record, KILL_PATIENCE)
                record = replace(record, warning=f"{FORK} is set, but this agent is started anew each time: {error}.")
        record = replace(record, process=launcher.begin(spec, source, record, self._files))
        self._files.write(record)
        return record

    async def _retire_parents(self) -> None:
        """Ends parents of deleted versions, and those that are not used, until none is left."""
        while await asyncio.to_thread(self._parents.retire):  # noqa: ASYNC110 - others change what is looked at
            await asyncio.sleep(RETIRING)
        self._retiring = None

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
            if record.parent is not None:
                exit_code = self._files.read_ending(sandbox_id)
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
            await asyncio.sleep(tree.TICK)

    def _undo(self, record: Record) -> None:
        """Ends every process of the sandbox and removes what was made for it; the home stays."""
        tree.end_all(record, KILL_PATIENCE)
        cgroups.remove_empty(record.group_paths, KILL_PATIENCE)
        self._files.remove(record.sandbox_id)
        if record.parent is not None:
            self._parents.tidy()


def _needs_an_engine(source: ImageSource) -> StartFailed:
    return StartFailed(
        f"The image {source.image!r} needs a container engine, and none is in use here. Install one and "
        "start Cupola again (Debian and Ubuntu: apt install docker.io, or podman; macOS and Windows: "
        "Docker Desktop or Podman Desktop), or deploy the agent's code as a zip (code_configuration).",
        phase="validate",
        code="ImageError",
    )
