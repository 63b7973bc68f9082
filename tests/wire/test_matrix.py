"""The matrix at the end of the wire tests (matrix.py)."""

from __future__ import annotations

from .conftest import GENERATIONS, MODES
from .matrix import Cell, drawn, entries


def test_the_matrix_fits_a_terminal() -> None:
    """A row for each operation, a column for each generation, at most 120 columns in all."""
    cells = [Cell(entry.title, g, m, "ok", ("sdk",)) for entry in entries() for g in GENERATIONS for m in MODES]
    lines = drawn(cells, GENERATIONS, MODES).splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[0].split() == list(GENERATIONS)
    rows = [line for line in lines if line.endswith("✓✓")]
    assert [row.split("  ")[0] for row in rows] == [entry.title for entry in entries()]


def test_each_outcome_has_its_sign() -> None:
    """What the SDK did itself, what its pipeline did, what it cannot do and what failed look different."""
    title = entries()[0].title
    cells = [
        Cell(title, "2.0.1", "sync", "ok", ()),
        Cell(title, "2.0.1", "async", "ok", ("pipeline", "sdk")),
        Cell(title, "newest", "sync", "n/a", ()),
        Cell(title, "newest", "async", "failed", ()),
    ]
    row = drawn(cells, GENERATIONS, MODES).splitlines()[1]
    assert row.removeprefix(title).split() == ["✓◦", "–✗"]
