"""The whole platform: at rest, at a session's first request, and on the path that every request takes."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import psutil

from benchmarks.gateway import compared
from benchmarks.installation import CODE, Platform, agent_of, deploy, first_answer, start_platform, undeploy
from benchmarks.measure import await_quiet
from benchmarks.report import Goal, skipped
from benchmarks.servers import free_port, make_certificates, running

IMAGE = "cupola-bench-echo"
BASE = os.environ.get("BENCH_BASE_IMAGE", "cupola-test-base")
REST_MIB, COLD_MS = 120.0, 100.0
COLD_TIMES = 7


def platform_goals(directory: Path) -> Iterator[Goal]:
    with start_platform(directory) as platform:
        yield _at_rest(platform)
        image = _build() if platform.driver == "docker" else None
        if platform.driver == "docker" and image is None:
            yield skipped("gateway", f"no image {BASE} to build the agent on; name one in BENCH_BASE_IMAGE")
            return
        deploy(platform, image)
        try:
            yield _cold(platform, image)
            yield from _warm(platform, directory)
        finally:
            undeploy(platform)


def _warm(platform: Platform, directory: Path) -> Iterator[Goal]:
    session = f"bench-{uuid.uuid4().hex}"
    with platform.client() as client:
        first_answer(platform, client, session)
    agent = agent_of(platform, session)
    if agent is None:
        yield skipped("gateway", "the sandbox cannot be reached directly from here")
        return
    yield from compared(platform.target(session), agent, make_certificates(directory), directory)


def _at_rest(platform: Platform) -> Goal:
    await_quiet()
    mib = psutil.Process(platform.pid).memory_info().rss / 2**20
    return Goal("platform at rest, MiB", mib, None, f"≤ {REST_MIB:g}", mib <= REST_MIB, f"driver {platform.driver}")


def _cold(platform: Platform, image: str | None) -> Goal:
    """The bare start is the same image or code, until its first 200; the two take turns."""
    ours, bare = [], []
    with platform.client() as client:
        for _ in range(COLD_TIMES):
            await_quiet(3)
            ours.append(first_answer(platform, client, f"cold-{uuid.uuid4().hex}"))
            await_quiet(3)
            bare.append(_bare_container(image) if image else _bare_process())
    mine, other = (statistics.median(taken) * 1000 for taken in (ours, bare))
    note = f"bare: {'docker run' if image else 'a child process'} until its first 200; median of {COLD_TIMES}"
    return Goal(
        "first answer of a new session, ms", mine, other, f"≤ bare + {COLD_MS:g}", mine <= other + COLD_MS, note
    )


def _bare_container(image: str) -> float:
    port = free_port()
    began = time.perf_counter()
    command = ["docker", "run", "-d", "--rm", "-p", f"127.0.0.1:{port}:8088", image]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        _await_answer(port)
        return time.perf_counter() - began
    finally:
        subprocess.run(["docker", "rm", "-f", name], check=False, capture_output=True)


def _bare_process() -> float:
    port = free_port()
    began = time.perf_counter()
    with running(["python3", str(CODE)], port, {"PORT": str(port), "HOST": "127.0.0.1"}):
        _await_answer(port)
        return time.perf_counter() - began


def _await_answer(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readiness", timeout=5):
                return
        except (urllib.error.URLError, HTTPException, OSError):
            time.sleep(0.002)
    raise SystemExit("The agent, started by itself, does not answer.")


def _build() -> str | None:
    """The agent's image; None without an engine's command or a base to build it on."""
    if shutil.which("docker") is None:
        return None
    command = ["docker", "build", "-q", "-t", IMAGE, "--build-arg", f"BASE={BASE}", str(CODE.parent)]
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "DOCKER_BUILDKIT": "0"})
    return IMAGE if done.returncode == 0 else None
