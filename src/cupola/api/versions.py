"""The control plane's versions: create (JSON or zip), list, get, delete, download (control-plane.md §2.2, §2.4)."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import psutil
from starlette.requests import Request
from starlette.responses import Response

from cupola.advice import warnings_of
from cupola.agents import (
    MAX_VERSIONS,
    WARM_POOL,
    Agent,
    AgentVersion,
    Definition,
    VersionStatus,
    check_agent_name,
    declared_pool,
    draft_name,
    latest_of,
    no_agent,
    without_version,
)
from cupola.errors import BadRequest, Conflict, CupolaError, NotFound
from cupola.ids import new_guid
from cupola.limits import check_budget_keys
from cupola.sandboxes import reconcile
from cupola.sandboxes.packages import MAX_PACKAGE, inspect_zip
from cupola.sandboxes.places import Places
from cupola.secrecy import brief
from cupola.sessions import Desired, Session
from cupola.store import Store
from cupola.store import agents as rows
from cupola.store import sessions as session_rows
from cupola.web.body import Upload, is_upload, read_model, read_object, read_upload
from cupola.web.definitions import read_definition
from cupola.web.endpoint import check_configuration, configured, is_configured_by, with_rules
from cupola.web.paging import cursor_list, page_from
from cupola.web.query import flag
from cupola.web.reply import json_reply
from cupola.web.wire import NewVersion, show_version


@dataclass(frozen=True, slots=True)
class Package:
    """An uploaded zip and its hash, in hex."""

    content: bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class New:
    """What a create asks for: the fields of the version, the whole body as it came, and the zip."""

    fields: NewVersion
    body: dict[str, Any]
    package: Package | None


@dataclass(frozen=True, slots=True)
class Made:
    """A version, just made or found to be the same, and its agent."""

    agent: Agent
    version: AgentVersion


class Versions:
    """Handlers, and the one way in which versions come into being (`make`).

    `on_change` is told when a version was asked for: also one that exists may have been given another warm pool.
    """

    def __init__(
        self,
        store: Store,
        provisioning: reconcile.Versions,
        places: Places,
        *,
        azure_limits: bool = False,
        host_memory: int | None = None,
        clock: Callable[[], float] = time.time,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_change = on_change
        self._store = store
        self._provisioning = provisioning
        self._places = places
        self._azure_limits = azure_limits
        self._host_memory = psutil.virtual_memory().total if host_memory is None else host_memory
        self._clock = clock
        self._arriving: Counter[str] = Counter()

    async def create(self, request: Request) -> Response:
        project, name = request.path_params["project"], request.path_params["agent"]
        check_agent_name(name)
        made = await self.make(project, name, await self.read_new(request))
        return json_reply(show_version(made.version, made.agent))

    async def list(self, request: Request) -> Response:
        agent = await self._agent(request)
        page = page_from(request.query_params)
        drafts = flag(request.query_params, "include_drafts")
        found = await self._store.read(
            lambda conn: rows.list_versions(conn, agent.project, agent.name, page, include_drafts=drafts)
        )
        return json_reply(
            cursor_list(
                found,
                lambda version: show_version(version, agent),
                lambda version: f"{version.agent}:{version.version}",
            )
        )

    async def get(self, request: Request) -> Response:
        agent = await self._agent(request)
        return json_reply(show_version(await self._version(request, agent), agent))

    async def delete(self, request: Request) -> Response:
        agent = await self._agent(request)
        version = await self._version(request, agent)
        if not is_forced(request):
            await refuse_active_sessions(self._store, version)
        await self._provisioning.require_homes([version])
        await self._store.write(lambda conn: _take_traffic(conn, version))
        await self._provisioning.delete(version)
        return json_reply(
            {"object": "agent.version.deleted", "name": agent.name, "version": version.version, "deleted": True}
        )

    async def download(self, request: Request) -> Response:
        """`GET …/code:download`: the zip as it was uploaded."""
        agent = await self._agent(request)
        wanted = request.query_params.get("agent_version")
        version = await self._store.read(
            lambda conn: (
                rows.get_version(conn, agent.project, agent.name, wanted)
                if wanted
                else rows.latest_version(conn, agent.project, agent.name)
            )
        )
        if version is None:
            missing = f"no version {brief(wanted)}" if wanted else "no version yet"
            raise NotFound(f"Agent '{agent.name}' has {missing}.", param="agent_version")
        code = version.definition.code
        if code is None:
            raise Conflict(
                f"Version {version.agent}:{version.version} runs an image; it has no code to download.",
                code="AgentNotCodeBased",
            )
        try:
            package = await asyncio.to_thread(self._places.package(code.sha256).read_bytes)
        except FileNotFoundError as error:
            raise NotFound(
                f"The code of version {version.agent}:{version.version} is not in the state directory any more; "
                "upload it again.",
                param="agent_version",
            ) from error
        return Response(
            package,
            media_type="application/zip",
            headers={"x-ms-agent-version": version.version, "x-ms-code-zip-sha256": code.sha256},
        )

    async def read_new(self, request: Request) -> New:
        """The body of a create: checked, as it came, and the zip of a multipart one."""
        if is_upload(request):
            upload = await read_upload(request, MAX_PACKAGE)
            return New(read_model(NewVersion, upload.metadata), upload.metadata, await _package_of(request, upload))
        body = await read_object(request)
        return New(read_model(NewVersion, body), body, None)

    async def make(self, project: str, name: str, new: New, *, agent_exists: bool | None = None) -> Made:
        """A new version of an agent, which is made if need be; the latest one if nothing has changed (§2.2).

        `agent_exists` is what the caller counts on, None if either is fine: Conflict where a new agent is there
        already, NotFound where an old one is gone. Endpoint and card of the body are set in the same step.
        """
        declared_pool(new.fields.metadata or {})
        sha256 = None if new.package is None else new.package.sha256
        definition = read_definition(new.fields.definition, code_sha256=sha256, azure_limits=self._azure_limits)
        check_budget_keys(new.fields.metadata or {})
        if agent_exists is not None:
            check_configuration(new.body)
        content = await self._places.identify(definition)
        order = _Order(new.fields, definition, content, warnings_of(definition, host_memory=self._host_memory))

        def change(conn: Any) -> Made:
            agent = rows.get_agent(conn, project, name)
            if agent is not None and agent_exists is False:
                raise Conflict(f"Agent '{name}' already exists.", param="name")
            if agent is None and agent_exists:
                raise no_agent(project, name)
            is_new = agent is None
            if agent is None:
                agent = Agent(project=project, name=name, guid=new_guid(), created_at=self._clock())
            versions = rows.newest_versions(conn, project, name, include_drafts=True)
            agent, version = _next(agent, versions, order, self._clock())
            if agent_exists is not None and is_configured_by(new.body):
                agent = configured(agent, new.body, _newest_first(version, versions), is_new=is_new)
            rows.put_agent(conn, agent)
            if version not in versions:
                rows.put_version(conn, version)
            return Made(agent, version)

        async with self._kept(new.package):
            made = await self._store.write(change)
        if made.version.status is VersionStatus.CREATING:
            self._provisioning.wake(made.version)
        self._on_change()
        return made

    def _keep(self, package: Package) -> None:
        inspect_zip(package.content)
        path = self._places.package(package.sha256)
        if not path.exists():
            part = path.with_suffix(f".{new_guid()}.part")
            part.write_bytes(package.content)
            part.replace(path)

    @asynccontextmanager
    async def _kept(self, package: Package | None) -> AsyncIterator[None]:
        """The zip is on disk while the version is made, and goes again when none came about.

        Uploads of one zip that come at once share it: the last of them decides.
        """
        if package is None:
            yield
            return
        sha256 = package.sha256
        self._arriving[sha256] += 1
        try:
            await asyncio.to_thread(self._keep, package)
            yield
        except CupolaError:
            used = await self._store.read(lambda conn: rows.code_in_use(conn, sha256))
            if not used and self._arriving[sha256] == 1:
                await self._places.discard_code(sha256)
            raise
        finally:
            self._arriving[sha256] -= 1
            if not self._arriving[sha256]:
                del self._arriving[sha256]

    async def _agent(self, request: Request) -> Agent:
        project, name = request.path_params["project"], request.path_params["agent"]
        agent = await self._store.read(lambda conn: rows.get_agent(conn, project, name))
        if agent is None:
            raise no_agent(project, name)
        return agent

    async def _version(self, request: Request, agent: Agent) -> AgentVersion:
        wanted = request.path_params["version"]
        version = await self._store.read(lambda conn: rows.get_version(conn, agent.project, agent.name, wanted))
        if version is None:
            raise NotFound(f"Agent '{agent.name}' has no version {brief(wanted)}.", param="agent_version")
        return version


def is_forced(request: Request) -> bool:
    return flag(request.query_params, "force")


async def refuse_active_sessions(store: Store, version: AgentVersion) -> None:
    """Raises Conflict while sessions of a version are in use."""
    sessions = await store.read(
        lambda conn: session_rows.sessions_of_version(conn, version.project, version.agent, version.version)
    )
    active = [session for session in sessions if _is_in_use(session)]
    if active:
        raise Conflict(
            f"Version {version.agent}:{version.version} has {len(active)} active session(s), "
            f"such as '{active[0].id}'. Stop them, or delete with force=true, which ends them and their files.",
        )


def _take_traffic(conn: Any, version: AgentVersion) -> None:
    """Takes a version that is about to go out of the endpoint's version selector."""
    agent = rows.get_agent(conn, version.project, version.agent)
    if agent is not None and any(rule.version == version.version for rule in agent.rules):
        rows.put_agent(conn, with_rules(agent, without_version(agent.rules, version.version)))


def _is_in_use(session: Session) -> bool:
    return session.desired is Desired.RUNNING


@dataclass(frozen=True, slots=True)
class _Order:
    """A version that is wanted. `content` is the engine's id of its image as it is now, if that is known."""

    fields: NewVersion
    definition: Definition
    content: str | None
    warnings: tuple[str, ...]

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.fields.metadata or {}


def _next(agent: Agent, versions: Sequence[AgentVersion], order: _Order, now: float) -> tuple[Agent, AgentVersion]:
    """The version that fulfils the order, and its agent: the latest of `versions` (newest first), or a new one."""
    latest = latest_of(versions)
    if latest is not None and not order.fields.draft and _is_same(latest, order):
        return agent, latest.with_pool_of(order.metadata)
    if len(versions) >= MAX_VERSIONS:
        raise BadRequest(
            f"Agent '{agent.name}' has {len(versions)} versions; {MAX_VERSIONS} are the most there may be. "
            "Delete unused ones.",
            code="UserError",
        )
    draft = bool(order.fields.draft)
    if not draft:
        agent = replace(agent, last_number=agent.last_number + 1)
    taken = {version.version for version in versions}
    return agent, AgentVersion(
        project=agent.project,
        agent=agent.name,
        version=draft_name(now, taken.__contains__) if draft else str(agent.last_number),
        definition=order.definition,
        created_at=now,
        description=order.fields.description,
        metadata=order.metadata,
        draft=draft,
        warnings=order.warnings,
        warm_pool=declared_pool(order.metadata),
    )


def _is_same(latest: AgentVersion, order: _Order) -> bool:
    """The no-op rule; a failed version is no reason to refuse another try, nor is a tag that was built anew."""
    if order.content is not None and latest.image_content not in (None, order.content):
        return False
    return (
        latest.status in (VersionStatus.ACTIVE, VersionStatus.CREATING)
        and latest.definition.digest() == order.definition.digest()
        and latest.description == order.fields.description
        and _but_the_pool(latest.metadata) == _but_the_pool(order.metadata)
    )


def _but_the_pool(metadata: Mapping[str, str]) -> dict[str, str]:
    """How many sandboxes wait is no part of what they are: another number takes effect without a new version."""
    return {key: value for key, value in metadata.items() if key != WARM_POOL}


def _newest_first(version: AgentVersion, versions: Sequence[AgentVersion]) -> Sequence[AgentVersion]:
    return versions if any(known.key == version.key for known in versions) else [version, *versions]


async def _package_of(request: Request, upload: Upload) -> Package:
    """The zip with its hash, which must be the announced one."""
    found = await asyncio.to_thread(lambda: hashlib.sha256(upload.code).hexdigest())
    announced = request.headers.get("x-ms-code-zip-sha256")
    if announced is not None and announced.strip().lower() != found:
        raise BadRequest(
            f"The zip's SHA-256 is {found}, but x-ms-code-zip-sha256 says {brief(announced)}: "
            "it was damaged on the way.",
            param="x-ms-code-zip-sha256",
        )
    return Package(upload.code, found)
