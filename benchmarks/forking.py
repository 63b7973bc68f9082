"""A forked start beside an ordinary one: the official adapter's echo agent, from the driver's start to its first 200.

Both run in the process driver as it is here, with box and limits; they take turns. Memory is what a sandbox adds.
"""

from __future__ import annotations

import asyncio
import io
import statistics
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import psutil

from benchmarks.report import Goal, print_table, skipped
from cupola.drivers.base import LABEL_INSTALLATION, CodeSource, SandboxSpec
from cupola.drivers.fork_server import FORK
from cupola.drivers.process import ProcessDriver
from cupola.errors import StartFailed
from cupola.sandboxes.build import build
from cupola.sandboxes.environment import PERSONAL
from cupola.sandboxes.probe import probe_until_ready

ROUNDS = 7
INSTALLATION = f"bench-{uuid.uuid4().hex[:12]}"
GIB = 1 << 30
AT_MOST = 0.25
"""Of an ordinary start. No promise to anyone: a bound well above the figures (0.05), so that a fork which imports
something again stands out."""

REQUIREMENTS = "azure-ai-agentserver-responses==2.3.0\n"
AGENT = """
from azure.ai.agentserver.responses import ResponsesAgentServerHost, TextResponse

app = ResponsesAgentServerHost()

@app.response_handler
async def answer(request, context, cancelled):
    return TextResponse(context, request, text=await context.get_input_text())

app.run()
"""


def forking_goals(directory: Path) -> Iterator[Goal]:
    """Skipped where nothing is forked: not Linux, or no namespaces."""
    try:
        source = asyncio.run(_built(directory))
    except StartFailed as error:
        yield skipped("forked start", f"the adapter could not be installed: {error.message}")
        return
    yield from asyncio.run(_compare(directory, source))


async def _built(directory: Path) -> CodeSource:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("main.py", AGENT)
        archive.writestr("requirements.txt", REQUIREMENTS)
    package = directory / "agent.zip"
    package.write_bytes(packed.getvalue())
    built = await build(
        package,
        sha256=uuid.uuid4().hex,
        runtime=f"python_{sys.version_info.major}_{sys.version_info.minor}",
        entry_point=["python", "main.py"],
        dependency_resolution="remote_build",
        builds=directory / "builds",
        environments=platformdirs.user_cache_path("cupola") / "environments",
        report=lambda line: None,
    )
    return built.source


async def _compare(directory: Path, source: CodeSource) -> list[Goal]:
    (directory / "ca.pem").write_text("")
    driver = ProcessDriver(directory / "fork-state", INSTALLATION)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    mebibytes: dict[bool, list[float]] = {True: [], False: []}
    try:
        warning = await _once(driver, _spec(directory, source, forked=True), [], [])
        if warning is not None:
            return [skipped("forked start", warning)]
        for _ in range(ROUNDS):
            for forked in (True, False):
                await _once(driver, _spec(directory, source, forked=forked), seconds[forked], mebibytes[forked])
    finally:
        await driver.aclose()
    fork, fresh = (statistics.median(seconds[forked]) * 1000 for forked in (True, False))
    small, big = (statistics.median(mebibytes[forked]) for forked in (True, False))
    boxed = "boxed" if (await driver.surroundings()).bubblewrap is not None else "not boxed"
    note = f"ordinary: the same agent, {boxed}; until the first 200, median of {ROUNDS}"
    return [
        Goal("forked start, ms", fork, fresh, f"≤ {AT_MOST} of an ordinary one", fork <= AT_MOST * fresh, note),
        Goal("forked sandbox, MiB of its own", small, big, "≤ an ordinary one", small <= big, "unique set size"),
    ]


def _spec(directory: Path, source: CodeSource, *, forked: bool) -> SandboxSpec:
    sandbox = uuid.uuid4().hex
    environment = {
        "FOUNDRY_HOSTING_ENVIRONMENT": "cupola",
        "FOUNDRY_PROJECT_ENDPOINT": "https://127.0.0.1:9/api/projects/bench",
        "FOUNDRY_AGENT_NAME": "bench",
        "FOUNDRY_AGENT_VERSION": "1",
        "FOUNDRY_AGENT_SESSION_ID": sandbox,
        "FOUNDRY_AGENT_SESSION_GUID": sandbox,
        "IDENTITY_ENDPOINT": "http://127.0.0.1:9/msi/token",
        "IDENTITY_HEADER": sandbox,
        "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        **({FORK: "1"} if forked else {}),
    }
    labels = {LABEL_INSTALLATION: INSTALLATION}
    ca = directory / "ca.pem"
    return SandboxSpec(sandbox, source, environment, 2.0, GIB, sandbox, labels, ca, PERSONAL)


async def _once(driver: ProcessDriver, spec: SandboxSpec, seconds: list[float], mebibytes: list[float]) -> str | None:
    began = time.perf_counter()
    handle = [handle async for handle in driver.start(spec)][-1]
    assert handle.address is not None
    result = await probe_until_ready(handle.address, lambda: driver.poll(handle), 60)
    seconds.append(time.perf_counter() - began)
    if not result.ready:
        raise SystemExit(f"The agent to measure does not start: {await driver.output(handle, 20)}")
    main = psutil.Process(int(handle.extra["process"].partition(":")[0]))
    own = [process.memory_full_info().uss for process in (main, *main.children(recursive=True))]
    mebibytes.append(sum(own) / 2**20)
    await driver.stop(handle, 0)
    await driver.delete_home(spec.home)
    return handle.warning


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="cupola-bench-") as scratch:
        print_table(list(forking_goals(Path(scratch))))
