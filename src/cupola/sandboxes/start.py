"""Making one sandbox answer: create, start, probe; each step saved before the next, so that it can be undone.

The row is written before anything is made and carries the driver's handle from the moment there is one. Whatever
interrupts a start (an error, a cancelled task, SIGKILL) leaves a row from which `Starter.undo` cleans up.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import structlog

from cupola.agents import Agent, AgentVersion, Failure, Phase, VersionStatus
from cupola.drivers import base
from cupola.drivers.base import Driver, Handle, SandboxSpec, Source, Step
from cupola.errors import CupolaError, DriverUnavailable
from cupola.identity import identity_of
from cupola.ids import new_guid_hex, new_sandbox_id
from cupola.runs import StartType
from cupola.sandboxes import evidence
from cupola.sandboxes.environment import PERSONAL, CallbackEndpoint, sandbox_environment
from cupola.sandboxes.generation import learn_adapter
from cupola.sandboxes.live import LiveSandbox, SessionKey
from cupola.sandboxes.probe import probe_until_ready
from cupola.sessions import Observed, Sandbox, Session
from cupola.store import Store
from cupola.store import sandboxes as rows
from cupola.timings import SessionStart, Start

log = structlog.get_logger()

_DIAGNOSIS_TIMEOUT = 3.0

OnPhase = Callable[[Phase], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Place:
    """A driver, how its sandboxes reach the platform, and whether a bind to loopback is reached there.

    `about` names for people what is behind the driver: the engine and its version.
    """

    driver: Driver
    callbacks: CallbackEndpoint
    loopback_answers: bool
    about: str = ""


class CouldNotStart(CupolaError):
    """A sandbox did not come up; `failure` is the evidence, `start` how it was tried.

    Caught by whoever asked for the start.
    """

    def __init__(self, failure: Failure, start: Start | None = None) -> None:
        super().__init__(failure.message, code=failure.code)
        self.failure = failure
        self.start = start


class _Timed:
    """When a start comes how far."""

    def __init__(self, session: Session | None, ticks: Callable[[], float]) -> None:
        self._type = SessionStart.COLD if session is None or session.stopped_at is None else SessionStart.RESUME
        self._ticks = ticks
        self._began = ticks()
        self._started: float | None = None

    def has_started(self) -> None:
        self._started = self._ticks()

    def ended(self) -> Start:
        """The start that is over, well or not."""
        now = self._ticks()
        return Start(self._type, self._began, now if self._started is None else self._started, now)


class Witness(Protocol):
    """Is told of the lives of sandboxes, and keeps what remains of them. See `sandboxes/lives.py`."""

    def began(self, row: Sandbox, start_type: StartType) -> None: ...

    async def follow(self, row: Sandbox, driver: Driver, handle: Handle) -> None: ...

    def ready(self, row: Sandbox, driver: Driver, handle: Handle) -> None: ...

    def adopted(self, row: Sandbox) -> None: ...

    def failed(self, row: Sandbox, failure: Failure) -> None: ...

    async def finish(self, row: Sandbox, driver: Driver, handle: Handle) -> None: ...

    def ended(self, row: Sandbox, reason: str) -> None: ...

    async def settle(self, living: Collection[str]) -> None: ...

    async def forget_session(self, key: SessionKey) -> None: ...


class Starter:
    """Starts and stops single sandboxes and keeps their rows true; `witness` is told. `ticks` is a monotonic clock."""

    def __init__(
        self,
        store: Store,
        *,
        installation: str,
        ca_bundle: Path,
        identity_header: Callable[[str], str],
        ready_timeout: float,
        stop_grace: float,
        witness: Witness,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ticks = ticks
        self._store = store
        self.witness = witness
        self._installation = installation
        self._ca_bundle = ca_bundle
        self._identity_header = identity_header
        self._ready_timeout = ready_timeout
        self._stop_grace = stop_grace
        self._clock = clock
        self._at_work: Counter[str] = Counter()

    def is_at_work_on(self, sandbox_id: str) -> bool:
        """Whether that sandbox is being started, stopped or undone now."""
        return sandbox_id in self._at_work

    @contextmanager
    def _working_on(self, row: Sandbox) -> Iterator[None]:
        self._at_work[row.id] += 1
        try:
            yield
        finally:
            self._at_work[row.id] -= 1
            if not self._at_work[row.id]:
                del self._at_work[row.id]

    def new_row(self, version: AgentVersion, place: Place, session: Session | None, session_id: str) -> Sandbox:
        """The row of a sandbox to be: for `session`, or warm with the id that its session will take (`""` for any)."""
        return Sandbox(
            id=new_sandbox_id(),
            project=version.project,
            agent=version.agent,
            version=version.version,
            driver=place.driver.name,
            session_id=session_id,
            session_guid=session.guid if session is not None else new_guid_hex(),
            home=session.home if session is not None else new_guid_hex(),
            created_at=self._clock(),
            session=None if session is None else session.id,
        )

    async def start(
        self,
        row: Sandbox,
        agent: Agent,
        version: AgentVersion,
        place: Place,
        source: Source,
        session: Session | None,
        on_phase: OnPhase | None = None,
    ) -> LiveSandbox:
        """Brings the sandbox of `row` (already saved) to its first 200. Raises CouldNotStart, with nothing left."""
        with self._working_on(row):
            return await self._start(row, agent, version, place, source, session, on_phase)

    async def _start(
        self,
        row: Sandbox,
        agent: Agent,
        version: AgentVersion,
        place: Place,
        source: Source,
        session: Session | None,
        on_phase: OnPhase | None,
    ) -> LiveSandbox:
        phase = Phase.CREATE
        handle: Handle | None = None
        timed = _Timed(session, self._ticks)
        self.witness.began(row, _start_type(version, session))
        try:
            spec = self._spec(row, agent, version, place, source)
            async with aclosing(place.driver.start(spec)) as steps:
                async for handle in steps:
                    row = replace(row, handle=handle.to_json())
                    await self._save(row)
                    phase = Phase.START if handle.step is Step.CREATED else Phase.PROBE
                    if on_phase is not None:
                        await on_phase(phase)
            timed.has_started()
            assert handle is not None
            await self.witness.follow(row, place.driver, handle)
            await self._probe(handle, version, place)
            assert handle.address is not None
            adapter = await learn_adapter(handle.address)
        except CouldNotStart as error:
            error.start = timed.ended()
            self.witness.failed(row, error.failure)
            await self.undo(row, place.driver, "did not become ready")
            raise
        except DriverUnavailable:  # of a place that is away nothing can be learned; it comes back
            await self.undo(row, place.driver, "its place was away")
            raise
        except CupolaError as error:
            start = timed.ended()
            failure = evidence.of_error(error, phase, await self._output(place.driver, handle))
            self.witness.failed(row, failure)
            await self.undo(row, place.driver, "could not be started")
            raise CouldNotStart(failure, start) from error
        except BaseException:
            # Cancelled, or a defect: the row names what was made, and a second attempt to undo finds it there.
            await asyncio.shield(self.undo(row, place.driver, "start broken off"))
            raise
        self.witness.ready(row, place.driver, handle)
        row = replace(row, observed=Observed.READY)
        self._store.write_later(lambda conn: rows.put_sandbox(conn, row))
        return LiveSandbox(
            row=row,
            handle=handle,
            address=handle.address,
            driver=place.driver,
            version=version,
            last=self._clock(),
            session=session,
            generation=adapter.generation,
            binds_late=adapter.hooks,
            start=timed.ended(),
        )

    async def _save(self, row: Sandbox) -> None:
        await self._store.write(lambda conn: rows.put_sandbox(conn, row))

    def environment(self, row: Sandbox, agent: Agent, version: AgentVersion, place: Place) -> dict[str, str]:
        """The variables with which the sandbox of `row` is started, but for what its driver adds."""
        return sandbox_environment(
            version,
            row,
            place.callbacks,
            identity_header=self._identity_header(row.id),
            agent_guid=agent.guid,
            client_ids={
                "instance": identity_of(agent.guid, "instance")["client_id"],
                "blueprint": identity_of(agent.guid, "blueprint")["client_id"],
            },
        )

    def _spec(self, row: Sandbox, agent: Agent, version: AgentVersion, place: Place, source: Source) -> SandboxSpec:
        labels: Mapping[str, str] = {
            base.LABEL_INSTALLATION: self._installation,
            base.LABEL_SANDBOX: row.id,
            base.LABEL_PROJECT: row.project,
            base.LABEL_AGENT: row.agent,
            base.LABEL_VERSION: row.version,
            base.LABEL_SESSION: row.session_id,
        }
        return SandboxSpec(
            sandbox_id=row.id,
            source=source,
            environment=self.environment(row, agent, version, place),
            cpu=version.definition.cpu,
            memory=version.definition.memory,
            home=row.home,
            labels=labels,
            ca_bundle=self._ca_bundle,
            personal=PERSONAL,
        )

    async def _probe(self, handle: Handle, version: AgentVersion, place: Place) -> None:
        assert handle.address is not None
        result = await probe_until_ready(handle.address, lambda: place.driver.poll(handle), self._ready_timeout)
        if result.ready:
            return
        running = result.observation.life is base.Life.RUNNING
        listeners = await self._listeners(place.driver, handle) if running else None
        raise CouldNotStart(
            evidence.of_probe(
                result.observation,
                result.probes,
                await self._output(place.driver, handle),
                listeners,
                port=handle.address.port if place.loopback_answers else base.SANDBOX_PORT,
                memory=version.definition.memory,
                timeout=self._ready_timeout,
                loopback_answers=place.loopback_answers,
            )
        )

    async def _listeners(self, driver: Driver, handle: Handle) -> Sequence[base.Listener] | None:
        try:
            async with asyncio.timeout(_DIAGNOSIS_TIMEOUT):
                return await driver.listeners(handle)
        except (TimeoutError, CupolaError) as error:
            log.info("could not see the sandbox's sockets", reason=str(error))
            return None

    async def _output(self, driver: Driver, handle: Handle | None) -> Sequence[str]:
        if handle is None:
            return ()
        try:
            return await driver.output(handle, evidence.LOG_LINES)
        except CupolaError as error:
            log.info("could not read the sandbox's output", reason=str(error))
            return ()

    async def evidence_of_end(self, live: LiveSandbox) -> Failure:
        """Why a sandbox that was ready is no more: exit code and last lines, taken before it is removed."""
        observation = await live.driver.poll(live.handle)
        output = await self._output(live.driver, live.handle)
        failure = evidence.of_end(observation, output, live.version.definition.memory)
        self.witness.failed(live.row, failure)
        return failure

    async def stop(self, live: LiveSandbox, reason: str, *, grace: float | None = None) -> None:
        """SIGTERM, grace, SIGKILL; then its row goes. The home of a session stays, a warm sandbox's goes first."""
        live.stopping = True
        with self._working_on(live.row):
            await self._remove(live.row, live.driver, live.handle, self._stop_grace if grace is None else grace)
            await self._forget(live.row, live.driver)
        self.witness.ended(live.row, reason)

    async def undo(self, row: Sandbox, driver: Driver, reason: str) -> None:
        """Removes what a start has made so far, and the row. May be repeated."""
        with self._working_on(row):
            if row.handle is not None:
                await self._remove(row, driver, Handle.from_json(row.handle), 0)
            await self._forget(row, driver)
        self.witness.ended(row, reason)

    async def _forget(self, row: Sandbox, driver: Driver) -> None:
        """The row is the last to go: from it, all that is left can be found again."""
        if row.session is None:
            await driver.delete_home(row.home)
        await self._store.write(lambda conn: rows.delete_sandbox(conn, row.id))

    async def _remove(self, row: Sandbox, driver: Driver, handle: Handle, grace: float) -> None:
        """Ends a sandbox, and removes it once its last words are kept."""
        await driver.end(handle, grace)
        await self.witness.finish(row, driver, handle)
        await driver.stop(handle, 0)


def _start_type(version: AgentVersion, session: Session | None) -> StartType:
    if session is not None:
        return StartType.COLD if session.stopped_at is None else StartType.RESUME
    return StartType.PROBE if version.status is VersionStatus.CREATING else StartType.WARM
