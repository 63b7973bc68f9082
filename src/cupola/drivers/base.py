"""What a place where sandboxes run has to offer, and nothing more.

A driver adapts one technology (child processes, a container engine, a cluster). It knows neither the store nor
HTTP routes: it is told what to start, says as it goes what it has made, and can be asked about it later with
only that word in hand. All state that must survive a crash is in the `Handle`s that it yields and in the labels
that it puts on what it makes.

Contract tests for every driver: `tests/contract/test_drivers.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, Self

from cupola.files import HOME, Entry, HomePath
from cupola.runs import OutputLine

LABEL_INSTALLATION = "cupola.installation"
LABEL_SANDBOX = "cupola.sandbox"
LABEL_PROJECT = "cupola.project"
LABEL_AGENT = "cupola.agent"
LABEL_VERSION = "cupola.version"
LABEL_SESSION = "cupola.session"

SANDBOX_HOME = HOME
"""`HOME` inside a sandbox that has a file system of its own (container-contract.md §1)."""

LONGEST_LINE = 16 * 1024
"""Bytes of a line that are kept together; engines cut there too."""

SANDBOX_PORT = 8088
"""The port that a container listens on unless `PORT` says otherwise (container-contract.md §1)."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a sandbox's HTTP server is reached from this host."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ImageSource:
    """A container image, by reference as the caller wrote it.

    `content` is the engine's id of the very image that was meant: a tag may name another one tomorrow.
    """

    image: str
    content: str | None = None


@dataclass(frozen=True, slots=True)
class CodeSource:
    """Unpacked code with its installed requirements, ready to be started.

    `directory` is the unpacked zip, `import_path` what precedes the interpreter's own search path
    (the bundled `packages/`, the installed requirements), `command` the full argument vector.
    """

    directory: Path
    import_path: tuple[Path, ...]
    command: tuple[str, ...]


Source = ImageSource | CodeSource


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """Everything a driver needs in order to start one sandbox.

    `cpu` is in vCPUs, `memory` in bytes; both are limits, not wishes. `home` names a lasting home: the same name
    gives the same files in every later sandbox. `environment` is complete but for what only the driver can know:
    it adds `HOME`, `PORT` (and `DEFAULT_AD_PORT`, for the oldest adapters), `SSL_CERT_FILE` and
    `REQUESTS_CA_BUNDLE` (the sandbox's view of `ca_bundle`). `personal` are the variables whose values are this
    sandbox's alone: what several sandboxes share (a prepared parent) must never see them.
    """

    sandbox_id: str
    source: Source
    environment: Mapping[str, str]
    cpu: float
    memory: int
    home: str
    labels: Mapping[str, str]
    ca_bundle: Path
    personal: frozenset[str] = frozenset()


class Step(StrEnum):
    """How far a start has come; everything from `CREATED` on must be undone if the start is given up."""

    CREATED = "created"
    STARTED = "started"


@dataclass(frozen=True, slots=True)
class Handle:
    """The driver's own name for one sandbox; plain data, saved by the caller, good after a restart.

    `address` is set from `Step.STARTED` on; `extra` is the driver's own but for `warning`.
    """

    driver: str
    reference: str
    step: Step
    address: Address | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def warning(self) -> str | None:
        """What people should know about this start, which went well but not as they wished."""
        return self.extra.get("warning")

    def to_json(self) -> dict[str, Any]:
        return {
            "driver": self.driver,
            "reference": self.reference,
            "step": self.step.value,
            "address": None if self.address is None else [self.address.host, self.address.port],
            "extra": dict(self.extra),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        address = row["address"]
        return cls(
            driver=row["driver"],
            reference=row["reference"],
            step=Step(row["step"]),
            address=None if address is None else Address(address[0], address[1]),
            extra=row["extra"],
        )


class Life(StrEnum):
    RUNNING = "running"
    EXITED = "exited"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Observation:
    """What a driver sees of a sandbox now.

    `exit_code` is None while it runs, when it is gone, or when only its parent could have known it.
    `out_of_memory` is True when the memory limit ended it.
    """

    life: Life
    exit_code: int | None = None
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """What a sandbox has written, in the order in which it was seen, and the driver's own word for the place behind it.

    `mark` is plain text, saved by the caller with the lines, and good after a restart.
    """

    lines: Sequence[OutputLine]
    mark: str


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP socket that listens inside a sandbox; `host` as the sandbox bound it (`0.0.0.0`, `127.0.0.1`, `::`)."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Found:
    """A sandbox that a driver found by its installation's label."""

    handle: Handle
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CallbackReach:
    """How sandboxes of a driver reach the platform: bind there on this host, and they find it as `host`."""

    bind: str
    host: str


Report = Callable[[str], None]
"""Takes one line about the progress of a slow step (a pull), for people to read."""


class OpenFile(Protocol):
    """A file of a home that is being read. What replaces it under its name meanwhile does not change it.

    `tag` is another one whenever the content may be another.
    """

    entry: Entry
    tag: str

    def read(self, start: int, end: int) -> AsyncGenerator[bytes]:
        """The bytes from `start` up to `end`, neither beyond the size of `entry`, in pieces. To be called once.

        Raises `Conflict` when the file was cut short meanwhile.
        """
        ...

    async def aclose(self) -> None: ...


class HomeFiles(Protocol):
    """The files of one lasting home. No sandbox is needed for them; one that runs may change them at any time.

    No call leaves the home: symbolic links are never followed, whenever they were made, and what is neither file nor
    directory is never opened. All raise `NotFound` for what is not there, `Conflict` for what stands in the way, each
    naming `path`, and `SetupError` with code `storage_full` when there is no room.
    """

    async def stat(self, path: HomePath) -> Entry:
        """What stands there; a link is described itself."""
        ...

    async def list(self, path: HomePath) -> Sequence[Entry]:
        """What stands directly in a directory, in no particular order."""
        ...

    async def open(self, path: HomePath) -> OpenFile:
        """A file to read; the caller closes it."""
        ...

    async def write(self, path: HomePath, pieces: AsyncIterable[bytes]) -> int:
        """Puts a file there, and its parents; how many bytes it has.

        It appears whole, in place of any file or link of that name, or (on any error, those of `pieces` too) not at
        all. Sandboxes may read, change and delete it. A directory in its place is a `Conflict`, found before the
        first piece is asked for.
        """
        ...

    async def make_directory(self, path: HomePath) -> None:
        """Makes a directory and its parents. One that is there is done."""
        ...

    async def delete(self, path: HomePath, *, recursive: bool) -> None:
        """Deletes a file, a link or a directory; one that is not empty only if `recursive`, else `Conflict`."""
        ...


class Driver(Protocol):
    """A place where sandboxes run. Every call may be repeated; none blocks the event loop."""

    name: str

    async def callback_reach(self) -> CallbackReach:
        """Makes what sandboxes need in order to reach the platform (a network), and says how they do.

        Raises `DriverUnavailable` with the sentence to show when the place cannot be used.
        """
        ...

    async def prepare(self, source: Source, report: Report) -> Source:
        """Makes `source` startable here and returns it pinned: pulls an image that is missing, checks its architecture.

        Raises `StartFailed` with phase `validate` (a source this driver cannot run) or `pull`, the latter also when
        an image that was pinned is gone and its reference names another one now.
        """
        ...

    async def identify(self, image: str) -> str | None:
        """The id of what `image` names here now; None when it is not here. Pulls nothing."""
        ...

    def start(self, spec: SandboxSpec) -> AsyncGenerator[Handle]:
        """Starts one sandbox and yields a handle after each step, so that the caller can save it.

        The last handle has step `STARTED` and an address. Closing the generator early, or an error, leaves what was
        yielded in place: the caller stops it by its handle. Raises `StartFailed` with phase `create` or `start`.
        It does not wait for readiness.
        """
        ...

    async def poll(self, handle: Handle) -> Observation:
        """Looks at a sandbox. A handle that names nothing (any more) is `GONE`, never an error."""
        ...

    async def end(self, handle: Handle, grace: float) -> None:
        """SIGTERM, `grace` seconds, SIGKILL. What it has written can be read until `stop`. Unknown handles are done.

        May be called while an earlier `end` or `stop` waits out its grace: the shorter one ends the sandbox for both.
        """
        ...

    async def stop(self, handle: Handle, grace: float) -> None:
        """As `end`, then removes everything but the home. Unknown handles are done."""
        ...

    def follow(self, handle: Handle, after: str | None) -> AsyncGenerator[Output]:
        """What the sandbox has written behind the mark `after` (None: from the beginning) and goes on to write.

        Ends when the sandbox has ended, or is gone, and all is read. Asking for the next piece says that those before
        are kept: the driver may let go of them. It costs next to nothing while the sandbox is silent. A line longer
        than `LONGEST_LINE` comes in pieces.
        """
        ...

    async def output(self, handle: Handle, tail: int) -> Sequence[str]:
        """The last `tail` lines of stdout and stderr, oldest first; empty when nothing is known.

        Works from `CREATED` on, also after the process has ended, until `stop`.
        """
        ...

    async def listeners(self, handle: Handle) -> Sequence[Listener] | None:
        """The listening TCP sockets inside the sandbox, or None when they cannot be seen. For diagnosis only."""
        ...

    async def usage(self, handle: Handle) -> float | None:
        """Seconds of processor time that the whole sandbox has used since it began; None where that cannot be seen.

        Never less than before while the sandbox runs. A handle that names nothing (any more) gives None.
        """
        ...

    async def list(self) -> Sequence[Found]:
        """Every sandbox of this installation that exists here, running or not."""
        ...

    async def make_home(self, home: str, image: ImageSource | None) -> None:
        """Makes a lasting home as the first start of `image` (None: of code) would. One that is there is done."""
        ...

    async def home_files(self, home: str, image: ImageSource | None) -> HomeFiles | None:
        """The files of a home; None when there is no such home (yet). `image` is what runs in it, None for code."""
        ...

    async def delete_home(self, home: str) -> None:
        """Removes a lasting home and its files. An unknown name is done.

        Its sandbox is gone before: an engine may refuse a home in use, and then raises `Conflict`.
        """
        ...

    async def copy_home(self, source: str, target: str) -> int:
        """Makes `target` an exact copy of the lasting home `source`; returns the bytes of the files in it.

        What `target` held before is gone. Kept are modes, times, links (as links, never followed) and, where that is
        allowed, owners; FIFOs, sockets and devices are left out. Where the file system can share blocks, the copy
        does. `source` may be in use: the copy is then what a power cut would have left. `target` must not be. A
        source that was never used makes a target that was never used, of 0 bytes.

        An error, a cancellation or a crash leaves a target that a second call replaces and `delete_home` removes.
        Raises `Conflict` when a file cannot be read, or `target` is in use.
        """
        ...

    async def aclose(self) -> None:
        """Lets go of clients and tasks. Sandboxes go on."""
        ...
