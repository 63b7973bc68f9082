"""Snapshots as plain values."""

from __future__ import annotations

import pytest

from cupola.errors import BadRequest
from cupola.snapshots import MAX_NOTE, SnapshotState, check_note
from tests.store import shapes


def test_a_snapshot_is_made_then_ready_then_nobodys() -> None:
    """Its home stays named until it is gone."""
    making = shapes.snapshot(state=SnapshotState.MAKING)
    ready = making.to_ready(12)
    assert (ready.state, ready.size, ready.home) == (SnapshotState.READY, 12, making.home)
    assert ready.to_spare().home == making.home
    assert ready.to_spare("other").home == "other"


def test_a_note_is_a_sentence() -> None:
    """512 characters, not one more."""
    check_note(None)
    check_note("x" * MAX_NOTE)
    with pytest.raises(BadRequest, match="513") as refused:
        check_note("x" * (MAX_NOTE + 1))
    assert refused.value.param == "note"
