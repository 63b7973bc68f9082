"""Debug bundles: everything about a session, and no secret."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import orjson
import pytest

from cupola import bundles
from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from cupola.identity import Role
from tests.support.agents import echo
from tests.support.platform import DEFINITION, OPENAI, PROJECT, Answer, PlatformUnderTest, open_platform

BUNDLE = "/cupola/projects/demo/agents/a1/sessions/s1/bundle"
LOGS = "/cupola/projects/demo/agents/a1/logs"
SECRETS = {
    "PLAIN_NAME": "correct horse battery staple",
    "DB_PASSWORD": "hunter2",
    "API_KEY": "9f86d081884c7d659a2feaa0c55ad015",
    "PEM": "-----BEGIN PRIVATE KEY-----\nMIIEvAIBADANBgkq\n-----END PRIVATE KEY-----",
    "QUOTED": 'a "quoted" secret\\with everything',
    "HOOK_URL": "https://hooks.example.com/services/T000/B000/xyzxyz",
}
HARMLESS = {"LOG_LEVEL": "debug", "MODEL_DEPLOYMENT_NAME": "gpt-4.1-mini"}
DEFINED = {
    **DEFINITION,
    "environment_variables": {**SECRETS, **HARMLESS},
    "tools": [{"type": "mcp", "server_label": "docs", "headers": {"X-Custom": "headersecret"}}],
}
PASTED = "sk-proj-aaaaBBBBccccDDDD1111"


async def talkative(sandbox: FakeSandbox, request: Request) -> Reply:
    """Prints and says all that it knows."""
    sandbox.files["notes.txt"] = b"contents stay here"
    for name, value in sandbox.environment.items():
        for line in f"{name}={value}".splitlines():
            sandbox.print(line)
    sandbox.print(f"called with {request.headers.get('x-agent-foundry-call-id')}")
    if not request.path.startswith("/responses"):
        return Reply(200, {"content-type": "application/json"}, b"{}")
    asked = orjson.loads(request.body)
    asked["input"] = json.dumps(SECRETS)
    told = Request(request.method, request.path, request.headers, orjson.dumps(asked))
    return await echo(sandbox, told)


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncGenerator[PlatformUnderTest]:
    async with open_platform(tmp_path, Behaviour(handler=talkative)) as under_test:
        assert (await under_test.create_version("a1", DEFINED))["status"] == "active"
        yield under_test


def opened(answer: Answer) -> zipfile.ZipFile:
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.body))
    assert archive.testzip() is None
    return archive


def lines(archive: zipfile.ZipFile, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in archive.read(name).splitlines()]


async def used(platform: PlatformUnderTest) -> str:
    """A session that was talked to in every way; the conversation's id."""
    conversation = await platform.conversation()
    first = await platform.hear(f"my key is {PASTED}", conversation=conversation, agent_session_id="s1")
    await platform.hear("again", previous_response_id=first["id"], agent_session_id="s1")
    path = f"{PROJECT}/agents/a1/endpoint/protocols/invocations?agent_session_id=s1"
    assert (await platform.call("POST", path, {})).status == 200
    async with asyncio.timeout(5):  # what is printed is kept a moment later
        while (await platform.call("GET", f"{LOGS}?session=s1")).body.count(b"called with") < 3:
            await asyncio.sleep(0.01)
    return conversation


@pytest.mark.operation("cupola.bundle")
async def test_everything_about_a_session(platform: PlatformUnderTest) -> None:
    """One archive, with what a colleague asks for first."""
    conversation = await used(platform)
    archive = opened(await platform.call("GET", BUNDLE))
    manifest = json.loads(archive.read(bundles.MANIFEST))
    assert (manifest["format"], manifest["format_version"]) == (bundles.FORMAT, 1)
    assert (manifest["agent"], manifest["version"], manifest["session"]) == ("a1", "1", "s1")
    assert json.loads(archive.read(bundles.DEFINITION))["image"] == "agent:1"
    environment = json.loads(archive.read(bundles.ENVIRONMENT))
    assert {name: environment[name] for name in HARMLESS} == HARMLESS
    assert {environment[name] for name in (*SECRETS, "IDENTITY_HEADER")} == {None}
    assert environment["FOUNDRY_AGENT_SESSION_ID"] == "s1"
    assert json.loads(archive.read(bundles.SESSION))["status"] == "active"
    (run,) = json.loads(archive.read(bundles.RUNS))
    assert (run["start_type"], run["ended_at"]) == ("cold", None)
    (file,) = json.loads(archive.read(bundles.FILES))["entries"]
    assert (file["path"], file["size"]) == ("notes.txt", 18)
    told = lines(archive, bundles.OUTPUT)
    assert [line["event"] for line in told if line["event"]] == ["began", "ready"]
    assert any("LOG_LEVEL=debug" in line["text"] for line in told)
    first, second = lines(archive, bundles.RESPONSES)
    assert first["input"][0]["content"] == [{"type": "input_text", "text": "my key is ***"}]
    assert (first["conversation"], first["timing"]["protocol"]) == (conversation, "responses")
    assert second["response"]["previous_response_id"] == first["id"]
    (talk,) = lines(archive, bundles.CONVERSATIONS)
    assert (talk["id"], len(talk["items"])) == (conversation, 2)
    assert [row["protocol"] for row in lines(archive, bundles.TIMINGS)] == ["responses", "responses", "invocations"]


async def test_no_secret_is_in_it(platform: PlatformUnderTest) -> None:
    """Every one that was put in anywhere, whole or by the line, and every token of the platform."""
    await used(platform)
    (live,) = [live for live in platform.platform.sandboxes.live if live.session is not None]
    archive = opened(await platform.call("GET", BUNDLE))
    whole = b"\n".join(archive.read(name) for name in archive.namelist()).decode()
    header = platform.tokens.sandbox_secret(live.row.id)
    wanted = [*SECRETS.values(), PASTED, "headersecret", header, header.partition(".")[2], "MIIEvAIBADANBgkq", "call_"]
    assert "contents stay here" not in whole
    for secret in wanted:
        for form in (secret, json.dumps(secret)[1:-1], json.dumps(json.dumps(secret)[1:-1])[1:-1]):
            assert form not in whole, secret


async def test_a_failed_start_shows_its_evidence(platform: PlatformUnderTest) -> None:
    """With the last lines, masked as all output is."""
    assert (await platform.ask(agent_session_id="s1")).status == 200
    assert (await platform.call("POST", f"{PROJECT}/agents/a1/endpoint/sessions/s1:stop")).status == 204
    platform.place.behaviour = Behaviour(exit_code=3, output=("password: swordfish",))
    assert (await platform.ask(agent_session_id="s1")).status == 424
    archive = opened(await platform.call("GET", BUNDLE))
    failed = json.loads(archive.read(bundles.RUNS))[-1]
    assert (failed["start_type"], failed["failure"]["exit_code"]) == ("resume", 3)
    assert "swordfish" not in json.dumps(failed)
    assert json.loads(archive.read(bundles.SESSION))["status"] == "failed"


async def test_owners_and_operators_have_it(platform: PlatformUnderTest) -> None:
    """Nobody else."""
    bob = platform.caller("bob", Role.USER)
    assert (await bob("POST", f"{OPENAI}/responses", {"input": "x", "agent_session_id": "s1"})).status == 200
    assert opened(await bob("GET", BUNDLE))
    assert opened(await platform.call("GET", BUNDLE))
    refused = await platform.caller("eve", Role.USER)("GET", BUNDLE)
    assert (refused.status, refused.headers["x-agent-session-id"]) == (403, "s1")
    assert (await platform.caller("eve", Role.READER)("GET", BUNDLE)).status == 403
    assert (await platform.call("GET", BUNDLE.replace("s1", "s2"))).status == 404


async def test_it_is_read_back(platform: PlatformUnderTest, tmp_path: Path) -> None:
    """What was asked and answered, and what cannot be asked again."""
    await used(platform)
    path = tmp_path / "s1.zip"
    path.write_bytes((await platform.call("GET", BUNDLE)).body)
    bundle = bundles.read_bundle(path)
    assert (bundle.agent, bundle.version, bundle.image, bundle.others) == ("a1", "1", "agent:1", {"invocations": 1})
    first, second = bundle.turns
    assert (first.status, first.input, second.previous) == ("completed", "my key is ***", first.id)
    assert first.text.startswith("You said: ")
    assert bundle.conversations == {first.conversation: []}
