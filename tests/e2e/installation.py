"""An installation as its user has it: `cupola up` in a process, a client over https, and what it left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cupola.installation import read_running
from tests.support.multipart import as_azd, code_zip, encoded
from tests.wire.conftest import (
    CACHE,
    Platform,
    content_hash,
    cupola,
    engine_complaint,
    finish,
    forget,
    free_port,
    locked,
    rest_client,
)

AGENT = Path(__file__).with_name("agent.py")
DEADLINE = 60.0


def wait_for(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """What `condition` returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)
    return found


class Server:
    """One installation. `kind` says how its agent is deployed: `code` or `image`."""

    def __init__(self, state: Path, kind: str = "code", **variables: str) -> None:
        self.state = state
        self.kind = kind
        self.agent = "e2e-" + uuid.uuid4().hex[:12]
        self.log = state.parent / f"{state.name}.log"
        self.port = free_port()
        self._variables = {"CUPOLA_CACHE_DIR": str(state.parent / "cache"), "CUPOLA_STOP_GRACE": "2", **variables}
        self._process: subprocess.Popen[bytes] | None = None
        self.rest = httpx.Client()

    def up(self) -> None:
        """Starts it and returns when it serves."""
        arguments = ["up", "--port", str(self.port), "--state-dir", str(self.state)]
        if self.kind == "code":
            arguments += ["--driver", "process"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cupola", *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, **self._variables},
            )
        process = self._process

        def serves() -> bool:
            assert process.poll() is None, self.log.read_text()
            running = read_running(self.state)
            return running is not None and running.pid == process.pid

        wait_for(serves, "the platform serves")
        self.rest.close()
        self.platform = Platform(self.state, json.loads(cupola(self.state, "env", "--format", "json")))
        self.rest = rest_client(self.platform)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """`cupola down`, and nothing stays in the engine."""
        self.rest.close()
        if self._process is not None:
            if self._process.poll() is None:
                cupola(self.state, "down")
            self._process.wait()
        forget(self.state)

    @property
    def base(self) -> str:
        return f"/agents/{self.agent}"

    def create(self, image: str | None = None, **environment: str) -> str:
        """A new version's number; it may still be in the making."""
        common = {
            "kind": "hosted",
            "cpu": "0.5",
            "memory": "1Gi",
            "protocol_versions": [{"protocol": "responses", "version": "2.0.0"}],
            "environment_variables": environment,
        }
        if image is not None:
            definition: dict[str, Any] = {**common, "container_configuration": {"image": image}}
            made = self.rest.post(f"{self.base}/versions", json={"definition": definition})
        else:
            runtime = f"python_{sys.version_info.major}_{sys.version_info.minor}"
            code = {"runtime": runtime, "entry_point": ["main.py"]}
            made = self._upload({**common, "code_configuration": code})
        assert made.status_code == 200, made.text
        return str(made.json()["version"])

    def _upload(self, definition: Mapping[str, Any]) -> httpx.Response:
        parts = as_azd(code_zip({"main.py": AGENT.read_text()}))
        described = [
            part if part.name == "code" else type(part)("metadata", json.dumps({"definition": definition}).encode())
            for part in parts
        ]
        upload = encoded(described)
        return self.rest.post(f"{self.base}/versions", content=upload["raw"], headers=upload["headers"])

    def version(self, number: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.rest.get(f"{self.base}/versions/{number}").raise_for_status().json()
        return shown

    def settled(self, number: str) -> dict[str, Any]:
        """The version when it is made, which must have worked."""

        def made() -> dict[str, Any] | None:
            shown = self.version(number)
            return None if shown["status"] == "creating" else shown

        shown: dict[str, Any] = wait_for(made, f"version {number} is made")
        assert shown["status"] == "active", json.dumps(shown, indent=2)
        return shown

    @property
    def responses(self) -> str:
        return f"{self.base}/endpoint/protocols/openai/v1/responses"

    def tell(self, command: str, **fields: Any) -> Any:
        """What the agent says to a command."""
        reply = self.rest.post(self.responses, json={"input": command, **fields})
        assert reply.status_code == 200, reply.text
        return json.loads(reply.json()["output"][0]["content"][0]["text"])

    def sandboxes(self) -> set[str]:
        """What runs of this installation's agent: ids of containers, or of sandboxes of processes."""
        if self.kind == "image":
            return set(self._docker("ps", "--all", "--quiet", "--no-trunc").split())
        found = set()
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                zombie = process.status() == psutil.STATUS_ZOMBIE
            except psutil.Error:
                continue
            if environment.get("FOUNDRY_AGENT_NAME") == self.agent and not zombie:
                found.add(environment["IDENTITY_HEADER"].partition(".")[0])
        return found

    def _docker(self, *command: str) -> str:
        label = f"label=cupola.installation={(self.state / 'id').read_text().strip()}"
        return finish(["docker", *command, "--filter", label], timeout=30)


@contextmanager
def installation(state: Path, kind: str = "code", **variables: str) -> Iterator[Server]:
    """A serving installation; at the end it is taken down, and nothing of it runs any more."""
    server = Server(state, kind, **variables)
    try:
        server.up()
        yield server
    finally:
        server.close()
    assert server.sandboxes() == set()


def agent_image() -> str:
    """The image of the agent, built once per content; skips without an engine."""
    complaint = engine_complaint()
    if complaint is not None:
        if os.environ.get("CUPOLA_REQUIRE_ENGINE"):
            pytest.fail(f"An engine is required and {complaint}", pytrace=False)
        pytest.skip(complaint)
    base = os.environ["CUPOLA_TEST_BASE_IMAGE"]
    image = f"cupola-test-e2e:{content_hash(AGENT.parent, base)}"
    with locked(CACHE / "e2e.image.lock"):
        present = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
        if present.returncode != 0:
            context = CACHE / "e2e.image"
            context.mkdir(parents=True, exist_ok=True)
            shutil.copy(AGENT, context / "main.py")
            (context / "Dockerfile").write_text(f'FROM {base}\nCOPY main.py /main.py\nCMD ["python3", "/main.py"]\n')
            built = {**os.environ, "DOCKER_BUILDKIT": "0"}
            finish(["docker", "build", "--tag", image, str(context)], built, timeout=600)
    return image
