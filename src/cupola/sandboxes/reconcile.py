"""Making versions what they should be, one task per version, and picking up after a crash.

A version goes validate → pull or build → create → start → probe → active; each phase is saved as it begins. The probed
sandbox is kept warm for the first session. After a restart, `recover` compares the store with what the drivers find:
what runs is adopted, what was half made is undone, what nobody owns is removed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from cupola.agents import AgentVersion, Failure, Phase, VersionStatus
from cupola.drivers.base import LABEL_SANDBOX, Address, Handle, ImageSource, Life, Step
from cupola.errors import CupolaError, DriverUnavailable
from cupola.ids import new_session_id
from cupola.sandboxes import evidence
from cupola.sandboxes.generation import learn_adapter
from cupola.sandboxes.hooks import HookFailed, before_snapshot
from cupola.sandboxes.live import LiveSandbox, VersionKey
from cupola.sandboxes.places import Places
from cupola.sandboxes.probe import probe_once
from cupola.sandboxes.ready import Sandboxes
from cupola.sandboxes.start import CouldNotStart, Place, Starter
from cupola.sessions import Desired, Observed, Sandbox, Session
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import sandboxes as sandbox_rows
from cupola.store import sessions as session_rows

log = structlog.get_logger()

_ADOPTION_PROBE = 2.0
_NOT_ADOPTED = "not adopted when the platform started"


class Versions:
    """Brings versions from `creating` to `active` or `failed`, and takes them away.

    `on_change` is told when one has become active or is gone.
    """

    def __init__(
        self,
        store: Store,
        starter: Starter,
        places: Places,
        sandboxes: Sandboxes,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_change = on_change
        self._store = store
        self._starter = starter
        self._places = places
        self._sandboxes = sandboxes
        self._tasks: dict[VersionKey, asyncio.Task[None]] = {}
        self._deleting: Counter[VersionKey] = Counter()

    def wake(self, version: AgentVersion) -> None:
        """Begins to provision a version that is `creating`; once, however often it is called."""
        key = version.key
        if key not in self._tasks:
            task = asyncio.create_task(self._provision(version))
            self._tasks[key] = task
            task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def settled(self, version: AgentVersion, timeout: float) -> AgentVersion | None:
        """The version after its provisioning has ended, or as it is after `timeout` seconds; None when deleted."""
        task = self._tasks.get(version.key)
        if task is not None:
            await asyncio.wait([task], timeout=timeout)
        return await self._store.read(lambda conn: agent_rows.get_version(conn, *version.key))

    async def _provision(self, version: AgentVersion) -> None:
        try:
            await self._make(version)
        except CupolaError as error:  # not even its failure could be kept: it is made again (`unfinished`)
            log.warning("version left half-made", agent=version.agent, version=version.version, reason=error.message)

    async def _make(self, version: AgentVersion) -> None:
        began = asyncio.get_running_loop().time()
        try:
            live, active = await self._bring_up(version)
        except CouldNotStart as error:
            command = f"cupola logs {version.agent} --version {version.version} --phase start"
            await self._save(version.to_failed(evidence.with_command(error.failure, command)))
            return
        except CupolaError as error:
            await self._save(version.to_failed(evidence.of_error(error, Phase.VALIDATE)))
            return
        except Exception:
            # The edge of a background task: a defect of ours fails this version, not the platform.
            log.exception("provisioning failed", agent=version.agent, version=version.version)
            message = "Cupola failed while it provisioned this version; its log has the traceback."
            await self._save(version.to_failed(Failure(Phase.VALIDATE, "ProvisioningError", message)))
            return
        self._sandboxes.add_warm(live)
        await self._save(active)
        self._on_change()
        log.info(
            "version active",
            agent=version.agent,
            version=version.version,
            seconds=round(asyncio.get_running_loop().time() - began, 3),
        )

    async def _bring_up(self, version: AgentVersion) -> tuple[LiveSandbox, AgentVersion]:
        current = version

        async def on_phase(phase: Phase) -> None:
            nonlocal current
            current = current.to_phase(phase)
            log.info("version provisioning", agent=version.agent, version=version.version, phase=phase.value)
            await self._save(current)

        agent = await self._store.read(lambda conn: agent_rows.get_agent(conn, version.project, version.agent))
        if agent is None:
            raise CupolaError(f"Agent '{version.agent}' was deleted meanwhile.", code="ProvisioningError")
        await on_phase(Phase.VALIDATE)
        place = await self._places.of(version.definition)
        self._places.forget(version)
        prepared = await self._places.prepare(version, place, on_phase)
        content = prepared.source.content if isinstance(prepared.source, ImageSource) else None
        current = replace(current, warnings=(*current.warnings, *prepared.warnings), image_content=content)
        await on_phase(Phase.CREATE)
        row = self._starter.new_row(version, place, None, new_session_id())
        await self._store.write(lambda conn: sandbox_rows.put_sandbox(conn, row))
        live = await self._starter.start(row, agent, version, place, prepared.source, None, on_phase)
        if live.handle.warning is not None:
            current = replace(current, warnings=(*current.warnings, live.handle.warning))
        live.version = replace(current.to_active(), binds_late=live.binds_late)
        return live, live.version

    async def _save(self, version: AgentVersion) -> None:
        if version.status is VersionStatus.FAILED and version.failure is not None:
            log.warning(
                "version failed",
                agent=version.agent,
                version=version.version,
                phase=version.failure.phase.value,
                code=version.failure.code,
                reason=version.failure.message,
            )
        await self._store.write(lambda conn: _put_unless_deleting(conn, version))

    def is_at_work_on(self, version: AgentVersion) -> bool:
        """Whether it is being made or taken away now."""
        return version.key in self._tasks or version.key in self._deleting

    async def resume(self, version: AgentVersion) -> None:
        """Goes on with what was broken off."""
        if version.status is VersionStatus.DELETING:
            await self.delete(version)
        elif version.status is VersionStatus.CREATING:
            self.wake(version)

    async def require_homes(self, versions: Iterable[AgentVersion]) -> None:
        """Raises DriverUnavailable when the homes of sessions of a version cannot be reached, and so not be removed."""
        for version in versions:
            if await self._store.read(partial(_has_sessions, version=version)):
                await self._places.keeping(version.definition)

    async def delete(self, version: AgentVersion) -> None:
        """Takes a version away with its sessions and sandboxes. May be repeated after a crash.

        Raises DriverUnavailable, and has done nothing, when the homes of its sessions cannot be reached.
        """
        await self.require_homes([version])
        self._deleting[version.key] += 1
        try:
            await self._delete(version)
        finally:
            self._deleting[version.key] -= 1
            self._deleting += Counter()  # forgets those at zero

    async def _delete(self, version: AgentVersion) -> None:
        deleting = version.to_deleting()
        await self._store.write(lambda conn: agent_rows.put_version(conn, deleting))
        task = self._tasks.get(version.key)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._sandboxes.stop_version(*version.key)
        sessions = await self._store.read(lambda conn: session_rows.sessions_of_version(conn, *version.key))
        await asyncio.gather(*(self._sandboxes.delete_session(session) for session in sessions))
        self._places.forget(version)
        await self._store.write(lambda conn: agent_rows.delete_version(conn, *version.key))
        code = version.definition.code
        if code is not None and not await self._store.read(lambda conn: agent_rows.code_in_use(conn, code.sha256)):
            await self._places.discard_code(code.sha256)
        self._on_change()

    async def aclose(self) -> None:
        """Breaks off what is being provisioned; it is begun again at the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def recover(
    store: Store,
    starter: Starter,
    places: Places,
    sandboxes: Sandboxes,
    versions: Versions,
    clock: Callable[[], float],
) -> None:
    """Makes the store and the drivers agree after a start, clean or not."""
    reachable = {place.driver.name: place for place in await places.every()}
    rows = await store.read(sandbox_rows.all_sandboxes)
    adopted, left_alone = set(), set()
    nameless: list[tuple[Sandbox, Place]] = []
    for row in rows:
        place = reachable.get(row.driver)
        if place is None:
            log.warning("sandbox of an unreachable driver left alone", driver=row.driver, sandbox=row.id)
            left_alone.add(row.id)
            continue
        live = await _adopt(store, row, place, clock())
        if live is None and row.handle is None:
            nameless.append((row, place))
        elif live is None:
            await starter.undo(row, place.driver, _NOT_ADOPTED)
        else:
            sandboxes.adopt_running(live)
            await starter.witness.follow(row, place.driver, live.handle)
            adopted.add(row.id)
    await starter.witness.settle(adopted | left_alone)
    await _remove_unowned(reachable, adopted)
    for row, place in nameless:  # what they had made is known by its label only, and held their homes until now
        await starter.undo(row, place.driver, _NOT_ADOPTED)
    await _settle_sessions(store, sandboxes, clock())
    for version in await store.read(lambda conn: agent_rows.versions_in(conn, [VersionStatus.DELETING])):
        await _unless_away(versions.delete(version))
    for version in await store.read(lambda conn: agent_rows.versions_in(conn, [VersionStatus.CREATING])):
        versions.wake(version)
    if rows:
        log.info("recovered", adopted=len(adopted), undone=len(rows) - len(adopted))


async def _adopt(store: Store, row: Sandbox, place: Place, now: float) -> LiveSandbox | None:
    """The live sandbox of a row, if it runs, answers and is wanted."""
    if row.handle is None:
        return None
    handle = Handle.from_json(row.handle)
    version = await store.read(lambda conn: agent_rows.get_version(conn, row.project, row.agent, row.version))
    if version is None or version.status is not VersionStatus.ACTIVE:
        return None
    if handle.step is not Step.STARTED or handle.address is None:
        return None
    session: Session | None = None
    if row.session is not None:
        wanted = row.session
        session = await store.read(lambda conn: session_rows.get_session(conn, row.project, row.agent, wanted))
        if session is None or session.desired is Desired.DELETED:
            return None
    if (await place.driver.poll(handle)).life is not Life.RUNNING:
        return None
    if await probe_once(handle.address, _ADOPTION_PROBE) != "200":
        return None
    if row.session is None and row.is_bound_late and not await _waits(handle.address):
        return None
    if session is not None:
        session = session.to_ready(session.last_accessed_at)
        ready = session
        await store.write(lambda conn: session_rows.put_session(conn, ready))
    adapter = await learn_adapter(handle.address)
    return LiveSandbox(
        row=row,
        handle=handle,
        address=handle.address,
        driver=place.driver,
        version=version,
        last=now,
        session=session,
        generation=adapter.generation,
        binds_late=adapter.hooks,
    )


async def _waits(address: Address) -> bool:
    """Whether a sandbox that is to be bound late can still be given a session: it may have been broken off before."""
    try:
        await before_snapshot(address)
    except HookFailed as error:
        log.info("warm sandbox not taken over", reason=error.message)
        return False
    return True


async def _remove_unowned(reachable: dict[str, Place], adopted: set[str]) -> None:
    for place in reachable.values():
        for found in await place.driver.list():
            sandbox_id = found.labels.get(LABEL_SANDBOX)
            if sandbox_id not in adopted:
                log.info("removing a sandbox that nobody owns", driver=place.driver.name, sandbox=sandbox_id)
                await place.driver.stop(found.handle, 0)


async def _settle_sessions(store: Store, sandboxes: Sandboxes, now: float) -> None:
    for session in await store.read(session_rows.live_sessions):
        if session.desired is Desired.DELETED:
            await _unless_away(sandboxes.delete_session(session))
        elif sandboxes.live_of(session.key) is None and looks_awake(session):
            await store.write(partial(_put_session, session=session.to_idle(now)))


async def _unless_away(deletion: Awaitable[None]) -> None:
    """A deletion that needs a driver which is away is brought to its end later (`unfinished`)."""
    try:
        await deletion
    except DriverUnavailable as error:
        log.warning("a deletion waits for its driver", reason=error.message)


def looks_awake(session: Session) -> bool:
    """Whether its status says that a sandbox runs or comes up; also of one that was made and never started."""
    never_started = session.observed is Observed.NONE and session.stopped_at is None
    return never_started or session.observed in (Observed.READY, Observed.STARTING)


def _has_sessions(conn: Any, version: AgentVersion) -> bool:
    return bool(session_rows.sessions_of_version(conn, *version.key))


def _put_session(conn: Any, session: Session) -> None:
    session_rows.put_session(conn, session)


def _put_unless_deleting(conn: Any, version: AgentVersion) -> None:
    known = agent_rows.get_version(conn, *version.key)
    if known is not None and known.status is VersionStatus.CREATING:
        said = replace(version, metadata=known.metadata, warm_pool=known.warm_pool)  # may be said anew meanwhile
        agent_rows.put_version(conn, said)
