"""What `cupola warm` says of a pool."""

from __future__ import annotations

from typing import Any

import pytest

from cupola.cli.warm import only_version, spoken
from cupola.errors import BadRequest, NotFound

POOL: dict[str, Any] = {
    "version": "1",
    "gets_traffic": True,
    "warm_pool": 5,
    "wanted": 5,
    "ready": 5,
    "starting": 0,
    "binds_late": True,
    "waits_for_room": False,
    "trouble": None,
}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, "5 of 5 ready; for any session"),
        ({"ready": 3, "starting": 2}, "3 of 5 ready, 2 starting; for any session"),
        ({"binds_late": False}, "5 of 5 ready; for sessions without an id of their own"),
        ({"binds_late": None, "ready": 0}, "0 of 5 ready"),
        (
            {"ready": 3, "waits_for_room": True, "binds_late": None},
            "3 of 5 ready, no room for more (CUPOLA_MAX_SANDBOXES)",
        ),
        ({"ready": 0, "wanted": 0, "binds_late": None}, "0 of 0 ready, 5 wanted once it gets traffic"),
        (
            {"ready": 1, "binds_late": None, "trouble": {"reason": "It ended."}},
            "1 of 5 ready; the last start failed: It ended.",
        ),
    ],
)
def test_a_pool_is_one_line(change: dict[str, Any], line: str) -> None:
    """How many, for whom, and what stands in the way."""
    assert spoken({**POOL, **change}) == line


def test_the_version_meant_is_the_one_with_traffic() -> None:
    """Where there is one."""
    without = {**POOL, "version": "2", "gets_traffic": False}
    assert only_version("a1", [POOL, without]) == "1"
    with pytest.raises(NotFound, match="No version of agent 'a1' gets traffic"):
        only_version("a1", [without])
    with pytest.raises(BadRequest, match="Versions 2, 1 of agent 'a1' get traffic; name one"):
        only_version("a1", [{**POOL, "version": "2"}, POOL])
