"""When sessions are what, and when sandboxes are idle."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cupola.agents import Failure, Phase
from cupola.sessions import LIFETIME, Activity, Desired, Observed, Session, SessionStatus, is_idle, what_is_open

NOW = 1_700_000_000.0
SESSION = Session("demo", "a1", "s1", "g", "1", "caller", "home", created_at=NOW, last_accessed_at=NOW)
FAILURE = Failure(Phase.PROBE, "ContainerProbesFailed", "no answer")


@pytest.mark.parametrize(
    ("session", "status"),
    [
        (SESSION, SessionStatus.CREATING),
        (SESSION.to_starting(NOW), SessionStatus.CREATING),
        (SESSION.to_ready(NOW), SessionStatus.ACTIVE),
        (SESSION.to_ready(NOW).to_idle(NOW), SessionStatus.IDLE),
        (SESSION.to_idle(NOW).to_starting(NOW), SessionStatus.CREATING),
        (SESSION.to_failed(FAILURE), SessionStatus.FAILED),
        (SESSION.to_ready(NOW).to_deleted(), SessionStatus.DELETING),
        (replace(SESSION, last_accessed_at=NOW - LIFETIME).to_deleted(), SessionStatus.DELETING),
        (replace(SESSION.to_ready(NOW), last_accessed_at=NOW - LIFETIME), SessionStatus.EXPIRED),
    ],
)
def test_status_is_derived(session: Session, status: SessionStatus) -> None:
    """The wire's status follows from what is wanted, what was seen, and the time."""
    assert session.status(NOW) is status


def test_a_session_lives_thirty_days_from_its_last_access() -> None:
    """Access rolls the end forward, and an older access never turns it back."""
    accessed = SESSION.to_accessed(NOW + 100)
    assert accessed.expires_at == NOW + 100 + LIFETIME
    assert accessed.to_accessed(NOW).last_accessed_at == NOW + 100


def test_a_new_start_forgets_the_last_failure() -> None:
    """What failed before says nothing about the try that runs now."""
    again = SESSION.to_failed(FAILURE).to_starting(NOW)
    assert again.failure is None
    assert again.desired is Desired.RUNNING
    assert again.observed is Observed.STARTING


@pytest.mark.parametrize(
    ("activity", "idle"),
    [
        (Activity(last=NOW - 900), True),
        (Activity(last=NOW - 899), False),
        (Activity(last=NOW + 5), False),
        (Activity(open_requests=1, last=NOW - 9000), False),
        (Activity(background_responses=1, last=NOW - 9000), False),
    ],
)
def test_idle_means_nothing_open_and_quiet_for_the_time_out(activity: Activity, idle: bool) -> None:
    """An open request or a background response keeps a sandbox however long it takes."""
    assert is_idle(activity, 900, NOW) is idle


def test_another_version_forgets_the_failure_of_the_old() -> None:
    """A session that failed rests on its new version; any other stays as it is, but for the version."""
    moved = SESSION.to_failed(FAILURE).to_version("2", NOW)
    assert (moved.version, moved.failure, moved.status(NOW)) == ("2", None, SessionStatus.IDLE)
    resting = SESSION.to_idle(NOW)
    assert resting.to_version("2", NOW + 1) == replace(resting, version="2")


def test_what_is_open_is_said_in_words() -> None:
    """Nothing is None."""
    assert what_is_open(Activity(), starting=False) is None
    assert what_is_open(Activity(1), starting=False) == "1 open request"
    said = what_is_open(Activity(2, 1), starting=True)
    assert said == "a start under way and 2 open requests and 1 running background response"
