"""Code deployments as the different clients send them (control-plane.md §2.4)."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BOUNDARY = "----cupola-test-boundary"
DEFINITION: Mapping[str, Any] = {
    "kind": "hosted",
    "code_configuration": {"runtime": "python_3_11", "entry_point": ["main.py"]},
    "protocol_versions": [{"protocol": "responses", "version": "2.0.0"}],
}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the body; what is None is not sent."""

    name: str
    content: bytes
    filename: str | None = None
    content_type: str | None = None


def code_zip(files: Mapping[str, str] | None = None) -> bytes:
    """A zip with these files; without any it holds a `main.py`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (files or {"main.py": "print('hello')"}).items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def upload(agent: str, definition: Mapping[str, Any], main: str) -> dict[str, Any]:
    """The arguments of httpx's call that creates `agent` from a single file of code, for this Python."""
    package = code_zip({"main.py": main})
    runtime = f"python_{sys.version_info.major}_{sys.version_info.minor}"
    described = {**definition, "code_configuration": {"runtime": runtime, "entry_point": ["python", "main.py"]}}
    return {
        "headers": {"x-ms-agent-name": agent, "x-ms-code-zip-sha256": hashlib.sha256(package).hexdigest()},
        "files": {
            "metadata": (None, json.dumps({"name": agent, "definition": described}), "application/json"),
            "code": ("agent.zip", package, "application/zip"),
        },
    }


def metadata(definition: Mapping[str, Any] = DEFINITION, **fields: Any) -> bytes:
    return json.dumps({"definition": definition, **fields}).encode()


def as_sync_sdk(package: bytes, described: bytes | None = None) -> Sequence[Part]:
    return (
        Part("metadata", described or metadata()),
        Part("code", package, "agent-code.zip", "application/octet-stream"),
    )


def as_async_sdk(package: bytes) -> Sequence[Part]:
    return (
        Part("metadata", metadata(), None, "text/plain; charset=utf-8"),
        Part("code", package, "agent-code.zip", "application/octet-stream"),
    )


def as_azd(package: bytes) -> Sequence[Part]:
    return (
        Part("code", package, "agent.zip", "application/zip"),
        Part("metadata", metadata(), "metadata.json", "application/json"),
    )


def encoded(parts: Sequence[Part], *, sha256: str | None = None) -> dict[str, Any]:
    """The arguments of a call; the zip's hash is announced, or the one that is given."""
    lines = []
    for part in parts:
        disposition = f'form-data; name="{part.name}"'
        if part.filename is not None:
            disposition += f'; filename="{part.filename}"'
        lines.append(f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n".encode())
        if part.content_type is not None:
            lines.append(f"Content-Type: {part.content_type}\r\n".encode())
        lines.append(b"\r\n" + part.content + b"\r\n")
    code = next((part.content for part in parts if part.name == "code"), b"")
    return {
        "raw": b"".join([*lines, f"--{BOUNDARY}--\r\n".encode()]),
        "headers": {
            "content-type": f"multipart/form-data; boundary={BOUNDARY}",
            "x-ms-code-zip-sha256": sha256 or hashlib.sha256(code).hexdigest(),
        },
    }
