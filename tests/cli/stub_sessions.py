"""The sessions of a stub platform: agent `greeter` with the versions 1 and 2, and a few sessions, kept in memory.

Session `busy` has an open request, `stuck` cannot be stopped, `broken` has failed. Refusals have Foundry's envelope.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Reply = tuple[int, Any]
LONG = "0123456789ab" + "c" * 51
FAILURE = {
    "code": "ReadinessTimeout",
    "message": "The container did not answer.",
    "phase": "probe",
    "log": ["importing", "Traceback: no module named agent"],
    "details": [],
    "exit_code": None,
    "probes": [],
}


def refusal(status: int, code: str, message: str, param: str | None = None) -> Reply:
    return status, {"error": {"code": code, "message": message, "param": param}}


class StubSessions:
    """Answers what `cupola sessions` asks."""

    def __init__(self) -> None:
        now = int(time.time())
        self.sessions: dict[str, dict[str, Any]] = {}
        for number, id in enumerate([LONG, "busy", "stuck", "broken", "thread-1", "thread-2"]):
            self.sessions[id] = session(id, now - 90 * (number + 1))
        self.sessions["broken"] |= {"status": "failed", "error": FAILURE}
        self.snapshots: dict[str, dict[str, Any]] = {}

    def answer(self, method: str, target: str, body: Mapping[str, Any]) -> Reply:
        split = urlsplit(target)
        parts = [unquote(part) for part in split.path.split("/")]
        root, project, rest = parts[1], parts[3], parts[4:]
        if project != "demo":
            return refusal(404, "not_found", f"There is no project '{project}'.")
        if rest == ["sessions:stop"]:
            return 200, self._stop_all(body["agent"])
        if rest[:2] != ["agents", "greeter"]:
            return refusal(404, "not_found", f"Agent '{rest[1]}' does not exist.", "agent_name")
        rest = rest[3:] if root == "api" else rest[2:]
        if rest == ["sessions"]:
            return 200, self._page(list(self.sessions.values()), "agent_session_id", parse_qs(split.query))
        if rest == ["sessions:move"]:
            return 200, {"data": [self._move(id, body, "to") for id in self._on(body.get("from"), body["to"])]}
        return self._of_session(method, rest[1:], body, parse_qs(split.query))

    def _of_session(
        self, method: str, rest: list[str], body: Mapping[str, Any], query: Mapping[str, list[str]]
    ) -> Reply:
        id, _, action = rest[0].partition(":")
        if rest[1:] and rest[1] == "snapshots":
            return self._snapshots(method, id, rest[2:], body, query)
        if id not in self.sessions and not (action == "fork" and body.get("snapshot") in self.snapshots):
            return refusal(404, "not_found", f"Agent 'greeter' has no session '{id}'.")
        if action in ("stop", "kill"):
            self.sessions[id]["status"] = "idle"
            return 204, None
        if action == "move":
            moved = self._move(id, body, "agent_version")
            if moved["outcome"] == "refused" and not body["dry_run"]:
                return refusal(409, "session_not_movable", f"Session '{id}' is not moved: {moved['message']}")
            return 200, moved
        if action in ("restore", "fork"):
            if body.get("snapshot") not in {None, *self.snapshots}:
                return refusal(404, "not_found", f"Session '{id}' has no snapshot '{body['snapshot']}'.")
            if action == "restore":
                return 200, self.sessions[id]
            made = session(body.get("agent_session_id") or "f" * 63, int(time.time()))
            self.sessions[made["agent_session_id"]] = made
            return 201, made
        if method == "DELETE":
            del self.sessions[id]
            if query["keep_snapshots"] == ["false"]:
                self.snapshots = {key: one for key, one in self.snapshots.items() if one["agent_session_id"] != id}
            return 204, None
        return 200, self.sessions[id]

    def _snapshots(
        self, method: str, id: str, rest: list[str], body: Mapping[str, Any], query: Mapping[str, list[str]]
    ) -> Reply:
        mine = [one for one in self.snapshots.values() if one["agent_session_id"] == id]
        if method == "POST":
            made = snapshot(f"snap-{len(self.snapshots) + 1}", id, body.get("note"))
            self.snapshots[made["id"]] = made
            return 201, made
        if method == "DELETE":
            return (204, None) if self.snapshots.pop(rest[0], None) else refusal(404, "not_found", "No such snapshot.")
        if not mine and id not in self.sessions:
            return refusal(404, "not_found", f"Agent 'greeter' has no session '{id}'.")
        return 200, self._page(mine, "id", query)

    def _page(self, items: list[dict[str, Any]], key: str, query: Mapping[str, list[str]]) -> dict[str, Any]:
        """Two to a page: whoever does not walk on misses the rest."""
        ids = [item[key] for item in items]
        begin = ids.index(query["after"][0]) + 1 if "after" in query else 0
        shown = items[begin : begin + 2]
        more = begin + 2 < len(items)
        return {"data": shown, "last_id": shown[-1][key] if more else None, "has_more": more}

    def _on(self, origin: str | None, to: str) -> list[str]:
        versions = {id: one["version_indicator"]["agent_version"] for id, one in self.sessions.items()}
        return [id for id, version in versions.items() if version != to and origin in (None, version)]

    def _move(self, id: str, body: Mapping[str, Any], field: str) -> dict[str, Any]:
        indicator = self.sessions[id]["version_indicator"]
        origin, to, dry_run = indicator["agent_version"], body[field], body["dry_run"]
        moved = {"agent_session_id": id, "from": origin, "to": to}
        if origin == to:
            return {**moved, "outcome": "unchanged", "message": f"It is on version {to} already."}
        if id == "busy" and not body["force"]:
            return {**moved, "outcome": "refused", "message": "It has 1 open request."}
        if not dry_run:
            indicator["agent_version"] = to
        outcome = "would_move" if dry_run else "moved"
        return {**moved, "outcome": outcome, "message": f"The next request starts version {to}."}

    def _stop_all(self, agent: str | None) -> dict[str, Any]:
        if agent not in (None, "greeter"):
            return {"stopped": [], "failed": []}
        stopped = [id for id in self.sessions if id != "stuck"]
        return {"stopped": stopped, "failed": [{"session": "stuck", "message": "The engine does not answer."}]}


def session(id: str, at: int) -> dict[str, Any]:
    return {
        "object": "agent.session",
        "agent_session_id": id,
        "version_indicator": {"type": "version_ref", "agent_version": "1"},
        "status": "active",
        "created_at": at,
        "last_accessed_at": at,
        "expires_at": at + 2_592_000,
        "stopped_at": None,
        "error": None,
    }


def snapshot(id: str, session_id: str, note: str | None) -> dict[str, Any]:
    return {
        "object": "cupola.snapshot",
        "id": id,
        "agent_session_id": session_id,
        "agent_version": "1",
        "status": "ready",
        "size": 1_258_291,
        "note": note,
        "created_at": int(time.time()),
    }
