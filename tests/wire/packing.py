"""The multipart body of a code deployment, as azd sends it, and the wait for what becomes of it."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

DEADLINE = 180.0


def code_zip(
    folder: Path, protocol: str, environment: Mapping[str, str] | None = None, **metadata: Any
) -> dict[str, Any]:
    """The keyword arguments of an httpx call that uploads `folder`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted([*folder.glob("*.py"), folder / "requirements.txt"]):
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
    definition = {
        "kind": "hosted",
        "cpu": "1",
        "memory": "2Gi",
        "code_configuration": {
            "runtime": f"python_{sys.version_info.major}_{sys.version_info.minor}",
            "entry_point": ["python", "main.py"],
            "dependency_resolution": "remote_build",
        },
        "protocol_versions": [{"protocol": protocol, "version": "2.0.0"}],
        "environment_variables": dict(environment or {}),
    }
    body = json.dumps({"definition": definition, **metadata})
    return {
        "files": {
            "metadata": (None, body, "application/json"),
            "code": ("agent.zip", buffer.getvalue(), "application/zip"),
        },
        "headers": {"x-ms-code-zip-sha256": hashlib.sha256(buffer.getvalue()).hexdigest()},
    }


def wait_until_active(rest: httpx.Client, name: str, version: str) -> dict[str, Any]:
    """Polls as azd does; what did not become active fails with its evidence."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        found: dict[str, Any] = rest.get(f"/agents/{name}/versions/{version}").raise_for_status().json()
        if found["status"] != "creating":
            assert found["status"] == "active", json.dumps(found, indent=2)
            return found
        time.sleep(0.2)
    raise AssertionError(f"version {version} of {name} is still being made after {DEADLINE:.0f} s")
