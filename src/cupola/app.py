"""The one place where everything is wired together, opened and closed.

`Platform` is all parts without a socket, on any drivers: tests drive its ASGI apps in-process. `serve` puts it behind
its listeners: the clients' https, the local sign-in, and a pair for the sandboxes of each driver. Whatever is opened
is closed in reverse.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp

from cupola import routes
from cupola.api.agents import Agents
from cupola.api.bundles import Bundles
from cupola.api.files import Files
from cupola.api.health import Health
from cupola.api.logs import LogLimits, Logs
from cupola.api.moves import SessionMoves
from cupola.api.openapi import OpenApi
from cupola.api.sessions import Sessions
from cupola.api.snapshots import Snapshots
from cupola.api.stats import Stats
from cupola.api.stopping import Stopping
from cupola.api.versions import Versions as VersionHandlers
from cupola.api.warm import Pools
from cupola.callbacks.conversations import ConversationItems
from cupola.callbacks.expiry import StateExpiry
from cupola.callbacks.owner import SessionNow
from cupola.callbacks.state import StateStores
from cupola.callbacks.storage import Storage
from cupola.callbacks.tokens import ClientTokens, SandboxTokens
from cupola.clock import SteadyClock
from cupola.drivers import docker
from cupola.drivers.base import CallbackReach, Driver
from cupola.drivers.process import ProcessDriver
from cupola.errors import CupolaError, DriverUnavailable
from cupola.gateway.a2a import A2A
from cupola.gateway.activity import Activities
from cupola.gateway.background import Background
from cupola.gateway.carry import Carrier
from cupola.gateway.conversations import Conversations
from cupola.gateway.invocations import Invocations
from cupola.gateway.isolation import ForUsers, Users
from cupola.gateway.passage import Passage
from cupola.gateway.proxy import Silence
from cupola.gateway.record import Recorder
from cupola.gateway.resolve import Resolver
from cupola.gateway.responses import Responses
from cupola.gateway.timekeeper import Timekeeper
from cupola.gateway.upstream import Upstream
from cupola.gateway.websocket import Limits as SocketLimits
from cupola.gateway.websocket import WebSockets
from cupola.installation import Installation, Running
from cupola.issuers import read_issuer
from cupola.limits import Budget, Limits
from cupola.sandboxes.choice import VersionChoice
from cupola.sandboxes.environment import CallbackEndpoint
from cupola.sandboxes.expiry import Expiry
from cupola.sandboxes.homes import Homes
from cupola.sandboxes.idle import Reaper
from cupola.sandboxes.kept import KeptOutput
from cupola.sandboxes.lives import Lives
from cupola.sandboxes.lost import LostResponses
from cupola.sandboxes.moving import Moves
from cupola.sandboxes.orphans import Orphans
from cupola.sandboxes.places import FindPlace, Places
from cupola.sandboxes.ready import Sandboxes
from cupola.sandboxes.reconcile import Versions, recover
from cupola.sandboxes.retention import Retention
from cupola.sandboxes.start import Place, Starter
from cupola.sandboxes.transcript import Transcripts
from cupola.sandboxes.unfinished import Unfinished
from cupola.sandboxes.warm import WarmPools
from cupola.settings import Settings
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.web.auth import Callers, ClientAuth, SandboxAuth, Tokens
from cupola.web.errors import ErrorEdge
from cupola.web.issuer_keys import Fetch, fetch
from cupola.web.listen import Listener, RememberedPorts, bind
from cupola.web.oidc import OidcCallers, Rules
from cupola.web.timing import TimingEdge
from cupola.web.tls import CONTAINER_NAMES, LOCAL_NAMES, Authority, write_bundle

log = structlog.get_logger()

_VERSION_PATIENCE = 300.0
"""Seconds that a request waits for the first version of its agent; less than the 600 s of the OpenAI client."""
_YOUNG_OBJECTS = 20_000
"""New objects between two collections of the youngest: a few hundred requests' worth, some megabytes at most."""
_STOP_GRACE = 10.0
"""Seconds that sandboxes get when the whole platform stops; they do nothing for anybody then."""


@dataclass(frozen=True, slots=True)
class Finders:
    """How the places for images and for code are found; each may raise DriverUnavailable."""

    images: FindPlace
    code: FindPlace


class Platform:
    """All parts of one installation but its sockets."""

    def __init__(
        self,
        settings: Settings,
        installation: Installation,
        store: Store,
        tokens: Tokens,
        find: Finders,
        clock: SteadyClock | None = None,
        fetch: Fetch = fetch,
        sockets: SocketLimits | None = None,
        log_limits: LogLimits | None = None,
    ) -> None:
        layout = installation.layout
        clock = clock or SteadyClock()
        self._store = store
        self._clock = clock
        self._azure_limits = settings.azure_limits
        kept = KeptOutput(layout.output, settings.output_bytes)
        self.lives = Lives(store, kept, secret=tokens.sandbox_secret, clock=clock)
        transcripts = Transcripts(store, kept, self.lives.bell, clock)
        self._logs = Logs(store, transcripts, log_limits or LogLimits(), clock)
        self.retention = Retention(
            store, kept, days=settings.output_days, total_bytes=settings.output_total_bytes, clock=clock
        )
        self.timekeeper = Timekeeper(store, days=settings.timings_days, most=settings.timings_rows, clock=clock)
        self._starter = Starter(
            store,
            installation=installation.id,
            ca_bundle=layout.bundle,
            identity_header=tokens.sandbox_secret,
            ready_timeout=settings.ready_timeout,
            stop_grace=settings.stop_grace,
            witness=self.lives,
            clock=clock,
            ticks=clock.ticks,
        )
        self.places = Places(
            images=find.images,
            code=find.code,
            packages=layout.code,
            builds=layout.builds,
            environments=settings.cache_dir / "environments",
        )
        self._bundles = Bundles(
            store, self._starter, self.places, transcripts, self.timekeeper, tokens.sandbox_secret, clock
        )
        self._lost = LostResponses(store, clock)
        self.sandboxes = Sandboxes(
            store,
            self._starter,
            self.places,
            max_sandboxes=settings.max_sandboxes,
            limits=Limits(
                settings.max_sessions_per_project, settings.max_sessions_per_agent, settings.max_sessions_per_caller
            ),
            budget=Budget(settings.session_max_seconds, settings.session_max_cpu_seconds),
            on_lost=self._lost.sandbox_ended,
            clock=clock,
        )
        self.warm = WarmPools(store, self.sandboxes, default=settings.warm_pool, clock=clock)
        self.versions = Versions(store, self._starter, self.places, self.sandboxes, self.warm.reconsider)
        self.orphans = Orphans(
            store, self.places, self._starter, self.sandboxes.live, grace=settings.orphan_grace, clock=clock.ticks
        )
        self.reaper = Reaper(store, self.sandboxes, default_timeout=settings.idle_timeout, clock=clock, step=clock.step)
        self.expiry = Expiry(store, self.sandboxes, clock, clock.stood)
        self.state_expiry = StateExpiry(store, clock)
        self._upstream = Upstream()
        self._choice = VersionChoice(store, self.versions, patience=_VERSION_PATIENCE)
        self._users = Users(tokens.user_key)
        self._moves = Moves(store, self.sandboxes, clock)
        self.homes = Homes(store, self.places, self.sandboxes, clock)
        self._resolver = Resolver(store, self.sandboxes, self._choice, self._users, self.expiry, self._moves)
        self._sessions = Sessions(store, self.sandboxes, self._choice, self.expiry, clock)
        self._issuer = _issuer(settings, tokens, fetch)
        callers = Callers(tokens, self._issuer, local_tokens=settings.local_tokens)
        silence = Silence(settings.stream_keep_alive, settings.stream_idle_cut)
        self._carrier = Carrier(self._upstream, self.sandboxes, tokens.call_id, clock, silence, clock.ticks)
        self._recorder = Recorder(store, clock)
        self.background = Background(store, self._carrier, self._recorder, clock)
        self.unfinished = Unfinished(
            store, self.sandboxes, self.versions, self.homes, self._lost, self.background.follow, clock
        )
        self.socket_limits = sockets or SocketLimits()
        self._sockets = WebSockets(
            self._resolver, self._carrier, self.sandboxes.stops, self.socket_limits, clock, clock.ticks
        )
        self.routes = routes.client_routes(self._handlers())
        inner = ClientAuth(ForUsers(_router(self.routes), self._users), callers, routes.OPEN)
        self.clients = _edge(TimingEdge(inner, self.timekeeper.keep, clock, clock.ticks))

    def _handlers(self) -> routes.Handlers:
        passage = Passage(self._resolver, self._carrier)
        versions = VersionHandlers(
            self._store,
            self.versions,
            self.places,
            azure_limits=self._azure_limits,
            clock=self._clock,
            on_change=self.warm.reconsider,
        )
        responses = Responses(
            self._store, self._resolver, self._carrier, self._recorder, self.background, self.timekeeper, self._clock
        )
        return routes.Handlers(
            agents=Agents(
                self._store,
                versions,
                self.versions,
                self._set_enabled,
                self._set_endpoint,
                self.homes.delete_snapshots_of_agent,
                self.lives.forget_agent,
            ),
            versions=versions,
            sessions=self._sessions,
            bundles=self._bundles,
            stats=Stats(self._store, self.timekeeper, self._clock),
            snapshots=Snapshots(self._store, self.homes, self._clock),
            moves=SessionMoves(self._store, self._moves, self._clock),
            stopping=Stopping(self._store, self.sandboxes),
            files=Files(self._store, self.sandboxes, self.places, self._clock),
            logs=self._logs,
            responses=responses,
            conversations=Conversations(self._store, self._clock),
            invocations=Invocations(self._store, passage, self.timekeeper, self._clock),
            sockets=self._sockets,
            activities=Activities(passage),
            a2a=A2A(self._store, responses, self._clock),
            pools=Pools(self._store, self.warm),
            health=Health(self._store, self.sandboxes, self.warm),
            openapi=OpenApi(),
        )

    def _set_enabled(self, project: str, agent: str, enabled: bool) -> None:
        self._resolver.set_enabled(project, agent, enabled)
        self.warm.reconsider()

    def _set_endpoint(self, project: str, agent: str, endpoint: Mapping[str, Any]) -> None:
        self._users.set_endpoint(project, agent, endpoint)
        self.warm.reconsider()

    async def begin(self) -> None:
        """Picks up where an earlier process left off."""
        if self._issuer is not None:
            await self._issuer.begin()
        await recover(self._store, self._starter, self.places, self.sandboxes, self.versions, self._clock)
        await self.homes.recover()
        adopted = {live.session.key: live for live in self.sandboxes.live if live.session is not None}
        for live, response in await self._lost.platform_restarted(adopted):
            self.background.follow(live, response)
        for project, name in await self._store.read(agent_rows.disabled_agents):
            self._resolver.set_enabled(project, name, False)
        for project, name, endpoint in await self._store.read(agent_rows.endpoints):
            self._users.set_endpoint(project, name, endpoint)

    async def drain(self) -> None:
        """Takes leave of those who would stay connected for ever; while the listeners still carry it."""
        self.lives.bell.close()
        await self._sockets.drain()

    async def break_off(self) -> None:
        """Lets go of everything without stopping what runs, as a crash would; for tests of what comes after."""
        await self.background.aclose()
        await self.versions.aclose()
        await self._sessions.aclose()
        await self.homes.aclose()
        await self.sandboxes.break_off()
        await self.lives.aclose()
        await self._close_connections()

    async def aclose(self) -> None:
        """Stops what is being made and what runs. Sessions and homes stay."""
        await self.drain()
        await self.background.aclose()
        await self.versions.aclose()
        await self._sessions.aclose()
        await self.homes.aclose()
        await self.sandboxes.stop_all(_STOP_GRACE)
        await self.lives.aclose()
        await self._close_connections()
        self.timekeeper.write()

    async def _close_connections(self) -> None:
        await self._upstream.aclose()
        if self._issuer is not None:
            await self._issuer.aclose()


def _issuer(settings: Settings, tokens: Tokens, fetch: Fetch) -> OidcCallers | None:
    if settings.oidc_issuer is None:
        return None
    rules = Rules(
        audience=settings.oidc_audience,
        role_claim=settings.oidc_role_claim,
        roles=settings.oidc_roles,
        default_role=settings.oidc_default_role,
    )
    return OidcCallers(read_issuer(settings.oidc_issuer), rules, tokens.user_key, fetch)


def callback_apps(store: Store, tokens: Tokens, clock: Callable[[], float] = time.time) -> tuple[ASGIApp, ASGIApp]:
    """What sandboxes reach: callbacks over https with a token, and the endpoint that gives them the token."""
    known = routes.callback_routes(
        Storage(store, tokens, clock), StateStores(store, tokens, clock), ConversationItems(store)
    )
    callbacks = SandboxAuth(SessionNow(_router(known), store), tokens)
    return _edge(callbacks), _edge(_router(routes.token_routes(SandboxTokens(tokens, store))))


def _router(known: list[BaseRoute]) -> Router:
    return Router(known, redirect_slashes=False, default=routes.unknown)


def _edge(app: ASGIApp) -> ASGIApp:
    """The outermost wrapper of every listener."""
    return ErrorEdge(app)


async def serve(settings: Settings, on_ready: Callable[[Running], None]) -> None:
    """Runs the platform until SIGINT or SIGTERM. Raises SetupError or DriverUnavailable when it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    async with running_platform(settings) as running:
        _calm_the_garbage_collector()
        on_ready(running)
        await stop.wait()
        log.info("stopping")


def _calm_the_garbage_collector() -> None:
    """Takes what start-up has made out of every collection, and collects less often.

    With the defaults, a fifth of the gateway's time at full load goes into walking modules and tables that never die.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 50)


@asynccontextmanager
async def running_platform(settings: Settings) -> AsyncGenerator[Running]:
    """The platform behind its listeners, announced to the commands of this user."""
    async with AsyncExitStack() as stack:
        installation = stack.enter_context(Installation.open(settings.state_dir))
        layout = installation.layout
        clients_socket = bind(settings.host, settings.port)
        stack.callback(clients_socket.close)
        store = Store.open(layout.database)
        stack.push_async_callback(store.aclose)
        authority = Authority.open(layout.ca)
        write_bundle(layout.bundle, authority, os.environ)
        ports = RememberedPorts(layout.state_dir / "ports.json")
        tokens = Tokens(installation.secret)
        drivers = await stack.enter_async_context(AsyncExitStack())  # outlives the platform's own parts
        found = _Drivers(settings, installation, drivers, ports, authority, callback_apps(store, tokens))
        platform = Platform(settings, installation, store, tokens, Finders(found.for_images, found.for_code))
        driver, reason = await _choose_driver(settings, platform.places)
        stack.push_async_callback(platform.aclose)
        await platform.begin()
        for loop in (
            platform.reaper.run(),
            platform.expiry.run(),
            platform.orphans.run(),
            platform.unfinished.run(),
            platform.state_expiry.run(),
            platform.retention.run(),
            platform.timekeeper.run(),
            platform.warm.run(),
        ):
            stack.push_async_callback(_end, asyncio.create_task(loop))
        certificate = authority.issue("clients", [*LOCAL_NAMES, settings.host])
        clients = await _listening(
            stack,
            Listener(platform.clients, clients_socket, certificate, message_limit=platform.socket_limits.message),
        )
        stack.push_async_callback(platform.drain)
        sign_in = _edge(_router(routes.token_routes(ClientTokens(tokens, installation.identity_header))))
        sign_in_socket = ports.bind("sign-in", "127.0.0.1", min(settings.port + 1, 65535))
        identity = await _listening(stack, Listener(sign_in, sign_in_socket))
        running = Running(
            pid=os.getpid(),
            endpoint=f"https://localhost:{clients.port}/api/projects/{settings.project}",
            port=clients.port,
            identity_port=identity.port,
            driver=driver,
            driver_reason=reason,
            started_at=datetime.now(UTC),
        )
        installation.announce(running)
        yield running


async def _listening(stack: AsyncExitStack, listener: Listener) -> Listener:
    stack.push_async_callback(listener.aclose)
    await listener.start()
    return listener


async def _quietly(close: Callable[[], Awaitable[None]]) -> None:
    """Closes what belongs to an engine that may be gone by now."""
    try:
        await close()
    except CupolaError as error:
        log.warning("not closed", reason=error.message)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def _choose_driver(settings: Settings, places: Places) -> tuple[str, str]:
    """Which driver runs images, and why; child processes are there in any case, for code."""
    try:
        place = await places.images()
    except DriverUnavailable as error:
        if settings.driver == "docker":
            raise
        return "process", "chosen with --driver process" if settings.driver == "process" else error.message
    return place.driver.name, f"{place.about} answers; code deployments run as child processes"


class _Drivers:
    """The real drivers, connected when they are first needed, each with listeners that its sandboxes reach."""

    def __init__(
        self,
        settings: Settings,
        installation: Installation,
        stack: AsyncExitStack,
        ports: RememberedPorts,
        authority: Authority,
        apps: tuple[ASGIApp, ASGIApp],
    ) -> None:
        self._settings = settings
        self._installation = installation
        self._stack = stack
        self._ports = ports
        self._authority = authority
        self._callbacks, self._tokens = apps

    async def for_images(self) -> Place:
        if self._settings.driver == "process":
            raise DriverUnavailable(
                "This platform was started with --driver process, which runs code deployments only; "
                "start it with --driver auto on a machine with Docker or Podman to run images."
            )
        driver = await docker.connect(self._installation.id)
        # Nothing runs in its network any more when the drivers are closed; the next start makes it again.
        self._stack.push_async_callback(_quietly, driver.aclose)
        self._stack.push_async_callback(_quietly, driver.remove_installation)
        return replace(await self._place(driver, loopback_answers=False), about=driver.about)

    async def for_code(self) -> Place:
        driver = ProcessDriver(self._installation.layout.process, self._installation.id)
        self._stack.push_async_callback(driver.aclose)
        return await self._place(driver, loopback_answers=True)

    async def _place(self, driver: Driver, *, loopback_answers: bool) -> Place:
        callbacks = await self._listen(driver.name, await driver.callback_reach())
        return Place(driver, callbacks, loopback_answers)

    async def _listen(self, driver: str, reach: CallbackReach) -> CallbackEndpoint:
        names = dict.fromkeys([reach.host, reach.bind, *LOCAL_NAMES, *CONTAINER_NAMES])
        certificate = self._authority.issue(f"callbacks-{driver}", names)
        https_socket = self._ports.bind(f"{driver}-https", reach.bind)
        https = await _listening(self._stack, Listener(self._callbacks, https_socket, certificate))
        identity_socket = self._ports.bind(f"{driver}-identity", reach.bind)
        identity = await _listening(self._stack, Listener(self._tokens, identity_socket))
        return CallbackEndpoint(reach.host, https.port, identity.port)
