"""The arithmetic of how long requests took."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupola.timings import Percentiles, SessionStart, Split, Start, Stopwatch, Timing, percentiles, split, summaries

COLD = Start(SessionStart.COLD, began=10.0, started=12.0, ready=15.0)
SECONDS = st.floats(min_value=0, max_value=1e4)


@pytest.mark.parametrize(
    ("began", "forwarded", "head", "parts"),
    [
        (9.0, 15.5, 16.5, (1.5, 2.0, 3.0, 1.0)),  # it caused the start
        (11.0, 15.0, 15.0, (0.0, 1.0, 3.0, 0.0)),  # it came while the sandbox was made
        (13.0, 15.0, 15.0, (0.0, 0.0, 2.0, 0.0)),  # it came while the container got ready
        (9.0, None, 15.0, (1.0, 2.0, 3.0, 0.0)),  # the start failed
    ],
)
def test_a_request_waited_for_what_was_left_of_the_start(
    began: float, forwarded: float | None, head: float, parts: tuple[float, ...]
) -> None:
    """Whoever joins a start under way has waited for the rest of it only."""
    assert split(began, forwarded, head, COLD) == Split(SessionStart.COLD, *parts)


@pytest.mark.parametrize("start", [COLD, None])
def test_whoever_comes_after_the_start_is_warm(start: Start | None) -> None:
    """So is one whose sandbox an earlier process had started."""
    assert split(15.0, 15.5, 17.5, start) == Split(SessionStart.WARM, 0.5, 0.0, 0.0, 2.0)


@given(st.tuples(SECONDS, SECONDS, SECONDS, SECONDS))
def test_the_parts_add_up_in_whole_milliseconds(parts: tuple[float, float, float, float]) -> None:
    """Foundry's documents promise it, and rounding each part by itself would break it."""
    made = Split(SessionStart.COLD, *parts)
    told = made.milliseconds()
    assert sum(told[:4]) == told[4] == round(made.whole * 1000)
    assert all(abs(whole - part * 1000) <= 1 for whole, part in zip(told, parts, strict=False))
    assert min(told) >= 0


@given(st.lists(SECONDS, min_size=1))
def test_percentiles_are_of_nearest_rank(values: list[float]) -> None:
    """The least value that no less than so many per cent are at or below."""
    found = percentiles(values)
    for percent, value in zip((50, 90, 99), (found.p50, found.p90, found.p99), strict=True):
        assert value in values
        assert sum(other <= value for other in values) * 100 >= percent * len(values)
        assert sum(other < value for other in values) * 100 < percent * len(values)
    assert found.p50 == statistics.median_low(values)


def timing(version: str, start_type: SessionStart, status: int = 200, response: float = 1.0) -> Timing:
    parts = (1.0, 2.0, 6.0, response)
    return Timing("demo", "a1", version, "s", "r", "responses", start_type, status, 1.0, *parts, sum(parts), 20.0)


def test_summaries_say_how_many_how_long_and_where_it_went() -> None:
    """One for each version and kind of start; failures count."""
    made = [timing("1", SessionStart.COLD), timing("1", SessionStart.COLD, 424), timing("2", SessionStart.WARM)]
    cold, warm = summaries(made, lambda one: (one.version, one.start_type))
    assert (cold.of, cold.count, cold.errors) == (("1", "cold"), 2, 1)
    assert (warm.of, warm.count, warm.errors) == (("2", "warm"), 1, 0)
    assert cold.milliseconds["response_begin_ms"] == Percentiles(10.0, 10.0, 10.0)
    assert cold.shares == {"preprocessing_ms": 0.1, "infra_setup_ms": 0.2, "readiness_ms": 0.6, "response_ms": 0.1}


def test_requests_that_took_no_time_have_no_shares() -> None:
    """Nothing is divided by nothing."""
    made = timing("1", SessionStart.WARM)._replace(
        preprocessing_ms=0, infra_setup_ms=0, readiness_ms=0, response_ms=0, response_begin_ms=0
    )
    (found,) = summaries([made], lambda one: (one.version,))
    assert set(found.shares.values()) == {0.0}


def test_the_outer_protocol_is_the_one_that_was_spoken() -> None:
    """A2A is carried by responses."""
    watch = Stopwatch(0.0)
    watch.asks("demo", "a1", "a2a")
    watch.asks("demo", "a1", "responses")
    assert watch.protocol == "a2a"
