"""Archives of homes passing by: what is counted, what is left out, and that a broken one is noticed."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import pytest

from cupola.drivers.home_archive import ArchiveBroken, HomeArchive

FORMATS = pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])


def packed(kind: int, fill: Callable[[tarfile.TarFile], None]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        fill(archive)
    return stream.getvalue()


def add(archive: tarfile.TarFile, name: str, body: bytes = b"", **values: object) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(body)
    for key, value in values.items():
        setattr(entry, key, value)
    archive.addfile(entry, io.BytesIO(body))


def passed(archive: HomeArchive, stream: bytes, piece: int) -> bytes:
    pieces = [stream[at : at + piece] for at in range(0, len(stream), piece)]
    return b"".join(part for one in pieces for part in archive.feed(one)) + archive.end()


def fill(archive: tarfile.TarFile) -> None:
    add(archive, "home", type=tarfile.DIRTYPE)
    add(archive, "home/note", b"12345")
    add(archive, "home/" + "long" * 60, b"x" * 1000, mode=0o751)
    add(archive, "home/" + "pipe" * 60, type=tarfile.FIFOTYPE)
    add(archive, "home/device", type=tarfile.CHRTYPE)
    add(archive, "home/link", type=tarfile.SYMTYPE, linkname="../" * 50 + "x")
    add(archive, "home/again", type=tarfile.LNKTYPE, linkname="home/note")


@FORMATS
@pytest.mark.parametrize("piece", [7, 512, 1 << 20])
def test_files_pass_and_the_rest_is_left_out(kind: int, piece: int) -> None:
    """However the stream is cut: bytes are counted, long names stay whole, FIFOs and devices are gone."""
    archive = HomeArchive()
    stream = passed(archive, packed(kind, fill), piece)
    with tarfile.open(fileobj=io.BytesIO(stream)) as found:
        names = found.getnames()
        assert found.getmember("home/link").linkname == "../" * 50 + "x"
        assert found.getmember("home/again").linkname == "home/note"
        body = found.extractfile("home/" + "long" * 60)
        assert body is not None
        assert body.read() == b"x" * 1000
    assert names == ["home", "home/note", "home/" + "long" * 60, "home/link", "home/again"]
    assert archive.size == 1005


@FORMATS
def test_sizes_beyond_the_header_are_read(kind: int) -> None:
    """A file of more than 8 GB has its size in an extension, or in another base."""
    large = tarfile.TarInfo("home/large")
    large.size = 9 << 30
    archive = HomeArchive()
    list(archive.feed(large.tobuf(format=kind)))  # type: ignore[arg-type]  # one of the literals that it asks for
    assert archive.size == 9 << 30


@FORMATS
def test_an_archive_that_breaks_off_is_no_archive(kind: int) -> None:
    """Neither in a body, nor between two entries, nor with an error written into it."""
    stream = packed(kind, fill)
    for cut in (700, 1024):
        with pytest.raises(ArchiveBroken):
            passed(HomeArchive(), stream[:cut], 512)
    with pytest.raises(ArchiveBroken, match="no archive"):
        passed(HomeArchive(), stream[:512] + b'{"message":"file changed"}' + bytes(600), 512)


def test_nothing_follows_the_end() -> None:
    """Two empty blocks end the archive, whatever padding came: Podman takes more for an error."""
    stream = passed(HomeArchive(), packed(tarfile.PAX_FORMAT, lambda archive: add(archive, "home")), 512)
    assert len(stream) == 3 * tarfile.BLOCKSIZE
