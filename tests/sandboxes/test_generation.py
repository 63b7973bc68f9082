"""Learning which adapter generation answers in a sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from cupola.drivers.base import Address
from cupola.sandboxes.generation import Adapter, Generation, learn_adapter, named_generation, names_hooks

HEALTHY, READY = b'{"status":"healthy"}', b'{"status":"ready"}'


def reply(body: bytes, status: int = 200, **headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *lines])
    return head.encode() + b"\r\n\r\n" + body


NOT_FOUND = reply(b"Not Found", 404)


@asynccontextmanager
async def serving(answers: Mapping[str, bytes]) -> AsyncIterator[Address]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.get(head.split()[1].decode(), NOT_FOUND))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (
            "azure-ai-agentserver-core/2.0.0b1 (python/3.11) azure-ai-agentserver-responses/1.0.0b1 (python/3.11)",
            "1.0.0",
        ),
        ("azure-ai-agentserver-core/2.2.0 (python/3.11) azure-ai-agentserver-responses/1.0.0b7 (python/3.11)", "1.0.0"),
        ("azure-ai-agentserver-core/2.0.0b6 (python/3.11) azure-ai-agentserver-invocations/1.0.0b5", "1.0.0"),
        ("azure-ai-agentserver-core/2.0.0 (python/3.11) azure-ai-agentserver-responses/2.0.0 (python/3.11)", "2.0.0"),
        ("azure-ai-agentserver-core/2.3.0b2 (python/3.11) azure-ai-agentserver-responses/2.4.0b1", "2.0.0"),
        ("azure-ai-agentserver-core/2.2.0 (python/3.11) azure-ai-agentserver-invocations/1.2.0", "2.0.0"),
        ("uvicorn", None),
        ("", None),
    ],
)
def test_adapters_name_themselves(server: str, expected: str | None) -> None:
    """The package that speaks the protocol decides, on whichever core it runs."""
    assert named_generation(server) == expected


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("azure-ai-agentserver-core/2.3.0b2 (python/3.11) azure-ai-agentserver-responses/2.4.0b1 (python/3.11)", True),
        ("azure-ai-agentserver-core/2.10.0 (python/3.11)", True),
        ("azure-ai-agentserver-core/3.0.0b1 (python/3.11)", True),
        ("azure-ai-agentserver-core/2.2.0 (python/3.11) azure-ai-agentserver-responses/2.3.0 (python/3.11)", False),
        ("azure-ai-agentserver-responses/2.4.0b1 (python/3.11)", False),
        ("azure-ai-agentserver-core/unknown", False),
        ("", False),
    ],
)
def test_the_core_says_whether_there_are_hooks(server: str, expected: bool) -> None:
    """Since 2.3; the packages on it do not matter."""
    assert names_hooks(server) is expected


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"/readiness": reply(HEALTHY, x_platform_server="azure-ai-agentserver-core/2.2.0 (x)")}, Generation.CURRENT),
        ({"/readiness": reply(READY), "/liveness": reply(b"")}, Generation.OLD),
        ({"/readiness": reply(READY)}, None),
        ({"/readiness": reply(READY), "/liveness": reply(READY)}, None),
        ({"/readiness": reply(HEALTHY)}, None),
        ({"/readiness": reply(b"fine")}, None),
        ({"/readiness": b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nshort"}, None),
        ({"/readiness": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"}, None),
        ({"/readiness": b"hello\r\n\r\n"}, None),
        ({"/readiness": b""}, None),
    ],
)
async def test_what_a_container_answers_tells(answers: Mapping[str, bytes], expected: Generation | None) -> None:
    """The oldest adapters are known by both probes together: others say `ready` too."""
    async with serving(answers) as address:
        assert (await learn_adapter(address)).generation == expected


async def test_a_container_that_is_gone_tells_nothing() -> None:
    """Nothing is raised: the first request finds out."""
    async with serving({}) as address:
        pass
    assert await learn_adapter(address) == Adapter()
