"""What the wire tests stand on: client environments, one per SDK generation, and a running platform.

The clients run as child processes in virtual environments of their own (`.cache/wire/<generation>` of the
checkout), so that no package of ours is near them; they see the variables of `cupola env` and little else. All
xdist workers share one platform and the environments: whoever comes first makes them, under a file lock.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import served
from tests.support.environments import environment
from tests.support.served import (
    CHECKOUT,
    Platform,
    built_image,
    finish,
    forget,
    free_port,
    locked,
    require_engine,
    rest_client,
)

from .matrix import CELL, Cell, drawn

CACHE = served.CACHE / "wire"
MATRIX = CACHE / "matrix.txt"
CLIENTS = Path(__file__).parent / "clients"
EXAMPLES = CHECKOUT / "examples"

GENERATIONS = ("2.0.0b3", "2.0.1", "2.1.0", "2.2.0", "2.3.0", "2.6.0", "newest")
MODES = ("sync", "async")
SCRIPT_TIMEOUT = 240.0


# Client environments


def interpreter(generation: str) -> Path:
    """The Python of a generation's environment, made at the first call from exact pins with hashes."""
    home = CACHE / f"{generation}-py{sys.version_info.major}.{sys.version_info.minor}"
    return environment(CHECKOUT / "requirements" / f"wire-{generation}.txt", home)


# The platform


def cupola(state: Path, *arguments: str) -> str:
    return finish([sys.executable, "-m", "cupola", *arguments, "--state-dir", str(state)], timeout=90)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all xdist workers of this run have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def platform(shared: Path) -> Iterator[Platform]:
    """One platform for all workers: the first one starts it, the last one stops it."""
    folder = shared / "wire-platform"
    users, lock, state = folder / "users", folder / "lock", folder / "state"
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


@pytest.fixture(scope="session")
def once(shared: Path) -> Callable[[str, Callable[[], str]], str]:
    """Does a thing once for all workers: the first one that needs it, while the others wait for what it returns.

    A failure is kept as well, and raised to each: doing it again would take as long and end the same.
    """

    def do(name: str, thing: Callable[[], str]) -> str:
        result = shared / "once" / f"{name}.json"
        with locked(result.with_suffix(".lock")):
            if not result.exists():
                try:
                    outcome = {"returned": thing()}
                except pytest.fail.Exception as failure:
                    outcome = {"failed": str(failure)}
                result.write_text(json.dumps(outcome))
        outcome = json.loads(result.read_text())
        if "failed" in outcome:
            pytest.fail(outcome["failed"], pytrace=False)
        return str(outcome["returned"])

    return do


@pytest.fixture
def rest(platform: Platform) -> Iterator[httpx.Client]:
    """A plain HTTP client with a token, for what no SDK sends."""
    with rest_client(platform) as client:
        yield client


# Agents to talk to


@pytest.fixture(scope="session")
def example_image() -> Callable[[str], str]:
    """Builds an example's image (once per content) and returns its name; skips without an engine."""
    require_engine()
    return lambda example: built_image(example, EXAMPLES / example / "agent")


# The matrix


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints and keeps which client can do what. The cells ride on the tests' reports, which xdist brings here."""
    cells = [
        Cell(*value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == CELL and report.when == "call"
    ]
    if cells:
        matrix = drawn(cells, GENERATIONS, MODES)
        MATRIX.parent.mkdir(parents=True, exist_ok=True)
        MATRIX.write_text(matrix + "\n")
        terminalreporter.section("operations by SDK generation")
        terminalreporter.write_line(matrix)
        terminalreporter.write_line(f"Also in {MATRIX.relative_to(CHECKOUT)}")
