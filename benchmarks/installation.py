"""A platform to measure, started and asked as a user does: the CLI, the identity endpoint, the REST interface."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.servers import LOAD_CORE, PROXY_CORE, ROOT, Target, free_port

AGENT = "bench"
API = "?api-version=v1"
PROTOCOLS = [{"protocol": "invocations", "version": "1.0.0"}]
CODE = ROOT / "benchmarks/upstreams/echo.py"


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform that runs."""

    endpoint: str
    token: str
    ca: Path
    pid: int
    driver: str

    def client(self) -> httpx.Client:
        """A client that is signed in."""
        return httpx.Client(
            verify=str(self.ca), headers={"authorization": f"Bearer {self.token}"}, timeout=120, trust_env=False
        )

    def target(self, session: str) -> Target:
        """The agent's invocations in one session."""
        url = httpx.URL(f"{self.endpoint}/agents/{AGENT}/endpoint/protocols/invocations")
        path = f"{url.path}{API}&agent_session_id={session}"
        return Target("gateway", url.host, url.port or 443, path, self.token, self.ca, self.pid)


@contextmanager
def start_platform(directory: Path) -> Iterator[Platform]:
    """`cupola up` in a state directory of its own, on the core of what is measured."""
    state = f"--state-dir={directory / 'state'}"
    said = _cupola("up", "--detach", state, f"--port={free_port()}", "--output=json")
    try:
        running = json.loads(said)
        variables = json.loads(_cupola("env", state, "--format=json"))
        token = httpx.get(
            variables["IDENTITY_ENDPOINT"],
            params={"api-version": "2019-08-01", "resource": "https://ai.azure.com"},
            headers={"X-IDENTITY-HEADER": variables["IDENTITY_HEADER"]},
            trust_env=False,
        ).json()["access_token"]
        _pin(running["pid"], PROXY_CORE)
        yield Platform(
            variables["AZURE_AI_PROJECT_ENDPOINT"],
            token,
            Path(variables["SSL_CERT_FILE"]),
            running["pid"],
            running["driver"],
        )
    finally:
        _cupola("down", state)
        _remove_networks((directory / "state/id").read_text().strip())


def deploy(platform: Platform, image: str | None) -> None:
    """The echo agent, as an image where there is an engine, else as code; returns when the version is active."""
    definition: dict[str, Any] = {"kind": "hosted", "cpu": "1", "memory": "1Gi", "protocol_versions": PROTOCOLS}
    url = f"{platform.endpoint}/agents/{AGENT}/versions"
    with platform.client() as client:
        if image is not None:
            definition["container_configuration"] = {"image": image}
            made = client.post(url + API, json={"definition": definition})
        else:
            runtime = f"python_{sys.version_info.major}_{sys.version_info.minor}"
            definition["code_configuration"] = {"runtime": runtime, "entry_point": ["python", "main.py"]}
            metadata = json.dumps({"definition": definition}).encode()
            made = client.post(url + API, files={"metadata": ("metadata", metadata), "code": ("agent.zip", _zip())})
        version = _checked(made)["version"]
        deadline = time.monotonic() + 120
        while (found := _checked(client.get(f"{url}/{version}{API}")))["status"] == "creating":
            if time.monotonic() > deadline:
                raise SystemExit(f"Version {version} of the agent was not made within two minutes: {found}")
            time.sleep(0.1)
        if found["status"] != "active":
            raise SystemExit(f"The agent cannot be measured: {found}")


def undeploy(platform: Platform) -> None:
    """Takes back the agent with its sessions and their files."""
    with platform.client() as client:
        _checked(client.delete(f"{platform.endpoint}/agents/{AGENT}{API}&force=true"))


def first_answer(platform: Platform, client: httpx.Client, session: str) -> float:
    """Seconds until the first answer of a session that nobody has asked before."""
    began = time.perf_counter()
    _checked(client.post(platform.target(session).url, json={"input": "hello"}))
    return time.perf_counter() - began


def agent_of(platform: Platform, session: str) -> Target | None:
    """The sandbox that serves a session, reached directly; None where it cannot be found."""
    found = _container_of(session) if platform.driver == "docker" else _child_of(platform.pid)
    if found is None:
        return None
    host, port, pid = found
    with suppress(psutil.Error):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            _pin(process.pid, LOAD_CORE)
    return Target("direct", host, port, "/invocations", "t" * 800, None, pid)


def _container_of(session: str) -> tuple[str, int, int] | None:
    command = ["docker", "ps", "-q", "--filter", f"label=cupola.session={session}"]
    name = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if not name:
        return None
    inspected = json.loads(subprocess.run(["docker", "inspect", name], capture_output=True, check=True).stdout)[0]
    networks: Mapping[str, Any] = inspected["NetworkSettings"]["Networks"]
    address = next((network["IPAddress"] for network in networks.values() if network["IPAddress"]), None)
    return None if address is None else (address, 8088, inspected["State"]["Pid"])


def _child_of(pid: int) -> tuple[str, int, int] | None:
    for child in reversed(psutil.Process(pid).children(recursive=True)):
        with suppress(psutil.Error):
            for connection in child.net_connections("tcp4"):
                if connection.status == psutil.CONN_LISTEN:
                    return "127.0.0.1", connection.laddr.port, child.pid
    return None


def _remove_networks(installation: str) -> None:
    """An installation keeps its network for its next start; this one has none."""
    if shutil.which("docker") is None:
        return
    command = ["docker", "network", "ls", "-q", "--filter", f"label=cupola.installation={installation}"]
    for name in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split():
        subprocess.run(["docker", "network", "rm", name], capture_output=True, check=False)


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        package.writestr("main.py", CODE.read_bytes())
    return buffer.getvalue()


def _checked(reply: httpx.Response) -> dict[str, Any]:
    if reply.status_code >= 300:
        raise SystemExit(f"{reply.request.method} {reply.request.url} answered {reply.status_code}: {reply.text}")
    found: dict[str, Any] = reply.json()
    return found


def _cupola(*arguments: str) -> str:
    command = [sys.executable, "-m", "cupola", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ.copy())
    if done.returncode:
        raise SystemExit(f"`cupola {arguments[0]}` failed: {done.stderr or done.stdout}")
    return done.stdout


def _pin(pid: int, core: int) -> None:
    if (os.cpu_count() or 1) > 1:
        with suppress(psutil.Error, OSError):
            psutil.Process(pid).cpu_affinity([core])
