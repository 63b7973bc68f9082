"""Who is let in, who makes room, and when a budget is used up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cupola.agents import AgentVersion, Definition
from cupola.errors import BadRequest
from cupola.limits import (
    Budget,
    Doing,
    Holder,
    Limits,
    Owner,
    Scope,
    budget_of,
    check_budget_keys,
    first_full,
    over_budget,
    refusal,
    spent,
)
from cupola.sessions import Session

ANN, BOB = Owner("demo", "a1", "ann"), Owner("demo", "a1", "bob")
SESSION = Session("demo", "a1", "s1", "g", "1", "ann", "home", created_at=0, last_accessed_at=0)
VERSION = AgentVersion("demo", "a1", "1", Definition("image", None, ()), 0)


def resting(owner: Owner, id: str, last: float) -> Holder:
    return Holder(owner, id, Doing.RESTING, last)


def test_without_limits_everybody_comes_in() -> None:
    assert first_full(Limits(), ANN, [Holder(ANN)] * 1000) is None


@pytest.mark.parametrize(
    ("limits", "stranger"),
    [
        (Limits(project=1), Owner("other", "a1", "ann")),
        (Limits(agent=1), Owner("demo", "a2", "ann")),
        (Limits(agent=1), Owner("other", "a1", "ann")),
        (Limits(caller=1), BOB),
        (Limits(caller=1), Owner("other", "a1", "ann")),
    ],
)
def test_a_limit_counts_within_its_scope(limits: Limits, stranger: Owner) -> None:
    """Whoever is outside of it takes nobody's seat; whoever is inside takes the last one."""
    assert first_full(limits, ANN, [Holder(stranger)]) is None
    assert first_full(limits, ANN, [Holder(ANN)]) is not None


def test_the_narrowest_limit_is_named() -> None:
    """It is the one whose holder can do something about it."""
    full = first_full(Limits(1, 1, 1), ANN, [Holder(ANN)])
    assert full is not None
    assert full.scope is Scope.CALLER


def test_ones_own_resting_session_makes_room_before_anothers() -> None:
    """Even where another's has rested longer; busy ones never do; one that leaves already is waited for."""
    busy, bobs, anns = Holder(ANN, "busy"), resting(BOB, "bobs", 1), resting(ANN, "anns", 5)

    def who(*holders: Holder) -> str | None:
        full = first_full(Limits(agent=1), ANN, holders)
        assert full is not None
        return None if full.makes_room is None else full.makes_room.id

    assert who(busy) is None
    assert who(busy, bobs) == "bobs"
    assert who(busy, bobs, anns) == "anns"
    assert who(busy, resting(ANN, "older", 2), anns) == "older"
    assert who(anns, Holder(BOB, "going", Doing.LEAVING)) == "going"


def test_a_callers_limit_costs_nobody_else_anything() -> None:
    """However long the others have rested."""
    full = first_full(Limits(caller=1), ANN, [Holder(ANN, "busy"), resting(BOB, "bobs", 1)])
    assert full is not None
    assert (full.limit, full.running, full.makes_room) == (1, 1, None)


def test_a_refusal_has_the_numbers_and_the_way_out() -> None:
    full = first_full(Limits(agent=2), ANN, [Holder(ANN), Holder(BOB)])
    assert full is not None
    error = refusal(full, ANN)
    assert error.extra == {"scope": "agent", "limit": 2, "running": 2}
    assert "agent 'a1'" in error.message
    assert "CUPOLA_MAX_SESSIONS_PER_AGENT" in error.message


def test_a_versions_budget_wins_for_each_of_the_two() -> None:
    """`0` lifts the default."""
    version = replace(VERSION, metadata={"session_max_seconds": "90.5"})
    assert budget_of(version, Budget(10, 20)) == Budget(90.5, 20)
    assert budget_of(replace(VERSION, metadata={"session_max_cpu_seconds": "0"}), Budget(10, 20)) == Budget(10, 0)
    assert budget_of(VERSION, Budget(10, 20)) == Budget(10, 20)


@pytest.mark.parametrize("value", ["", "soon", "-1", "1e3", "inf", "nan", "1,5", "1.5.0", "٣", "9" * 21, "316224001"])
@pytest.mark.parametrize("key", ["session_max_seconds", "session_max_cpu_seconds"])
def test_what_is_no_number_of_seconds_is_refused(key: str, value: str) -> None:
    """Naming the key."""
    with pytest.raises(BadRequest, match=key) as refused:
        check_budget_keys({"other": "x", key: value})
    assert refused.value.param == f"metadata.{key}"


@pytest.mark.parametrize("value", ["0", "3600", "0.5", " 60 ", "316224000"])
def test_what_is_one_is_taken(value: str) -> None:
    check_budget_keys({"session_max_seconds": value})


def test_a_budget_is_used_up_when_all_of_it_is_used() -> None:
    """Not before; without one, never."""
    used = SESSION.to_used(60, 7)
    assert spent(used, Budget()) is None
    assert spent(used, Budget(61, 8)) is None
    over = spent(used, Budget(60, 8))
    assert over is not None
    error = over_budget(used, over)
    assert error.extra == {
        "scope": "session",
        "agent_session_id": "s1",
        "budget": "session_max_seconds",
        "limit": 60,
        "used": 60,
    }
    assert "60.0 of the 60 seconds of running" in error.message
    cpu = spent(used, Budget(0, 7))
    assert cpu is not None
    assert "7.0 of the 7 seconds of processor time" in over_budget(used, cpu).message
