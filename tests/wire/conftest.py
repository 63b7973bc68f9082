"""What the wire tests stand on: client environments, one per SDK generation, and a running platform.

The clients run as child processes in virtual environments of their own (`.cache/wire/<generation>` of the
checkout), so that no package of ours is near them; they see the variables of `cupola env` and little else. All
xdist workers share one platform and the environments: whoever comes first makes them, under a file lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

CHECKOUT = Path(__file__).parents[2]
CACHE = CHECKOUT / ".cache" / "wire"
CLIENTS = Path(__file__).parent / "clients"
EXAMPLES = CHECKOUT / "examples"

GENERATIONS = ("2.0.0b3", "newest")
SCRIPT_TIMEOUT = 240.0


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds `path` as a lock among all processes of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def finish(command: Sequence[str], environment: Mapping[str, str] | None = None, timeout: float = 300) -> str:
    """Runs a command to its end and returns what it printed; a failure shows everything it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    if done.returncode != 0:
        pytest.fail(
            f"{' '.join(command)} ended with {done.returncode}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}",
            pytrace=False,
        )
    return done.stdout


# Client environments


def interpreter(generation: str) -> Path:
    """The Python of a generation's environment, made at the first call from exact pins with hashes."""
    pins = CHECKOUT / "requirements" / f"wire-{generation}.txt"
    home = CACHE / f"{generation}-py{sys.version_info.major}.{sys.version_info.minor}"
    stamp = home / "pins.sha256"
    wanted = hashlib.sha256(pins.read_bytes()).hexdigest()
    python = home / "bin" / "python"
    with locked(CACHE / f"{generation}.lock"):
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(home, ignore_errors=True)
            finish([sys.executable, "-m", "venv", str(home)])
            finish([str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(pins)])
            stamp.write_text(wanted)
    return python


# The platform


@dataclass(frozen=True, slots=True)
class Platform:
    """A running platform, as a client sees it: the variables of `cupola env`."""

    state: Path
    environment: Mapping[str, str]

    @property
    def endpoint(self) -> str:
        return self.environment["AZURE_AI_PROJECT_ENDPOINT"]


def cupola(state: Path, *arguments: str) -> str:
    return finish([sys.executable, "-m", "cupola", *arguments, "--state-dir", str(state)], timeout=90)


def forget(state: Path) -> None:
    """Removes the network and homes that an installation keeps in the engine for its next start."""
    if shutil.which("docker") is None or not (state / "id").exists():
        return
    label = f"label=cupola.installation={(state / 'id').read_text().strip()}"
    for kind in ("network", "volume"):
        names = subprocess.run(
            ["docker", kind, "ls", "--quiet", "--filter", label], capture_output=True, text=True, check=False
        ).stdout.split()
        if names:
            subprocess.run(["docker", kind, "rm", *names], capture_output=True, check=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One platform for all workers: the first one starts it, the last one stops it."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "wire-platform"
    users, lock, state = shared / "users", shared / "lock", shared / "state"
    with locked(lock):
        count = int(users.read_text()) if users.exists() else 0
        if count == 0:
            cupola(state, "up", "--detach", "--port", str(free_port()))
        users.write_text(str(count + 1))
    try:
        yield Platform(state, json.loads(cupola(state, "env", "--format", "json")))
    finally:
        with locked(lock):
            count = int(users.read_text()) - 1
            users.write_text(str(count))
            if count == 0:
                cupola(state, "down")
                forget(state)


RunScript = Callable[..., str]
RunClient = Callable[..., Any]


@pytest.fixture(scope="session")
def run_script(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> RunScript:
    """Runs any script in a generation's environment and returns what it printed.

    The script sees a home of its own, the variables of `cupola env`, and what it is given by keyword.
    """
    home = tmp_path_factory.mktemp("client-home")
    seen = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **platform.environment}

    def run(generation: str, script: Path, *arguments: str, **extra: str) -> str:
        command = [str(interpreter(generation)), str(script), *arguments]
        return finish(command, {**seen, **extra}, SCRIPT_TIMEOUT)

    return run


@pytest.fixture(scope="session")
def run_client(run_script: RunScript) -> RunClient:
    """Runs `clients/<name>.py` and returns the JSON on its last line."""

    def run(generation: str, mode: str, name: str, *arguments: str) -> Any:
        printed = run_script(generation, CLIENTS / f"{name}.py", generation, mode, *arguments)
        return json.loads(printed.splitlines()[-1])

    return run


@pytest.fixture
def rest(platform: Platform) -> Iterator[httpx.Client]:
    """A plain HTTP client with a token, for what no SDK sends."""
    with rest_client(platform) as client:
        yield client


def rest_client(platform: Platform) -> httpx.Client:
    token = httpx.get(
        platform.environment["IDENTITY_ENDPOINT"],
        params={"api-version": "2019-08-01", "resource": "https://ai.azure.com"},
        headers={"X-IDENTITY-HEADER": platform.environment["IDENTITY_HEADER"]},
    ).raise_for_status()
    return httpx.Client(
        base_url=platform.endpoint,
        verify=tls_context(platform),
        headers={"Authorization": f"Bearer {token.json()['access_token']}"},
        params={"api-version": "v1"},
        timeout=60,
    )


def tls_context(platform: Platform) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=platform.environment["SSL_CERT_FILE"])


# Agents to talk to


def content_hash(folder: Path, *more: str) -> str:
    digest = hashlib.sha256("\0".join(more).encode())
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def engine_complaint() -> str | None:
    """Why image deployments cannot be tested here; None when they can."""
    if "CUPOLA_TEST_BASE_IMAGE" not in os.environ:
        return "CUPOLA_TEST_BASE_IMAGE names no base image (scripts/test_base_image.sh makes one)"
    if shutil.which("docker") is None:
        return "there is no docker command"
    answer = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    return None if answer.returncode == 0 else "the container engine does not answer"


@pytest.fixture(scope="session")
def example_image() -> Callable[[str], str]:
    """Builds an example's image (once per content) and returns its name; skips without an engine."""
    complaint = engine_complaint()
    if complaint is not None:
        if os.environ.get("CUPOLA_REQUIRE_ENGINE"):
            pytest.fail(f"An engine is required and {complaint}", pytrace=False)
        pytest.skip(complaint)
    base = os.environ["CUPOLA_TEST_BASE_IMAGE"]

    def build(example: str) -> str:
        folder = EXAMPLES / example / "agent"
        image = f"cupola-test-{example}:{content_hash(folder, base)}"
        with locked(CACHE / f"{example}.image.lock"):
            present = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
            if present.returncode != 0:
                argument = f"BASE_IMAGE={base}"
                finish(
                    ["docker", "build", "--tag", image, "--build-arg", argument, str(folder)],
                    {**os.environ, "DOCKER_BUILDKIT": "0"},
                    timeout=600,
                )
        return image

    return build
