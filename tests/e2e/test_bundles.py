"""A debug bundle of a real session, and the session once more from it, by the commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import AsCode, Server, responses_of

pytestmark = pytest.mark.e2e

SECRET = "correct horse battery staple"


def cupola(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cupola", *arguments, "--state-dir", str(server.state)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env={**os.environ})


def test_a_session_is_bundled_and_replayed(server: Server, tmp_path: Path) -> None:
    """Whoever has the bundle sees what happened, without the secret, and sees it happen again."""
    where = AsCode()
    server.start(where)
    server.deploy(where, "a1", API_SECRET=SECRET)
    server.deploy(where, "a2")
    base = responses_of("a1").removesuffix("/responses")
    conversation = server.rest.post(f"{base}/conversations", json={}).json()["id"]
    for text in ("one", "two"):
        asked = {"input": text, "conversation": conversation, "agent_session_id": "s1"}
        assert server.rest.post(f"{base}/responses", json=asked).json()["status"] == "completed"
    told = server.invoke("a1", {"look": "environment"}, "s1")["environment"]
    assert told["API_SECRET"] == SECRET

    bundle = tmp_path / "s1.zip"
    written = cupola(server, "debug-bundle", "a1", "s1", "--out", str(bundle))
    assert written.returncode == 0, written.stderr
    with zipfile.ZipFile(bundle) as archive:
        whole = b"\n".join(archive.read(name) for name in archive.namelist()).decode()
        (file,) = json.loads(archive.read("files.json"))["entries"]
    assert file["path"] == "count"
    for secret in (SECRET, told["IDENTITY_HEADER"], told["IDENTITY_HEADER"].partition(".")[2]):
        assert secret not in whole

    for agent in ("a1", "a2"):
        replayed = cupola(server, "replay", str(bundle), "--agent", agent, "--output", "json")
        assert replayed.returncode == 0, replayed.stderr
        shown = json.loads(replayed.stdout)
        assert (shown["same"], shown["agent"], shown["left_out"]) == (True, agent, {"invocations": 1})
        assert shown["session"] != "s1"
        # It counts from the beginning again, in a home of its own, and only its boot is another.
        for was, turn in enumerate(shown["turns"], 1):
            then, now = (json.loads(turn[when]["text"]) for when in ("was", "now"))
            assert (then["calls"], now["calls"]) == (was, was)
            assert then["boot"] != now["boot"]
            assert len(turn["differences"]) == 2
            assert turn["now"]["response_begin_ms"] >= 0
        assert shown["turns"][1]["now"]["start_type"] == "warm"

    missing = cupola(server, "replay", str(bundle), "--agent", "nobody")
    assert missing.returncode == 5
    assert "'nobody' does not exist" in missing.stderr
    assert "create_version_from_code" in missing.stderr


def test_statistics_of_real_requests(server: Server) -> None:
    """Cold, warm and resumed requests, each with its parts."""
    where = AsCode()
    server.start(where)
    server.deploy(where, "a1", READY_AFTER="0.3")
    for _ in range(2):
        server.invoke("a1", {}, "s1")
    assert server.rest.post("/agents/a1/endpoint/sessions/s1:stop").status_code == 204
    server.invoke("a1", {}, "s1")
    shown = json.loads(cupola(server, "stats", "a1", "--output", "json").stdout)
    assert [(one["start_type"], one["count"], one["errors"]) for one in shown["starts"]] == [
        ("cold", 1, 0), ("resume", 1, 0), ("warm", 1, 0),
    ]  # fmt: skip
    cold, _, warm = shown["starts"]
    assert cold["container_readiness_ms"]["p50"] >= 200  # the agent itself takes that long
    assert warm["container_readiness_ms"]["p50"] == 0
    assert "a1, the last 24h: 3 requests, 0 errors." in cupola(server, "stats", "a1").stdout
