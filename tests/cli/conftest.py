"""The commands as a shell runs them, and a stub of the platform for them to speak with."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from cupola.cli.up import launch

CLEARED = (
    "AZURE_AI_PROJECT_ENDPOINT", "FOUNDRY_PROJECT_ENDPOINT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE",
    "CUPOLA_STATE_DIR", "CUPOLA_PROJECT", "CUPOLA_PORT", "http_proxy", "https_proxy", "all_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY",
)  # fmt: skip


class Command(Protocol):
    """Runs `cupola` with arguments and further variables."""

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]: ...


def stub(behaviour: str, state_dir: Path) -> list[str]:
    return [sys.executable, "-m", "tests.cli.stub_platform", behaviour, str(state_dir)]


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in CLEARED} | {"TERM": "dumb"}


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def cupola(state_dir: Path) -> Command:
    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = clean_environment() | {"CUPOLA_STATE_DIR": str(state_dir)} | variables
        return subprocess.run(
            [sys.executable, "-m", "cupola", *arguments],
            capture_output=True, text=True, env=environment, timeout=60, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return run


@pytest.fixture
def platform(state_dir: Path) -> Iterator[int]:
    """The pid of a stub platform that runs with `state_dir`."""
    pid = launch(stub("serves", state_dir), state_dir).pid
    yield pid
    end(pid)


def end(pid: int) -> None:
    """Ends and reaps a process of ours, also when it has ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
