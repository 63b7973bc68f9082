"""A platform in a process of its own, and what its clients and engines need: shared by `wire/` and `e2e/`."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from cupola.drivers.base import LABEL_INSTALLATION

CHECKOUT = Path(__file__).parents[2]
CACHE = CHECKOUT / ".cache"


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Platform:
    """A running platform, as a client sees it: the variables of `cupola env`."""

    state: Path
    environment: Mapping[str, str]

    @property
    def endpoint(self) -> str:
        return self.environment["AZURE_AI_PROJECT_ENDPOINT"]


def client_token(platform: Platform) -> str:
    """A token, asked for as `DefaultAzureCredential` does."""
    answer = httpx.get(
        platform.environment["IDENTITY_ENDPOINT"],
        params={"api-version": "2019-08-01", "resource": "https://ai.azure.com"},
        headers={"X-IDENTITY-HEADER": platform.environment["IDENTITY_HEADER"]},
    ).raise_for_status()
    return str(answer.json()["access_token"])


def rest_client(platform: Platform) -> httpx.Client:
    """A plain HTTP client with a token."""
    return httpx.Client(
        base_url=platform.endpoint,
        verify=tls_context(platform),
        headers={"Authorization": f"Bearer {client_token(platform)}"},
        params={"api-version": "v1"},
        timeout=60,
    )


def tls_context(platform: Platform) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=platform.environment["SSL_CERT_FILE"])


# The engine


def engine_complaint() -> str | None:
    """Why image deployments cannot be tested here; None when they can."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    if subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False).returncode != 0:
        return "the container engine does not answer"
    if subprocess.run(["docker", "image", "inspect", base_image()], capture_output=True, check=False).returncode != 0:
        return f"the engine has no image {base_image()} (scripts/test_base_image.sh makes it)"
    return None


def require_engine() -> None:
    """Skips with a reason without an engine, or fails where one was promised."""
    complaint = engine_complaint()
    if complaint is None:
        return
    if os.environ.get("CUPOLA_REQUIRE_ENGINE"):
        pytest.fail(f"An engine is required and {complaint}", pytrace=False)
    pytest.skip(complaint)


def base_image() -> str:
    """An image with python3 in it, that this machine has."""
    return os.environ.get("CUPOLA_TEST_BASE_IMAGE", "cupola-test-base")


def built_image(name: str, folder: Path) -> str:
    """The image of a folder with a Dockerfile, built once per content upon the test base."""
    image = f"cupola-test-{name}:{_content_hash(folder, base_image())}"
    with locked(CACHE / f"{name}.image.lock"):
        present = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
        if present.returncode != 0:
            finish(
                ["docker", "build", "--tag", image, "--build-arg", f"BASE_IMAGE={base_image()}", str(folder)],
                {**os.environ, "DOCKER_BUILDKIT": "0"},
                timeout=600,
            )
    return image


def _content_hash(folder: Path, *more: str) -> str:
    digest = hashlib.sha256("\0".join(more).encode())
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def in_engine(kind: str, installation: str) -> list[str]:
    """The ids of the containers, networks or volumes of an installation, running or not."""
    everything = ["--all"] if kind == "container" else []
    label = f"label={LABEL_INSTALLATION}={installation}"
    command = ["docker", kind, "ls", *everything, "--quiet", "--no-trunc", "--filter", label]
    if kind == "volume":
        command.remove("--no-trunc")
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()


def forget(state: Path) -> None:
    """Removes everything that an installation still has in the engine."""
    if shutil.which("docker") is None or not (state / "id").exists():
        return
    installation = (state / "id").read_text().strip()
    for kind, command in (("container", ["rm", "--force"]), ("network", ["rm"]), ("volume", ["rm"])):
        found = in_engine(kind, installation)
        if found:
            subprocess.run(["docker", kind, *command, *found], capture_output=True, check=False)
