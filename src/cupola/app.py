"""The one place where everything is wired together, opened and closed.

`serve` runs the whole platform in one process: the clients' https listener, the local sign-in, a pair of listeners for
the sandboxes of each driver, the reaper, and what is being provisioned. Whatever it opens it closes in reverse.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog
from starlette.routing import Router
from starlette.types import ASGIApp

from cupola import routes
from cupola.api import agents, health, versions
from cupola.callbacks.storage import Storage
from cupola.callbacks.tokens import ClientTokens, SandboxTokens
from cupola.conversations import StoredResponse, failed_body
from cupola.drivers import docker
from cupola.drivers.base import CallbackReach, Driver
from cupola.drivers.process import ProcessDriver
from cupola.errors import DriverUnavailable
from cupola.gateway.carry import Carrier
from cupola.gateway.conversations import Conversations
from cupola.gateway.invocations import Invocations
from cupola.gateway.record import Recorder
from cupola.gateway.resolve import Resolver
from cupola.gateway.responses import Responses
from cupola.gateway.upstream import Upstream
from cupola.installation import Installation, Running
from cupola.sandboxes.environment import CallbackEndpoint
from cupola.sandboxes.idle import Reaper
from cupola.sandboxes.places import Places
from cupola.sandboxes.ready import Sandboxes
from cupola.sandboxes.reconcile import Versions, recover
from cupola.sandboxes.start import Place, Starter
from cupola.sessions import Session
from cupola.settings import Settings
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import responses as response_rows
from cupola.web.auth import ClientAuth, SandboxAuth, Tokens
from cupola.web.errors import ErrorEdge
from cupola.web.listen import Listener, RememberedPorts, bind
from cupola.web.tls import CONTAINER_NAMES, LOCAL_NAMES, Authority, write_bundle

log = structlog.get_logger()

_VERSION_PATIENCE = 300.0
"""Seconds that a request waits for the first version of its agent; less than the 600 s of the OpenAI client."""
_STOP_GRACE = 10.0
"""Seconds that sandboxes get when the whole platform stops; they do nothing for anybody then."""


async def serve(settings: Settings, on_ready: Callable[[Running], None]) -> None:
    """Runs the platform until SIGINT or SIGTERM. Raises SetupError or DriverUnavailable when it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    async with running_platform(settings) as running:
        on_ready(running)
        await stop.wait()
        log.info("stopping")


@asynccontextmanager
async def running_platform(settings: Settings) -> AsyncIterator[Running]:
    """The platform, serving. Used by `serve` and by tests."""
    async with AsyncExitStack() as stack:
        installation = stack.enter_context(Installation.open(settings.state_dir))
        platform = _Platform(settings, installation, stack)
        yield await platform.start()


@dataclass(slots=True)
class _Callbacks:
    """Opens the sandboxes' listeners where a driver needs them, once per address."""

    stack: AsyncExitStack
    ports: RememberedPorts
    authority: Authority
    https_app: ASGIApp
    identity_app: ASGIApp

    async def open(self, driver: str, reach: CallbackReach) -> CallbackEndpoint:
        names = dict.fromkeys([reach.host, reach.bind, *LOCAL_NAMES, *CONTAINER_NAMES])
        certificate = self.authority.issue(f"callbacks-{driver}", names)
        https = await self._listen(
            Listener(self.https_app, self.ports.bind(f"{driver}-https", reach.bind), certificate)
        )
        identity = await self._listen(Listener(self.identity_app, self.ports.bind(f"{driver}-identity", reach.bind)))
        return CallbackEndpoint(reach.host, https.port, identity.port)

    async def _listen(self, listener: Listener) -> Listener:
        self.stack.push_async_callback(listener.aclose)
        await listener.start()
        return listener


class _Platform:
    """All parts of one running installation."""

    def __init__(self, settings: Settings, installation: Installation, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._installation = installation
        self._stack = stack
        self._layout = installation.layout
        self._tokens = Tokens(installation.secret)

    async def start(self) -> Running:
        settings, layout = self._settings, self._layout
        client_socket = bind(settings.host, settings.port)
        self._stack.callback(client_socket.close)
        self._store = Store.open(layout.database)
        self._stack.push_async_callback(self._store.aclose)
        authority = Authority.open(layout.ca)
        write_bundle(layout.bundle, authority, os.environ)
        ports = RememberedPorts(layout.state_dir / "ports.json")
        self._callbacks = _Callbacks(
            self._stack,
            ports,
            authority,
            edge(
                SandboxAuth(
                    Router(
                        default=routes.unknown_app, routes=routes.callback_routes(Storage(self._store, self._tokens))
                    ),
                    self._tokens,
                )
            ),
            edge(
                Router(default=routes.unknown_app, routes=routes.token_routes(SandboxTokens(self._tokens, self._store)))
            ),
        )
        starter = Starter(
            self._store,
            installation=self._installation.id,
            ca_bundle=layout.bundle,
            identity_header=self._tokens.sandbox_secret,
            ready_timeout=settings.ready_timeout,
            stop_grace=settings.stop_grace,
        )
        places = Places(
            images=self._image_place,
            code=self._code_place,
            packages=layout.code,
            builds=layout.builds,
            environments=settings.cache_dir / "environments",
        )
        sandboxes = Sandboxes(
            self._store, starter, places, max_sandboxes=settings.max_sandboxes, on_lost=self._fail_responses
        )
        provisioning = Versions(self._store, starter, places, sandboxes)
        driver, reason = await self._choose_driver(places)
        await recover(self._store, starter, places, sandboxes, provisioning, time.time)
        await self._fail_interrupted(sandboxes)
        self._stack.push_async_callback(sandboxes.stop_all, _STOP_GRACE)
        self._stack.push_async_callback(provisioning.aclose)
        app = await self._client_app(sandboxes, provisioning)
        await self._run_reaper(sandboxes)
        clients = Listener(app, client_socket, authority.issue("clients", [*LOCAL_NAMES, settings.host]))
        self._stack.push_async_callback(clients.aclose)
        await clients.start()
        identity_port = await self._local_sign_in(ports)
        running = Running(
            pid=os.getpid(),
            endpoint=f"https://localhost:{clients.port}/api/projects/{settings.project}",
            port=clients.port,
            identity_port=identity_port,
            driver=driver,
            driver_reason=reason,
            started_at=datetime.now(UTC),
        )
        self._installation.announce(running)
        return running

    async def _client_app(self, sandboxes: Sandboxes, provisioning: Versions) -> ASGIApp:
        upstream = Upstream()
        self._stack.push_async_callback(upstream.aclose)
        resolver = Resolver(self._store, sandboxes, provisioning, patience=_VERSION_PATIENCE)
        for project, name in await self._store.read(agent_rows.disabled_agents):
            resolver.set_enabled(project, name, False)
        carrier = Carrier(upstream, sandboxes, self._tokens.call_id)
        version_handlers = versions.Versions(self._store, provisioning, self._layout.code)
        handlers = routes.Handlers(
            agents=agents.Agents(self._store, version_handlers, provisioning, resolver.set_enabled),
            versions=version_handlers,
            responses=Responses(self._store, resolver, carrier, Recorder(self._store)),
            conversations=Conversations(self._store),
            invocations=Invocations(resolver, carrier),
            health=health.Health(self._store, sandboxes),
        )
        router = Router(default=routes.unknown_app, routes=routes.client_routes(handlers))
        return edge(ClientAuth(router, self._tokens, frozenset({"/cupola/health"})))

    async def _local_sign_in(self, ports: RememberedPorts) -> int:
        tokens = ClientTokens(self._tokens, self._installation.identity_header)
        preferred = min(self._settings.port + 1, 65535)
        bound = ports.bind("sign-in", "127.0.0.1", preferred)
        listener = Listener(edge(Router(default=routes.unknown_app, routes=routes.token_routes(tokens))), bound)
        self._stack.push_async_callback(listener.aclose)
        await listener.start()
        return listener.port

    async def _run_reaper(self, sandboxes: Sandboxes) -> None:
        reaper = Reaper(self._store, sandboxes, default_timeout=self._settings.idle_timeout)
        task = asyncio.create_task(reaper.run())

        async def end() -> None:
            task.cancel()
            await asyncio.wait([task])

        self._stack.push_async_callback(end)

    async def _choose_driver(self, places: Places) -> tuple[str, str]:
        """Which driver runs images, and why; the process driver is there in any case, for code."""
        try:
            place = await places.images()
        except DriverUnavailable as error:
            if self._settings.driver == "docker":
                raise
            return "process", error.message
        return place.driver.name, "a container engine answers; code deployments run as child processes"

    async def _image_place(self) -> Place:
        if self._settings.driver == "process":
            raise DriverUnavailable(
                "This platform was started with --driver process, which runs code deployments only; "
                "start it with --driver auto on a machine with Docker or Podman to run images."
            )
        driver = await docker.connect(self._installation.id)
        try:
            return await self._place(driver, loopback_answers=False)
        except BaseException:
            await driver.aclose()
            raise

    async def _code_place(self) -> Place:
        return await self._place(ProcessDriver(self._layout.process, self._installation.id), loopback_answers=True)

    async def _place(self, driver: Driver, *, loopback_answers: bool) -> Place:
        reach = await driver.callback_reach()
        callbacks = await self._callbacks.open(driver.name, reach)
        self._stack.push_async_callback(driver.aclose)
        return Place(driver, callbacks, loopback_answers)

    async def _fail_responses(self, session: Session, reason: str) -> None:
        """Ends what was running in a sandbox that died."""
        await self._store.write(lambda conn: _fail(conn, [session.key], reason, time.time()))

    async def _fail_interrupted(self, sandboxes: Sandboxes) -> None:
        """After a restart: nobody waits any more for what ran in the foreground, or in a sandbox that is gone."""
        adopted = {live.session.key for live in sandboxes.live if live.session is not None}
        reason = "The platform was restarted while this response was running."

        def change(conn: Any) -> None:
            now = time.time()
            for response in response_rows.in_progress_responses(conn, None):
                key = (response.project, response.agent, response.session or "")
                if not (response.background and key in adopted):
                    response_rows.save_response(conn, _failed(response, reason, now))

        await self._store.write(change)


def edge(app: ASGIApp) -> ASGIApp:
    """The outermost wrapper of every listener; unknown addresses answer in the envelope too."""
    return ErrorEdge(app)


def _fail(conn: Any, keys: list[tuple[str, str, str]], reason: str, now: float) -> None:
    for response in response_rows.in_progress_responses(conn, keys):
        response_rows.save_response(conn, _failed(response, reason, now))


def _failed(response: StoredResponse, reason: str, now: float) -> StoredResponse:
    return replace(response, body=failed_body(response.body, reason, now))
