"""The control plane's versions: create (JSON or zip), list, get, delete, download (control-plane.md §2.2, §2.4)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from cupola.agents import Agent, AgentVersion, VersionStatus, check_agent_name
from cupola.errors import BadRequest, Conflict, NotFound, PayloadTooLarge
from cupola.ids import new_guid
from cupola.sandboxes import reconcile
from cupola.sandboxes.build import MAX_PACKAGE, inspect_zip
from cupola.sandboxes.places import Places
from cupola.sessions import Desired, Session
from cupola.store import Store
from cupola.store import agents as rows
from cupola.store import sessions as session_rows
from cupola.web.body import read_object
from cupola.web.paging import cursor_list, page_from
from cupola.web.reply import json_reply
from cupola.web.wire import NewVersion, read_definition, read_model, show_version

MAX_VERSIONS = 1000
_MAX_METADATA = 4 * 1024 * 1024
"""Bytes of what stands beside the zip in an upload."""


class Versions:
    """Handlers, and the one way in which versions come into being (`make`)."""

    def __init__(self, store: Store, provisioning: reconcile.Versions, places: Places, packages: Path) -> None:
        self._store = store
        self._provisioning = provisioning
        self._places = places
        self._packages = packages

    async def create(self, request: Request) -> Response:
        project, name = request.path_params["project"], request.path_params["agent"]
        check_agent_name(name)
        new, _, package = await self.read_new(request)
        agent, version = await self.make(project, name, new, package)
        return json_reply(show_version(version, agent))

    async def list(self, request: Request) -> Response:
        agent = await self._agent(request)
        page = page_from(request.query_params)
        drafts = request.query_params.get("include_drafts", "false").lower() == "true"
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
            missing = f"no version '{wanted}'" if wanted else "no version yet"
            raise NotFound(f"Agent '{agent.name}' has {missing}.", param="agent_version")
        code = version.definition.code
        if code is None:
            raise Conflict(
                f"Version {version.agent}:{version.version} runs an image; it has no code to download.",
                code="AgentNotCodeBased",
            )
        package = await asyncio.to_thread((self._packages / f"{code.sha256}.zip").read_bytes)
        return Response(
            package,
            media_type="application/zip",
            headers={"x-ms-agent-version": version.version, "x-ms-code-zip-sha256": code.sha256},
        )

    async def read_new(self, request: Request) -> tuple[NewVersion, dict[str, Any], bytes | None]:
        """The body of a create: checked, as it came, and the zip of a multipart one."""
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            _refuse_too_large(request)
            body, package = await _read_multipart(request)
        else:
            body, package = await read_object(request), None
        return read_model(NewVersion, body), body, package

    async def make(self, project: str, name: str, new: NewVersion, package: bytes | None) -> tuple[Agent, AgentVersion]:
        """A new version of an agent, which is made if need be; the latest one if nothing has changed (§2.2)."""
        sha256 = await asyncio.to_thread(self._keep_package, package) if package is not None else None
        definition = read_definition(new.definition, code_sha256=sha256)
        now = time.time()
        digest = definition.digest()
        content = await self._places.identify(definition)

        def change(conn: Any) -> tuple[Agent, AgentVersion]:
            agent = rows.get_agent(conn, project, name)
            if agent is None:
                agent = Agent(project=project, name=name, guid=new_guid(), created_at=now)
            versions = rows.newest_versions(conn, project, name, include_drafts=False)
            latest = versions[0] if versions else None
            if latest is not None and not new.draft and _is_same(latest, new, digest, content):
                return agent, latest
            if len(versions) >= MAX_VERSIONS:
                raise BadRequest(
                    f"Agent '{name}' has {MAX_VERSIONS} versions, the most there may be. Delete unused ones.",
                    code="UserError",
                )
            number = agent.last_number if new.draft else agent.last_number + 1
            version = AgentVersion(
                project=project,
                agent=name,
                version=f"draft-{int(now * 1000)}" if new.draft else str(number),
                definition=definition,
                created_at=now,
                description=new.description,
                metadata=new.metadata or {},
                draft=new.draft,
                warnings=_warnings(definition.image),
            )
            agent = replace(agent, last_number=number)
            rows.put_agent(conn, agent)
            rows.put_version(conn, version)
            return agent, version

        agent, version = await self._store.write(change)
        if version.status is VersionStatus.CREATING:
            self._provisioning.wake(version)
        return agent, version

    def _keep_package(self, package: bytes) -> str:
        inspect_zip(package)
        sha256 = hashlib.sha256(package).hexdigest()
        path = self._packages / f"{sha256}.zip"
        if not path.exists():
            part = path.with_suffix(f".{new_guid()}.part")
            part.write_bytes(package)
            part.replace(path)
        return sha256

    async def _agent(self, request: Request) -> Agent:
        project, name = request.path_params["project"], request.path_params["agent"]
        agent = await self._store.read(lambda conn: rows.get_agent(conn, project, name))
        if agent is None:
            raise NotFound(f"Agent '{name}' does not exist in project '{project}'.", param="agent_name")
        return agent

    async def _version(self, request: Request, agent: Agent) -> AgentVersion:
        wanted = request.path_params["version"]
        version = await self._store.read(lambda conn: rows.get_version(conn, agent.project, agent.name, wanted))
        if version is None:
            raise NotFound(f"Agent '{agent.name}' has no version '{wanted}'.", param="agent_version")
        return version


def is_forced(request: Request) -> bool:
    return request.query_params.get("force", "false").lower() == "true"


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


def _is_in_use(session: Session) -> bool:
    return session.desired is Desired.RUNNING


def _is_same(latest: AgentVersion, new: NewVersion, digest: str, content: str | None) -> bool:
    """The no-op rule; a failed version is no reason to refuse another try, nor is a tag that was built anew."""
    if content is not None and latest.image_content not in (None, content):
        return False
    return (
        latest.status in (VersionStatus.ACTIVE, VersionStatus.CREATING)
        and latest.definition.digest() == digest
        and latest.description == new.description
        and dict(latest.metadata) == (new.metadata or {})
    )


def _warnings(image: str | None) -> tuple[str, ...]:
    if image is not None and "@" not in image and ":" not in image.rsplit("/", 1)[-1]:
        return (f"The image '{image}' has no tag and means ':latest'; a specific tag makes versions repeatable.",)
    if image is not None and image.endswith(":latest"):
        return (f"The image '{image}' is tagged latest; a specific tag makes versions repeatable.",)
    return ()


def _refuse_too_large(request: Request) -> None:
    """Raises PayloadTooLarge for an upload that says beforehand that it cannot be taken."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_PACKAGE + _MAX_METADATA:
        raise PayloadTooLarge(f"The upload is larger than {MAX_PACKAGE // 1024**2} MB, the most a zip may have.")


async def _read_multipart(request: Request) -> tuple[dict[str, Any], bytes]:
    """The parts `metadata` (JSON) and `code` (zip), told apart by name: their types differ by client."""
    async with request.form(max_part_size=_MAX_METADATA) as form:
        metadata, code = form.get("metadata"), form.get("code")
        text = await metadata.read() if isinstance(metadata, UploadFile) else (metadata or "").encode()
        if not isinstance(code, UploadFile):
            raise BadRequest("The multipart body lacks the part 'code' with the zip.", param="code")
        if code.size is not None and code.size > MAX_PACKAGE:
            raise BadRequest(f"The zip is larger than {MAX_PACKAGE // 1024**2} MB.", param="code")
        package = await code.read()
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The multipart part 'metadata' is not JSON: {error}.", param="metadata") from error
    if not isinstance(body, dict):
        raise BadRequest("The multipart part 'metadata' must be a JSON object.", param="metadata")
    announced = request.headers.get("x-ms-code-zip-sha256")
    found = hashlib.sha256(package).hexdigest()
    if announced is not None and not hmac.compare_digest(announced.lower().encode(), found.encode()):
        raise BadRequest(
            f"The zip's SHA-256 is {found}, but x-ms-code-zip-sha256 says {announced[:80]}: it was damaged on the way.",
            param="x-ms-code-zip-sha256",
        )
    return body, package
