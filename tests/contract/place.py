"""What a driver brings to the contract tests, and the agents that those tests start in it.

A `Place` is one driver with whatever it needs around it, opened by `open_place(tmp_path, installation)` of
the module `place_<driver>`. The agents are scripts on Python's standard library, one for each behaviour that
the contract speaks of; the fake driver plays the same parts without a process.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from contextlib import AsyncExitStack
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest

from cupola.drivers.base import Address, Driver, SandboxSpec, Source

MIB = 1024 * 1024


class Agent(StrEnum):
    """How an agent under test behaves."""

    ECHO = "echo"
    """Answers (see `SERVER`); on SIGTERM writes `terminated` into HOME, prints `bye`, ends with code 0."""

    STUBBORN = "stubborn"
    """As ECHO, but SIGTERM is ignored: only SIGKILL ends it."""

    CRASH = "crash"
    """Prints `first line` to stdout and `second line` to stderr, and ends with code 3. Never listens."""

    EAT_MEMORY = "eat_memory"
    """Listens; takes more memory than it may when `POST /eat` asks for it."""

    LOCAL_ONLY = "local_only"
    """As ECHO, but bound to 127.0.0.1: the mistake that diagnosis looks for."""


SERVER = """
import os, pathlib, signal, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOME = pathlib.Path(os.environ["HOME"])

class Handler(BaseHTTPRequestHandler):
    # GET /readiness, /environment/NAME, /files/NAME, /burn; PUT /files/NAME; POST /say/STREAM, /eat
    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        _, kind, *rest = self.path.split("/")
        if kind == "readiness":
            self.answer(200, b"ready")
        elif kind == "environment":
            value = os.environ.get(rest[0])
            self.answer(404 if value is None else 200, (value or "").encode())
        elif kind == "files":
            file = HOME / rest[0]
            self.answer(200, file.read_bytes()) if file.exists() else self.answer(404)
        elif kind == "burn":
            burning = "import time\\nwhile time.process_time() < 0.3: pass"
            subprocess.run([sys.executable, "-c", burning], check=True)
            self.answer(200)
        else:
            self.answer(404)

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        (HOME / self.path.split("/")[2]).write_bytes(body)
        self.answer(200)

    def do_POST(self):
        _, kind, *rest = self.path.split("/")
        if kind == "say":
            os.write({"stdout": 1, "stderr": 2}[rest[0]], self.rfile.read(int(self.headers["content-length"])))
            return self.answer(200)
        hoard = []
        while True:
            hoard.append(os.urandom(1) * (8 << 20))

    def log_message(self, *args):
        pass

def serve(host, port):
    ThreadingHTTPServer.allow_reuse_address = True
    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()

def leave(signum, frame):
    (HOME / "terminated").write_text("yes")
    print("bye", flush=True)
    os._exit(0)
"""

ENDING = "print('listening', flush=True)\nwhile True:\n    signal.pause()\n"
POLITE = "signal.signal(signal.SIGTERM, leave)\n"
LISTEN = "serve('0.0.0.0', int(os.environ.get('PORT', '8088')))\n"

SCRIPTS: Mapping[Agent, str] = {
    Agent.ECHO: SERVER + POLITE + LISTEN + ENDING,
    Agent.STUBBORN: SERVER + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + LISTEN + ENDING,
    Agent.CRASH: (
        "import sys\nprint('first line', flush=True)\nprint('second line', file=sys.stderr, flush=True)\nsys.exit(3)\n"
    ),
    Agent.EAT_MEMORY: SERVER + POLITE + LISTEN + ENDING,
    Agent.LOCAL_ONLY: SERVER + POLITE + LISTEN.replace("0.0.0.0", "127.0.0.1") + ENDING,
}
"""What `python3 -c` or a file runs for each behaviour."""


class Place(Protocol):
    """One driver, ready for use, and the sources and specs that fit it."""

    name: str
    installation: str
    driver: Driver

    names_out_of_memory: bool
    """False where the memory limit lets an allocation fail instead of ending the process."""

    async def restart(self) -> Driver:
        """A second driver object over the same sandboxes, as after a crash. The place closes it."""
        ...

    def source(self, agent: Agent) -> Source:
        """A source whose process behaves as `agent`."""
        ...

    def spec(
        self,
        source: Source,
        *,
        home: str = "h1",
        memory: int = 256 * MIB,
        environment: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> SandboxSpec:
        """A spec with a fresh sandbox id, labelled with the installation, the sandbox and `labels`."""
        ...


async def ask(address: Address, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """One HTTP/1.1 request on a connection of its own: the status and the body."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        head = [
            f"{method} {path} HTTP/1.1",
            "host: sandbox",
            "connection: close",
            f"content-length: {len(body)}",
        ]
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        await writer.drain()
        answer = await reader.read()
    finally:
        writer.close()
    top, _, rest = answer.partition(b"\r\n\r\n")
    if not top:
        raise ConnectionResetError(f"no answer to {method} {path}")
    return int(top.split()[1]), rest


async def open_place(stack: AsyncExitStack, kind: str, tmp_path: Path) -> Place:
    """The place of that kind, with an installation of its own, closed with the stack."""
    installation = f"test-{uuid4().hex[:12]}"
    name, _, variant = kind.partition("-")
    try:
        module = importlib.import_module(f"tests.contract.place_{name}")
    except ModuleNotFoundError as error:
        if error.name != f"tests.contract.place_{name}":
            raise
        pytest.skip(f"there is no place for the {name} driver")
    variants = [variant] if variant else []
    place: Place = await stack.enter_async_context(module.open_place(tmp_path, installation, *variants))
    return place


PLACES = [
    "fake",
    "process",
    "process-bare",
    "process-meagre",
    "process-forked",
    "process-bare-forked",
    "process-meagre-forked",
    pytest.param("docker", marks=pytest.mark.engine),
]
