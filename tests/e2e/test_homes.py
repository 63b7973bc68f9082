"""What a session keeps, through snapshots, restores, forks and moves, as `cupola sessions` does them."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.support.served import finish

from .conftest import MARK, Server, Where, eventually

pytestmark = pytest.mark.e2e

SESSION = "s1"


def sessions(server: Server, *arguments: str) -> Any:
    """What `cupola sessions …` prints as JSON."""
    command = [sys.executable, "-m", "cupola", "sessions", *arguments, "--state-dir", str(server.state), "-o", "json"]
    return json.loads(finish(command))


def calls(server: Server, session: str = SESSION) -> int:
    """How often the session's agent has been asked: it counts in a file of its home."""
    return int(server.invoke("a1", {}, session)["calls"])


def second_version(server: Server, where: Where) -> None:
    protocols = [{"protocol": name, "version": "2.0.0"} for name in ("responses", "invocations")]
    variables = {MARK: server.mark, "RELEASE": "second"}
    definition = {"kind": "hosted", "protocol_versions": protocols, "environment_variables": variables}
    server.rest.post("/agents/a1/versions", **where.upload("a1", definition)).raise_for_status()

    def active() -> bool:
        status = server.rest.get("/agents/a1/versions/2").json()["status"]
        assert status != "failed"
        return bool(status == "active")

    eventually(active, "a second version")


def release(server: Server, session: str = SESSION) -> str | None:
    """Which version answers, by a variable that only the second has."""
    found: str | None = server.invoke("a1", {"look": "environment"}, session)["environment"].get("RELEASE")
    return found


def test_files_through_snapshot_restore_fork_and_moves(server: Server, where: Where) -> None:
    """Whatever is done with it, a session's home holds what it should; afterwards nothing is left."""
    server.start(where)
    server.deploy(where, "a1")
    assert [calls(server), calls(server)] == [1, 2]

    made = sessions(server, "snapshot", "a1", SESSION, "--note", "after two calls")
    assert made["size"] == len("2")
    assert calls(server) == 3
    assert sessions(server, "restore", "a1", SESSION, made["id"])["status"] == "idle"
    assert [calls(server), calls(server)] == [3, 4]
    sessions(server, "fork", "a1", SESSION, "--id", "now")
    sessions(server, "fork", "a1", SESSION, "--id", "then", "--snapshot", made["id"])
    assert [calls(server, "now"), calls(server, "then"), calls(server)] == [5, 3, 5]

    second_version(server, where)
    assert release(server) is None
    moved = sessions(server, "move", "a1", SESSION, "--to", "2")
    assert (moved["outcome"], moved["session"]["version_indicator"]["agent_version"]) == ("moved", "2")
    assert (calls(server), release(server)) == (6, "second")
    server.kill()
    server.start(where)
    assert (calls(server), release(server)) == (7, "second")
    sessions(server, "stop", "a1", "then")
    for one in sessions(server, "move", "a1", "--to", "1"):
        assert one["outcome"] == "moved"
    assert (calls(server), release(server)) == (8, None)
    assert [each["id"] for each in sessions(server, "snapshots", "a1", SESSION)] == [made["id"]]

    server.rest.delete("/agents/a1", params={"force": "true"}).raise_for_status()
    server.terminate()
    assert server.left() == {}
    assert list((server.state / "process" / "homes").glob("*")) == []
