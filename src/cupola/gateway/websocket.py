"""The `invocations_ws` protocol: a WebSocket from the caller to the container's `/invocations_ws`, message by message.

Messages go on as they come, one at a time in each direction, so a slow end slows the other one down. Close codes and
reasons pass both ways. A connection ends after half an hour, or when the platform stops (control-plane.md §2.8,
container-contract.md §3.4). Nothing is replayed, and no pings are sent: those of either end are answered on its side.

How a connection ends, and why, is decided by `End`s; what carries the frames are uvicorn and `websockets`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn, Protocol

import orjson
import structlog
from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.frames import EXTERNAL_CLOSE_CODES
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from cupola.drivers.base import Address
from cupola.errors import BadRequest, CupolaError, DriverUnavailable, SandboxLost
from cupola.gateway.headers import Header, to_caller
from cupola.gateway.passage import named_session, others
from cupola.identity import Caller
from cupola.sandboxes.live import LiveSandbox
from cupola.timings import Stopwatch
from cupola.web.errors import envelope_of, refuse
from cupola.web.listen import MESSAGE_LIMIT

log = structlog.get_logger()

PROTOCOL = "invocations_ws"

NORMAL, GOING_AWAY, TOO_BIG, BROKEN = 1000, 1001, 1009, 1011
NO_CODE, NO_CLOSE = 1005, 1006
"""What stands for a close frame without a code, and for none at all; neither may be sent (RFC 6455 §7.4.1)."""

_MADE_ANEW = frozenset({b"content-length", b"content-type", b"content-encoding", b"date"})
"""Headers of an answer to an upgrade that are made anew, beside those of WebSockets themselves."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`message` in bytes, for each direction; the rest in seconds.

    `lifetime` is that of one connection. `opening` is how long a container may take to accept, `closing` how long an
    end may take to close.
    """

    message: int = MESSAGE_LIMIT
    lifetime: float = 1800.0
    opening: float = 30.0
    closing: float = 5.0


@dataclass(frozen=True, slots=True)
class End:
    """Why a connection ends, as the two ends are told: None for the one that knows already."""

    code: int
    reason: str
    to_caller: bool = True
    to_container: bool = True


class Finding(Protocol):
    """What this module needs of `resolve.Resolver`."""

    async def sandbox(
        self, project: str, agent_name: str, caller: Caller, *, session_id: str | None, protocol: str
    ) -> LiveSandbox: ...


class Heading(Protocol):
    """What this module needs of `carry.Carrier`."""

    def headers(self, scope: Scope, live: LiveSandbox, caller: Caller, protocol: str) -> list[Header]: ...


class Checking(Protocol):
    """What this module needs of `sandboxes.stops.Stops`."""

    async def check(self, live: LiveSandbox) -> bool: ...


class Refused(Exception):
    """The container answered the upgrade with something else."""

    def __init__(self, reply: Response) -> None:
        super().__init__(reply.status_code)
        self.reply = reply


class WebSockets:
    """ASGI endpoint of `/agents/{agent}/endpoint/protocols/invocations_ws`. `clock` gives unix seconds."""

    def __init__(
        self,
        resolver: Finding,
        carrier: Heading,
        stops: Checking,
        limits: Limits,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ticks = ticks
        self._resolver = resolver
        self._carrier = carrier
        self._stops = stops
        self._limits = limits
        self._clock = clock
        self._open: dict[asyncio.Future[End], asyncio.Task[object]] = {}
        self._draining = False

    async def connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Connects the caller with the container that serves the session of the query, until either closes."""
        if self._draining:
            raise DriverUnavailable("The platform is stopping; connect again when it is back.", code="stopping")
        await receive()  # the wish to connect; nothing else can come before the answer
        try:
            async with self._dialled(scope) as (live, container):
                began = self._clock()
                end = await self._serve(live, container, scope, receive, send)
                if end.code == BROKEN and not end.to_container:
                    await self._look_at(live)
        except Refused as error:
            await _refuse(error.reply, scope, send)
            return
        log.info(
            "websocket closed",
            agent=live.row.agent,
            session=live.row.session_id,
            code=end.code,
            reason=end.reason,
            seconds=round(self._clock() - began, 3),
        )

    async def explain(self, scope: Scope, receive: Receive, send: Send) -> NoReturn:
        """Plain `GET` of the same address."""
        named_session(scope)
        raise BadRequest("This address takes WebSockets only: connect to it with wss:// instead of https://.")

    async def drain(self) -> None:
        """Tells both ends of every connection that the platform goes away, and lets nobody in any more."""
        self._draining = True
        tasks = set(self._open.values())
        for told in list(self._open):
            _tell(told, End(GOING_AWAY, "The platform is stopping."))
        if tasks:
            await asyncio.wait(tasks, timeout=2 * self._limits.closing)

    async def _look_at(self, live: LiveSandbox) -> None:
        """Buries a sandbox that has ended; both ends of the connection know already that it is over."""
        try:
            await self._stops.check(live)
        except CupolaError as error:
            log.warning("could not look at a sandbox", sandbox=live.row.id, reason=error.message)

    # Opening

    @asynccontextmanager
    async def _dialled(self, scope: Scope) -> AsyncGenerator[tuple[LiveSandbox, ClientConnection]]:
        """The session's sandbox, which counts as busy, and a connection to it that is closed at the end.

        A sandbox that turns out to be dead is replaced once, as for requests.
        """
        parameters, caller = scope["path_params"], scope["cupola.caller"]
        watch: Stopwatch = scope["cupola.stopwatch"]
        watch.asks(parameters["project"], parameters["agent"], PROTOCOL)

        async def find(session_id: str | None) -> LiveSandbox:
            return await self._resolver.sandbox(
                parameters["project"], parameters["agent"], caller, session_id=session_id, protocol=PROTOCOL
            )

        live = await find(named_session(scope))
        for last_try in (False, True):
            while live.stopping:
                live = await find(live.row.session_id)
            scope["cupola.session_id"] = live.row.session_id
            watch.forwards(self._ticks(), live.row.version, live.row.session_id, live.start)
            live.opened(self._clock())
            try:
                headers = self._carrier.headers(scope, live, caller, PROTOCOL)
                container = await _dial(live.address, others(scope), headers, scope["subprotocols"], self._limits)
            except SandboxLost as error:
                if live.ending is not None:
                    raise live.ending from error
                if last_try or await self._stops.check(live):
                    raise
            else:
                try:
                    yield live, container
                finally:
                    container.transport.abort()
                return
            finally:
                live.closed(self._clock())
            live = await find(live.row.session_id)

    async def _serve(
        self, live: LiveSandbox, container: ClientConnection, scope: Scope, receive: Receive, send: Send
    ) -> End:
        """Accepts, carries, and closes what is still open."""
        told: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        task = asyncio.current_task()
        assert task is not None
        self._open[told] = task
        expiry = asyncio.get_running_loop().call_later(self._limits.lifetime, _tell, told, _expired(self._limits))
        try:
            if self._draining:
                _tell(told, End(GOING_AWAY, "The platform is stopping."))
            if not await _sent(send, _accept(container)):
                end = End(GOING_AWAY, "", to_caller=False)
            else:
                end = await _carried(container, receive, send, told, self._limits)
            if end.code == BROKEN and live.stopping:
                end = End(GOING_AWAY, "The session's sandbox was stopped.", to_container=False)
            await asyncio.gather(
                _close_caller(end, send, self._limits.closing),
                _close_container(end, container, self._limits.closing),
            )
            return end
        finally:
            expiry.cancel()
            del self._open[told]


def _tell(told: asyncio.Future[End], end: End) -> None:
    if not told.done():
        told.set_result(end)


def _expired(limits: Limits) -> End:
    return End(GOING_AWAY, f"A connection lasts {limits.lifetime / 60:g} minutes; open another one.")


async def _dial(
    address: Address, query: Sequence[bytes], headers: Sequence[Header], subprotocols: Sequence[str], limits: Limits
) -> ClientConnection:
    """A connection that the container has accepted. Raises Refused, or SandboxLost."""
    uri = WebSocketURI(False, address.host, address.port, "/invocations_ws", b"&".join(query).decode("latin-1"))
    protocol = ClientProtocol(
        uri, subprotocols=[Subprotocol(name) for name in subprotocols] or None, max_size=limits.message
    )
    connection: ClientConnection | None = None
    try:
        async with asyncio.timeout(limits.opening):
            # Not `websockets.connect`: it follows redirects, and a container must not send the gateway elsewhere.
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: ClientConnection(protocol, ping_interval=None, close_timeout=limits.closing, max_queue=1),
                address.host,
                address.port,
            )
            named = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
            await connection.handshake(named, None)
    except BaseException as error:
        if connection is not None:
            connection.transport.abort()
        if isinstance(error, InvalidStatus) and error.response.status_code >= 400:
            raise Refused(error.response) from error
        raise _lost(error, limits) from error
    return connection


def _lost(error: BaseException, limits: Limits) -> BaseException:
    """A failure to open as `SandboxLost`; what is none of the container's stays as it is."""
    if isinstance(error, TimeoutError):
        return SandboxLost(f"The agent's container did not accept the WebSocket within {limits.opening:g} s.")
    if isinstance(error, InvalidMessage | OSError):
        return SandboxLost("The agent's container did not answer the upgrade; it may have ended, its log says why.")
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        return SandboxLost(f"The agent's container answered the upgrade to a WebSocket with {status} instead of 101.")
    if isinstance(error, InvalidHandshake):
        return SandboxLost(f"The agent's container upgraded to something that is no WebSocket: {error}.")
    return error


def _accept(container: ClientConnection) -> Message:
    assert container.response is not None
    return {
        "type": "websocket.accept",
        "subprotocol": container.subprotocol,
        "headers": _headers(container.response),
    }


def _headers(reply: Response) -> list[Header]:
    """What of the container's answer to the upgrade the caller may see."""
    said = [(name.lower().encode(), value.encode("latin-1")) for name, value in reply.headers.raw_items()]
    return [h for h in to_caller(said) if not h[0].startswith(b"sec-websocket-") and h[0] not in _MADE_ANEW]


async def _refuse(reply: Response, scope: Scope, send: Send) -> None:
    """The container's own answer to the upgrade, in the envelope that the caller's SDK reads."""
    status, body = reply.status_code, bytes(reply.body or b"")
    if not _is_envelope(body):
        code, message = _meaning(status)
        body = orjson.dumps(envelope_of(status, code, message, scope["cupola.request_id"]))
    log.info("the agent refused a websocket", status=status, session=scope["cupola.session_id"])
    headers = [*_headers(reply), (b"content-type", b"application/json")]
    with suppress(OSError):
        await refuse(scope, send, status, headers, body)


def _meaning(status: int) -> tuple[str, str]:
    """What a container says with a status and nothing else."""
    if status == 404:
        return "not_found", "The agent's container has no handler for WebSockets (/invocations_ws)."
    message = f"The agent's container refused the WebSocket with status {status}."
    if status == 403:
        message += " Without a handler for /invocations_ws the official adapter does that, too."
    return "upgrade_refused", message


def _is_envelope(body: bytes) -> bool:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(found, dict) and isinstance(found.get("error"), dict)


# Carrying


async def _carried(
    container: ClientConnection, receive: Receive, send: Send, told: asyncio.Future[End], limits: Limits
) -> End:
    """Both directions until one of them, or what `told` brings, ends the connection."""
    down = asyncio.create_task(_to_caller(container, send, limits))
    up = asyncio.create_task(_to_container(container, receive, limits))
    try:
        await asyncio.wait([down, up, told], return_when=asyncio.FIRST_COMPLETED)
        ended: Awaitable[End] = down if down.done() else up if up.done() else told
        return await ended
    finally:
        for task in (down, up):
            task.cancel()
        await asyncio.gather(down, up, return_exceptions=True)


async def _to_caller(container: ClientConnection, send: Send, limits: Limits) -> End:
    with suppress(ConnectionClosed):
        while True:
            content = await container.recv()
            kind = "text" if isinstance(content, str) else "bytes"
            if not await _sent(send, {"type": "websocket.send", kind: content}):
                return End(GOING_AWAY, "", to_caller=False)
    return _of_container(container, limits)


async def _to_container(container: ClientConnection, receive: Receive, limits: Limits) -> End:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return _of_caller(message)
        text = message.get("text")
        content: str | bytes = message["bytes"] if text is None else text
        try:
            await container.send(content)
        except ConnectionClosed:
            return await asyncio.Future()  # `_to_caller` has what came before the end, and says how it ended


async def _sent(send: Send, message: Message) -> bool:
    """False when the caller has left: ASGI servers raise an OSError then."""
    try:
        await send(message)
    except OSError:
        return False
    return True


# Closing


def _of_caller(message: Message) -> End:
    """What a container is told when its caller closes, or vanishes."""
    code, reason = message.get("code", NO_CODE), message.get("reason")
    if code == NO_CODE and reason is not None:
        code = NORMAL  # an empty close frame; without a reason at all there was none
    return End(_sendable(code, GOING_AWAY), reason or "", to_caller=False)


def _of_container(container: ClientConnection, limits: Limits) -> End:
    """What a caller is told when its container closes, breaks the protocol, or vanishes."""
    received, sent = container.protocol.close_rcvd, container.protocol.close_sent
    if received is not None and container.protocol.close_rcvd_then_sent is not False:
        return End(_sendable(received.code, NORMAL), received.reason, to_container=False)
    if sent is not None and sent.code == TOO_BIG:
        reason = f"The agent sent a message of more than {limits.message} bytes."
        return End(TOO_BIG, reason, to_container=False)
    if sent is not None:
        return End(BROKEN, "The agent's container broke the WebSocket protocol.", to_container=False)
    return End(BROKEN, "The agent's sandbox ended, or broke the connection off.", to_container=False)


def _sendable(code: int, otherwise: int) -> int:
    """The code itself, unless it is one that only stands for something else (RFC 6455 §7.4)."""
    return code if code in EXTERNAL_CLOSE_CODES or 3000 <= code < 5000 else otherwise


async def _close_caller(end: End, send: Send, patience: float) -> None:
    if end.to_caller:
        with suppress(TimeoutError):  # a caller that reads nothing gets no close frame either
            async with asyncio.timeout(patience):
                await _sent(send, {"type": "websocket.close", "code": end.code, "reason": end.reason})


async def _close_container(end: End, container: ClientConnection, patience: float) -> None:
    if end.to_container:
        discarding = asyncio.create_task(_discard(container))
        try:
            with suppress(TimeoutError):  # neither does a container; its connection is aborted
                async with asyncio.timeout(patience):
                    await container.close(end.code, end.reason)
        finally:
            discarding.cancel()
            await asyncio.gather(discarding, return_exceptions=True)


async def _discard(container: ClientConnection) -> None:
    """Reads on, since the answer to a close frame comes after whatever the container still says."""
    with suppress(ConnectionClosed):
        while True:
            await container.recv()
