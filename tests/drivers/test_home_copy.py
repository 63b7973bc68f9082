"""Copies of directories: what they keep, what they leave out, and that no trick of an agent leads out of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cupola.drivers import home_copy
from cupola.drivers.home_copy import DEEPEST, Copying, GivenUp, copy_tree, shares_blocks
from cupola.errors import Conflict

FULL = """
import asyncio, sys
from pathlib import Path
from cupola.drivers.home_copy import Copying
from cupola.errors import SetupError

async def main(root):
    source, target = root / "source", root / "target"
    source.mkdir(), target.mkdir()
    (source / "big").write_bytes(b"x" * 700_000)
    copying = Copying()
    try:
        await copying.copy(source, target)
    except SetupError as error:
        print(error.code)
    finally:
        copying.close()

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """The same error as everywhere else; the target is for the caller to remove."""
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec "
    command = ["unshare", "--mount", "sh", "-c", mount + '"$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    done = subprocess.run([*command, sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("storage_full\n", "")


DAY_ONE = (86400 * 10**9, 86400 * 10**9 + 5)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    return directory


@pytest.fixture
def target(tmp_path: Path) -> Path:
    directory = tmp_path / "target"
    directory.mkdir()
    return directory


def test_files_keep_bytes_modes_and_times(source: Path, target: Path) -> None:
    """Files and directories, read-only ones too, look as they did, and the size is that of the files."""
    (source / "sub").mkdir()
    (source / "sub" / "run.sh").write_bytes(b"#!/bin/sh\n")
    (source / "sub" / "run.sh").chmod(0o751)
    (source / "empty").touch()
    os.utime(source / "sub" / "run.sh", ns=DAY_ONE)
    (source / "sub").chmod(0o500)
    os.utime(source / "sub", ns=DAY_ONE)
    source.chmod(0o1777)
    assert copy_tree(source, target) == 10
    assert (target / "sub" / "run.sh").read_bytes() == b"#!/bin/sh\n"
    assert (target / "empty").read_bytes() == b""
    for name in ("", "sub", "sub/run.sh"):
        before, after = (source / name).stat(), (target / name).stat()
        assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns), name
        assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid), name


def test_links_are_copied_and_never_followed(source: Path, target: Path, tmp_path: Path) -> None:
    """A link out of the home, dangling or not, is a link in the copy, with its own time."""
    (tmp_path / "secret").write_text("of the host")
    (source / "out").symlink_to(tmp_path / "secret")
    (source / "up").symlink_to("..")
    (source / "nowhere").symlink_to("/no/such/place")
    os.utime(source / "out", ns=DAY_ONE, follow_symlinks=False)
    assert copy_tree(source, target) == 0
    links = {file.name: str(file.readlink()) for file in target.iterdir()}
    assert links == {"out": str(tmp_path / "secret"), "up": "..", "nowhere": "/no/such/place"}
    assert (target / "out").lstat().st_mtime_ns == DAY_ONE[1]


def test_hard_links_stay_one_file(source: Path, target: Path) -> None:
    """Two names of one file are two names of one file in the copy, and count once."""
    (source / "a").mkdir()
    (source / "a" / "one").write_bytes(b"1234")
    os.link(source / "a" / "one", source / "two")
    assert copy_tree(source, target) == 4
    assert (target / "a" / "one").stat().st_ino == (target / "two").stat().st_ino
    assert (target / "two").read_bytes() == b"1234"


def test_holes_stay_holes(source: Path, target: Path) -> None:
    """A file of a terabyte with two bytes in it takes no terabyte."""
    with (source / "sparse").open("wb") as file:
        file.write(b"a")
        file.seek(1 << 40)
        file.write(b"z")
        file.truncate((1 << 40) + 4096)
    assert copy_tree(source, target) == (1 << 40) + 4096
    assert (target / "sparse").stat().st_blocks * 512 < 1 << 20
    with (target / "sparse").open("rb") as file:
        assert file.read(2) == b"a\0"
        file.seek(1 << 40)
        assert file.read(2) == b"z\0"


def test_what_is_no_file_is_left_out(source: Path, target: Path) -> None:
    """A FIFO keeps nobody waiting."""
    os.mkfifo(source / "pipe")
    (source / "file").write_text("kept")
    copy_tree(source, target)
    assert [file.name for file in target.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(source: Path, target: Path) -> None:
    """Nothing is left out silently."""
    (source / "locked").write_text("x")
    (source / "locked").chmod(0)
    with pytest.raises(Conflict, match="locked may not be read"):
        copy_tree(source, target)


def test_directories_that_nest_too_deep_are_refused(source: Path, target: Path) -> None:
    """An agent cannot use up the server's descriptors."""
    (source / "/".join(["d"] * (DEEPEST + 1))).mkdir(parents=True)
    with pytest.raises(Conflict, match="within each other"):
        copy_tree(source, target)


def test_a_link_that_takes_the_place_of_a_directory_is_not_followed(
    source: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a name and its opening the agent swaps it: it is passed over."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("of the host")
    (source / "sub").mkdir()
    (source / "file").write_text("x")
    look = os.stat

    def look_then_swap(path: str, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        seen = look(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if path == "sub":
            (source / "sub").rmdir()
            (source / "sub").symlink_to(outside)
        if path == "file":
            (source / "file").unlink()
            (source / "file").symlink_to(outside / "secret")
        return seen

    monkeypatch.setattr(os, "stat", look_then_swap)
    copy_tree(source, target)
    assert list(target.iterdir()) == []


def test_blocks_are_shared_where_the_file_system_can(tmp_path: Path) -> None:
    """On Btrfs or XFS a copy takes no room until it is written to."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(os.urandom(1 << 16))
    with one.open("rb") as source, two.open("wb") as target:
        if not shares_blocks(source.fileno(), target.fileno()):
            pytest.skip(f"the file system of {tmp_path} cannot share blocks between files")
    assert two.read_bytes() == one.read_bytes()


async def test_a_cancelled_copy_has_ended(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is cancelled may remove the target at once: no thread writes into it any more."""
    for number in range(3):
        (source / str(number)).write_text("x")
    reached, go_on = threading.Event(), threading.Event()
    link = home_copy.shares_blocks

    def hold(one: int, other: int) -> bool:
        reached.set()
        go_on.wait()
        return link(one, other)

    monkeypatch.setattr(home_copy, "shares_blocks", hold)
    copying = Copying()
    task = asyncio.create_task(copying.copy(source, target))
    await asyncio.to_thread(reached.wait)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(list(target.iterdir())) == 1
    shutil.rmtree(target)
    copying.close()


def test_an_unwanted_copy_ends(source: Path, target: Path) -> None:
    """It is asked before each file."""
    (source / "file").write_text("x")
    unwanted = threading.Event()
    unwanted.set()
    with pytest.raises(GivenUp):
        copy_tree(source, target, unwanted)
    assert stat.S_ISDIR(target.stat().st_mode)
