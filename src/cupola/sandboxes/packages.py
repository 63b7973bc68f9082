"""What a zip of a code deployment must be like: checked before anything of it is kept or written."""

from __future__ import annotations

import io
import lzma
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from cupola.errors import BadRequest
from cupola.secrecy import brief

MAX_PACKAGE = 250 * 1024 * 1024
"""Bytes of an upload: Foundry's own limit (control-plane.md)."""

MAX_UNPACKED = 2 * 1024 * 1024 * 1024
MAX_FILES = 50_000
MAX_RATIO = 200
"""How much smaller than its content a zip may be; counted from `RATIO_MATTERS` bytes on, text packs well."""

MAX_NAME = 255
"""Bytes of a file's or folder's name: what common file systems take."""
MAX_PATH = 1024

_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA})

RATIO_MATTERS = 64 * 1024 * 1024


def inspect_zip(package: bytes | Path) -> tuple[str, ...]:
    """The names in a zip that is safe to unpack, in its order. Raises `BadRequest` for every other."""
    size = len(package) if isinstance(package, bytes) else package.stat().st_size
    if size > MAX_PACKAGE:
        raise _refused(f"The zip has {size:,} bytes; the limit is {MAX_PACKAGE:,} (250 MB).")
    try:
        with zipfile.ZipFile(io.BytesIO(package) if isinstance(package, bytes) else package) as opened:
            entries = opened.infolist()
    except DAMAGED as error:
        raise _refused("The part 'code' is not a zip file; send the zipped code itself.") from error
    if not any(not entry.is_dir() for entry in entries):
        raise _refused("The zip holds no files; zip the agent's code, flat at the root.")
    _refuse_bombs(size, entries)
    seen: set[str] = set()
    for entry in entries:
        _refuse_entry(entry)
        name = str(PurePosixPath(entry.filename))
        if name in seen:
            raise _refused(f"The zip holds {brief(name)} twice; keep one of them.")
        seen.add(name)
    files = {str(PurePosixPath(entry.filename)) for entry in entries if not entry.is_dir()}
    for name in seen:
        if not files.isdisjoint(str(parent) for parent in PurePosixPath(name).parents):
            raise _refused(f"The zip holds {brief(name)} within a file of that name; keep the file or the folder.")
    return tuple(entry.filename for entry in entries)


DAMAGED = (
    zipfile.BadZipFile,
    NotImplementedError,  # what the library says of methods and versions of zip that it does not know
    RuntimeError,
    ValueError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)
"""What reading a zip may raise besides errors of the disk; damaged bzip2 streams are an OSError without a number."""


def _refused(message: str) -> BadRequest:
    return BadRequest(message, param="code")


def _refuse_bombs(size: int, entries: Sequence[zipfile.ZipInfo]) -> None:
    unpacked = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_FILES:
        raise _refused(f"The zip holds {len(entries):,} entries; the limit is {MAX_FILES:,}.")
    if unpacked > MAX_UNPACKED:
        raise _refused(f"The zip unpacks to {unpacked:,} bytes; the limit is {MAX_UNPACKED:,} (2 GB).")
    if unpacked > RATIO_MATTERS and unpacked > size * MAX_RATIO:
        raise _refused(f"The zip unpacks to {unpacked // size} times its size; the limit is {MAX_RATIO} times.")


def _refuse_entry(entry: zipfile.ZipInfo) -> None:
    if entry.header_offset < 0:
        raise _refused(f"The zip is damaged: it says that {brief(entry.filename)} begins in front of it.")
    name = entry.orig_filename
    parts = name.replace("\\", "/").split("/")
    if "\\" in name or "\0" in name or not name:
        raise _refused(f"The zip holds the path {brief(name)}; separate folders with '/'.")
    if any(len(part.encode(errors="replace")) > MAX_NAME for part in parts) or len(name) > MAX_PATH:
        raise _refused(f"The zip holds a path of {len(name)} characters, {brief(name)}; use shorter names.")
    if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name):
        raise _refused(f"The zip holds the path {brief(name)}, which leads out of it; use relative paths without '..'.")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(f"The zip holds {brief(name)}, a link or device; put the file itself there (zip without -y).")
    if entry.flag_bits & 0x1:
        raise _refused(f"The zip holds {brief(name)} encrypted; zip it without a password.")
    if entry.compress_type not in _METHODS:
        raise _refused(f"The zip holds {brief(name)} packed by method {entry.compress_type}; use deflate.")
