"""The registry credentials that `docker login` left behind, found as the `docker` command finds them.

They live in the user's `config.json`: as base64 (`auths`), or behind a program (`credsStore`, `credHelpers`).
What is found goes to the engine with the pull and nowhere else: not into a log, an error or the store.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

HUB_KEY = "https://index.docker.io/v1/"
"""Under this name `docker login` files the credentials of Docker Hub, since its first version."""

HELPER_TIMEOUT = 20.0
"""Seconds for a credential program: cloud ones ask the network for a token."""

TOKEN_USER = "<token>"  # noqa: S105 - the protocol's marker for an identity token, not a secret

AskHelper = Callable[[str, str], Awaitable[Mapping[str, Any] | None]]
"""Takes a helper's name and a registry; returns what the program answered, None if it knows nothing."""


async def ask_helper(helper: str, registry: str) -> Mapping[str, Any] | None:
    """Runs `docker-credential-<helper> get`."""
    try:
        process = await asyncio.create_subprocess_exec(
            f"docker-credential-{helper}",
            "get",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(HELPER_TIMEOUT):
            answer, _ = await process.communicate(registry.encode())
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _object(answer) if process.returncode == 0 else None


async def credentials_for(
    registry: str, config: Mapping[str, Any], ask: AskHelper = ask_helper
) -> Mapping[str, str] | None:
    """What to send to the engine for pulls from `registry`, or None to pull without a name."""
    key = HUB_KEY if registry in {"docker.io", "index.docker.io"} else registry
    helper = config.get("credHelpers", {}).get(key) or config.get("credsStore")
    if helper:
        answer = await ask(str(helper), key)
        if answer and answer.get("Secret"):
            return _pair(str(answer.get("Username", "")), str(answer["Secret"]))
    for name, entry in config.get("auths", {}).items():
        if _bare(name) == _bare(key) and isinstance(entry, dict):
            return _from_entry(entry)
    return None


def _from_entry(entry: Mapping[str, Any]) -> Mapping[str, str] | None:
    if token := entry.get("identitytoken"):
        return {"identitytoken": str(token)}
    try:
        user, colon, password = base64.b64decode(str(entry.get("auth", ""))).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return _pair(user, password.rstrip("\0")) if colon else None


def _pair(user: str, secret: str) -> Mapping[str, str]:
    return {"identitytoken": secret} if user == TOKEN_USER else {"username": user, "password": secret}


def _bare(name: str) -> str:
    """A registry's host and port, from any of the spellings under which it was logged into."""
    return name.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _object(answer: bytes) -> Mapping[str, Any] | None:
    try:
        content = json.loads(answer)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
