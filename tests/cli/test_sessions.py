"""`cupola sessions`, against a stub of the platform."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cupola.cli.output import Exit, spoken_age, spoken_size
from tests.cli.conftest import Command
from tests.cli.stub_sessions import LONG

pytestmark = pytest.mark.usefixtures("platform")


@pytest.fixture
def sessions(cupola: Command) -> Any:
    """`cupola sessions` with arguments: what it says, once it has gone well."""

    def run(*arguments: str) -> str:
        done = cupola("sessions", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_list_is_aligned_and_whole(sessions: Any) -> None:
    """Every page of it; ids that were made up are shortened, and `--full` shows them."""
    heading, *rows = sessions("list", "greeter").splitlines()
    assert heading.split("  ")[0] == "SESSION"
    assert [row.split()[0] for row in rows] == [LONG[:12], "busy", "stuck", "broken", "thread-1", "thread-2"]
    assert {row.index(" ago") for row in rows} == {rows[0].index(" ago")}
    assert {row[heading.index("STATUS") :].split()[0] for row in rows} == {"active", "failed"}
    assert LONG in sessions("list", "greeter", "--full")


def test_everything_is_printed_as_json(sessions: Any) -> None:
    """What the platform says, for programs."""
    assert len(json.loads(sessions("list", "greeter", "-o", "json"))) == 6
    assert json.loads(sessions("show", "greeter", "busy", "-o", "json"))["status"] == "active"
    made = json.loads(sessions("snapshot", "greeter", "busy", "--note", "first", "-o", "json"))
    assert (made["id"], made["note"]) == ("snap-1", "first")
    assert json.loads(sessions("snapshots", "greeter", "busy", "-o", "json")) == [made]
    assert json.loads(sessions("restore", "greeter", "busy", "snap-1", "-o", "json"))["agent_session_id"] == "busy"
    assert json.loads(sessions("fork", "greeter", "busy", "-o", "json"))["agent_session_id"] == "f" * 63
    assert json.loads(sessions("move", "greeter", "thread-1", "--to", "2", "-o", "json"))["outcome"] == "moved"
    assert json.loads(sessions("move", "greeter", "--to", "1", "-o", "json"))[0]["agent_session_id"] == "thread-1"
    for command in ("stop", "kill", "delete"):
        assert json.loads(sessions(command, "greeter", "thread-1", "-o", "json"))["agent_session_id"] == "thread-1"
    deleted = json.loads(sessions("delete-snapshot", "greeter", "busy", "snap-1", "-o", "json"))
    assert deleted == {"id": "snap-1", "agent_session_id": "busy", "deleted": True}


def test_one_session_with_why_it_failed(sessions: Any) -> None:
    """Status, times, and the evidence of its last start."""
    said = sessions("show", "greeter", "broken")
    assert "failed in phase probe: The container did not answer." in said
    assert "  | Traceback: no module named agent" in said
    assert "stopped" not in sessions("show", "greeter", "busy")


def test_the_beginning_of_an_id_will_do(sessions: Any, cupola: Command) -> None:
    """While it is that of one session only; an id that is whole is meant as it is."""
    assert LONG in sessions("show", "greeter", "0123")
    several = cupola("sessions", "show", "greeter", "thread")
    assert (several.returncode, several.stdout) == (Exit.REFUSED, "")
    assert "2 sessions of agent 'greeter' begin with 'thread'" in several.stderr
    unknown = cupola("sessions", "delete", "greeter", "nobody")
    assert unknown.returncode == Exit.REFUSED
    assert "has no session 'nobody'" in unknown.stderr


def test_what_is_ended_is_said(sessions: Any) -> None:
    """One sentence with the whole id, and what stays."""
    assert sessions("stop", "greeter", "0123") == f"Stopped session {LONG}; its files stay.\n"
    assert sessions("kill", "greeter", "busy") == "Killed the sandbox of session busy; its files stay.\n"
    assert sessions("delete", "greeter", "busy") == "Deleted session busy with its files and snapshots.\n"
    assert "busy" not in sessions("list", "greeter")


def test_a_session_alone_will_do(cupola: Command, sessions: Any) -> None:
    """Where only one agent has it; the button must be found without looking up whose it is."""
    assert sessions("kill", "thread-1") == "Killed the sandbox of session thread-1; its files stay.\n"
    unknown = cupola("sessions", "kill", "nobody")
    assert unknown.returncode == Exit.REFUSED
    assert "No agent of project 'demo' has a session 'nobody'" in unknown.stderr
    assert cupola("sessions", "kill", "a", "b", "c").returncode == Exit.USAGE


def test_stopping_all_names_what_could_not_be_stopped(cupola: Command) -> None:
    """And fails then; an agent's or the project's."""
    for arguments, where in ((["greeter"], "agent 'greeter'"), ([], "project 'demo'")):
        done = cupola("sessions", "stop", *arguments, "--all")
        assert done.returncode == Exit.FAILED
        assert done.stdout == f"Stopped 5 sessions of {where}.\n"
        assert "session stuck was not stopped: The engine does not answer." in done.stderr
    nothing = cupola("sessions", "stop", "other", "--all", "--output=json")
    assert (nothing.returncode, json.loads(nothing.stdout)) == (0, {"stopped": [], "failed": []})


@pytest.mark.parametrize(
    "arguments",
    [
        ["stop"],
        ["stop", "greeter"],
        ["stop", "greeter", "busy", "--all"],
        ["move", "greeter"],
        ["move", "greeter", "busy", "--to", "2", "--from", "1"],
        ["restore", "greeter", "busy"],
    ],
)
def test_wrong_usage(cupola: Command, arguments: list[str]) -> None:
    """Nothing is done."""
    assert cupola("sessions", *arguments).returncode == Exit.USAGE


def test_a_session_is_moved_and_back(sessions: Any) -> None:
    """Each says from where to where, and what comes next."""
    said = sessions("move", "greeter", "thread-1", "--to", "2", "--dry-run")
    assert said.startswith("Session thread-1 would be moved from version 1 to 2. The next request starts")
    assert sessions("move", "greeter", "thread-1", "--to", "2").startswith("Session thread-1 was moved from version 1")
    again = sessions("move", "greeter", "thread-1", "--to", "2")
    assert again == "Session thread-1 stays. It is on version 2 already.\n"
    assert "from version 2 to 1" in sessions("move", "greeter", "thread-1", "--to", "1")


def test_a_move_that_is_refused(cupola: Command) -> None:
    """One sentence, unless it is forced."""
    refused = cupola("sessions", "move", "greeter", "busy", "--to", "2")
    assert (refused.returncode, refused.stdout) == (Exit.REFUSED, "")
    assert "1 open request" in refused.stderr
    assert cupola("sessions", "move", "greeter", "busy", "--to", "2", "--force").returncode == 0


def test_all_are_moved_with_a_line_for_each(cupola: Command) -> None:
    """Refusals fail the command, not the others; a dry run has not failed."""
    dry = cupola("sessions", "move", "greeter", "--to", "2", "--dry-run")
    assert dry.returncode == 0
    lines = [line.split("   ") for line in dry.stdout.splitlines()]
    assert [cell.strip() for cell in lines[0] if cell.strip()] == ["SESSION", "FROM", "TO", "OUTCOME", "WHY"]
    real = cupola("sessions", "move", "greeter", "--from", "1", "--to", "2")
    assert real.returncode == Exit.REFUSED
    rows = {line.split()[0]: line for line in real.stdout.splitlines()[1:]}
    assert len(rows) == 6
    assert "refused" in rows["busy"]
    assert "moved" in rows["thread-1"]
    nothing = cupola("sessions", "move", "greeter", "--from", "3", "--to", "2")
    assert (nothing.returncode, nothing.stdout) == (0, "No session has to move to version 2.\n")


def test_snapshots_are_made_shown_restored_and_deleted(sessions: Any, cupola: Command) -> None:
    """In words that say what became of what."""
    assert sessions("snapshots", "greeter", "busy") == "Session busy has no snapshots.\n"
    made = sessions("snapshot", "greeter", "busy", "--note", "before the upgrade", "--stop", "--force")
    assert made == "Made snapshot snap-1 of session busy (1.2 MiB).\n"
    heading, row = sessions("snapshots", "greeter", "busy").splitlines()
    assert row.index("before the upgrade") == heading.index("NOTE")
    assert "snapshot snap-1 again" in sessions("restore", "greeter", "busy", "snap-1")
    missing = cupola("sessions", "restore", "greeter", "busy", "snap-9")
    assert (missing.returncode, missing.stdout) == (Exit.REFUSED, "")
    assert sessions("delete-snapshot", "greeter", "busy", "snap-1") == "Deleted snapshot snap-1 of session busy.\n"


def test_snapshots_may_outlive_their_session(sessions: Any) -> None:
    """They are found by the id that it had, and forked."""
    sessions("snapshot", "greeter", "busy")
    assert "its snapshots stay" in sessions("delete", "greeter", "busy", "--keep-snapshots")
    assert "snap-1" in sessions("snapshots", "greeter", "busy")
    said = sessions("fork", "greeter", "busy", "--snapshot", "snap-1", "--id", "again")
    assert said == "Session again begins with the files of snapshot snap-1.\n"
    assert "again" in sessions("list", "greeter")


def test_a_missing_agent_or_project_is_named(cupola: Command) -> None:
    """The platform's own sentence."""
    missing = cupola("sessions", "show", "nobody", "busy")
    assert missing.returncode == Exit.REFUSED
    assert "Agent 'nobody' does not exist" in missing.stderr
    elsewhere = cupola("sessions", "list", "greeter", "--project", "other")
    assert "no project 'other'" in elsewhere.stderr


@pytest.mark.parametrize(
    ("seconds", "said"), [(-3, "0s"), (59.9, "59s"), (60, "1m"), (7199, "1h"), (86_400, "1d"), (8_640_000, "100d")]
)
def test_ages_in_their_largest_unit(seconds: float, said: str) -> None:
    """A clock that was set back makes nothing younger than now."""
    assert spoken_age(seconds) == said


@pytest.mark.parametrize(("size", "said"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 40, "5.0 TiB")])
def test_sizes_by_powers_of_1024(size: int, said: str) -> None:
    """Plain bytes have no fraction."""
    assert spoken_size(size) == said
