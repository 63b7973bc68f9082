"""A short run of `make fuzz`, so that neither it nor the platform rots between the long ones."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from tests.fuzz.__main__ import fuzz
from tests.fuzz.bad_requests import mutated


async def test_bad_requests_are_answered(tmp_path: Path) -> None:
    """Each with one clear sentence, none with a 500, nothing half-made, and the platform goes on."""
    found = await fuzz(tmp_path, start=7, count=300)
    assert found.wrong == []
    assert found.sent >= 300
    assert {200, 400, 404} <= set(found.statuses)


def test_a_seed_gives_the_same_requests_again() -> None:
    assert list(islice(mutated(3, 200), 200)) == list(islice(mutated(3, 200), 200))
    assert list(mutated(3, 50)) != list(mutated(4, 50))
