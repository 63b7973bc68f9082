"""The processes that are measured or measured against, each on a core of its own, and their certificates."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cupola.web.tls import Authority

ROOT = Path(__file__).parent.parent
LOAD_CORE, PROXY_CORE = 0, 1
"""The load and the agent share one core, what stands between them has the other to itself."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: a base URL, the path to post to, and what proves who asks."""

    name: str
    host: str
    port: int
    path: str
    token: str
    trust: Path | None
    """The certificates to trust; None for plain http."""
    pid: int
    """The process that answers there."""

    @property
    def url(self) -> str:
        return f"{'https' if self.trust else 'http'}://{self.host}:{self.port}{self.path}"

    def context(self) -> ssl.SSLContext | None:
        return None if self.trust is None else ssl.create_default_context(cafile=str(self.trust))


@dataclass(frozen=True, slots=True)
class Certificates:
    authority: Path
    chain: Path
    key: Path


def make_certificates(directory: Path) -> Certificates:
    """A certificate for localhost and the authority behind it."""
    directory = Path(tempfile.mkdtemp(dir=directory))
    authority = Authority.open(directory)
    server = authority.issue("server", ["localhost"])
    return Certificates(authority.certificate, server.certificate, server.key)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_core(core: int) -> list[str]:
    """What pins a command to a core, where there are two and the tool for it."""
    return ["taskset", "-c", str(core)] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else []


@contextmanager
def running(
    command: Sequence[str], port: int, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens on `port` when the block begins, and has ended when it is left."""
    process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        _await_port(process, port)
        yield process
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def echo_agent() -> Iterator[Target]:
    """The agent, as a bare process."""
    port = free_port()
    command = [*on_core(LOAD_CORE), sys.executable, "benchmarks/upstreams/echo.py"]
    with running(command, port, {"PORT": str(port), "HOST": "127.0.0.1"}) as process:
        yield Target("direct", "127.0.0.1", port, "/invocations", "t" * 800, None, process.pid)


@contextmanager
def proxy_core(agent: Target, certificates: Certificates | None, token: str) -> Iterator[Target]:
    """The gateway's proxy core in a minimal application under uvicorn."""
    port = free_port()
    secure = [f"--ssl-certfile={certificates.chain}", f"--ssl-keyfile={certificates.key}"] if certificates else []
    command = [*on_core(PROXY_CORE), sys.executable, "-m", "uvicorn", "benchmarks.gateways.core_app:app"]
    options = ["--loop=uvloop", "--http=httptools", "--no-access-log", "--log-level=warning", f"--port={port}"]
    environment = {
        "BENCH_UPSTREAM_PORT": str(agent.port),
        "BENCH_TOKEN": token,
        "BENCH_SESSION": "bench",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
    }
    with running([*command, *options, *secure], port, environment) as process:
        yield Target(
            "proxy core",
            "localhost",
            port,
            "/invocations?agent_session_id=bench",
            token,
            certificates.authority if certificates else None,
            process.pid,
        )


@contextmanager
def nginx(agent: Target, certificates: Certificates | None, directory: Path) -> Iterator[Target | None]:
    """nginx in front of the agent, set to do as little as the proxy core: one process, nothing logged or buffered."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        yield None
        return
    port = free_port()
    prefix = directory / f"nginx-{port}"
    prefix.mkdir()
    secure = f"ssl_certificate {certificates.chain}; ssl_certificate_key {certificates.key};" if certificates else ""
    prefix.joinpath("nginx.conf").write_text(
        f"""daemon off; master_process off; pid {prefix}/pid; error_log /dev/null crit;
        events {{ worker_connections 1024; }}
        http {{
          access_log off; keepalive_requests 100000000;
          client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy; fastcgi_temp_path {prefix}/fastcgi;
          uwsgi_temp_path {prefix}/uwsgi; scgi_temp_path {prefix}/scgi;
          upstream agent {{ server {agent.host}:{agent.port}; keepalive 128; keepalive_requests 100000000; }}
          server {{
            listen 127.0.0.1:{port} {"ssl" if certificates else ""}; {secure}
            location / {{
              proxy_pass http://agent; proxy_http_version 1.1; proxy_set_header Connection "";
              proxy_buffering off;
            }}
          }}
        }}
        """
    )
    command = [*on_core(PROXY_CORE), program, "-p", str(prefix), "-c", str(prefix / "nginx.conf"), "-e", "stderr"]
    with running(command, port) as process:
        trust = certificates.authority if certificates else None
        yield Target("nginx", "localhost", port, "/invocations", "t" * 800, trust, process.pid)


def _await_port(process: subprocess.Popen[bytes], port: int, patience: float = 15.0) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended with {process.returncode} instead of listening.")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"{process.args!r} does not listen on port {port} after {patience:g} s.")
