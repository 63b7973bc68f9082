"""The control plane's operations, each by this generation's own method, else by its own raw pipeline.

`send_request` of a project client puts the generation's policies (token, retries, user agent) around any request:
so even an SDK without `enable` shows whether the platform understands what a client of its time could send.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from azure.ai.projects import models
from azure.core.rest import HttpRequest
from sdk import Sdk, call, collect  # type: ignore[import-not-found]  # lies beside the script


class Refused(Exception):
    """A reply of the raw pipeline, which raises nothing by itself."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.code = body["error"]["code"]


@dataclass
class Control:
    """One client's control plane. `ways` collects how each call since the last `ways.clear()` went out."""

    sdk: Sdk
    ways: set[str] = field(default_factory=set)

    @property
    def api_version(self) -> str:
        return "2025-11-15-preview" if self.sdk.b3 else "v1"

    def _own(self, *paths: str) -> Any:
        """The SDK's method, the first of `paths` that it has; None if it has none."""
        for path in paths:
            found = self.sdk.project
            for part in path.split("."):
                found = getattr(found, part, None)
            if found is not None:
                self.ways.add("sdk")
                return found
        return None

    async def raw(self, method: str, path: str, json: Any = None, **more: Any) -> Any:
        """A request through the raw pipeline; the reply's JSON, None for 204. Raises Refused."""
        self.ways.add("pipeline")
        params = {"api-version": self.api_version, **more.pop("params", {})}
        request = HttpRequest(method, path, json=json, params=params, **more)
        reply = await call(self.sdk.project.send_request(request))
        if reply.status_code >= 300:
            raise Refused(reply.status_code, reply.json())
        return None if reply.status_code == 204 else reply.json()

    async def raw_bytes(self, path: str, params: dict[str, str]) -> tuple[bytes, dict[str, str]]:
        """A download through the raw pipeline, which must be streamed: its policies read only JSON and text."""
        self.ways.add("pipeline")
        request = HttpRequest("GET", path, params={"api-version": self.api_version, **params})
        reply = await call(self.sdk.project.send_request(request, stream=True))
        content = await call(reply.read())
        if reply.status_code >= 300:
            raise Refused(reply.status_code, json.loads(content))
        return content, dict(reply.headers)

    # Agents

    async def create(self, name: str, definition: Any, **more: Any) -> Any:
        own = self._own("agents.create")
        if own:
            return await call(own(name=name, definition=definition, **more))
        return await self.raw("POST", "/agents", {"name": name, "definition": definition.as_dict(), **more})

    async def update(self, name: str, definition: Any, **more: Any) -> Any:
        own = self._own("agents.update")
        if own:
            return await call(own(agent_name=name, definition=definition, **more))
        return await self.raw("POST", f"/agents/{name}", {"definition": definition.as_dict(), **more})

    async def update_details(self, name: str, body: dict[str, Any]) -> Any:
        """By the keywords of the SDK where every member is an object; a null goes as a body."""
        own = self._own("agents.update_details", "beta.agents.patch_agent_details")
        if own is None:
            headers = {"Content-Type": "application/merge-patch+json"}
            return await self.raw("PATCH", f"/agents/{name}", body, headers=headers)
        if None in body.values():
            return await call(own(name, body))
        return await call(own(agent_name=name, **{member: self._model(member, body[member]) for member in body}))

    def _model(self, member: str, value: dict[str, Any]) -> Any:
        known: Any = models
        if member == "agent_card":
            return known.AgentCard(value)
        return getattr(known, "AgentEndpointConfig" if hasattr(known, "AgentEndpointConfig") else "AgentEndpoint")(
            value
        )

    async def set_enabled(self, name: str, enabled: bool) -> None:
        verb = "enable" if enabled else "disable"
        own = self._own(f"agents.{verb}")
        await (call(own(agent_name=name)) if own else self.raw("POST", f"/agents/{name}:{verb}"))

    async def get(self, name: str) -> Any:
        return await call(self._own("agents.get")(agent_name=name))

    async def delete(self, name: str, *, force: bool = False) -> Any:
        more = self.sdk.forced() if force else {}
        return await call(self._own("agents.delete")(agent_name=name, **more))

    # Versions

    async def create_version(self, name: str, definition: Any, **more: Any) -> Any:
        return await call(self._own("agents.create_version")(agent_name=name, definition=definition, **more))

    async def get_version(self, name: str, version: str) -> Any:
        return await call(self._own("agents.get_version")(agent_name=name, agent_version=version))

    async def delete_version(self, name: str, version: str, *, force: bool = False) -> Any:
        more = self.sdk.forced() if force else {}
        return await call(self._own("agents.delete_version")(agent_name=name, agent_version=version, **more))

    async def list_versions(self, name: str, **query: Any) -> list[str]:
        found = await collect(self._own("agents.list_versions")(agent_name=name, **query))
        return [version.version for version in found]

    async def create_draft(self, name: str, definition: Any) -> Any:
        if hasattr(models, "AgentState"):  # came with the drafts, in 2.3.0
            return await self.create_version(name, definition, draft=True)
        return await self.raw("POST", f"/agents/{name}/versions", {"definition": definition.as_dict(), "draft": True})

    async def list_with_drafts(self, name: str) -> list[str]:
        if hasattr(models, "AgentState"):
            return await self.list_versions(name, include_drafts=True)
        found = await self.raw("GET", f"/agents/{name}/versions", params={"include_drafts": "true"})
        return [version["version"] for version in found["data"]]

    # Code

    async def create_from_code(self, name: str, definition: dict[str, Any], package: bytes) -> Any:
        known: Any = models
        own = self._own("agents.create_version_from_code", "beta.agents.create_version_from_code")
        if own is None:
            return await self._upload(f"/agents/{name}/versions", definition, package)
        hosted = known.HostedAgentDefinition(definition)
        if hasattr(known, "CreateAgentVersionFromCodeContent"):  # 2.2.0
            metadata = known.CreateAgentVersionFromCodeMetadata(definition=hosted)
            content = known.CreateAgentVersionFromCodeContent(metadata=metadata, code=("agent.zip", package))
            return await call(
                own(agent_name=name, content=content, code_zip_sha256=hashlib.sha256(package).hexdigest())
            )
        code = io.BytesIO(package)
        code.name = "agent.zip"
        return await call(own(agent_name=name, definition=hosted, code=code))

    async def update_code(self, name: str, definition: dict[str, Any], package: bytes) -> Any:
        """`POST /agents/{name}` with a zip, for which no SDK has a method (azd does it)."""
        return await self._upload(f"/agents/{name}", definition, package)

    async def _upload(self, path: str, definition: dict[str, Any], package: bytes) -> Any:
        files = [
            ("metadata", (None, json.dumps({"definition": definition}), "application/json")),
            ("code", ("agent.zip", package, "application/zip")),
        ]
        headers = {"x-ms-code-zip-sha256": hashlib.sha256(package).hexdigest()}
        return await self.raw("POST", path, files=files, headers=headers)

    async def download_code(self, name: str, version: str) -> tuple[bytes, dict[str, str]]:
        """The zip, and the headers that it came with."""
        own = self._own("agents.download_code", "beta.agents.download_code")
        if own is None:
            return await self.raw_bytes(f"/agents/{name}/code:download", {"agent_version": version})
        seen: dict[str, str] = {}
        hook = {"raw_response_hook": lambda reply: seen.update(reply.http_response.headers)}
        pieces = await collect(own(agent_name=name, agent_version=version, **hook))
        return b"".join(pieces), seen

    # Sessions: `agents.` from 2.3.0 on, `beta.agents.` in 2.1.0 and 2.2.0

    async def create_session(self, agent: str, session: str, version: str) -> Any:
        known: Any = models
        own = self._own("agents.create_session", "beta.agents.create_session")
        if own is None:
            indicator = {"type": "version_ref", "agent_version": version}
            body = {"agent_session_id": session, "version_indicator": indicator}
            return await self.raw("POST", f"/agents/{agent}/endpoint/sessions", body)
        named = {"agent_session_id": session, "version_indicator": known.VersionRefIndicator(agent_version=version)}
        return await call(own(agent_name=agent, **named, **self._isolation()))

    async def get_session(self, agent: str, session: str) -> Any:
        own = self._own("agents.get_session", "beta.agents.get_session")
        if own is None:
            return await self.raw("GET", f"/agents/{agent}/endpoint/sessions/{session}")
        return await call(own(agent_name=agent, session_id=session))

    async def list_sessions(self, agent: str, **query: Any) -> list[str]:
        own = self._own("agents.list_sessions", "beta.agents.list_sessions")
        if own is None:
            found = await self.raw("GET", f"/agents/{agent}/endpoint/sessions", params=query)
            return [session["agent_session_id"] for session in found["data"]]
        return [session.agent_session_id for session in await collect(own(agent_name=agent, **query))]

    async def stop_session(self, agent: str, session: str) -> None:
        own = self._own("agents.stop_session", "beta.agents.stop_session")
        if own is None:
            await self.raw("POST", f"/agents/{agent}/endpoint/sessions/{session}:stop")
            return
        await call(own(agent_name=agent, session_id=session))

    async def delete_session(self, agent: str, session: str) -> None:
        own = self._own("agents.delete_session", "beta.agents.delete_session")
        if own is None:
            await self.raw("DELETE", f"/agents/{agent}/endpoint/sessions/{session}")
            return
        await call(own(agent_name=agent, session_id=session, **self._isolation()))

    async def logs(self, agent: str, version: str, session: str, last: str) -> list[str]:
        """The data of each frame of a session's log stream, up to one that holds `last`; then the client leaves."""
        own = self._own("agents.get_session_log_stream", "beta.agents.get_session_log_stream")
        if own is None:
            self.ways.add("pipeline")
            path = f"/agents/{agent}/versions/{version}/sessions/{session}:logstream"
            request = HttpRequest("GET", path, params={"api-version": self.api_version})
            reply = await call(self.sdk.project.send_request(request, stream=True))
            if reply.status_code != 200:
                await call(reply.read())
                raise Refused(reply.status_code, reply.json())
            pieces = reply.iter_bytes()
        else:
            pieces = await call(own(agent_name=agent, agent_version=version, session_id=session))
        got = b""
        if hasattr(pieces, "__aiter__"):
            async for piece in pieces:
                got += piece
                if b"\n\n" in got.partition(last.encode())[2]:
                    await pieces.aclose()
                    break
        else:
            for piece in pieces:
                got += piece
                if b"\n\n" in got.partition(last.encode())[2]:
                    pieces.close()
                    break
        frames = got.rpartition(b"\n\n")[0].decode().split("\n\n")
        assert all(frame.startswith("event: log\ndata: ") for frame in frames), frames
        return [frame.partition("data: ")[2] for frame in frames]

    # Files of sessions, likewise

    async def upload_file(self, agent: str, session: str, path: str, content: Any) -> Any:
        own = self._own("agents.upload_session_file", "beta.agents.upload_session_file")
        if own is None:
            more = {"params": {"path": path}, "headers": {"Content-Type": "application/octet-stream"}}
            return await self.raw("PUT", f"{_files(agent, session)}/content", content=content, **more)
        return await call(own(agent, session, content, path=path))

    async def download_file(self, agent: str, session: str, path: str) -> bytes:
        own = self._own("agents.download_session_file", "beta.agents.download_session_file")
        if own is None:
            return (await self.raw_bytes(f"{_files(agent, session)}/content", {"path": path}))[0]
        return b"".join(await collect(own(agent, session, path=path)))

    async def list_files(self, agent: str, session: str, path: str = ".", **query: Any) -> list[Any]:
        """All entries; 2.1.0 has no pages, and the raw pipeline asks for none."""
        own = self._own("agents.list_session_files", "beta.agents.list_session_files")
        if own is not None:
            return list(await collect(own(agent, session, path=path, **query)))
        own = self._own("beta.agents.get_session_files")
        if own is not None:
            return list((await call(own(agent, session, path=path)))["entries"])
        found = await self.raw("GET", _files(agent, session), params={"path": path})
        return list(found["entries"])

    async def delete_file(self, agent: str, session: str, path: str, *, recursive: bool = False) -> None:
        own = self._own("agents.delete_session_file", "beta.agents.delete_session_file")
        if own is None:
            params = {"path": path, "recursive": str(recursive).lower()}
            await self.raw("DELETE", _files(agent, session), params=params)
            return
        await call(own(agent, session, path=path, recursive=recursive))

    def _isolation(self) -> dict[str, str]:
        """A keyword that only 2.1.0 insists on."""
        return {"isolation_key": "mine"} if self.sdk.generation == "2.1.0" else {}


def _files(agent: str, session: str) -> str:
    return f"/agents/{agent}/endpoint/sessions/{session}/files"


def packed(folder: Path) -> bytes:
    """The folder of a Python agent as a zip, the same bytes each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in [*sorted(folder.glob("*.py")), folder / "requirements.txt"]:
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
    return buffer.getvalue()
