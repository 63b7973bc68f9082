"""Pulling from a registry that asks for a password, by a real engine."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from cupola.drivers.base import ImageSource
from cupola.drivers.docker import DockerDriver
from cupola.drivers.docker_connect import read_traits
from cupola.errors import StartFailed
from tests.contract.place_docker import open_client

pytestmark = pytest.mark.engine

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
TLS = b"\x16"
"""With this byte engines ask for TLS first; a registry that hangs up is asked again without."""

LOGIN = base64.b64encode(b"me:secret").decode()


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Registry:
    """One image, `agent:1`, for whoever knows the password; speaks as much of the protocol as a pull needs."""

    architecture: str
    port: int = 0
    served: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.addfile(tarfile.TarInfo(f"made-{uuid4().hex}"))
        layer = gzip.compress(archive.getvalue())
        config = {
            "architecture": self.architecture,
            "os": "linux",
            "config": {"Cmd": ["/agent"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(archive.getvalue())]},
        }
        packed = json.dumps(config).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._blob("application/vnd.docker.container.image.v1+json", packed),
            "layers": [self._blob("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)],
        }
        content = json.dumps(manifest).encode()
        for reference in ("1", digest(content)):
            self.served[f"/v2/agent/manifests/{reference}"] = (MANIFEST, content)

    def _blob(self, kind: str, content: bytes) -> dict[str, object]:
        self.served[f"/v2/agent/blobs/{digest(content)}"] = ("application/octet-stream", content)
        return {"mediaType": kind, "size": len(content), "digest": digest(content)}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if (first := await reader.readexactly(1)) != TLS:
                head = (first + await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                writer.write(self.answer(head))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the engine has changed its mind
        finally:
            writer.close()

    def answer(self, head: list[str]) -> bytes:
        method, path, _ = head[0].split()
        status, kind, content = "200 OK", "application/json", b"{}"
        if f"authorization: basic {LOGIN}".lower() not in (line.lower() for line in head):
            status, content = "401 Unauthorized", self._error("UNAUTHORIZED", "authentication required")
        elif path in self.served:
            kind, content = self.served[path]
        elif path != "/v2/":
            status, content = "404 Not Found", self._error("MANIFEST_UNKNOWN", "manifest unknown")
        lines = [
            f"HTTP/1.1 {status}",
            f"content-type: {kind}",
            f"content-length: {len(content)}",
            f"docker-content-digest: {digest(content)}",
            "connection: close",
            'www-authenticate: Basic realm="test"',
            "docker-distribution-api-version: registry/2.0",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else content)

    @staticmethod
    def _error(code: str, message: str) -> bytes:
        return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


@dataclass
class Puller:
    """A driver for a user who may have logged in, and the image that the registry has."""

    driver: DockerDriver
    registry: str
    config: Path

    def log_in(self) -> None:
        (self.config / "config.json").write_text(json.dumps({"auths": {self.registry: {"auth": LOGIN}}}))

    async def pull(self, image: str) -> list[str]:
        told: list[str] = []
        await self.driver.prepare(ImageSource(f"{self.registry}/{image}"), told.append)
        return told


@pytest.fixture
async def puller(tmp_path: Path) -> AsyncIterator[Puller]:
    """A registry for the duration of a test, whose image is not left in the engine."""
    async with open_client() as client:
        traits = await read_traits(client)
        if traits.podman:
            pytest.skip("Podman pulls over plain HTTP only from registries in its own configuration")
        installation = f"test-{uuid4().hex[:12]}"
        registry = Registry(traits.architecture)
        async with await asyncio.start_server(registry.serve, "127.0.0.1", 0) as server:
            host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            driver = DockerDriver(client, installation, traits=traits, config=tmp_path)
            yield Puller(driver, host, tmp_path)
            for image in await client.images.list(filters={"reference": [f"{host}/agent"]}):
                await client.images.delete(image["Id"], force=True)
            await driver.remove_installation()


async def test_credentials_of_the_user_are_sent(puller: Puller) -> None:
    """After docker login the pull succeeds, is told about, and is not repeated."""
    puller.log_in()
    told = await puller.pull("agent:1")
    assert told[0] == f"pulling {puller.registry}/agent:1 from {puller.registry}"
    assert any("layers" in line for line in told)
    assert await puller.pull("agent:1") == []


async def test_without_credentials(puller: Puller) -> None:
    """A registry that asks for a password is named with the command that gives it one."""
    with pytest.raises(StartFailed, match=rf"docker login {puller.registry}") as caught:
        await puller.pull("agent:1")
    assert [detail["code"] for detail in caught.value.details] == ["ImagePullBackOff"]
    assert "secret" not in caught.value.message


async def test_a_tag_that_is_not_there(puller: Puller) -> None:
    """A wrong tag is told from a wrong password."""
    puller.log_in()
    with pytest.raises(StartFailed, match="check path and tag") as caught:
        await puller.pull("agent:2")
    assert [detail["code"] for detail in caught.value.details] == ["InvalidContainerImage"]
