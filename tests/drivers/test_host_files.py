"""The way into a home on this host, and that there is none out of it: links, pipes, races, names, full disks."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cupola.drivers.host_files import HostFiles
from cupola.errors import BadRequest, Conflict, CupolaError
from cupola.files import HomePath, read_path

SECRET = b"the canary"


class Sandbox:
    """A home with a secret beside it, and everything that an agent could have put into it to get there."""

    def __init__(self, root: Path) -> None:
        self.home, self.outside, self.drafts = root / "home", root / "outside", root / "drafts"
        for directory in (self.home / "dir", self.outside / "dir", self.drafts):
            directory.mkdir(parents=True)
        for canary in (root / "secret", self.outside / "secret", self.outside / "dir" / "secret"):
            canary.write_bytes(SECRET)
        (self.home / "file").write_bytes(b"mine")
        (self.home / "link").symlink_to("../outside/secret")
        (self.home / "absolute").symlink_to(self.outside / "secret")
        (self.home / "away").symlink_to("../outside", target_is_directory=True)
        (self.home / "dir" / "up").symlink_to("../..", target_is_directory=True)
        (self.home / "loop").symlink_to("loop")
        (self.home / "inner").symlink_to("file")
        os.mkfifo(self.home / "pipe")
        self.files = HostFiles(self.home, self.drafts)

    def seen_outside(self) -> list[tuple[str, bytes | None]]:
        """All that an escape could have changed. The home itself is not entered: its agent may be at work there."""
        outside = [path for path in self.home.parent.iterdir() if path != self.home]
        found = [*outside, *(inner for path in outside for inner in path.rglob("*"))]
        return sorted((str(path), path.read_bytes() if path.is_file() else None) for path in found)

    async def read(self, path: HomePath) -> bytes:
        file = await self.files.open(path)
        try:
            return b"".join([piece async for piece in file.read(0, file.entry.size)])
        finally:
            await file.aclose()


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


PARTS = st.sampled_from(
    (
        *("dir", "file", "link", "away", "absolute", "up", "loop", "inner", "pipe", "secret", "outside"),
        *("..", ".", "", "~", "%2e%2e", "%252e", "..\\", "\0", "\ud800", "...", ".. ", "..;", "ä", "a" * 256),
        *("home", "session"),
    )
)
PATHS = st.one_of(st.lists(PARTS, max_size=6).map("/".join), st.text(max_size=40))


@settings(max_examples=100, deadline=None)
@given(path=PATHS)
@example(path="away/secret")
@example(path="dir/up/outside/secret")
@example(path="/home/session/../secret")
def test_no_path_leads_out_of_the_home(tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    """Whatever a path says and wherever links point: the secret is not read, and outside nothing changes."""
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    before = sandbox.seen_outside()
    with suppress(BadRequest):
        assert SECRET not in asyncio.run(read_and_change(sandbox, read_path(path)))
    assert sandbox.seen_outside() == before
    shutil.rmtree(sandbox.home.parent)


async def read_and_change(sandbox: Sandbox, where: HomePath) -> bytes:
    """Everything that can be done with a path; what could be seen by it."""
    files, seen = sandbox.files, b""

    async def see() -> None:
        nonlocal seen
        with suppress(CupolaError):
            seen += repr(await files.stat(where)).encode()
        with suppress(CupolaError):
            seen += repr(await files.list(where)).encode()
        with suppress(CupolaError):
            seen += await sandbox.read(where)

    await see()
    with suppress(CupolaError):
        await files.make_directory(where.child("new"))
    with suppress(CupolaError):
        await files.delete(where, recursive=True)
    with suppress(CupolaError):
        await files.write(where, pieces(b"overwritten"))
    await see()
    return seen


async def test_a_link_is_shown_deleted_and_replaced_but_never_followed(sandbox: Sandbox) -> None:
    """It is one entry; an upload of its name takes its place; deleting it leaves what it points to."""
    for name in ("link", "away", "inner"):
        path = read_path(name)
        entry = await sandbox.files.stat(path)
        assert (entry.is_directory, entry.size) == (False, len(str((sandbox.home / name).readlink())))
        for attempt in (sandbox.files.open(path), sandbox.files.list(path), sandbox.files.stat(path.child("secret"))):
            with pytest.raises(Conflict, match="symbolic link"):
                await attempt
        await sandbox.files.delete(path, recursive=True)
    assert not (sandbox.home / "link").is_symlink()
    await sandbox.files.write(read_path("absolute"), pieces(b"new"))
    assert (sandbox.home / "absolute").read_bytes() == b"new"
    assert (sandbox.outside / "secret").read_bytes() == SECRET
    assert (sandbox.home / "file").read_bytes() == b"mine"


async def test_deleting_a_tree_leaves_what_its_links_point_to(sandbox: Sandbox) -> None:
    await sandbox.files.delete(read_path("dir"), recursive=True)
    assert not (sandbox.home / "dir").exists()
    assert (sandbox.outside / "secret").read_bytes() == SECRET


async def test_a_pipe_is_not_waited_for(sandbox: Sandbox) -> None:
    """Opening one would wait for a writer for ever, and a device might do anything."""
    for name in ("pipe", "zero"):
        if name == "zero":
            try:
                os.mknod(sandbox.home / name, stat.S_IFCHR | 0o666, os.makedev(1, 5))
            except PermissionError:
                continue
        with pytest.raises(Conflict, match="pipe, socket or device"):
            await sandbox.files.open(read_path(name))
        assert not (await sandbox.files.stat(read_path(name))).is_directory
        await sandbox.files.write(read_path(name), pieces(b"a file now"))
        assert await sandbox.read(read_path(name)) == b"a file now"


@pytest.fixture
def swapping(sandbox: Sandbox) -> Iterator[Sandbox]:
    """An agent that keeps exchanging a directory for a link to the one outside, and a file for one to the secret."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    if exchange is None:
        pytest.skip("only Linux exchanges two files in one step")
    over = threading.Event()
    (sandbox.home / "place").mkdir()
    (sandbox.home / "place" / "secret").write_bytes(b"mine")
    (sandbox.home / "thing").write_bytes(b"mine")
    pairs = [
        (bytes(sandbox.home / one), bytes(sandbox.home / other))
        for one, other in (("place", "away"), ("thing", "link"))
    ]

    def swap() -> None:
        while not over.is_set():
            for one, other in pairs:
                exchange(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE)

    agent = threading.Thread(target=swap)
    agent.start()
    yield sandbox
    over.set()
    agent.join()


AT_FDCWD, RENAME_EXCHANGE = -100, 2


async def test_a_link_that_comes_in_between_is_not_followed(swapping: Sandbox) -> None:
    """However the agent times it: what is read is its own, and what is written stays inside."""
    before = swapping.seen_outside()
    read = written = 0
    for _ in range(40):
        for path in ("place/secret", *["thing"] * 30):
            with suppress(CupolaError):
                assert await swapping.read(read_path(path)) == b"mine"
                read += 1
        for name in ("place/upload", "place/deep/upload"):
            with suppress(CupolaError):
                await swapping.files.write(read_path(name), pieces(b"new"))
                written += 1
    assert read
    assert written
    assert swapping.seen_outside() == before


async def test_modes(sandbox: Sandbox) -> None:
    """The agent may use what was uploaded, and a program stays one when it is uploaded again."""
    (sandbox.home / "run").touch(mode=0o755)
    for name in ("run", "new/plain"):
        await sandbox.files.write(read_path(name), pieces(b"#!/bin/sh\n"))
    assert (sandbox.home / "run").stat().st_mode & 0o777 == 0o755
    assert (sandbox.home / "new").stat().st_mode & 0o777 == 0o755
    assert (sandbox.home / "new" / "plain").stat().st_mode & 0o777 == 0o644
    shared = HostFiles(sandbox.home, sandbox.drafts, shared=True)
    await shared.write(read_path("volume/plain"), pieces(b""))
    assert (sandbox.home / "volume").stat().st_mode & 0o7777 == 0o777
    assert (sandbox.home / "volume" / "plain").stat().st_mode & 0o777 == 0o666


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_in_a_volume_files_belong_to_whom_the_directory_belongs(sandbox: Sandbox) -> None:
    """As if the agent had written them; what replaces a file keeps that file's owner."""
    os.chown(sandbox.home / "dir", 1234, 1235)
    os.chown(sandbox.home / "file", 4321, 4321)
    shared = HostFiles(sandbox.home, sandbox.drafts, shared=True)
    for path in ("dir/a", "dir/new/b", "file"):
        await shared.write(read_path(path), pieces(b""))
    owners = {path: (sandbox.home / path).stat().st_uid for path in ("dir/a", "dir/new", "dir/new/b", "file")}
    assert owners == {"dir/a": 1234, "dir/new": 1234, "dir/new/b": 1234, "file": 4321}


async def test_names_that_are_no_text(sandbox: Sandbox) -> None:
    """An agent may call a file anything; the list shows it in a way that cannot be mistaken for another."""
    os.close(os.open(os.fsencode(sandbox.home) + b"/dir/\xff\xfe.bin", os.O_CREAT))
    names = {entry.path.name for entry in await sandbox.files.list(read_path("dir"))}
    assert names == {"up", "\\xff\\xfe.bin"}
    with pytest.raises(BadRequest, match="backslash"):
        read_path("dir/\\xff\\xfe.bin")


async def test_a_file_that_is_cut_short(sandbox: Sandbox) -> None:
    """What was promised and is not there any more ends the reading with a reason."""
    file = await sandbox.files.open(read_path("file"))
    try:
        (sandbox.home / "file").write_bytes(b"m")
        with pytest.raises(Conflict, match="cut short"):
            [piece async for piece in file.read(0, file.entry.size)]
    finally:
        await file.aclose()


async def test_an_upload_that_is_cancelled_leaves_nothing(sandbox: Sandbox) -> None:
    """Neither in the home nor where it grew."""
    begun, never = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * 1_000_000
        begun.set()
        await never.wait()

    task = asyncio.create_task(sandbox.files.write(read_path("slow"), slow()))
    await begun.wait()
    assert list(sandbox.drafts.iterdir())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(sandbox.drafts.iterdir()) == []
    assert not (sandbox.home / "slow").exists()


FULL = """
import asyncio, sys
from pathlib import Path
from cupola.drivers.host_files import HostFiles
from cupola.errors import SetupError
from cupola.files import read_path

async def pieces():
    for _ in range(64):
        yield b"x" * 65536

async def main(root):
    home, drafts = root / "home", root / "drafts"
    home.mkdir(), drafts.mkdir()
    (home / "big").write_bytes(b"old")
    files = HostFiles(home, drafts)
    try:
        await files.write(read_path("big"), pieces())
    except SetupError as error:
        print(error.code, (home / "big").read_bytes(), len(list(drafts.iterdir())))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """It is said so; the file that was there is whole, and nothing half-written is left."""
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec "
    command = ["unshare", "--mount", "sh", "-c", mount + '"$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    done = subprocess.run([*command, sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("storage_full b'old' 0\n", "")
