"""The state directory: what lies where in it, who may use it, and what is kept secret there.

One platform per directory: a lock says that somebody has it, and goes away with that process however it ends. What a
running platform tells the commands of the same user stands in `running.json`. What the database, the drivers and the
certificate authority keep here is theirs; this module only names their places.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

from cupola.errors import CupolaError, SetupError

_SECRET_BYTES = 32
_HEX64 = r"[0-9a-f]{64}"
_PROBE_BYTES = 1024 * 1024  # a first start writes half of it; what comes after has no sentence of its own
_LOCK_PATIENCE = 1.0  # seconds: whoever only looks holds the lock for microseconds


class NotRunning(CupolaError):
    """No platform runs with this state directory."""

    code = "not_running"


@dataclass(frozen=True, slots=True)
class Running:
    """What a platform that serves tells about itself."""

    pid: int
    endpoint: str
    port: int
    identity_port: int
    driver: str
    driver_reason: str
    started_at: datetime

    @property
    def base_url(self) -> str:
        """Scheme, host and port of the clients' listener."""
        return self.endpoint.partition("/api/")[0]

    def uptime(self, now: datetime | None = None) -> float:
        """Seconds since it began to serve."""
        return max(0.0, ((now or datetime.now(UTC)) - self.started_at).total_seconds())

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"started_at": self.started_at.isoformat()}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        return cls(**(row | {"started_at": datetime.fromisoformat(row["started_at"])}))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in a state directory; nothing is opened or made."""

    state_dir: Path

    @property
    def lock(self) -> Path:
        return self.state_dir / "lock"

    @property
    def running(self) -> Path:
        return self.state_dir / "running.json"

    @property
    def identity_header(self) -> Path:
        """The secret that opens the local sign-in: who can read it is the owner of the platform."""
        return self.state_dir / "identity-header"

    @property
    def secret(self) -> Path:
        """What signs every token."""
        return self.state_dir / "secret"

    @property
    def log(self) -> Path:
        """Output of a platform that runs in the background."""
        return self.state_dir / "cupola.log"

    @property
    def database(self) -> Path:
        return self.state_dir / "cupola.db"

    @property
    def homes(self) -> Path:
        return self.state_dir / "homes"

    @property
    def code(self) -> Path:
        """Uploaded code, one directory per content hash."""
        return self.state_dir / "code"

    @property
    def builds(self) -> Path:
        return self.state_dir / "builds"

    @property
    def output(self) -> Path:
        """What sandboxes have written, one directory for each, kept after they are gone."""
        return self.state_dir / "output"

    @property
    def process(self) -> Path:
        """What the process driver keeps of its sandboxes."""
        return self.state_dir / "process"

    @property
    def ca(self) -> Path:
        """The certificate authority, its key and the listeners' certificates."""
        return self.state_dir / "ca"

    @property
    def bundle(self) -> Path:
        """The roots of this machine and ours, for clients and for sandboxes."""
        return self.ca / "bundle.pem"


@dataclass(frozen=True, slots=True, eq=False)
class Installation:
    """A state directory that this process has to itself, until `close`."""

    layout: Layout
    id: str
    """Eight hex characters: tells the containers and networks of this installation from those of others."""
    secret: bytes
    """Signs every token of this installation."""
    identity_header: str
    _lock: IO[bytes]

    @classmethod
    def open(cls, state_dir: Path) -> Self:
        """Takes the directory, making what is missing. Raises SetupError with the sentence to show."""
        layout = Layout(state_dir.expanduser().absolute())
        make_state_dir(layout.state_dir)
        with told_as_setup_error(layout.state_dir):
            lock = _take_lock(layout)
            try:
                _probe(layout.state_dir)
                layout.running.unlink(missing_ok=True)  # of a platform that was killed
                for directory in _directories(layout):
                    directory.mkdir(mode=0o700, exist_ok=True)
                return cls(
                    layout=layout,
                    id=_kept(layout.state_dir / "id", lambda: secrets.token_hex(4), r"[0-9a-f]{8}"),
                    secret=bytes.fromhex(_kept(layout.secret, lambda: secrets.token_hex(_SECRET_BYTES), _HEX64)),
                    identity_header=_kept(layout.identity_header, lambda: secrets.token_hex(16), r"[0-9a-f]{32}"),
                    _lock=lock,
                )
            except BaseException:
                lock.close()
                raise

    def announce(self, running: Running) -> None:
        """Tells the commands of this user that the platform serves, and where."""
        with told_as_setup_error(self.layout.state_dir):
            write_private(self.layout.running, json.dumps(running.to_json(), indent=2).encode())

    def close(self) -> None:
        """Takes the announcement back and lets the directory go. Twice is once."""
        if self._lock.closed:
            return
        with contextlib.suppress(OSError):
            self.layout.running.unlink(missing_ok=True)
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def make_state_dir(state_dir: Path) -> None:
    """Makes the directory, for its owner only. Raises SetupError."""
    with told_as_setup_error(state_dir):
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def read_secret(layout: Layout) -> bytes:
    """What signs the tokens of an installation, whether its platform runs or not. Raises SetupError."""
    try:
        return bytes.fromhex(_checked(layout.secret, layout.secret.read_text().strip(), _HEX64))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SetupError(
            f"No platform was ever started with state directory {layout.state_dir}: start one with `cupola up`, "
            "or name its directory with --state-dir."
        ) from error
    except OSError as error:
        raise SetupError(
            f"{layout.secret} cannot be read ({error.strerror}): only the owner of the platform makes tokens."
        ) from error


def lock_holder(state_dir: Path) -> int | None:
    """The process that has this directory, serving or not yet; None when nobody has it."""
    path = Layout(state_dir).lock
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid_in(path)
    else:
        return None
    finally:
        os.close(descriptor)


def read_running(state_dir: Path) -> Running | None:
    """What the platform of this directory announced, if it runs; None while it starts."""
    pid = lock_holder(state_dir)
    if pid is None:
        return None
    try:
        running = Running.from_json(json.loads(Layout(state_dir).running.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return running if running.pid == pid else None


def write_private(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replaces a file in one step; nobody ever sees half of it, or sees it with a wider mode."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # whatever the umask
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _directories(layout: Layout) -> tuple[Path, ...]:
    return (layout.homes, layout.code, layout.builds, layout.output, layout.process, layout.ca)


def _take_lock(layout: Layout) -> IO[bytes]:
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    lock = os.fdopen(descriptor, "r+b", buffering=0)
    try:
        _lock_or_say_who(layout, descriptor)
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
    except BaseException:
        lock.close()
        raise
    return lock


def _lock_or_say_who(layout: Layout, descriptor: int) -> None:
    patience = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            running = read_running(layout.state_dir)
            if running is not None or time.monotonic() > patience:
                raise SetupError(_taken(layout, running)) from error
            time.sleep(0.02)


def _taken(layout: Layout, running: Running | None) -> str:
    if running is None:
        who = f"pid {_pid_in(layout.lock) or 'unknown'}, still starting or stopping"
    else:
        who = f"pid {running.pid}, {running.base_url}"
    return (
        f"A platform already runs with state directory {layout.state_dir} ({who}): "
        "use it, `cupola down` it, or choose another --state-dir."
    )


def _pid_in(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _probe(state_dir: Path) -> None:
    """Finds out now, not in the middle of the first request, whether there is room."""
    path = state_dir / ".probe"
    try:
        write_private(path, b"\0" * _PROBE_BYTES)
    finally:
        path.unlink(missing_ok=True)


def _kept(path: Path, make: Callable[[], str], shape: str) -> str:
    """The content of a small secret file, made at the first start."""
    try:
        content = path.read_text().strip()
    except FileNotFoundError:
        content = make()
        write_private(path, content.encode())
    return _checked(path, content, shape)


def _checked(path: Path, content: str, shape: str) -> str:
    if not re.fullmatch(shape, content):
        raise SetupError(
            f"{path} is damaged: restore it from a backup, or remove it to have a new one made "
            "(tokens given out so far and sandboxes running now are then no longer known)."
        )
    return content


@contextlib.contextmanager
def told_as_setup_error(state_dir: Path) -> Iterator[None]:
    """What the system says about a file in the directory, as the sentence to show."""
    try:
        yield
    except OSError as error:
        raise SetupError(_why_unusable(state_dir, error)) from error


def _why_unusable(state_dir: Path, error: OSError) -> str:
    choose = "choose another with --state-dir or CUPOLA_STATE_DIR"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"State directory {state_dir} is on a full disk{_free(state_dir)}: make room, or {choose}."
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"State directory {state_dir} is not a directory: {choose}."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"State directory {state_dir} cannot be written ({error.strerror}): mend its permissions, or {choose}."
    return f"State directory {state_dir} cannot be used ({error.strerror}): {choose}."


def _free(state_dir: Path) -> str:
    try:
        return f" ({shutil.disk_usage(state_dir).free // 1024} KiB free)"
    except OSError:
        return ""
