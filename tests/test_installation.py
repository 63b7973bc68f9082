"""The state directory: one owner, kept secrets, sentences for what cannot be used."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cupola.errors import SetupError
from cupola.installation import Installation, Layout, Running, lock_holder, read_running, write_private

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def running(pid: int | None = None) -> Running:
    return Running(
        pid=os.getpid() if pid is None else pid,
        endpoint="https://localhost:8443/api/projects/demo",
        port=8443,
        identity_port=8444,
        driver="process",
        driver_reason="no engine",
        started_at=NOW,
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_directory_is_its_owners_alone(tmp_path: Path) -> None:
    """Made with what is missing above it; secrets are readable by nobody else, whatever the umask."""
    before = os.umask(0)
    try:
        with Installation.open(tmp_path / "a" / "state") as installation:
            layout = installation.layout
    finally:
        os.umask(before)
    assert mode(layout.state_dir) == 0o700
    assert all(mode(path) == 0o700 for path in layout.state_dir.iterdir() if path.is_dir())
    assert all(mode(path) == 0o600 for path in layout.state_dir.iterdir() if path.is_file())


def test_secrets_are_made_once(tmp_path: Path) -> None:
    """The next start finds the same id, secret and identity header; another directory has others."""
    with Installation.open(tmp_path / "one") as first, Installation.open(tmp_path / "two") as other:
        assert re.fullmatch("[0-9a-f]{8}", first.id)
        assert len(first.secret) == 32
        assert first.secret != other.secret
        assert first.id != other.id
    with Installation.open(tmp_path / "one") as again:
        assert (again.id, again.secret, again.identity_header) == (first.id, first.secret, first.identity_header)


def test_a_second_owner_is_told_who_the_first_is(tmp_path: Path) -> None:
    """The sentence names the directory, the process, the address and the three ways out."""
    with Installation.open(tmp_path) as first:
        first.announce(running())
        with pytest.raises(SetupError) as refusal:
            Installation.open(tmp_path)
        assert refusal.value.message == (
            f"A platform already runs with state directory {tmp_path} (pid {os.getpid()}, https://localhost:8443): "
            "use it, `cupola down` it, or choose another --state-dir."
        )
        assert read_running(tmp_path) == running()


def test_a_second_owner_is_told_while_the_first_starts(tmp_path: Path) -> None:
    """Before anything was announced, the process is known all the same."""
    with Installation.open(tmp_path), pytest.raises(SetupError, match=f"pid {os.getpid()}, still starting"):
        Installation.open(tmp_path)


def test_what_was_announced_is_taken_back(tmp_path: Path) -> None:
    """After `close` nobody runs here; closing again does not disturb the next owner."""
    first = Installation.open(tmp_path)
    first.announce(running())
    first.close()
    assert lock_holder(tmp_path) is None
    assert read_running(tmp_path) is None
    with Installation.open(tmp_path) as second:
        second.announce(running())
        first.close()
        assert read_running(tmp_path) == running()


def test_what_a_killed_platform_announced_is_not_believed(tmp_path: Path) -> None:
    """The lock decides, and a pid that is not its holder's is somebody else's."""
    write_private(Layout(tmp_path).running, b"{}")
    assert read_running(tmp_path) is None
    with Installation.open(tmp_path) as installation:
        assert not Layout(tmp_path).running.exists()
        installation.announce(running(pid=1))
        assert read_running(tmp_path) is None


def test_uptime_is_counted_from_the_announcement() -> None:
    """Time is an argument; a clock that was set back gives no negative time."""
    assert running().uptime(NOW.replace(second=30)) == 30
    assert running().uptime(NOW.replace(hour=11)) == 0


def test_a_damaged_secret_stops_the_start(tmp_path: Path) -> None:
    """It is not silently replaced: sandboxes that run now know the old one. The directory is free again."""
    Installation.open(tmp_path).close()
    (tmp_path / "secret").write_text("half")
    with pytest.raises(SetupError, match="is damaged"):
        Installation.open(tmp_path)
    assert lock_holder(tmp_path) is None


def test_a_file_is_no_state_directory(tmp_path: Path) -> None:
    """Nor is a directory below a file."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SetupError, match=f"{path} is not a directory"):
            Installation.open(path)


def test_a_replaced_file_is_never_half(tmp_path: Path) -> None:
    """A write that fails leaves the old content and nothing beside it."""
    path = tmp_path / "file"
    write_private(path, b"old")
    with pytest.raises(TypeError):
        write_private(path, "no bytes")  # type: ignore[arg-type]  # the failure that is easiest to cause
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


OPEN = """
import sys
from pathlib import Path
from cupola.installation import Installation
Installation.open(Path(sys.argv[1]))
"""


def _mounted(options: str, directory: Path) -> str:
    """What `Installation.open` says in a mount namespace where `directory` is a file system with these options."""
    if shutil.which("unshare") is None:
        pytest.skip("needs `unshare` (util-linux)")
    unshare = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "x", str(directory)], capture_output=True).returncode:
        pytest.skip("this machine forbids mounts in a namespace of one's own")
    script = f'mount -t tmpfs -o {options} x "$1" && exec "$2" -c "$3" "$1"'
    result = subprocess.run(
        [*unshare, "sh", "-c", script, "sh", str(directory), sys.executable, OPEN], capture_output=True, text=True
    )
    return result.stderr


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """A start with no room left ends with a sentence, not in the middle of the first request."""
    assert re.search(
        r"SetupError: State directory .* is on a full disk \(\d+ KiB free\)", _mounted("size=48k", tmp_path)
    )


def test_a_read_only_directory_is_named(tmp_path: Path) -> None:
    """The sentence says that it cannot be written, and how to choose another."""
    said = _mounted("ro", tmp_path)
    assert re.search(r"SetupError: State directory .* cannot be written .*--state-dir", said)
