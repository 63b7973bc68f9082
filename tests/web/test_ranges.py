"""Parts of a download."""

from __future__ import annotations

import pytest

from cupola.errors import RangeNotSatisfiable
from cupola.web.ranges import Part, http_date, wanted_part

MODIFIED = 1_700_000_000.5
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"


def part(size: int = 10, **headers: str) -> Part:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return wanted_part(named, size, etag='"e"', modified=MODIFIED)


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=2-5", 2, 6),
        ("bytes=2-", 2, 10),
        ("bytes=2-99", 2, 10),
        ("bytes=-3", 7, 10),
        ("bytes=-99", 0, 10),
        ("BYTES= 2-5 ", 2, 6),
    ],
)
def test_a_range_is_cut_to_the_file(wanted: str, start: int, end: int) -> None:
    """From the front, to the end, and from the end back."""
    found = part(range=wanted)
    assert (found.start, found.end, found.partial) == (start, end, True)
    assert found.headers == {"content-length": str(end - start), "content-range": f"bytes {start}-{end - 1}/10"}


@pytest.mark.parametrize("wanted", ["", "bytes=", "bytes=a-b", "bytes=5-2", "items=0-1", "bytes=0-1,3-4", "bytes=--1"])
def test_what_cannot_be_read_is_no_range(wanted: str) -> None:
    assert part(range=wanted) == Part(0, 10, 10, partial=False)
    assert part().headers == {"content-length": "10"}


@pytest.mark.parametrize(("size", "wanted"), [(10, "bytes=10-"), (10, "bytes=-0"), (0, "bytes=0-"), (0, "bytes=-1")])
def test_behind_the_end_is_an_error_that_knows_the_size(size: int, wanted: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as refused:
        part(size, range=wanted)
    assert refused.value.size == size


def test_a_range_of_another_state_gives_the_whole() -> None:
    """`If-Range` names an etag or a date; a download that goes on with another file would be damaged."""
    assert http_date(MODIFIED) == DATE
    for known in ('"e"', DATE):
        assert part(range="bytes=1-", if_range=known).partial
    for known in ('"f"', 'W/"e"', "Tue, 14 Nov 2023 22:13:21 GMT", "x"):
        assert not part(range="bytes=1-", if_range=known).partial
