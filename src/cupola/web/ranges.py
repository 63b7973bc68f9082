"""Parts of a download: the headers `Range` and `If-Range` (RFC 9110 §13.1.5, §14.2).

One range of bytes is served. Several at once, other units and what cannot be read are ignored, as the RFC allows:
the answer is then the whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate

from cupola.errors import RangeNotSatisfiable

_RANGE = re.compile(r"bytes=\s*(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from `start` up to `end` of `size`; `partial` if they were asked for by a range."""

    start: int
    end: int
    size: int
    partial: bool

    @property
    def headers(self) -> dict[str, str]:
        length = {"content-length": str(self.end - self.start)}
        return {**length, "content-range": f"bytes {self.start}-{self.end - 1}/{self.size}"} if self.partial else length


def wanted_part(headers: Mapping[str, str], size: int, *, etag: str, modified: float) -> Part:
    """Which part of `size` bytes a GET wants. Raises RangeNotSatisfiable.

    A range that holds only for another state of the file (`If-Range`) gives the whole of this one.
    """
    whole = Part(0, size, size, partial=False)
    known = headers.get("if-range")
    if known is not None and known not in (etag, http_date(modified)):
        return whole
    found = _RANGE.fullmatch(headers.get("range", ""))
    if found is None:
        return whole
    first, last, suffix = found.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return whole
    if start >= end:
        raise RangeNotSatisfiable(
            f"The range {headers['range']!r} begins behind the end of the file, which has {size} bytes.", size=size
        )
    return Part(start, end, size, partial=True)


def http_date(at: float) -> str:
    """Unix seconds as `last-modified` has them."""
    return formatdate(at, usegmt=True)
