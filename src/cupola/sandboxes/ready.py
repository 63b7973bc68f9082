"""`ensure_ready`: one running sandbox per session, however many ask for it at once.

The gateway asks for a live sandbox and gets it: from memory when it runs, from a start in progress when there is one,
else from a new start. New sessions adopt warm sandboxes (`adoption.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import structlog

from cupola.agents import Agent, AgentVersion, Failure, Phase
from cupola.errors import Conflict, CupolaError, NotFound, QuotaExceeded, SessionNotReady, StartFailed
from cupola.ids import new_guid_hex, new_session_id
from cupola.limits import Budget, Limits, Owner, budget_of, over_budget, spent
from cupola.sandboxes import evidence
from cupola.sandboxes.admission import Admission
from cupola.sandboxes.adoption import Adoptions
from cupola.sandboxes.joining import joined
from cupola.sandboxes.live import LiveSandbox, LiveSandboxes, SessionKey
from cupola.sandboxes.occupied import Occupied
from cupola.sandboxes.places import Places
from cupola.sandboxes.spares import remove_spares
from cupola.sandboxes.start import CouldNotStart, Place, Starter
from cupola.sandboxes.stops import OnLost, Stops, put_if_there
from cupola.sandboxes.usage import Usage
from cupola.sandboxes.warm_starts import WarmStarts
from cupola.sessions import Activity, Desired, Observed, Sandbox, Session, what_is_open
from cupola.snapshots import Snapshot
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import sandboxes as sandbox_rows
from cupola.store import sessions as session_rows
from cupola.store import snapshots as snapshot_rows
from cupola.timings import SessionStart

log = structlog.get_logger()


class Sandboxes:
    """What runs for whom. `on_lost` is set once by the application."""

    def __init__(
        self,
        store: Store,
        starter: Starter,
        places: Places,
        *,
        max_sandboxes: int,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        budget: Budget = Budget(),  # noqa: B008 (frozen)
        on_lost: OnLost,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._starter = starter
        self._places = places
        self._max = max_sandboxes
        self._clock = clock
        self.live = LiveSandboxes()
        self.occupied = Occupied()
        self.usage = Usage(store, budget, clock)
        self.stops = Stops(store, starter, self.live, self.usage, on_lost, clock)
        self._admission = Admission(limits, self.live, self.stops.stop)
        self.warm_starts = WarmStarts(store, starter, places, self.live)
        self._adoptions = Adoptions(
            store, self.live, self._admission.seat, self.stops.discard_soon, starter.witness.adopted, clock
        )
        self._starting: dict[SessionKey, asyncio.Task[LiveSandbox]] = {}
        self._deleting: dict[SessionKey, asyncio.Task[None]] = {}
        self._making: set[SessionKey] = set()

    def live_of(self, key: SessionKey) -> LiveSandbox | None:
        """The ready sandbox of a session, from memory; None when it must be looked up or started."""
        live = self.live.of_session(key)
        return live if live is not None and not live.stopping else None

    async def adopt_warm(self, version: AgentVersion, caller: str, session_id: str | None = None) -> LiveSandbox | None:
        """A new session in a warm sandbox of `version`, under that id if one is given; None when there is none.

        Who asks for a session that another request is making in this moment gets that one: check its owner.
        """
        return await self._adoptions.adopt(version, caller, session_id)

    async def begin_session(self, agent: Agent, version: AgentVersion, caller: str, session_id: str | None) -> Session:
        """The session with that id, made on `version` if it is new; an id is made up if there is none.

        It starts no sandbox: `ensure_ready` does. Two callers with one new id get one session. Raises Conflict when the
        version has gone meanwhile, QuotaExceeded when there would be no room for the session to run.
        """
        await self._admission.make_room(Owner(agent.project, agent.name, caller))
        now = self._clock()
        session = Session(
            project=agent.project,
            agent=agent.name,
            id=session_id or new_session_id(),
            guid=new_guid_hex(),
            version=version.version,
            caller=caller,
            home=new_guid_hex(),
            created_at=now,
            last_accessed_at=now,
        )

        def get_or_create(conn: Any) -> Session:
            known = session_rows.get_session(conn, *session.key)
            if known is None:
                if not agent_rows.is_active(conn, version.key):
                    raise Conflict(f"Version {agent.name}:{version.version} is being deleted; ask again without it.")
                session_rows.put_session(conn, session)
            return known or session

        return await self._store.write(get_or_create)

    async def ensure_ready(self, session: Session, agent: Agent, version: AgentVersion) -> LiveSandbox:
        """The session's sandbox, started if need be. Cancelling one waiter does not cancel the start."""
        await self._adoptions.of_session(session.key)
        await self.occupied.free(session.key)
        live = self.live_of(session.key)
        if live is not None:
            return live
        task = self._starting.get(session.key)
        if task is None:
            task = asyncio.create_task(self._let_in(session, agent, version))
            self._starting[session.key] = task
            task.add_done_callback(lambda done: self._start_ended(session.key, done))
        return await joined(task, f"The start of session '{session.id}'")

    def _start_ended(self, key: SessionKey, task: asyncio.Task[LiveSandbox]) -> None:
        self._starting.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have waited

    async def _let_in(self, session: Session, agent: Agent, version: AgentVersion) -> LiveSandbox:
        """Waits for a stop that is under way, then starts the session if its budget and the limits allow it."""
        if await self.stops.settled(session.key) and (live := self.live_of(session.key)) is not None:
            return live  # the driver was away, so it could not be stopped
        session, version = await self._as_stored(session, version)
        if over := spent(session, budget_of(version, self.usage.default)):
            raise over_budget(session, over)
        try:
            async with self._admission.seat(Owner(session.project, session.agent, session.caller)):
                await self._make_room()
                self._making.add(session.key)
                return await self._bring_up(session, agent, version)
        except QuotaExceeded:
            await self._give_up_start(session)
            raise
        finally:
            self._making.discard(session.key)

    async def _bring_up(self, session: Session, agent: Agent, version: AgentVersion) -> LiveSandbox:
        began = self._clock()
        resumed = session.stopped_at is not None
        session = session.to_starting(began)
        try:
            place = await self._places.of(version.definition)
            prepared = await self._places.prepare(version, place)
            await self._undo_what_was_left(session)
            row = self._starter.new_row(version, place, session, session.id)
            await self._store.write(lambda conn: _put_both(conn, session, row))
            live = await self._starter.start(row, agent, version, place, prepared.source, session)
        except CouldNotStart as error:
            self._places.forget(version)
            command = f"cupola logs {session.agent} --session {session.id} --phase start"
            failed = await self._failed(session, evidence.with_command(error.failure, command))
            failed.start = error.start
            raise failed from error
        except StartFailed as error:
            raise await self._failed(session, evidence.of_error(error, Phase(error.phase))) from error
        except CupolaError as error:
            await self._not_started(session, error, resumed=resumed)
            raise
        ready = session.to_ready(self._clock())
        live.session, live.counted_at = ready, self._clock()
        live.start_type = SessionStart.RESUME if resumed else SessionStart.COLD
        self._store.write_later(lambda conn: session_rows.put_session(conn, ready))
        self.live.add(live)
        log.info(
            "session ready",
            agent=session.agent,
            version=session.version,
            session=session.id,
            start=live.start_type.value,
            seconds=round(self._clock() - began, 3),
        )
        return live

    async def _as_stored(self, session: Session, version: AgentVersion) -> tuple[Session, AgentVersion]:
        """Session and version as they are now: whoever asked may have read them before a restore or a move."""

        known = await self._store.read(partial(session_rows.current_session, session=session))
        if known.version == version.version:
            return known, version
        current = await self._store.read(
            partial(agent_rows.get_version, project=known.project, agent=known.agent, version=known.version)
        )
        if current is None:
            raise NotFound(
                f"Session '{known.id}' is bound to version {known.agent}:{known.version}, which was deleted.",
                param="agent_session_id",
            )
        return known, current

    async def _undo_what_was_left(self, session: Session) -> None:
        """Stops a sandbox that an earlier stop could not reach: a session never has two."""
        left = await self._store.read(lambda conn: sandbox_rows.sandbox_of_session(conn, *session.key))
        if left is None:
            return
        for place in self._places.found():
            if place.driver.name == left.driver:
                await self._starter.undo(left, place.driver, "left by an earlier stop")

    async def _failed(self, session: Session, failure: Failure) -> SessionNotReady:
        failed = session.to_failed(failure)
        await self._store.write(lambda conn: session_rows.put_session(conn, failed))
        log.warning("session not ready", agent=session.agent, session=session.id, reason=failure.message)
        return evidence.not_ready(failure, session.id)

    async def _not_started(self, session: Session, error: CupolaError, *, resumed: bool) -> None:
        """No fault of its own: one that slept sleeps on, a new one says why it did not come up."""
        if resumed:
            settled = session.to_idle(self._clock())
        else:
            settled = session.to_failed(evidence.of_error(error, Phase.CREATE))
        try:
            await self._store.write(lambda conn: put_if_there(conn, settled))
        except CupolaError as worse:  # the disk that is full now: `sandboxes/unfinished` comes back to it
            log.warning("session not settled", session=session.id, reason=worse.message)

    @property
    def room(self) -> int:
        """How many more sandboxes may begin to run now; below 0 while somebody waits for room."""
        waiting = len(self._starting) - len(self._making)
        return self._max - self._running() - waiting

    async def _make_room(self) -> None:
        """What waits for nobody in particular goes first."""
        while (running := self._running()) >= self._max:
            resting = [live for live in self.live if live.rests]
            warm = [live for live in resting if live.session is None]
            if warm:
                await self.stops.discard_warm(min(warm, key=lambda live: live.last), "made room")
            elif await self.warm_starts.break_off_newest():
                continue
            elif resting:
                await self.stops.stop(min(resting, key=lambda live: live.last), "made room")
            elif not await self.stops.next_one():
                raise QuotaExceeded(
                    f"All {self._max} sandboxes that may run at once are busy. Try again when one is free, "
                    "stop a session, or raise CUPOLA_MAX_SANDBOXES.",
                    extra={"scope": "installation", "limit": self._max, "running": running},
                )

    def _running(self) -> int:
        """Sandboxes that there are or are about to be; newcomers that still wait for room are none of them."""
        begun = len(self._making) + len(self._adoptions) + len(self.warm_starts)
        return len(self.live) + begun + self.stops.unseen

    def add_warm(self, live: LiveSandbox) -> None:
        """Keeps a ready sandbox without a session for the next session of its version."""
        self.live.add(live)

    def adopt_running(self, live: LiveSandbox) -> None:
        """Takes over a sandbox that outlived an earlier server."""
        live.counted_at = self._clock()
        self.live.add(live)

    async def stop_session(
        self, session: Session, *, grace: float | None = None, ending: CupolaError | None = None
    ) -> None:
        """Stops what runs or starts for a session. Nothing running is done."""
        await self._adoptions.settled(session.key)
        starting = self._starting.get(session.key)
        if starting is not None:
            starting.cancel()
            await asyncio.wait([starting])
            await self._give_up_start(session)
        live = self.live.of_session(session.key)
        if live is not None:
            ending = ending or _stopped(session)
            await self.stops.stop(live, "session stopped", grace=grace, last_word=ending.message, ending=ending)

    async def kill_session(self, session: Session) -> None:
        """SIGKILL, now: to what runs, starts, or is being stopped and waits out its grace."""
        await self.stop_session(session, grace=0, ending=_stopped(session, "killed"))

    async def _give_up_start(self, session: Session) -> None:
        """A session that was to start and does not: it sleeps, and the next request tries again."""
        now = self._clock()

        def change(conn: Any) -> None:
            known = session_rows.get_session(conn, *session.key)
            if known is not None and known.desired is Desired.RUNNING and known.observed in _COMING_UP:
                session_rows.put_session(conn, known.to_idle(now))

        await self._store.write(change)

    async def forget_unused(self, session: Session) -> None:
        """Takes away a session that was made for a request and has never had a sandbox."""

        def change(conn: Any) -> None:
            known = session_rows.get_session(conn, *session.key)
            if known is not None and (known.guid, known.last_accessed_at) == (session.guid, session.created_at):
                session_rows.delete_session(conn, *session.key)

        if not self.has_sandbox(session.key):
            await self._store.write(change)

    def has_sandbox(self, key: SessionKey) -> bool:
        """Whether a sandbox of the session starts, runs or stops."""
        return key in self._starting or self.live.of_session(key) is not None

    def keys_with_sandbox(self) -> Sequence[SessionKey]:
        """All sessions of which `has_sandbox` is true."""
        running = [live.session.key for live in self.live if live.session is not None]
        return list(dict.fromkeys([*self._starting, *running]))

    def what_is_open(self, key: SessionKey) -> str | None:
        """In words, what stopping a session now would break off."""
        live = self.live.of_session(key)
        activity = Activity() if live is None else live.activity()
        return what_is_open(activity, starting=key in self._starting or self._adoptions.has(key))

    def runs(self, key: SessionKey) -> bool:
        """Whether a session has a sandbox, is getting one, or has one that is being stopped."""
        begun = key in self._starting or key in self.stops or self._adoptions.has(key)
        return begun or self.live.of_session(key) is not None

    async def put_to_rest(self, session: Session) -> None:
        """As `stop_session`, and nothing of the session runs any more afterwards, whoever stopped it."""
        await self.stop_session(session)
        await self.stops.joined(session.key)
        await self._undo_what_was_left(session)

    async def delete_session(self, session: Session, *, keep_snapshots: bool = False) -> None:
        """Ends a session: sandbox, home, row, snapshots. Once however many ask; may be repeated after a crash."""
        task = self._deleting.get(session.key)
        if task is None:
            task = asyncio.create_task(self._delete(session, keep_snapshots))
            self._deleting[session.key] = task
            task.add_done_callback(lambda done: self._deletion_ended(session.key, done))
        await asyncio.shield(task)

    def _deletion_ended(self, key: SessionKey, task: asyncio.Task[None]) -> None:
        self._deleting.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever waited has it; he may have left

    async def _delete(self, session: Session, keep_snapshots: bool) -> None:
        keeping = await self._homes_of(session)  # first of all: one whose home cannot be reached stays as it is
        await self.occupied.end(session.key)
        gone, spares = await self._store.write(partial(_mark_deleted, session=session, keep_snapshots=keep_snapshots))
        await self.stop_session(gone, grace=0)
        await self._undo_what_was_left(gone)
        for place in keeping:
            await place.driver.delete_home(gone.home)
        await remove_spares(self._store, self._places, spares)
        await self._store.write(lambda conn: session_rows.delete_session(conn, *session.key))
        await self._starter.witness.forget_session(session.key)

    async def _homes_of(self, session: Session) -> Sequence[Place]:
        """Where its home lies. Raises DriverUnavailable. Without its version that is not known: anywhere."""
        version = await self._store.read(
            partial(agent_rows.get_version, project=session.project, agent=session.agent, version=session.version)
        )
        return await self._places.all() if version is None else [await self._places.keeping(version.definition)]

    def is_changing(self, key: SessionKey) -> bool:
        """Whether its sandbox is coming or going."""
        return key in self._starting or key in self._deleting or key in self.stops or self._adoptions.has(key)

    async def stop_version(self, project: str, agent: str, version: str) -> None:
        """Stops the warm sandboxes of a version and forgets their homes; its sessions are deleted one by one."""
        await self.warm_starts.break_off((project, agent, version))
        while (warm := self.live.take_warm((project, agent, version))) is not None:
            await self.stops.discard_warm(warm)

    async def break_off(self) -> None:
        """Ends every start that is under way."""
        await self.warm_starts.break_off()
        await self._adoptions.break_off()
        starts = list(self._starting.values())
        for task in starts:
            task.cancel()
        await asyncio.gather(*starts, return_exceptions=True)

    async def stop_all(self, grace: float) -> None:
        """Ends every start and every sandbox: the platform goes down. Homes and sessions stay."""
        await asyncio.gather(*self._deleting.values(), return_exceptions=True)
        await self.break_off()
        await self.stops.aclose()
        stops = [
            self.stops.stop(live, "platform stops", grace=grace) if live.session else self.stops.discard_warm(live)
            for live in self.live
        ]
        for result in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(result, CupolaError):
                log.warning("sandbox not stopped", reason=result.message)


_COMING_UP = (Observed.NONE, Observed.STARTING)


def _stopped(session: Session, how: str = "stopped") -> Conflict:
    return Conflict(
        f"Session '{session.id}' was {how} while this was running; ask again to resume it with its files.",
        code="session_stopped",
    )


def _mark_deleted(conn: Any, session: Session, keep_snapshots: bool) -> tuple[Session, list[Snapshot]]:
    """The session as it is when it goes (a restore may have changed its home), and the snapshots that go with it."""
    gone = (session_rows.get_session(conn, *session.key) or session).to_deleted()
    session_rows.put_session(conn, gone)
    if keep_snapshots:
        return gone, []
    return gone, snapshot_rows.release_of_session(conn, *gone.key, gone.caller)


def _put_both(conn: Any, session: Session, row: Sandbox) -> None:
    session_rows.put_session(conn, session)
    sandbox_rows.put_sandbox(conn, row)
