"""What the end-to-end tests stand on: `cupola up` in a process that may be killed, and agents on it.

Nothing of the platform is imported to run or ask it: what is seen is what clients, the engine and the machine see.
Every agent carries a variable by which the processes of its sandboxes are found, whoever started them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import httpx
import psutil
import pytest

from tests.support.multipart import upload
from tests.support.processes import marked
from tests.support.served import (
    Platform,
    built_image,
    finish,
    forget,
    free_port,
    in_engine,
    require_engine,
    rest_client,
)

T = TypeVar("T")

AGENT = Path(__file__).parent / "agent"
MARK = "E2E_MARK"
PATIENCE = 30.0


def eventually(look: Callable[[], T | None], what: str, patience: float = PATIENCE) -> T:
    """What `look` finds as soon as it is there."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"after {patience:g} s there is still not: {what}")


def responses_of(agent: str) -> str:
    return f"/agents/{agent}/endpoint/protocols/openai/v1/responses"


class Where(Protocol):
    """A place where sandboxes run."""

    driver: str

    def upload(self, agent: str, definition: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the call that creates `agent`."""

    def running(self, server: Server) -> frozenset[str]:
        """What runs there for a server, one name per sandbox."""

    def kill(self, sandbox: str) -> None:
        """Ends a sandbox behind the platform's back."""


class AsCode:
    """Agents as child processes."""

    driver = "process"

    def upload(self, agent: str, definition: Mapping[str, Any]) -> dict[str, Any]:
        return upload(agent, definition, (AGENT / "main.py").read_text())

    def running(self, server: Server) -> frozenset[str]:
        first: dict[str, psutil.Process] = {}
        for process, environment in marked(MARK, server.mark):
            sandbox = environment["FOUNDRY_AGENT_SESSION_ID"]
            first[sandbox] = min(first.get(sandbox, process), process, key=lambda one: (one.create_time(), one.pid))
        return frozenset(f"{process.pid} {sandbox}" for sandbox, process in first.items())

    def kill(self, sandbox: str) -> None:
        os.kill(int(sandbox.partition(" ")[0]), signal.SIGKILL)


class AsImage:
    """Agents as containers."""

    driver = "docker"

    def upload(self, agent: str, definition: Mapping[str, Any]) -> dict[str, Any]:
        return {"json": {"name": agent, "definition": {**definition, "image": built_image("e2e", AGENT)}}}

    def running(self, server: Server) -> frozenset[str]:
        return frozenset(in_engine("container", server.installation))

    def kill(self, sandbox: str) -> None:
        finish(["docker", "kill", sandbox])


def control_groups(installation: str) -> list[str]:
    """The control groups of an installation's sandboxes."""
    command = ["find", "/sys/fs/cgroup", "-type", "d", "-name", f"cupola-{installation}-*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()


class Server:
    """`cupola up` in the foreground of a process of ours, with one state directory and port over all its starts."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.log = directory / "log"
        self.port = free_port()
        self.mark = uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None
        self._platform: Platform | None = None
        self._rest: httpx.Client | None = None

    @property
    def installation(self) -> str:
        return (self.state / "id").read_text().strip()

    @property
    def rest(self) -> httpx.Client:
        """A client with a token, for the project."""
        assert self._rest is not None
        return self._rest

    @property
    def platform(self) -> Platform:
        assert self._platform is not None
        return self._platform

    def start(self, where: Where, **settings: str) -> None:
        """Returns when it serves. `settings` are `CUPOLA_` variables."""
        command = [sys.executable, "-m", "cupola", "up", "--state-dir", str(self.state), "--port", str(self.port)]
        chosen = {"CUPOLA_DRIVER": where.driver, **settings}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **chosen}
            )
        eventually(self._serves, "a platform that serves")
        variables = finish([sys.executable, "-m", "cupola", "env", "--format", "json", "--state-dir", str(self.state)])
        self._platform = Platform(self.state, json.loads(variables))
        self._rest = rest_client(self.platform)

    def _serves(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError, ValueError):
            return bool(json.loads((self.state / "running.json").read_bytes())["pid"] == self._process.pid)
        return False

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """As `cupola down` does."""
        assert self._end(signal.SIGTERM) == 0, self.log.read_text()

    def _end(self, signum: int) -> int:
        assert self._process is not None
        self._process.send_signal(signum)
        if self._rest is not None:
            self._rest.close()
        return self._process.wait(PATIENCE)

    def remove(self) -> None:
        """Leaves nothing behind, whatever state it is in."""
        if self._rest is not None:
            self._rest.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
        forget(self.state)
        left = [process for process, _ in marked(MARK, self.mark)]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, PATIENCE)
        if (self.state / "id").exists():
            eventually(self._has_no_groups, "an end of the control groups")

    def _has_no_groups(self) -> bool:
        for group in control_groups(self.installation):
            with contextlib.suppress(OSError):  # the kernel is not done with its processes
                Path(group).rmdir()
        return not control_groups(self.installation)

    # Agents

    def create(self, where: Where, agent: str, **environment: str) -> None:
        protocols = [{"protocol": name, "version": "2.0.0"} for name in ("responses", "invocations")]
        variables = {**environment, MARK: self.mark}
        definition = {"kind": "hosted", "protocol_versions": protocols, "environment_variables": variables}
        created = self.rest.post("/agents", **where.upload(agent, definition))
        assert created.status_code in (200, 201), created.text

    def deploy(self, where: Where, agent: str, **environment: str) -> None:
        """Creates an agent and waits until its version is active."""
        self.create(where, agent, **environment)
        version = self.settled(agent)
        assert version["status"] == "active", json.dumps(version, indent=2)

    def version(self, agent: str) -> dict[str, Any]:
        found: dict[str, Any] = self.rest.get(f"/agents/{agent}/versions/1").raise_for_status().json()
        return found

    def settled(self, agent: str) -> dict[str, Any]:
        """The version when it is not being made any more."""

        def look() -> dict[str, Any] | None:
            version = self.version(agent)
            return version if version["status"] != "creating" else None

        return eventually(look, f"an end of the making of {agent}")

    def invoke(self, agent: str, asked: Mapping[str, Any], session: str | None = None) -> dict[str, Any]:
        """What the agent says; without a session it is one of its own, in the sandbox that is warm."""
        chosen = {} if session is None else {"agent_session_id": session}
        answer = self.rest.post(f"/agents/{agent}/endpoint/protocols/invocations", json=asked, params=chosen)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    @contextlib.contextmanager
    def streaming(self, agent: str, seconds: float, session: str, **fields: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of a response that takes that long."""
        body = {"input": str(seconds), "stream": True, "agent_session_id": session, **fields}
        with self.rest.stream("POST", responses_of(agent), json=body) as reply:
            assert reply.status_code == 200
            yield (json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: "))

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.rest.get(f"https://localhost:{self.port}/cupola/status").raise_for_status().json()
        return found

    def left(self) -> dict[str, list[str]]:
        """What is there of this installation outside its state directory."""
        found = {kind: in_engine(kind, self.installation) for kind in ("container", "network", "volume")}
        found["control group"] = control_groups(self.installation)
        found["process"] = [" ".join(process.cmdline()) for process, _ in marked(MARK, self.mark)]
        return {kind: names for kind, names in found.items() if names}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A platform that is not started yet."""
    server = Server(tmp_path)
    yield server
    server.remove()


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.engine)])
def where(request: pytest.FixtureRequest) -> Where:
    """Each place where sandboxes run."""
    if request.param == "process":
        return AsCode()
    require_engine()
    return AsImage()


@pytest.fixture
def as_image() -> Where:
    require_engine()
    return AsImage()
