"""Opening where it cannot work: one sentence each that names the file, and nothing of the user's is touched."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cupola.errors import SetupError
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import responses as response_rows
from tests.store import shapes
from tests.store.shapes import PROJECT, USER, item

_OPENS = """
import asyncio, sys
from pathlib import Path
from cupola.errors import CupolaError
from cupola.store import Store, responses

async def main():
    if len(sys.argv) > 2:
        import os
        os.setgid(65534)
        os.setuid(65534)
    try:
        store = Store.open(Path(sys.argv[1]))
    except CupolaError as error:
        print(error.code, error.message)
        return
    try:
        items = [{"id": f"msg_{n}", "text": "x" * 100_000} for n in range(100)]
        await store.write(lambda c: responses.put_items(c, "p", "u", items))
        print("written")
    except CupolaError as error:
        print(error.code, error.message)
    await store.aclose()

asyncio.run(main())
"""


async def test_a_new_database_is_the_owners_alone(tmp_path: Path) -> None:
    """The file, and those beside it while it is open, can be read by nobody else; the directory is made."""
    path = tmp_path / "state" / "cupola.db"
    store = Store.open(path)
    try:
        await store.write(lambda c: agent_rows.put_agent(c, shapes.agent()))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        await store.aclose()
    assert set(modes.values()) == {0o600}
    assert "cupola.db-wal" in modes
    assert [file.name for file in path.parent.iterdir()] == ["cupola.db"]


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """The sentence names the file and the remedy; the file stays as it was."""
    path = tmp_path / "cupola.db"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    before = path.read_bytes()
    with pytest.raises(SetupError, match="is damaged or is no database; restore it from a backup") as refused:
        Store.open(path)
    assert refused.value.code == "storage_damaged"
    assert str(path) in refused.value.message
    assert path.read_bytes() == before


@pytest.mark.parametrize("page", [0, 1, 5, -1])
async def test_a_database_with_a_broken_page(tmp_path: Path, page: int) -> None:
    """Damage anywhere is found at the start."""
    path = tmp_path / "cupola.db"
    store = Store.open(path)
    await store.write(
        lambda c: response_rows.put_items(c, PROJECT, USER, [item(f"m{n}", "x" * 999) for n in range(99)])
    )
    await store.aclose()
    content = bytearray(path.read_bytes())
    start = page * 4096 % len(content) + (100 if page == 0 else 0)  # the header stays
    content[start : start + 3996] = b"\xff" * 3996
    path.write_bytes(content)
    with pytest.raises(SetupError) as refused:
        Store.open(path)
    assert refused.value.code == "storage_damaged"


async def test_damage_in_use_is_named(tmp_path: Path) -> None:
    """A page that breaks while the platform runs gives the same sentence."""
    path = tmp_path / "cupola.db"
    await Store.open(path).aclose()
    store = Store.open(path)
    try:
        with path.open("r+b") as file:
            file.seek(100)
            file.write(b"\xff" * (path.stat().st_size - 100))
        with pytest.raises(SetupError, match="is damaged"):
            await store.read(lambda c: agent_rows.get_agent(c, PROJECT, "a"))
    finally:
        await store.aclose()


def test_a_directory_in_place_of_the_file(tmp_path: Path) -> None:
    """A directory of that name is named as such."""
    path = tmp_path / "cupola.db"
    path.mkdir()
    with pytest.raises(SetupError, match="is a directory"):
        Store.open(path)


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    """A state directory that is a file is one sentence too."""
    (tmp_path / "state").write_text("a file")
    with pytest.raises(SetupError, match="cannot be opened"):
        Store.open(tmp_path / "state" / "cupola.db")


@pytest.mark.skipif(os.geteuid() != 0, reason="root takes another identity here; others are held back anyway")
@pytest.mark.parametrize("existing", [False, True])
async def test_a_read_only_directory(existing: bool) -> None:
    """Neither a new nor an existing database opens where nothing may be written."""
    directory = Path(tempfile.mkdtemp())
    try:
        if existing:
            await Store.open(directory / "cupola.db").aclose()
            (directory / "cupola.db").chmod(0o644)
        directory.chmod(0o755)
        done = _open_elsewhere([sys.executable, "-c", _OPENS, str(directory / "cupola.db"), "nobody"])
        assert done.startswith(f"storage_read_only The directory {directory}")
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("size", ["20k", "64k", "512k"])
def test_a_full_disk(size: str, tmp_path: Path) -> None:
    """Whether there is no room at the start or only later, the sentence says which directory is full."""
    mount = f"mount -t tmpfs -o size={size} tmpfs {tmp_path} && exec "
    command = ["unshare", "--mount", "sh", "-c", mount + '"$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    done = _open_elsewhere([*command, sys.executable, "-c", _OPENS, str(tmp_path / "cupola.db")])
    assert done.startswith(f"storage_full No space is left in {tmp_path}")


def _open_elsewhere(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout
