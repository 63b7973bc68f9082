"""What every driver promises of the files of a home: one body of tests, run over each place where homes can be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cupola.drivers.base import HomeFiles, ImageSource
from cupola.errors import BadRequest, Conflict, CupolaError, NotFound
from cupola.files import HomePath, read_path
from tests.contract.place import Agent, Place, open_place

HOMES = [
    "fake",
    "process",
    pytest.param("docker", marks=pytest.mark.engine),
    pytest.param("docker-through", marks=pytest.mark.engine),
]
BIG = 3 * 1024 * 1024 + 17


@dataclass(frozen=True, slots=True)
class Home:
    """The home `h1` of a place; what it was asked for, in words."""

    place: Place
    files: HomeFiles

    async def write(self, path: str, content: bytes = b"x") -> int:
        return await self.files.write(read_path(path), pieces(content))

    async def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        file = await self.files.open(read_path(path))
        try:
            return b"".join([piece async for piece in file.read(start, file.entry.size if end is None else end)])
        finally:
            await file.aclose()

    async def names(self, path: str = ".") -> dict[str, bool]:
        """What stands in a directory, and whether it is one."""
        return {entry.path.name: entry.is_directory for entry in await self.files.list(read_path(path))}


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


@pytest.fixture(params=HOMES)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        opened = await open_place(stack, request.param, tmp_path)
        await opened.driver.callback_reach()
        yield opened
        await opened.driver.delete_home("h1")


def image(place: Place) -> ImageSource | None:
    source = place.source(Agent.ECHO)
    return source if isinstance(source, ImageSource) else None


@pytest.fixture
async def home(place: Place) -> Home:
    await place.driver.make_home("h1", image(place))
    files = await place.driver.home_files("h1", image(place))
    assert files is not None
    return Home(place, files)


async def test_a_home_is_made_once(place: Place) -> None:
    """There is none before it is made; making it again leaves its files alone; deleted it is none again."""
    assert await place.driver.home_files("h1", image(place)) is None
    for content in (b"", b"kept"):
        await place.driver.make_home("h1", image(place))
        files = await place.driver.home_files("h1", image(place))
        assert files is not None
        assert [entry.size for entry in await files.list(HomePath())] == [0] * (content == b"kept")
        await files.write(HomePath(("a",)), pieces(content))
    await place.driver.delete_home("h1")
    assert await place.driver.home_files("h1", image(place)) is None
    assert await place.driver.list() == []


async def test_what_is_written_is_read(home: Home) -> None:
    """Any bytes, in pieces of any size, with parents; a part of them; and in place of what was there."""
    content = bytes(range(256)) * (BIG // 256) + b"end"
    assert await home.files.write(read_path("a/b/c.bin"), pieces(b"", content[:5], content[5:])) == len(content)
    assert await home.read("a/b/c.bin") == content
    assert await home.read("a/b/c.bin", 3, 7) == content[3:7]
    assert await home.read("a/b/c.bin", 1024 * 1024 - 1, len(content)) == content[1024 * 1024 - 1 :]
    assert await home.write("a/b/c.bin", b"") == 0
    assert await home.read("a/b/c.bin") == b""
    assert await home.names("a/b") == {"c.bin": False}


async def test_a_file_being_read_stays_what_it_was(home: Home) -> None:
    """Replacing a file does not change the one that is open, and gives the new one another tag."""
    await home.write("a", b"old")
    old = await home.files.open(read_path("a"))
    try:
        await home.write("a", b"new")
        assert b"".join([piece async for piece in old.read(0, 3)]) == b"old"
        new = await home.files.open(read_path("a"))
        await new.aclose()
        assert new.tag != old.tag
    finally:
        await old.aclose()


async def test_half_an_upload_is_none(home: Home) -> None:
    """What breaks off leaves the file that was there, no parents, and nothing beside it."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"n" * BIG
        raise ConnectionResetError

    await home.write("a", b"old")
    for path in ("a", "new/b"):
        with pytest.raises(ConnectionResetError):
            await home.files.write(read_path(path), broken())
    assert await home.names() == {"a": False}
    assert await home.read("a") == b"old"


async def test_directories_are_made_and_listed(home: Home) -> None:
    """Direct children only; a directory has no size; making one that is there is done."""
    for _ in range(2):
        await home.files.make_directory(read_path("empty/inner"))
    await home.write("full/file", b"12345")
    assert await home.names() == {"empty": True, "full": True}
    assert await home.names("empty") == {"inner": True}
    assert await home.names("empty/inner") == {}
    (entry,) = await home.files.list(read_path("full"))
    assert (str(entry.path), entry.size) == ("full/file", 5)
    alone = await home.files.stat(read_path("full/file"))
    assert entry == replace(alone, modified=entry.modified)
    assert abs(entry.modified - alone.modified) <= 1  # Podman rounds in its archives, and nowhere else
    directory = await home.files.stat(read_path("full"))
    assert (directory.is_directory, directory.size) == (True, 0)
    assert (await home.files.stat(HomePath())).is_directory


async def test_deleting(home: Home) -> None:
    """Files and empty directories simply; full ones recursively only."""
    await home.write("a/b/c")
    await home.files.delete(read_path("a/b/c"), recursive=False)
    await home.files.delete(read_path("a/b"), recursive=False)
    await home.write("a/d/e")
    with pytest.raises(Conflict, match="not empty"):
        await home.files.delete(read_path("a"), recursive=False)
    await home.files.delete(read_path("a"), recursive=True)
    assert await home.names() == {}
    for recursive in (False, True):
        with pytest.raises(BadRequest, match="home itself"):
            await home.files.delete(HomePath(), recursive=recursive)


async def test_what_is_not_there(home: Home) -> None:
    """Every call but those that make things says so."""
    await home.write("a/file")
    for path in map(read_path, ("none", "a/none", "none/none")):
        for attempt in (home.files.stat, home.files.list, home.files.open):
            with pytest.raises(NotFound) as refused:
                await attempt(path)
            assert refused.value.param == "path"
        with pytest.raises(NotFound):
            await home.files.delete(path, recursive=True)


async def test_what_stands_in_the_way(home: Home) -> None:
    """A directory is no file, and a file no directory; nothing is changed, and no piece was asked for."""

    asked: list[str] = []

    async def never() -> AsyncIterator[bytes]:
        asked.append("a piece")
        yield b""

    await home.write("dir/file", b"kept")
    directory, file, inside = map(read_path, ("dir", "dir/file", "dir/file/inside"))
    attempts = [
        home.files.write(directory, never()),
        home.files.write(HomePath(), never()),
        home.files.write(inside, never()),
        home.files.open(directory),
        home.files.open(HomePath()),
        home.files.open(inside),
        home.files.list(file),
        home.files.make_directory(file),
        home.files.make_directory(inside),
        home.files.delete(inside, recursive=True),
    ]
    for attempt in attempts:
        with pytest.raises(CupolaError) as refused:
            await attempt
        assert (type(refused.value), refused.value.param) == (Conflict, "path")
    assert asked == []
    assert await home.read("dir/file") == b"kept"
