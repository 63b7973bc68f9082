"""A clock that does not believe every jump of the machine's."""

from __future__ import annotations

import pytest

from cupola.clock import SteadyClock


class Machine:
    """Time that the test moves: `ticks` passes, `wall` is set."""

    def __init__(self) -> None:
        self.ticks = 5.0
        self.wall = 1_700_000_000.0

    def passes(self, seconds: float) -> None:
        self.ticks += seconds
        self.wall += seconds

    def clock(self) -> SteadyClock:
        return SteadyClock(lambda: self.wall, lambda: self.ticks)


@pytest.mark.parametrize("jump", [8 * 3600.0, -8 * 3600.0, 3.0, -3.0])
def test_a_jump_counts_from_the_step_on(jump: float) -> None:
    """Before it the clock goes on evenly; the step says how far it was, once."""
    machine = Machine()
    clock = machine.clock()
    machine.passes(100)
    machine.wall += jump
    assert clock() == 1_700_000_100
    assert clock.stood() == 100
    assert clock.step() == jump
    assert clock() == machine.wall
    assert clock.step() == 0
    assert clock.stood() == 0
    machine.passes(7)
    assert clock.stood() == 7


def test_drift_is_followed_without_notice() -> None:
    """A clock that is a little fast is no jump, however long it goes on."""
    machine = Machine()
    clock = machine.clock()
    for _ in range(100):
        machine.passes(10)
        machine.wall += 0.5
        assert clock.step() == 0
        assert clock() == machine.wall
    assert clock.stood() == 1000
