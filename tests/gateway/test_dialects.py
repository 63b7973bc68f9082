"""What containers are told, by the adapter generation that answers in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from tests.support.agents import echo
from tests.support.platform import DEFINITION, OPENAI, PlatformUnderTest, open_platform

KEYS = {"x-agent-user-isolation-key", "x-agent-chat-isolation-key"}
TODAYS = {"x-agent-user-id", "x-agent-foundry-call-id"}
TOOLS = [{"type": "code_interpreter"}]


async def old(sandbox: FakeSandbox, request: Request) -> Reply:
    return Reply(200) if request.path == "/liveness" else await echo(sandbox, request)


OLD = Behaviour(handler=old, ready=Reply(200, {}, b'{"status":"ready"}'))


def named(packages: str) -> Behaviour:
    return Behaviour(handler=echo, ready=Reply(200, {"x-platform-server": packages}, b'{"status":"healthy"}'))


P1 = named("azure-ai-agentserver-core/2.0.0b1 (python/3.11) azure-ai-agentserver-responses/1.0.0b1 (python/3.11)")
CURRENT = named("azure-ai-agentserver-core/2.2.0 (python/3.11) azure-ai-agentserver-responses/2.3.0 (python/3.11)")
PLAIN = Behaviour(handler=echo)


def declaring(version: str) -> dict[str, Any]:
    protocols = [{"protocol": "responses", "version": version}]
    return {**DEFINITION, "protocol_versions": protocols, "tools": TOOLS}


def told(platform: PlatformUnderTest) -> tuple[set[str], dict[str, Any]]:
    """The platform's own headers and the body of the last request."""
    request = platform.sandbox.requests[-1]
    own = {name for name in request.headers if name.startswith(("x-agent-", "x-aml-"))}
    return own - {"x-agent-response-id"}, orjson.loads(request.body)


@pytest.mark.parametrize("declared", ["v1", "1.0.0", "2.0.0"])
@pytest.mark.parametrize(
    ("behaviour", "more"), [(OLD, {"x-aml-oid", "x-aml-tid"}), (P1, KEYS), (CURRENT, set())], ids=["old", "p1", "now"]
)
async def test_the_adapter_that_answers_decides(
    tmp_path: Path, behaviour: Behaviour, more: set[str], declared: str
) -> None:
    """Whatever is declared, the container gets the headers of its own generation beside today's."""
    async with open_platform(tmp_path, lambda _: behaviour) as platform:
        await platform.create_version("a1", declaring(declared))
        await platform.hear(metadata={"mine": "kept"}, store=True)
        headers, body = told(platform)
    assert headers == TODAYS | more
    assert ("tools" in body) is (behaviour is OLD)
    assert body["metadata"]["mine"] == "kept"


@pytest.mark.parametrize(("declared", "more"), [("v1", {"x-aml-oid", "x-aml-tid"}), ("1.0.0", KEYS), ("2.0.0", set())])
async def test_without_an_adapter_the_definition_decides(tmp_path: Path, declared: str, more: set[str]) -> None:
    """A plain container gets what it declares, and its body as the caller sent it."""
    async with open_platform(tmp_path, lambda _: PLAIN) as platform:
        await platform.create_version("a1", declaring(declared))
        await platform.hear(store=True)
        headers, body = told(platform)
    assert headers == TODAYS | more
    assert body["store"] is True
    assert "tools" not in body
    assert ("agent" in body) is (declared == "v1")


async def test_the_oldest_adapters_read_the_body(tmp_path: Path) -> None:
    """Agent, response id and tools stand there; the caller's own tools win; `store` would write each turn twice."""
    async with open_platform(tmp_path, lambda _: OLD) as platform:
        await platform.create_version("a1", declaring("v1"))
        first = await platform.hear(store=True)
        _, body = told(platform)
        await platform.hear(tools=[{"type": "mine"}], agent_session_id=first["agent_session_id"])
        _, with_tools = told(platform)
        kept = await platform.call("GET", f"{OPENAI}/responses/{first['id']}")
    assert body["agent"]["name"] == "a1"
    assert body["metadata"] == {"response_id": first["id"]}
    assert body["tools"] == TOOLS
    assert "store" not in body
    assert with_tools["tools"] == [{"type": "mine"}]
    assert kept.status == 200


async def test_the_generation_is_learned_again_after_a_restart(tmp_path: Path) -> None:
    """It is kept in memory only; a sandbox that outlives the server is asked again."""
    async with open_platform(tmp_path, lambda _: OLD) as platform:
        await platform.create_version("a1", declaring("2.0.0"))
        first = await platform.hear()
        await platform.restart()
        await platform.hear(agent_session_id=first["agent_session_id"])
        headers, _ = told(platform)
    assert "x-aml-oid" in headers
