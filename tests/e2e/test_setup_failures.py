"""What a user reads when `cupola up` cannot work: one sentence that names the place, code 3, and nothing else."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cupola.cli.output import Exit
from cupola.store import Store

from .conftest import AsCode, Server

pytestmark = pytest.mark.e2e

Refused = Callable[..., str]


@pytest.fixture
def refused(server: Server) -> Refused:
    """Runs `cupola up` and `cupola up --detach` where they must fail, and returns their only sentence."""

    def once(state: Path, port: int, *options: str) -> str:
        command = [sys.executable, "-m", "cupola", "up", "--driver", "process", *options]
        command += ["--state-dir", str(state), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == Exit.SETUP, done.stderr
        assert done.stdout == ""
        [line] = done.stderr.splitlines()
        assert line.startswith("cupola: ")
        assert line.endswith(".")
        return re.sub(r"\d+ KiB", "some KiB", line)  # the log of `--detach` takes some

    def run(state: Path, port: int = server.port) -> str:
        sentence = once(state, port)
        assert once(state, port, "--detach") == sentence
        return sentence

    return run


@contextmanager
def mounted(directory: Path, *options: str) -> Iterator[None]:
    """A small file system of its own at `directory`; skips where mounting is not allowed."""
    directory.mkdir(exist_ok=True)
    command = ["mount", *options, str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], capture_output=True, check=True)


def tmpfs(options: str) -> tuple[str, ...]:
    return ("-t", "tmpfs", "-o", options, "tmpfs")


def test_a_taken_port(refused: Refused, tmp_path: Path) -> None:
    """The port is named, and how to choose another one."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        sentence = refused(tmp_path / "state", port)
    assert f"Port {port} on 127.0.0.1 is taken" in sentence
    assert "--port" in sentence


def test_a_second_platform(refused: Refused, server: Server) -> None:
    """The first one is named, and goes on serving."""
    server.start(AsCode())
    sentence = refused(server.state)
    assert f"already runs with state directory {server.state}" in sentence
    assert f"https://localhost:{server.port}" in sentence
    assert server.status()["agents"] == 0


def test_a_read_only_directory(refused: Refused, tmp_path: Path) -> None:
    """A directory on a read-only file system is named, with the reason."""
    state = tmp_path / "state"
    with mounted(state, *tmpfs("ro,size=1m")):
        sentence = refused(state)
    assert str(state) in sentence
    assert os.strerror(errno.EROFS) in sentence


@pytest.mark.parametrize("kilobytes", [64, 400])
def test_a_full_directory(refused: Refused, tmp_path: Path, kilobytes: int) -> None:
    """A directory without room for a whole start is named, before the room runs out in the middle of it."""
    state = tmp_path / "state"
    with mounted(state, *tmpfs(f"size={kilobytes}k")):
        sentence = refused(state)
    assert f"State directory {state} is on a full disk" in sentence


async def test_a_damaged_database(refused: Refused, tmp_path: Path) -> None:
    """The file is named with the remedy, and stays as it is."""
    database = tmp_path / "state" / "cupola.db"
    await Store.open(database).aclose()
    content = bytearray(database.read_bytes())
    content[4096:12288] = b"\xff" * 8192
    database.write_bytes(content)
    sentence = refused(database.parent)
    assert f"{database} is damaged" in sentence
    assert database.read_bytes() == content


def test_a_file_in_place_of_the_directory(refused: Refused, tmp_path: Path) -> None:
    """What is no directory is named as such."""
    state = tmp_path / "state"
    state.write_text("a file")
    sentence = refused(state)
    assert f"State directory {state} is not a directory" in sentence
    assert state.read_text() == "a file"
