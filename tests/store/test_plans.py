"""Reads run on the event loop, so none may walk through a table that grows with use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from cupola.agents import VersionStatus
from cupola.store import (
    Page,
    agents,
    conversations,
    invocations,
    responses,
    runs,
    sandboxes,
    sessions,
    sqlite,
    state,
    timings,
)
from cupola.store.migrate import migrate
from tests.store import shapes
from tests.store.shapes import AGENT, PROJECT, USER

PAGE = Page(limit=5)
QUESTIONS: dict[str, Callable[[Connection], Any]] = {
    "get_agent": lambda c: agents.get_agent(c, PROJECT, AGENT),
    "list_agents": lambda c: agents.list_agents(c, PROJECT, PAGE),
    "get_version": lambda c: agents.get_version(c, PROJECT, AGENT, "1"),
    "list_versions": lambda c: agents.list_versions(c, PROJECT, AGENT, PAGE),
    "newest_versions": lambda c: agents.newest_versions(c, PROJECT, AGENT),
    "latest_version": lambda c: agents.latest_version(c, PROJECT, AGENT),
    "latest_versions": lambda c: agents.latest_versions(c, PROJECT, [AGENT]),
    "versions_in": lambda c: agents.versions_in(c, [VersionStatus.CREATING]),
    "code_in_use": lambda c: agents.code_in_use(c, "abc"),
    "get_session": lambda c: sessions.get_session(c, PROJECT, AGENT, "s1"),
    "list_sessions": lambda c: sessions.list_sessions(c, PROJECT, AGENT, PAGE),
    "sessions_of_version": lambda c: sessions.sessions_of_version(c, PROJECT, AGENT, "1"),
    "live_sessions": sessions.live_sessions,
    "expired_sessions": lambda c: sessions.expired_sessions(c, 1e9),
    "touch_sessions": lambda c: sessions.touch_sessions(c, {(PROJECT, AGENT, "s1"): 2.0}),
    "keep_usage": lambda c: sessions.keep_usage(c, [shapes.session("s1")]),
    "keep_sandbox_usage": lambda c: sandboxes.keep_usage(c, {"b1": 2.0}),
    "delete_session": lambda c: sessions.delete_session(c, PROJECT, AGENT, "s1"),
    "session_of_conversation": lambda c: sessions.session_of_conversation(c, PROJECT, AGENT, "conv_1"),
    "conversations_of_session": lambda c: sessions.conversations_of_session(c, PROJECT, AGENT, "s1"),
    "sandbox_of_session": lambda c: sandboxes.sandbox_of_session(c, PROJECT, AGENT, "s1"),
    "sessions_beginning": lambda c: sessions.sessions_beginning(c, PROJECT, AGENT, "s", 2),
    "runs_of": lambda c: runs.runs_of(c, runs.Which(PROJECT, AGENT), since=1e9),
    "runs_of_session": lambda c: runs.runs_of(c, runs.Which(PROJECT, AGENT, "s1")),
    "runs_of_caller": lambda c: runs.runs_of(c, runs.Which(PROJECT, AGENT, caller=USER)),
    "get_runs": lambda c: runs.get_runs(c, ["sbx-1"]),
    "open_runs": runs.open_runs,
    "ended_runs": lambda c: runs.ended_runs(c, 1e9, 10),
    "run_ended": lambda c: runs.run_ended(c, "sbx-1", 1.0, "idle"),
    "get_response": lambda c: responses.get_response(c, PROJECT, "caresp_1"),
    "responses_of_session": lambda c: responses.responses_of_session(c, PROJECT, AGENT, "s1", 0, 10),
    "in_progress_responses": lambda c: responses.in_progress_responses(c, None),
    "save_response": lambda c: responses.save_response(c, shapes.response(status="completed", output=("o",))),
    "get_items": lambda c: responses.get_items(c, PROJECT, ["a", "b"], USER),
    "history_of_conversation": lambda c: responses.history_of_conversation(c, PROJECT, "conv_1"),
    "list_items": lambda c: conversations.list_items(c, PROJECT, "conv_1", PAGE),
    "get_invocation": lambda c: invocations.get_invocation(c, PROJECT, AGENT, "inv_1"),
    "put_invocation": lambda c: invocations.put_invocation(c, shapes.invocation()),
    "delete_invocations": lambda c: invocations.delete_invocations(c, 1e9),
    "get_item": lambda c: conversations.get_item(c, PROJECT, "conv_1", "a"),
    "get_store": lambda c: state.get_store(c, PROJECT, AGENT, "notes"),
    "get_state_item": lambda c: state.get_item(c, shapes.state_store(), USER, "k", 1.0),
    "list_state_items": lambda c: _list_state(c, {}),
    "list_tagged_state_items": lambda c: _list_state(c, {"a": "b"}),
    "next_timings": lambda c: timings.next_timings(c, PROJECT, AGENT, (1.0, 1), 10),
    "timing_of_subject": lambda c: timings.timing_of_subject(c, PROJECT, "caresp_1"),
    "delete_old_timings": lambda c: timings.delete_old_timings(c, PROJECT, AGENT, 1e9, 10),
    "delete_timings_beyond": lambda c: timings.delete_timings_beyond(c, PROJECT, AGENT, -1, 10),
    "delete_timings_of_agent": lambda c: timings.delete_timings_of_agent(c, PROJECT, AGENT),
    "delete_expired": lambda c: state.delete_expired(c, 1e9, 10),
}


def _list_state(conn: Connection, tags: dict[str, str]) -> Any:
    state.put_store(conn, shapes.state_store())
    return state.list_items(conn, shapes.state_store(), USER, tags, PAGE, 1.0)


BY_PARTIAL_INDEX = "SCAN responses USING INDEX responses_in_progress"
"""Walks through the unfinished responses only."""
OPENED_TAGS = "SCAN anon_1 VIRTUAL TABLE INDEX 1:"
"""Walks through the tags of one item, of which there are few."""

ALLOWED = (BY_PARTIAL_INDEX, OPENED_TAGS)
PAGED = (
    "next_timings",
    "responses_of_session",
    "list_sessions",
    "list_items",
    "list_state_items",
    "list_tagged_state_items",
)
"""These lists grow without bound: a page must not cost a sort of the whole."""


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[Connection]:
    conn = sqlite.connect(tmp_path / "cupola.db", writes=True)
    migrate(conn, tmp_path / "cupola.db")
    yield conn
    sqlite.close(conn)


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_question_scans_a_table(conn: Connection, name: str) -> None:
    """Every statement of the question finds its rows by an index."""
    raw = sqlite.raw(conn)
    asked: list[str] = []
    raw.set_trace_callback(asked.append)
    QUESTIONS[name](conn)
    raw.set_trace_callback(None)
    assert asked
    for statement in asked:
        steps = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}")]
        assert [step for step in steps if step.startswith("SCAN") and step not in ALLOWED] == [], statement
        if name in PAGED:
            assert "USE TEMP B-TREE FOR ORDER BY" not in steps, statement
