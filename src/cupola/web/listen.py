"""The listeners: one for clients, one pair per place where sandboxes run, and one for local sign-in.

Each is a uvicorn server inside this one process, on a socket that we bind ourselves: a taken port is then one
sentence, and a port that sandboxes have in their environment is asked for again after a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
from collections.abc import Generator
from pathlib import Path

import structlog
import uvicorn
from starlette.types import ASGIApp

from cupola.errors import SetupError
from cupola.installation import write_private
from cupola.web.gathered import GatheringProtocol
from cupola.web.tls import ServerCertificate

log = structlog.get_logger()

_KEEP_ALIVE = 75
"""Seconds that an idle connection of a client stays open; more than the 60 s after which proxies drop theirs."""
_DRAIN = 5
"""Seconds that open requests get when the platform stops."""
_BACKLOG = 2048
MESSAGE_LIMIT = 1024 * 1024
"""Bytes of one WebSocket message (control-plane.md §3); a longer one closes the connection with 1009."""


class _Server(uvicorn.Server):
    """Signals are the application's business: one process, several servers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes any free one. Raises SetupError naming the port and what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise SetupError(
                f"Port {port} on {host} is taken by another program. Choose another one with --port or CUPOLA_PORT."
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise SetupError(f"{host} is not an address of this machine; choose another --host.") from error
        if error.errno == errno.EACCES:
            raise SetupError(f"Port {port} needs special rights; choose one above 1023 with --port.") from error
        raise SetupError(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
    bound.listen(_BACKLOG)
    bound.setblocking(False)
    return bound


class Listener:
    """One server on one socket. It takes WebSockets of up to `message_limit` bytes per message; 0 takes none."""

    def __init__(
        self,
        app: ASGIApp,
        bound: socket.socket,
        certificate: ServerCertificate | None = None,
        *,
        message_limit: int = 0,
    ) -> None:
        self._socket = bound
        self.port: int = bound.getsockname()[1]
        config = uvicorn.Config(
            app,
            http=GatheringProtocol,
            ws="websockets-sansio" if message_limit else "none",
            ws_max_size=message_limit,
            ws_ping_interval=None,  # pings are the business of the two ends (control-plane.md §2.8)
            ws_ping_timeout=None,
            ws_per_message_deflate=False,  # costs memory per connection, and voice does not get smaller by it
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_DRAIN,
            ssl_certfile=None if certificate is None else str(certificate.certificate),
            ssl_keyfile=None if certificate is None else str(certificate.key),
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when it accepts connections."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            if self._task.done():
                await self._task
                raise SetupError(f"The listener on port {self.port} ended at once; the log says why.")
            await asyncio.sleep(0.005)

    async def aclose(self) -> None:
        """Stops accepting, lets open requests end for some seconds, then closes."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


class RememberedPorts:
    """Ports that must stay the same over restarts, by name, in a small file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def bind(self, name: str, host: str, preferred: int = 0) -> socket.socket:
        """The remembered port of `name`, else the preferred one, else any; what it gets is remembered."""
        known = self._read()
        bound = None
        for port in (known.get(name), preferred):
            if port:
                with contextlib.suppress(SetupError):
                    bound = bind(host, port)
                    break
        bound = bound or bind(host, 0)
        port = bound.getsockname()[1]
        if known.get(name) not in (None, port):
            log.warning("a port changed: sandboxes that run cannot call back", listener=name, port=port)
        write_private(self._path, json.dumps({**known, name: port}).encode())
        return bound

    def _read(self) -> dict[str, int]:
        try:
            known = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}
