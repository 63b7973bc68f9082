"""SIGKILL and a new start, refused starts, idleness and secrets: the platform as its user runs it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from cupola.installation import Layout
from tests.e2e.installation import Server, agent_image, installation, wait_for
from tests.wire.conftest import free_port

pytestmark = pytest.mark.e2e

KINDS = ["code", pytest.param("image", marks=pytest.mark.engine)]


def image_for(kind: str) -> str | None:
    return agent_image() if kind == "image" else None


@contextmanager
def streaming(server: Server) -> Iterator[str]:
    """A streamed response that has begun, by its id; its caller does not mind how it ends."""
    begun = threading.Event()
    found: list[str] = []

    def listen() -> None:
        body = {"input": "x", "stream": True, "agent_session_id": "streaming"}
        try:
            with server.rest.stream("POST", server.responses, json=body) as reply:
                for line in reply.iter_lines():
                    if '"id": "' in line and not found:
                        found.append(line.split('"id": "')[1].split('"')[0])
                    if "delta" in line:
                        begun.set()
        except httpx.HTTPError:
            return

    thread = threading.Thread(target=listen)
    thread.start()
    assert begun.wait(30)
    yield found[0]
    thread.join(30)


@pytest.mark.parametrize("kind", KINDS)
def test_sigkill_loses_nothing_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    """Amid a creation and a stream: what was finished is there, what ran is adopted, the rest is undone."""
    image = image_for(kind)
    with installation(tmp_path / "state", kind) as server:
        server.settled(server.create(image))
        conversation = server.rest.post("/openai/v1/conversations", json={}).json()["id"]
        server.tell("touch kept", conversation=conversation)
        finished = server.rest.post(server.responses, json={"input": "who", "conversation": conversation}).json()
        before = server.tell("who", conversation=conversation)
        with streaming(server) as unfinished:
            half_made = server.create(image, SLOW_START="5")
            wait_for(lambda: server.version(half_made).get("provisioning", {}).get("phase") == "probe", "it is probed")
            running = server.sandboxes()
            server.kill()
        assert server.sandboxes() == running
        server.up()
        assert server.version("1")["status"] == "active"
        assert server.rest.get(f"{server.responses}/{finished['id']}").json()["status"] == "completed"
        assert server.tell("who", conversation=conversation) == before
        assert before["files"].count("kept") == 1
        lost = server.rest.get(f"{server.responses}/{unfinished}").json()
        assert lost["status"] == "failed"
        assert "restarted" in lost["error"]["message"]
        server.settled(half_made)
        after = server.sandboxes()
        assert len(after) == len(running) == 3
        assert len(after & running) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_idle_sandboxes_stop_and_come_back_with_their_home(tmp_path: Path, kind: str) -> None:
    """With a short time-out: nothing runs, and the next request finds its files."""
    image = image_for(kind)
    with installation(tmp_path / "state", kind, CUPOLA_IDLE_TIMEOUT="1") as server:
        server.settled(server.create(image))
        server.tell("touch kept", agent_session_id="s")
        first = server.tell("who", agent_session_id="s")
        wait_for(lambda: not server.sandboxes(), "everything rests")
        second = server.tell("who", agent_session_id="s")
        assert second["nonce"] != first["nonce"]
        assert "kept" in second["files"]


def test_secrets_of_a_definition_stand_in_no_log(tmp_path: Path) -> None:
    """Neither when all goes well nor when the start fails."""
    with installation(tmp_path / "state", CUPOLA_LOG_LEVEL="debug", CUPOLA_READY_TIMEOUT="2") as server:
        server.settled(server.create(MY_SETTING="hunter2-quiet"))
        server.tell("who")
        failing = server.create(MY_SETTING="hunter2-quiet", SLOW_START="60")
        wait_for(lambda: server.version(failing)["status"] == "failed", "it fails")
    assert "hunter2-quiet" not in server.log.read_text()


# Starts that are refused


def refused(state: Path, port: int | None = None) -> str:
    """The one sentence of a start that cannot be; it ends with code 3."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cupola", "up", "--driver", "process"),
            *("--state-dir", str(state), "--port", str(port or free_port())),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_taken_port_and_a_second_platform(tmp_path: Path) -> None:
    """Each is named, with what to do; the first goes on."""
    with installation(tmp_path / "state") as server:
        assert "--port" in refused(tmp_path / "other", server.port)
        again = refused(tmp_path / "state")
        assert "already runs" in again
        assert str(server.port) in again
        assert server.rest.get("/agents").status_code == 200


def test_a_damaged_database(tmp_path: Path) -> None:
    """It is named; nothing is overwritten."""
    state = tmp_path / "state"
    with installation(state):
        pass
    database = Layout(state).database
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    damaged = b"this is no database " * 500
    database.write_bytes(damaged)
    assert str(database) in refused(state)
    assert database.read_bytes() == damaged


@contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """A small file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(tmp_path: Path) -> None:
    """The sentence says that there is no room."""
    with mounted(tmp_path / "small", "size=64k") as place:
        assert "full disk" in refused(place / "state")


def test_a_read_only_directory(tmp_path: Path) -> None:
    """The sentence says that it cannot be written."""
    with mounted(tmp_path / "fixed", "ro,size=1m") as place:
        assert "cannot be written" in refused(place / "state")
        assert "cannot be written" in refused(place)
