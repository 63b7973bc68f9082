"""Runs code deployments as child processes: what works with nothing but Python.

Each sandbox is a process session of its own with its own HOME, a port of its own on 127.0.0.1, and an
environment that holds nothing of ours. Where bubblewrap works it also has its own file system, /tmp and
process space. Output goes straight to a file, and all that we know of a sandbox stands in one small JSON file
that is written before the process starts; so sandboxes outlive a killed server and the next one adopts them,
and this driver keeps nothing in memory.

Limits hold where control groups are writable. Elsewhere a process may map no more than `memory` bytes of
private memory (per process, by `ulimit -d`), and cpu is not limited.

Left out, and the reason to prefer a container engine: **the network is the host's**. A sandbox reaches what
listens on this machine, other sandboxes included. Images cannot run here at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, Self, TypeVar

import psutil

from cupola.drivers import bubblewrap as bwrap
from cupola.drivers import cgroups
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
    Report,
    SandboxSpec,
    Source,
    Step,
)
from cupola.errors import DriverUnavailable, StartFailed

T = TypeVar("T")

HOST = "127.0.0.1"
MARK = "CUPOLA_SANDBOX_ID"
"""The variable by which the processes of a sandbox are found when nobody wrote down their ids."""

TICK = 0.01
"""Seconds between looks at a process that was told to end."""

KILL_PATIENCE = 10.0
"""Seconds that the kernel gets to remove killed processes; more only passes when a disk hangs."""

LONGEST_TAIL = 1 << 20
"""Bytes of output that are looked at for the last lines, however long those are."""


@dataclass(frozen=True, slots=True)
class Record:
    """The file about one sandbox. `process` is `pid:start time`, which no later process can have again."""

    sandbox_id: str
    labels: Mapping[str, str]
    port: int
    boxed: bool
    groups: tuple[str, ...]
    process: str | None = None
    ended: bool = False
    exit_code: int | None = None
    out_of_memory: bool = False

    @property
    def pid(self) -> int:
        assert self.process is not None
        return int(self.process.partition(":")[0])

    @property
    def group_paths(self) -> tuple[Path, ...]:
        return tuple(map(Path, self.groups))

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        return cls(**{**row, "groups": tuple(row["groups"])})


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What this machine lets us use; `system` are the mounts that show its programs in a box."""

    bubblewrap: Path | None
    system: tuple[str, ...]
    cgroups: cgroups.Cgroups

    @property
    def limits(self) -> frozenset[str]:
        """Which of memory, cpu, pids are enforced over the whole sandbox."""
        return frozenset(self.cgroups.serving)


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
        self._root = root.absolute()
        self._installation = installation
        self._bubblewrap = bubblewrap
        self._groups = groups
        self._surroundings: Surroundings | None = None
        self._looking = asyncio.Lock()
        self._reserving = asyncio.Lock()
        self._filing = threading.Lock()

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
                record = await _finished(asyncio.to_thread(self._reserve, spec, surroundings))
        except OSError as error:
            raise StartFailed(
                f"The sandbox's directories in {self._root} could not be made: {error}.", phase="create"
            ) from error
        yield self._handle(record)
        try:
            record = await _finished(asyncio.to_thread(self._spawn, spec, spec.source, record, surroundings))
        except OSError as error:
            raise StartFailed(f"The agent's process could not be started: {error}.", phase="start") from error
        yield self._handle(record)

    async def poll(self, handle: Handle) -> Observation:
        record = self._read(handle.reference)
        if record is not None and record.process is None:
            return await asyncio.to_thread(self._observe, handle.reference)  # it has to be searched for
        return self._observe(handle.reference)

    async def stop(self, handle: Handle, grace: float) -> None:
        record = await asyncio.to_thread(self._read_found, handle.reference)
        if record is None:
            return
        if record.process is not None:
            await self._ask_to_end(record, grace)
        await asyncio.to_thread(self._undo, record)

    async def output(self, handle: Handle, tail: int) -> Sequence[str]:
        return await asyncio.to_thread(last_lines, self._output(handle.reference), tail)

    async def listeners(self, handle: Handle) -> Sequence[Listener] | None:
        record = self._read(handle.reference)
        if record is None or record.process is None:
            return None
        return await asyncio.to_thread(_listeners, record)

    async def list(self) -> Sequence[Found]:
        records = await asyncio.to_thread(self._records)
        return [Found(self._handle(record), record.labels) for record in records]

    async def delete_home(self, home: str) -> None:
        await asyncio.to_thread(_remove_tree, self._home(home))

    async def aclose(self) -> None:
        """Nothing is held: what a driver knows stands in files."""

    # Where things lie

    def _home(self, home: str) -> Path:
        return self._root / "homes" / _plain(home)

    def _output(self, sandbox_id: str) -> Path:
        return self._root / "output" / f"{_plain(sandbox_id)}.log"

    def _file(self, sandbox_id: str) -> Path:
        return self._root / "sandboxes" / f"{_plain(sandbox_id)}.json"

    def _read(self, sandbox_id: str) -> Record | None:
        try:
            return Record.from_json(json.loads(self._file(sandbox_id).read_bytes()))
        except FileNotFoundError:
            return None

    def _write(self, record: Record) -> None:
        file = self._file(record.sandbox_id)
        draft = file.with_suffix(".new")
        draft.write_text(json.dumps(asdict(record)))
        draft.replace(file)

    def _read_found(self, sandbox_id: str) -> Record | None:
        """The record, with the process that a crash kept us from writing down."""
        record = self._read(sandbox_id)
        if record is not None and record.process is None:
            marked = _marked(sandbox_id)
            if marked:
                return replace(record, process=_identity(min(marked, key=lambda one: one.create_time()).pid))
        return record

    def _known(self) -> Sequence[str]:
        return sorted(file.stem for file in (self._root / "sandboxes").glob("*.json"))

    def _records(self) -> Sequence[Record]:
        found = []
        for record in map(self._read_found, self._known()):
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
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            for name in ("homes", "output", "sandboxes"):
                (self._root / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise DriverUnavailable(f"The state directory {self._root} cannot be written: {error}.") from error
        system = tuple(bwrap.system_mounts())
        return Surroundings(self._find_bubblewrap(system), system, self._find_groups())

    def _find_groups(self) -> cgroups.Cgroups:
        found = cgroups.choose(cgroups.find()) if self._groups == "auto" else cgroups.Cgroups()
        if found.serving and cgroups.works(found, f"cupola-try-{os.getpid()}-{time.monotonic_ns()}"):
            return found
        return cgroups.Cgroups()

    def _find_bubblewrap(self, system: Sequence[str]) -> Path | None:
        if self._bubblewrap == "auto":
            program = shutil.which("bwrap")
            return Path(program) if program is not None and bwrap.works(Path(program), system) else None
        if self._bubblewrap is not None and not bwrap.works(self._bubblewrap, system):
            raise DriverUnavailable(
                f"{self._bubblewrap} does not work here: it is missing, or user namespaces are forbidden "
                "(Debian: sysctl kernel.unprivileged_userns_clone=1; Ubuntu: an AppArmor profile for bwrap)."
            )
        return self._bubblewrap

    def _reserve(self, spec: SandboxSpec, surroundings: Surroundings) -> Record:
        self._home(spec.home).mkdir(mode=0o700, exist_ok=True)
        taken = {record.port for record in map(self._read, self._known()) if record is not None}
        record = Record(
            sandbox_id=spec.sandbox_id,
            labels=dict(spec.labels),
            port=_free_port(taken),
            boxed=surroundings.bubblewrap is not None,
            groups=tuple(map(str, surroundings.cgroups.paths(f"cupola-{self._installation}-{spec.sandbox_id}"))),
        )
        self._output(spec.sandbox_id).touch(mode=0o600)
        self._write(record)
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
                home=self._home(spec.home),
                ca_bundle=spec.ca_bundle,
            )
            command = bwrap.wrap(surroundings.bubblewrap, box, surroundings.system, command)
        prologue = cgroups.joining(record.group_paths)
        if "memory" not in surroundings.limits:
            prologue += f"ulimit -d {spec.memory // 1024} 2>/dev/null || :\n"
        with self._output(spec.sandbox_id).open("ab") as output:
            pid = _start_process(
                ["/bin/sh", "-c", f'{prologue}exec "$@"', "sh", *command],
                environment=self._environment(spec, source, record),
                directory=source.directory,
                output=output,
            )
        record = replace(record, process=_identity(pid))
        self._write(record)
        return record

    def _readable(self, source: CodeSource) -> tuple[Path, ...]:
        private = (self._root, Path.home())
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
            "HOME": SANDBOX_HOME if record.boxed else str(self._home(spec.home)),
            "PORT": str(record.port),
            "DEFAULT_AD_PORT": str(record.port),
            "SSL_CERT_FILE": ca_bundle,
            "REQUESTS_CA_BUNDLE": ca_bundle,
            MARK: spec.sandbox_id,
        }

    # Looking and stopping

    def _observe(self, sandbox_id: str) -> Observation:
        record = self._read(sandbox_id)
        if record is None:
            return Observation(Life.GONE)
        if not record.ended:
            if record.process is None:
                record = self._read_found(sandbox_id)
                if record is None or record.process is None:
                    return Observation(Life.GONE)
            alive, exit_code = _look_at(record)
            if alive:
                return Observation(Life.RUNNING)
            record = self._write_end(record, exit_code)
        return Observation(Life.EXITED, record.exit_code, record.out_of_memory)

    def _write_end(self, record: Record, exit_code: int | None) -> Record:
        """Keeps how a process ended: its parent learns that once only."""
        killed = exit_code in (None, 128 + signal.SIGKILL) and cgroups.out_of_memory(record.group_paths)
        record = replace(record, ended=True, exit_code=exit_code, out_of_memory=killed)
        with self._filing, contextlib.suppress(OSError):
            if self._file(record.sandbox_id).exists():  # else it is being stopped
                self._write(record)
        return record

    async def _ask_to_end(self, record: Record, grace: float) -> None:
        """SIGTERM to the agent itself, until `grace` is over or it has ended."""
        told = False
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and self._observe(record.sandbox_id).life is Life.RUNNING:
            told = told or _tell(record)
            await asyncio.sleep(TICK)

    def _undo(self, record: Record) -> None:
        """Ends every process of the sandbox and removes what was made for it; home and output stay."""
        deadline = time.monotonic() + KILL_PATIENCE
        while _kill_all(record) and time.monotonic() < deadline:
            time.sleep(TICK)
        while not cgroups.remove(record.group_paths) and time.monotonic() < deadline:
            time.sleep(TICK)
        with self._filing:
            self._file(record.sandbox_id).unlink(missing_ok=True)


def _needs_an_engine(source: ImageSource) -> StartFailed:
    return StartFailed(
        f"The image {source.image!r} needs a container engine, and none is in use here. Install one and "
        "start Cupola again (Debian and Ubuntu: apt install docker.io, or podman; macOS and Windows: "
        "Docker Desktop or Podman Desktop), or deploy the agent's code as a zip (code_configuration).",
        phase="validate",
        code="ImageError",
    )


def _plain(name: str) -> str:
    """`name`, if it is one path component: names of homes and sandboxes become files."""
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} cannot name a directory")
    return name


def _free_port(taken: set[int]) -> int:
    """A TCP port that nobody listens on; one that a sleeping sandbox was promised is not given again."""
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port


def _start_process(
    command: Sequence[str], *, environment: Mapping[str, str], directory: Path, output: IO[bytes]
) -> int:
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    process.returncode = 0  # we wait by the process id; Popen would complain of a process that outlives it
    return process.pid


async def _finished(work: Awaitable[T]) -> T:
    """Awaits `work` to its end even when cancelled, so that what it makes can be found and undone."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _identity(pid: int) -> str | None:
    """`pid:start time`, or None when there is no such process."""
    found = _stat(pid)
    return None if found is None else f"{pid}:{found[1]}"


def _stat(pid: int) -> tuple[bool, str] | None:
    """Whether a process is a zombie, and when it started, in a unit that does not move with the clock."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0] in "ZX", fields[19]
    except OSError:
        pass
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE, str(process.create_time())
    return None


def _look_at(record: Record) -> tuple[bool, int | None]:
    """Whether the main process runs; its exit code if it has ended and was our child.

    The start time is compared before waiting: another child of ours could have the id by now.
    """
    found = _stat(record.pid)
    if found is None or f"{record.pid}:{found[1]}" != record.process:
        return False, None
    try:
        pid, status = os.waitpid(record.pid, os.WNOHANG)
    except ChildProcessError:
        return not found[0], None
    if pid == 0:
        return True, None
    code = os.waitstatus_to_exitcode(status)
    return False, code if code >= 0 else 128 - code


def _tell(record: Record) -> bool:
    """SIGTERM to the agent. In a box that is the first child of the box's init: bubblewrap passes none on."""
    try:
        process = psutil.Process(record.pid)
        for _ in range(2 if record.boxed else 0):
            children = process.children()
            if not children:
                return False
            process = min(children, key=lambda child: child.create_time())
        process.terminate()
    except psutil.Error:
        return False
    return True


def _marked(sandbox_id: str) -> list[psutil.Process]:
    """Every process that carries the mark of a sandbox in its environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == sandbox_id:
                found.append(process)
    return found


def _tree(record: Record) -> list[psutil.Process]:
    """The processes of a sandbox: the main one, what descends from it, what is in its group."""
    found: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.Error):
        if record.process is not None and _identity(record.pid) == record.process:
            main = psutil.Process(record.pid)
            for process in (main, *main.children(recursive=True)):
                found[process.pid] = process
    for pid in cgroups.members(record.group_paths) - found.keys():
        with contextlib.suppress(psutil.Error):
            found[pid] = psutil.Process(pid)
    return list(found.values())


def _kill_all(record: Record) -> bool:
    """SIGKILL to everything of the sandbox; whether something was still there."""
    processes = _tree(record)
    if not record.groups or record.process is None:
        processes += _marked(record.sandbox_id)
    cgroups.kill(record.group_paths)
    alive = False
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    if record.process is not None:
        alive = _look_at(record)[0]
    return alive or any(map(_is_alive, processes))


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _listeners(record: Record) -> Sequence[Listener] | None:
    found: set[tuple[str, int]] = set()
    for process in _tree(record):
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.NoSuchProcess:
            continue
        except (psutil.Error, OSError):
            return None
        found.update((one.laddr.ip, one.laddr.port) for one in connections if one.status == psutil.CONN_LISTEN)
    return [Listener(host, port) for host, port in sorted(found)]


def last_lines(file: Path, count: int) -> Sequence[str]:
    """The last `count` lines of a file, read from its end."""
    if count <= 0:
        return []
    try:
        with file.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            size = 0
            text = b""
            while size < min(end, LONGEST_TAIL) and text.count(b"\n") <= count:
                size = min(end, LONGEST_TAIL, max(8192, size * 4))
                stream.seek(end - size)
                text = stream.read(size)
    except FileNotFoundError:
        return []
    return text.decode(errors="replace").splitlines()[-count:]


def _remove_tree(directory: Path) -> None:
    """Removes a directory of which the agent may have taken our right to write."""

    def allow(function: Callable[..., Any], path: str, error: object) -> None:
        parent = Path(path).parent
        with contextlib.suppress(OSError):
            parent.chmod(0o700)
            Path(path).chmod(0o700)
        with contextlib.suppress(FileNotFoundError):
            function(path)

    if directory.is_dir():
        shutil.rmtree(directory, onerror=allow)
