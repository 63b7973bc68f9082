"""Durations as people write them."""

from __future__ import annotations

import pytest

from cupola.durations import seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("24h", 86_400), ("7d", 604_800), ("0h", None), ("h", None), ("1.5h", None), ("", None),
     ("-1h", None), ("1h ", None), ("1w", None), ("9999999999s", None)],
)  # fmt: skip
def test_a_number_and_a_unit(text: str, seconds: int | None) -> None:
    """Nothing else is a duration."""
    assert seconds_of(text) == seconds
