"""A platform as small as the commands need it: state directory, https, sign-in, `/cupola/health` and `/cupola/status`.

Run as `python -m tests.cli.stub_platform BEHAVIOUR STATE_DIR`, in the foreground, as `cupola up` runs the real one.
Behaviours are named for how they fail: `serves`, `refuses` (a setup error), `crashes` (ends without a sentence),
`hangs` (never announces itself), `lingers` (does not end when asked to).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from cupola.cli.options import Output
from cupola.cli.output import complain, exit_code
from cupola.cli.up import in_foreground
from cupola.errors import CupolaError, SetupError
from cupola.installation import Installation, Running
from cupola.settings import Settings, load
from cupola.web.tls import LOCAL_NAMES, Authority, write_bundle
from tests.cli.stub_sessions import StubSessions

TOKEN = "stub-token"
COUNTS = {"agents": 2, "versions": 3, "sessions": 4, "sandboxes": 1}


def _start(
    version: str | None, start_type: str, count: int, errors: int, ranks: tuple[float, ...], *shares: float
) -> object:
    names = ("platform_preprocessing", "infra_setup", "container_readiness", "container_response")
    return {
        "version": version,
        "start_type": start_type,
        "count": count,
        "errors": errors,
        "response_begin_ms": dict(zip(("p50", "p90", "p99"), ranks, strict=True)),
        "shares": dict(zip(names, shares, strict=True)),
    }


_SAME = {"p50": 12.0, "p90": 12.0, "p99": 12.0}
STATS = {
    "requests": 1205,
    "errors": 3,
    "starts": [
        _start(None, "warm", 1, 1, (0.4, 0.4, 0.4), 1, 0, 0, 0),
        _start("12", "cold", 14, 2, (812, 1203, 1930), 0.02, 0.12, 0.8, 0.06),
        _start("12", "warm", 1190, 0, (12.1, 31, 120), 0.03, 0, 0, 0.97),
    ],
    "protocols": [
        {"protocol": "invocations", "count": 15, "errors": 3, "response_begin_ms": _SAME},
        {"protocol": "responses", "count": 1190, "errors": 0, "response_begin_ms": _SAME},
    ],
}
_OWN = "/cupola/projects/{}/agents/greeter/stats?since={}"

BUNDLE = "the bytes of a bundle"
_SESSIONS = "/cupola/projects/demo/agents/greeter/sessions/{}/bundle"
_ECHO = "/api/projects/demo/agents/echo/endpoint/"
"""An agent that begins any session and has one answer."""
_RESPONSE = {
    "id": "new_1",
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "hello"}]}],
}

Answer = Callable[[str, dict[str, str]], tuple[int, object]]
SESSIONS = StubSessions()


async def serve(settings: Settings, on_ready: Callable[[Running], None]) -> None:
    """What `cupola.app.serve` promises, over a handful of fixed answers."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with Installation.open(settings.state_dir) as installation:
        authority = Authority.open(installation.layout.ca)
        write_bundle(installation.layout.bundle, authority, os.environ)
        context = authority.issue("clients", LOCAL_NAMES).context()
        https = await asyncio.start_server(_speaking(_platform), "127.0.0.1", 0, ssl=context)
        sign_in = await asyncio.start_server(_speaking(_sign_in(installation.identity_header)), "127.0.0.1", 0)
        port, identity_port = (server.sockets[0].getsockname()[1] for server in (https, sign_in))
        running = Running(
            pid=os.getpid(),
            endpoint=f"https://localhost:{port}/api/projects/{settings.project}",
            port=port,
            identity_port=identity_port,
            driver="process",
            driver_reason="no engine",
            started_at=datetime.now(UTC),
        )
        installation.announce(running)
        on_ready(running)
        await stop.wait()
        https.close()
        sign_in.close()


async def refuse(settings: Settings, on_ready: Callable[[Running], None]) -> None:
    print("a line of the log", file=sys.stderr)
    raise SetupError("Port 8443 is taken.")


async def crash(settings: Settings, on_ready: Callable[[Running], None]) -> None:
    print("the last line of the log", file=sys.stderr)
    sys.exit(7)


async def hang(settings: Settings, on_ready: Callable[[Running], None]) -> None:
    await asyncio.Event().wait()


async def linger(settings: Settings, on_ready: Callable[[Running], None]) -> None:
    with Installation.open(settings.state_dir):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
        print("lingers", flush=True)
        await asyncio.Event().wait()


def _platform(path: str, headers: dict[str, str]) -> tuple[int, object]:
    if path == "/cupola/health":
        return 200, {"status": "healthy"}
    if headers.get("authorization") != f"Bearer {TOKEN}":
        return 401, {"error": {"code": "unauthorized", "message": "No token."}}
    if path == "/cupola/status":
        return 200, COUNTS
    if path.startswith("/api/projects/demo/agents?"):
        return 200, {"data": [{"name": "other"}, {"name": "greeter"}], "last_id": None}
    if path == _OWN.format("demo", "24h"):
        return 200, STATS
    if path == _OWN.format("other", "7d") + "&version=9":
        return 200, {"requests": 0, "errors": 0, "starts": [], "protocols": []}
    if path == "/api/projects/demo/agents/greeter/endpoint/sessions/s1":
        return 200, {"agent_session_id": "s1"}
    if path == _SESSIONS.format("s1"):
        return 200, BUNDLE.encode()
    if path.startswith(_ECHO):
        return (201, {"agent_session_id": "new"}) if "/sessions" in path else (200, _RESPONSE)
    return 404, {"error": {"code": "not_found", "message": f"There is no {path}."}}


def _sign_in(header: str) -> Answer:
    def answer(path: str, headers: dict[str, str]) -> tuple[int, object]:
        if headers.get("x-identity-header") != header:
            return 401, {"error": {"code": "unauthorized", "message": "The identity header is not ours."}}
        return 200, {"access_token": TOKEN, "expires_on": "4102444800"}

    return answer


def _speaking(answer: Answer) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        method, path, _ = head[0].split()
        sent = await reader.readexactly(int(headers.get("content-length", "0")))
        status, body = answer(path, headers)
        if status == 404 and "/projects/" in path:
            status, body = SESSIONS.answer(method, path, json.loads(sent or b"{}"))
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        writer.write(f"HTTP/1.1 {status} Answer\r\nContent-Length: {len(content)}\r\n".encode())
        writer.write(b"x-ms-debug-latency-response-begin-ms: 12\r\nx-ms-debug-latency-session-start-type: warm\r\n")
        writer.write(b"Connection: close\r\n\r\n" + content)
        await writer.drain()
        writer.close()

    return speak


if __name__ == "__main__":
    behaviours = {"serves": serve, "refuses": refuse, "crashes": crash, "hangs": hang, "lingers": linger}
    try:
        in_foreground(load(state_dir=Path(sys.argv[2])), behaviours[sys.argv[1]], Output.TEXT)
    except CupolaError as error:
        complain(error.message)
        sys.exit(exit_code(error))
