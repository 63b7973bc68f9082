"""The Responses protocol through the gateway, against fake agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from cupola.ids import is_response_id
from tests.support.agents import EVENTS, echo, event, response_body, slow
from tests.support.platform import DEFINITION, OPENAI, PROJECT, Answer, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

BASE = OPENAI


def events_of(answer: Answer) -> list[Mapping[str, Any]]:
    """The payloads of an event stream."""
    blocks = [block for block in answer.body.split(b"\n\n") if b"data:" in block]
    return [orjson.loads(block.split(b"data:", 1)[1]) for block in blocks]


def asked_of(platform: PlatformUnderTest) -> list[Request]:
    """What the sandboxes were asked, but for their readiness."""
    return [
        request
        for sandbox in platform.place.sandboxes.values()
        for request in sandbox.requests
        if request.path != "/readiness"
    ]


async def retrieved(platform: PlatformUnderTest, response_id: str) -> Mapping[str, Any]:
    answer = await platform.call("GET", f"{BASE}/responses/{response_id}")
    assert answer.status == 200, answer.body
    body: Mapping[str, Any] = answer.json()
    return body


async def test_answers_and_keeps_the_response(platform: PlatformUnderTest) -> None:
    """A plain response comes back filled in, names its session, and can be retrieved."""
    await platform.create_version()
    answer = await platform.call("POST", f"{BASE}/responses", {"input": "hello"})
    assert answer.status == 200, answer.body
    body = answer.json()
    assert body["output"][0]["content"][0]["text"] == "You said: hello"
    assert body["agent_session_id"] == answer.headers["x-agent-session-id"]
    assert body["tools"] == []
    kept = await platform.call("GET", f"{BASE}/responses/{body['id']}")
    assert kept.json()["output"] == body["output"]


@pytest.mark.parametrize("base", [BASE, BASE.removesuffix("/v1")])
async def test_both_base_layouts(platform: PlatformUnderTest, base: str) -> None:
    """`…/openai` and `…/openai/v1`, with any `api-version` or none."""
    await platform.create_version()
    for query in ("", "?api-version=v1", "?api-version=2025-11-15-preview"):
        answer = await platform.call("POST", f"{base}/responses{query}", {"input": "x"})
        assert answer.status == 200
        assert (await platform.call("GET", f"{base}/responses/{answer.json()['id']}{query}")).status == 200


@pytest.mark.parametrize("key", ["agent_reference", "agent"])
@pytest.mark.parametrize("base", ["openai", "openai/v1"])
async def test_older_sdks_go_through_the_project(platform: PlatformUnderTest, base: str, key: str) -> None:
    """With the agent named in the body, under either key."""
    await platform.create_version()
    body = {"input": "hi", key: {"name": "a1", "type": "agent_reference"}}
    answer = await platform.call("POST", f"{PROJECT}/{base}/responses?api-version=2025-11-15-preview", body)
    assert answer.status == 200, answer.body
    found = await platform.call("GET", f"{PROJECT}/{base}/responses/{answer.json()['id']}")
    assert found.json()["output"][0]["content"][0]["text"] == "You said: hi"


async def test_a_request_for_a_model_is_not_served(platform: PlatformUnderTest) -> None:
    """501 with a sentence that names what is missing."""
    answer = await platform.call("POST", f"{PROJECT}/openai/v1/responses", {"model": "gpt-4o", "input": "x"})
    assert (answer.status, answer.error["code"]) == (501, "not_implemented")
    assert "agent_reference" in answer.error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": "yes"}, "stream"),
        ({"store": 1}, "store"),
        ({"previous_response_id": 5}, "previous_response_id"),
        ({"conversation": 5}, "conversation"),
        ({"agent_session_id": {}}, "agent_session_id"),
        ({"conversation": "c", "previous_response_id": "r"}, "previous_response_id"),
        ({"conversation": {}}, "conversation"),
        ({"conversation": {"id": 5}}, "conversation.id"),
        ({"background": True, "store": False}, "background"),
        ({"previous_response_id": "caresp_unknown"}, "previous_response_id"),
        ({"previous_response_id": "caresp_" + "0" * 50}, "previous_response_id"),
        ({"conversation": "conv_unknown"}, "conversation"),
    ],
)
async def test_fields_at_fault_are_named(platform: PlatformUnderTest, fields: dict[str, Any], param: str) -> None:
    """400 or 404 with the parameter; no session is begun for it."""
    await platform.create_version()
    answer = await platform.ask(**fields)
    assert answer.status in (400, 404)
    assert answer.error["param"] == param
    assert asked_of(platform) == []


@pytest.mark.parametrize("reference", ["a1", {}, {"name": 5}, []])
async def test_odd_references(platform: PlatformUnderTest, reference: object) -> None:
    """An agent reference that is none is named; an empty one names no agent."""
    answer = await platform.call("POST", f"{PROJECT}/openai/v1/responses", {"agent_reference": reference})
    assert answer.status in (400, 501)


async def test_what_the_container_is_told(platform: PlatformUnderTest) -> None:
    """Session, agent, ids and user; neither the caller's token nor his other headers."""
    await platform.create_version()
    headers = {"x-client-trace": "t", "cookie": "c=1", "x-secret": "s", "x-forwarded-for": "1.2.3.4"}
    body = {"input": "x", "agent": {"name": "a1"}, "temperature": 0.5}
    answer = await platform.call("POST", f"{BASE}/responses", body, headers=headers)
    (request,) = asked_of(platform)
    told = orjson.loads(request.body)
    assert told["temperature"] == 0.5
    assert told["agent_session_id"] == answer.json()["agent_session_id"]
    assert told["agent_reference"] == {"type": "agent_reference", "name": "a1", "version": "1"}
    assert "agent" not in told
    assert request.headers["x-agent-response-id"] == answer.json()["id"]
    assert request.headers["x-agent-user-id"] == platform.user
    call = platform.tokens.call(request.headers["x-agent-foundry-call-id"])
    assert (call.user, call.agent, call.session) == (platform.user, "a1", answer.json()["agent_session_id"])
    assert request.headers["x-client-trace"] == "t"
    for hidden in ("authorization", "cookie", "x-secret", "x-forwarded-for"):
        assert hidden not in request.headers


# Streams


async def test_streams_untouched_and_keeps_the_end(platform: PlatformUnderTest) -> None:
    """Events pass one by one; after the last one the response is in the store."""
    await platform.create_version()
    answer = await platform.call("POST", f"{BASE}/responses", {"input": "one two", "stream": True})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.body.count(b"event: response.output_text.delta") == 4
    response_id = answer.body.split(b'"id":"')[1].split(b'"')[0].decode()
    kept = await platform.call("GET", f"{BASE}/responses/{response_id}")
    assert kept.json()["status"] == "completed"


async def test_a_running_stream_can_be_looked_up(tmp_path: Path) -> None:
    """From its first event on the response is there, in progress."""
    gate, begun = asyncio.Event(), asyncio.Event()
    async with open_platform(tmp_path, slow(gate)) as platform:
        await platform.create_version()
        asking = asyncio.create_task(
            platform.call("POST", f"{BASE}/responses", {"input": "x", "stream": True}, on_chunk=begun)
        )
        await begun.wait()
        (request,) = asked_of(platform)
        response_id = request.headers["x-agent-response-id"]
        assert (await retrieved(platform, response_id))["status"] == "in_progress"
        gate.set()
        assert (await asking).status == 200
        assert (await retrieved(platform, response_id))["status"] == "completed"


async def test_a_caller_who_leaves_is_noticed(tmp_path: Path) -> None:
    """A foreground run ends when its caller goes: the container sees the connection close."""
    gate, left, begun = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with open_platform(tmp_path, slow(gate)) as platform:
        await platform.create_version()
        asking = asyncio.create_task(
            platform.call("POST", f"{BASE}/responses", {"input": "x", "stream": True}, left=left, on_chunk=begun)
        )
        await begun.wait()
        left.set()
        await asking
        sandbox = next(iter(platform.place.sandboxes.values()))
        await wait_until(lambda: sandbox.abandoned > 0)
        assert all(live.open_requests == 0 for live in platform.platform.sandboxes.live)


async def test_a_silent_stream_may_be_cut(tmp_path: Path) -> None:
    """As Azure cuts it: without a last event, in the middle; and the response has failed, with a reason."""
    async with open_platform(
        tmp_path, slow(asyncio.Event()), stream_keep_alive=0.005, stream_idle_cut=0.05
    ) as platform:
        await platform.create_version()
        answer = await platform.ask(stream=True)
        assert b": keep-alive" in answer.body
        kinds = [one["type"] for one in events_of(answer)]
        assert kinds == ["response.created", "response.output_text.delta"]
        (request,) = asked_of(platform)
        body = await retrieved(platform, request.headers["x-agent-response-id"])
        assert body["status"] == "failed"
        assert "stream_idle_cut" in body["error"]["message"]
        await wait_until(lambda: platform.sandbox.abandoned > 0)


async def test_what_its_caller_left_is_cancelled(tmp_path: Path) -> None:
    """As the adapters end it: a foreground response does not stay in progress when nobody listens any more."""
    gate, left, begun = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with open_platform(tmp_path, slow(gate)) as platform:
        await platform.create_version()
        asking = asyncio.create_task(platform.ask(stream=True, left=left, on_chunk=begun))
        await begun.wait()
        (request,) = asked_of(platform)
        left.set()
        await asking
        body = await retrieved(platform, request.headers["x-agent-response-id"])
        assert (body["status"], body["output"]) == ("cancelled", [])
        platform.clock.now += 901
        await platform.platform.reaper.once()
        assert platform.running() == []


def dying(*, begin: bool, exits: int = 1) -> Behaviour:
    """The first sandbox that is asked dies, in the middle of its stream or before it; later ones echo."""
    died: list[FakeSandbox] = []

    async def stream(sandbox: FakeSandbox, request: Request) -> AsyncIterator[bytes]:
        yield event(0, "response.created", response=response_body(request, "", "in_progress"))
        yield event(1, "response.output_text.delta", delta="You ")
        sandbox.exit(exits)
        await asyncio.Event().wait()

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        if died:
            return await echo(sandbox, request)
        died.append(sandbox)
        if begin:
            return Reply(200, EVENTS, stream(sandbox, request))
        sandbox.exit(exits)
        raise ConnectionResetError

    return Behaviour(handler=answer)


async def test_a_sandbox_that_dies_in_the_middle(tmp_path: Path) -> None:
    """The stream ends with `response.failed`, and that is what is stored when the caller sees it."""
    async with open_platform(tmp_path, dying(begin=True)) as platform:
        await platform.create_version()
        answer = await platform.ask(stream=True)
        events = events_of(answer)
        assert [one["type"] for one in events] == [
            "response.created",
            "response.output_text.delta",
            "response.failed",
        ]
        assert [one["sequence_number"] for one in events] == [0, 1, 2]
        failed = events[-1]["response"]
        assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
        kept = await retrieved(platform, failed["id"])
        assert kept["status"] == "failed"
        assert kept["error"]["message"]
        assert platform.running() == []
        assert (await platform.ask()).status == 200


async def test_a_stream_that_just_ends_has_failed(tmp_path: Path) -> None:
    """A reply that ends with its connection looks whole when the sandbox dies: the missing last event tells."""

    async def stream(request: Request) -> AsyncIterator[bytes]:
        yield event(0, "response.created", response=response_body(request, "", "in_progress"))
        yield event(1, "response.output_text.delta", delta="You ")

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        return Reply(200, EVENTS, stream(request))

    async with open_platform(tmp_path, Behaviour(handler=answer)) as platform:
        await platform.create_version()
        events = events_of(await platform.ask(stream=True))
        assert [one["type"] for one in events][1:] == ["response.output_text.delta", "response.failed"]
        kept = await retrieved(platform, events[-1]["response"]["id"])
        assert kept["status"] == "failed"
        assert "last event" in kept["error"]["message"]


async def test_streams_of_other_events_pass_as_they_are(tmp_path: Path) -> None:
    """What never began as a response is not ended as one."""

    async def stream() -> AsyncIterator[bytes]:
        yield b'event: error\ndata: {"type":"error","message":"no"}\n\n'

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        return Reply(200, EVENTS, stream())

    async with open_platform(tmp_path, Behaviour(handler=answer)) as platform:
        await platform.create_version()
        assert [one["type"] for one in events_of(await platform.ask(stream=True))] == ["error"]


async def test_a_failed_stream_that_was_not_to_be_stored_is_not(tmp_path: Path) -> None:
    """`store: false` holds for failures, too."""
    async with open_platform(tmp_path, dying(begin=True)) as platform:
        await platform.create_version()
        events = events_of(await platform.ask(stream=True, store=False))
        assert events[-1]["type"] == "response.failed"
        answer = await platform.call("GET", f"{BASE}/responses/{events[-1]['response']['id']}")
        assert answer.status == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_a_sandbox_that_dies_before_it_answers_is_replaced(tmp_path: Path, stream: bool) -> None:
    """Once, in the same session, and the caller notices nothing."""
    async with open_platform(tmp_path, dying(begin=False)) as platform:
        await platform.create_version()
        answer = await platform.ask(agent_session_id="s", stream=stream)
        assert answer.status == 200, answer.body
        assert b"You said: hello" in answer.body or b"hello" in answer.body
        assert platform.place.starts["s"] == 2
        assert len(platform.running()) == 2


async def test_a_sandbox_found_dead_is_replaced(platform: PlatformUnderTest) -> None:
    """It died while nobody asked."""
    await platform.create_version()
    session = (await platform.hear())["agent_session_id"]
    platform.sandbox.exit(1)
    answer = await platform.ask(agent_session_id=session)
    assert answer.status == 200
    assert answer.json()["agent_session_id"] == session


async def test_a_sandbox_that_dies_again_and_again_is_a_502(tmp_path: Path) -> None:
    """One more try, not more."""

    async def die(sandbox: FakeSandbox, request: Request) -> Reply:
        sandbox.exit(1)
        raise ConnectionResetError

    async with open_platform(tmp_path, Behaviour(handler=die)) as platform:
        await platform.create_version()
        answer = await platform.ask(agent_session_id="s")
        assert (answer.status, answer.error["code"]) == (502, "sandbox_lost")
        assert answer.headers["x-agent-session-id"] == "s"
        assert platform.place.starts["s"] == 2


# Chains, storage, retrieval


async def test_a_chain_has_its_history(platform: PlatformUnderTest) -> None:
    """Later responses stay in the partition of the first, and the store knows what came before."""
    await platform.create_version()
    first = await platform.hear("one")
    second = await platform.hear("two", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    assert second["id"][7:25] == first["id"][7:25]


async def test_a_conversation_collects_its_items(platform: PlatformUnderTest) -> None:
    """Input and output of each turn, oldest first when asked so."""
    await platform.create_version()
    conversation = await platform.conversation()
    for text in ("one", "two"):
        response = await platform.hear(text, conversation=conversation)
        assert response["conversation"] == {"id": conversation}
    items = (await platform.call("GET", f"{BASE}/conversations/{conversation}/items?order=asc")).json()["data"]
    assert [item["role"] for item in items] == ["user", "assistant", "user", "assistant"]
    assert items[2]["content"][0]["text"] == "two"
    assert items[3]["content"][0]["text"] == "You said: two"


async def test_input_items(platform: PlatformUnderTest) -> None:
    """What the response was given, with ids, newest first unless asked otherwise."""
    await platform.create_version()
    given = [{"role": "user", "content": "a"}, {"type": "message", "role": "user", "content": "b"}]
    response = (await platform.call("POST", f"{BASE}/responses", {"input": given})).json()
    path = f"{BASE}/responses/{response['id']}/input_items"
    listed = (await platform.call("GET", f"{path}?order=asc")).json()
    assert [item["content"][0]["text"] for item in listed["data"]] == ["a", "b"]
    assert all(item["id"].startswith("msg_") for item in listed["data"])
    assert listed["has_more"] is False
    newest = (await platform.call("GET", f"{path}?limit=1")).json()
    assert newest["data"][0]["content"][0]["text"] == "b"
    assert newest["has_more"] is True


async def test_delete(platform: PlatformUnderTest) -> None:
    """Gone, and the second time there is nothing to delete."""
    await platform.create_version()
    response = await platform.hear()
    path = f"{BASE}/responses/{response['id']}"
    gone = await platform.call("DELETE", path)
    assert gone.json() == {"id": response["id"], "object": "response", "deleted": True}
    assert (await platform.call("GET", path)).status == 404
    assert (await platform.call("DELETE", path)).status == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_store_false_keeps_nothing(platform: PlatformUnderTest, stream: bool) -> None:
    """The reply comes, the store stays empty."""
    await platform.create_version()
    answer = await platform.ask(store=False, stream=stream)
    assert answer.status == 200
    (request,) = asked_of(platform)
    kept = await platform.call("GET", f"{BASE}/responses/{request.headers['x-agent-response-id']}")
    assert kept.status == 404


async def test_others_do_not_see_it(platform: PlatformUnderTest) -> None:
    """Another caller, another agent, another project: 404, and nothing to continue."""
    await platform.create_version()
    await platform.create_version("a2")
    response = await platform.hear()
    other = platform.caller("other")
    for call, path in (
        (other, f"{BASE}/responses/{response['id']}"),
        (platform.call, f"{BASE}/responses/{response['id']}".replace("/a1/", "/a2/")),
        (platform.call, f"{BASE}/responses/{response['id']}".replace("/demo/", "/other/")),
    ):
        assert (await call("GET", path)).status == 404
        assert (await call("DELETE", path)).status == 404
    assert (await platform.ask(by=other, previous_response_id=response["id"])).status == 404
    assert (await platform.ask(by=other, conversation=await platform.conversation())).status == 404


async def test_errors_of_the_agent_pass(tmp_path: Path) -> None:
    """Its status and body are its own; nothing is stored."""

    async def refuse(sandbox: FakeSandbox, request: Request) -> Reply:
        return Reply(400, {"content-type": "application/json"}, b'{"error":{"code":"mine","message":"no"}}')

    async with open_platform(tmp_path, Behaviour(handler=refuse)) as platform:
        await platform.create_version()
        answer = await platform.ask()
        assert (answer.status, answer.error["code"]) == (400, "mine")
        assert answer.headers["x-agent-session-id"]


async def test_a_bare_error_with_status_200_is_a_failed_response(tmp_path: Path) -> None:
    """The oldest adapters fail like that; it is shown and kept as the newer ones fail."""
    bare = b'{"code":"server_error","message":"y"}'

    async def refuse(sandbox: FakeSandbox, request: Request) -> Reply:
        return Reply(200, {"content-type": "application/json"}, bare)

    async with open_platform(tmp_path, Behaviour(handler=refuse)) as platform:
        await platform.create_version()
        answer = await platform.ask()
        body = answer.json()
        assert (answer.status, body["object"], body["status"]) == (200, "response", "failed")
        assert body["error"] == {"code": "server_error", "message": "y"}
        assert (await retrieved(platform, body["id"]))["error"] == body["error"]


async def test_a_failed_response_is_passed_with_status_200(tmp_path: Path) -> None:
    """A handler's exception is a response that failed, no HTTP error."""

    async def fail(sandbox: FakeSandbox, request: Request) -> Reply:
        body = {**response_body(request, "", "failed"), "error": {"code": "server_error", "message": "boom"}}
        return Reply(200, {"content-type": "application/json"}, orjson.dumps(body))

    async with open_platform(tmp_path, Behaviour(handler=fail)) as platform:
        await platform.create_version()
        body = await platform.hear()
        assert (body["status"], body["error"]["message"]) == ("failed", "boom")


# What is filled in, hidden, and not believed


INTERNAL = {
    "internal_metadata": {"step": 1},
    "metadata": {"mine": "1", "_internal_metadata": "{}"},
}


def secretive(request: Request, status: str = "completed") -> dict[str, Any]:
    """A response with the framework's own keys wherever they may stand."""
    body = {**response_body(request, "secret", status), **INTERNAL}
    body["output"] = [{**item, "internal_metadata": {"step": 2}} for item in body["output"]]
    return body


@pytest.mark.parametrize("stream", [False, True])
async def test_internal_keys_are_kept_and_hidden(tmp_path: Path, stream: bool) -> None:
    """They come back to the framework and reach no caller: in replies, events, stored responses, items."""

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        if not stream:
            return Reply(200, {"content-type": "application/json"}, orjson.dumps(secretive(request)))
        return Reply(200, EVENTS, events(request))

    async def events(request: Request) -> AsyncIterator[bytes]:
        yield event(0, "response.created", response=secretive(request, "in_progress"))
        yield event(1, "response.in_progress", response=secretive(request, "in_progress"))
        yield event(2, "response.completed", response=secretive(request))

    async with open_platform(tmp_path, Behaviour(handler=answer)) as platform:
        await platform.create_version()
        conversation = await platform.conversation()
        reply = await platform.ask(stream=stream, conversation=conversation)
        assert b"secret" in reply.body
        assert b"internal_metadata" not in reply.body
        (request,) = asked_of(platform)
        response_id = request.headers["x-agent-response-id"]
        for path in (f"responses/{response_id}", f"conversations/{conversation}/items"):
            shown = await platform.call("GET", f"{BASE}/{path}")
            assert b"secret" in shown.body
            assert b"internal_metadata" not in shown.body
        assert (await retrieved(platform, response_id))["metadata"] == {"mine": "1"}
        call_id = {"x-agent-foundry-call-id": request.headers["x-agent-foundry-call-id"]}
        stored = await platform.sandbox_caller()("GET", f"{PROJECT}/storage/responses/{response_id}", headers=call_id)
        assert stored.json()["internal_metadata"] == {"step": 1}
        assert stored.json()["output"][0]["internal_metadata"] == {"step": 2}


REQUIRED = {
    "id",
    "object",
    "created_at",
    "status",
    "error",
    "incomplete_details",
    "instructions",
    "metadata",
    "model",
    "output",
    "parallel_tool_calls",
    "temperature",
    "tool_choice",
    "tools",
    "top_p",
    "background",
    "previous_response_id",
    "text",
    "truncation",
    "usage",
}
"""What OpenAI's own response objects always have."""


@pytest.mark.parametrize("stream", [False, True])
async def test_missing_fields_are_filled_everywhere(tmp_path: Path, stream: bool) -> None:
    """In a reply, in each event with a response, and when it is read again; what is never null is not."""

    async def bare(sandbox: FakeSandbox, request: Request) -> Reply:
        body = {"output": [{"type": "message", "role": "assistant", "content": "hi"}], "tools": None}
        if stream:
            return Reply(200, EVENTS, events(body))
        return Reply(200, {"content-type": "application/json"}, orjson.dumps(body))

    async def events(body: Mapping[str, Any]) -> AsyncIterator[bytes]:
        yield event(0, "response.created", response={})
        yield event(1, "response.output_text.delta", delta="hi")
        yield event(2, "response.completed", response=body)

    async with open_platform(tmp_path, Behaviour(handler=bare)) as platform:
        await platform.create_version()
        fields: dict[str, Any] = {"metadata": {"k": "v"}, "temperature": 0.5, "instructions": "be kind"}
        reply = await platform.ask(stream=stream, **fields)
        seen = [one["response"] for one in events_of(reply) if "response" in one] if stream else [reply.json()]
        kept = await retrieved(platform, seen[-1]["id"])
        for body in [*seen, kept]:
            assert body.keys() >= REQUIRED
            assert body["id"] == kept["id"]
            assert (body["tools"], body["object"], body["model"]) == ([], "response", "a1")
            assert {name: body[name] for name in fields} == fields
        if stream:
            assert [body["status"] for body in seen] == ["in_progress", "completed"]
        assert kept["status"] == "completed"
        assert kept["output"][0]["id"].startswith("msg_")
        assert kept["output"][0]["content"][0] == {"type": "output_text", "text": "hi"}


async def test_ids_are_the_platforms(tmp_path: Path) -> None:
    """Neither a caller nor a container that makes up its own id decides how a response is called."""

    async def mine(sandbox: FakeSandbox, request: Request) -> Reply:
        body = {**response_body(request, "x"), "id": "resp_always_the_same"}
        return Reply(200, {"content-type": "application/json"}, orjson.dumps(body))

    async with open_platform(tmp_path, Behaviour(handler=mine)) as platform:
        await platform.create_version()
        wanted = "caresp_" + "0" * 50
        found = set()
        for _ in range(2):
            answer = await platform.call(
                "POST",
                f"{BASE}/responses",
                {"input": "x", "response_id": wanted},
                headers={"x-agent-response-id": wanted},
            )
            found.add(answer.json()["id"])
            assert (await retrieved(platform, answer.json()["id"]))["id"] == answer.json()["id"]
        assert len(found) == 2
        assert all(is_response_id(one) for one in found)
        assert wanted not in found
        assert all(request.headers["x-agent-response-id"] != wanted for request in asked_of(platform))
        assert all(b"response_id" not in request.body for request in asked_of(platform))


@pytest.mark.parametrize(
    "given",
    [
        [],
        "",
        None,
        [{}],
        [{"type": None, "content": 5}],
        [{"type": ["message"], "id": 7}],
        [{"type": "message", "role": 5, "content": {"text": []}}],
        [{"id": "same", "content": "a"}, {"id": "same", "content": "b"}],
        [{"type": "item_reference", "id": "msg_nobody"}],
        [{"type": "item_reference"}],
        [{"type": "function_call_output", "call_id": "c", "output": "\u0000"}],
    ],
)
async def test_odd_input_is_kept_as_well_as_it_can_be(platform: PlatformUnderTest, given: object) -> None:
    """The agent decides what it means; the platform keeps it, in a conversation too, and shows it again."""
    await platform.create_version()
    conversation = await platform.conversation()
    answer = await platform.call("POST", f"{BASE}/responses", {"input": given, "conversation": conversation})
    assert answer.status == 200, answer.body
    for path in (f"responses/{answer.json()['id']}/input_items", f"conversations/{conversation}/items"):
        shown = await platform.call("GET", f"{BASE}/{path}")
        assert shown.status == 200
        assert all(isinstance(item["id"], str) for item in shown.json()["data"])
    again = await platform.ask("go on", previous_response_id=answer.json()["id"])
    assert again.status == 200


async def test_references_do_not_overwrite_what_they_name(platform: PlatformUnderTest) -> None:
    """An `item_reference` in the input names a stored item, which stays as it is."""
    await platform.create_version()
    first = await platform.hear("one")
    (item,) = first["output"]
    reference = {"type": "item_reference", "id": item["id"]}
    answer = await platform.call(
        "POST", f"{BASE}/responses", {"input": [reference, {"role": "user", "content": "two"}]}
    )
    path = f"{BASE}/responses/{answer.json()['id']}/input_items?order=asc"
    named, said = (await platform.call("GET", path)).json()["data"]
    assert named == item
    assert said["content"][0]["text"] == "two"


async def test_legacy_isolation_headers_are_refused(platform: PlatformUnderTest) -> None:
    """On an agent of today they are an error that names the header; on one of 1.0.0 they are dropped."""
    await platform.create_version()
    for header in ("x-agent-user-isolation-key", "x-agent-chat-isolation-key"):
        answer = await platform.call("POST", f"{BASE}/responses", {"input": "x"}, headers={header: "mine"})
        assert (answer.status, answer.error["param"]) == (400, header)
        assert answer.headers["x-agent-session-id"]
    assert asked_of(platform) == []
    old = {**DEFINITION, "protocol_versions": [{"protocol": "responses", "version": "1.0.0"}]}
    await platform.create_version("old", old)
    base = BASE.replace("/a1/", "/old/")
    header = "x-agent-user-isolation-key"
    assert (await platform.call("POST", f"{base}/responses", {"input": "x"}, headers={header: "mine"})).status == 200
    assert asked_of(platform)[-1].headers[header] == platform.user


async def test_every_reply_names_request_and_session(platform: PlatformUnderTest) -> None:
    """Whatever is asked of a response, and however it is refused."""
    await platform.create_version()
    response = await platform.hear()
    path = f"{BASE}/responses/{response['id']}"
    for method, target in (
        ("GET", path),
        ("GET", f"{path}?stream=true"),
        ("GET", f"{path}/input_items"),
        ("POST", f"{path}/cancel"),
        ("DELETE", path),
    ):
        answer = await platform.call(method, target, headers={"x-request-id": "mine"})
        assert answer.headers["x-request-id"] == "mine"
        assert answer.headers["x-agent-session-id"] == response["agent_session_id"]
    assert (await platform.call("GET", path)).headers["x-request-id"]


async def test_a_call_id_outlives_the_process_that_made_it(tmp_path: Path) -> None:
    """The container may write the end of its response with it after a restart of the platform."""
    async with open_platform(tmp_path, in_background()) as platform:
        await platform.create_version()
        response = await platform.hear(background=True)
        (request,) = [one for one in asked_of(platform) if one.method == "POST"]
        call_id = {"x-agent-foundry-call-id": request.headers["x-agent-foundry-call-id"]}
        await platform.restart()
        done = {**response_body(request, "done"), "background": True}
        storage = f"{PROJECT}/storage/responses/{response['id']}"
        assert (await platform.sandbox_caller()("POST", storage, done, headers=call_id)).status == 200
        assert (await retrieved(platform, response["id"]))["status"] == "completed"


# Background


def in_background() -> Behaviour:
    """Answers at once that it has begun, and cancels when it is told to."""

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        if request.path.endswith("/cancel"):
            return Reply(200, {"content-type": "application/json"}, b'{"status":"cancelled"}')
        if "stream=true" in request.path:
            return Reply(200, EVENTS, event(7, "response.completed"))
        if request.method == "GET":
            return Reply(200, {"content-type": "application/json"}, b'{"status":"in_progress"}')
        body = orjson.dumps(response_body(request, "", "in_progress"))
        return Reply(200, {"content-type": "application/json"}, body)

    return Behaviour(handler=answer)


async def test_a_background_response_keeps_its_sandbox(tmp_path: Path) -> None:
    """However quiet it is, until the time-out after the response has ended."""
    async with open_platform(tmp_path, in_background()) as platform:
        await platform.create_version()
        response = await platform.hear(background=True)
        assert (response["status"], response["background"]) == ("in_progress", True)
        platform.clock.now += 5000
        await platform.platform.reaper.once()
        assert len(platform.running()) == 1
        refused = await platform.call("DELETE", f"{BASE}/responses/{response['id']}")
        assert refused.status == 400
        (request,) = [one for one in asked_of(platform) if one.method == "POST"]
        done = {**response_body(request, "done"), "background": True}
        call_id = {"x-agent-foundry-call-id": request.headers["x-agent-foundry-call-id"]}
        storage = f"{PROJECT}/storage/responses/{response['id']}"
        assert (await platform.sandbox_caller()("POST", storage, done, headers=call_id)).status == 200
        await platform.platform.reaper.once()
        assert len(platform.running()) == 1
        platform.clock.now += 901
        await platform.platform.reaper.once()
        assert platform.running() == []
        assert (await retrieved(platform, response["id"]))["status"] == "completed"


async def test_cancel_and_replay_reach_the_process(tmp_path: Path) -> None:
    """While it runs; afterwards the sentence says why it cannot be."""
    async with open_platform(tmp_path, in_background()) as platform:
        await platform.create_version()
        response = await platform.hear(background=True)
        path = f"{BASE}/responses/{response['id']}"
        replay = await platform.call("GET", f"{path}?stream=true&starting_after=3")
        assert events_of(replay)[0]["sequence_number"] == 7
        assert "starting_after=3" in asked_of(platform)[-1].path
        cancelled = await platform.call("POST", f"{path}/cancel")
        assert (cancelled.json()["id"], cancelled.json()["status"]) == (response["id"], "cancelled")
        assert (await retrieved(platform, response["id"]))["status"] == "cancelled"
        again = await platform.call("POST", f"{path}/cancel")
        assert (again.status, again.json()["status"]) == (200, "cancelled")
        await platform.platform.sandboxes.stop_all(0)
        gone = await platform.call("GET", f"{path}?stream=true")
        assert (gone.status, gone.error["param"]) == (400, "stream")
        assert "has ended" in gone.error["message"]
        assert (await platform.call("POST", f"{path}/cancel")).status == 200


async def test_what_cannot_be_cancelled(tmp_path: Path) -> None:
    """Synchronous and finished responses, in the adapters' words; also when the sandbox is gone."""
    async with open_platform(tmp_path, in_background()) as platform:
        await platform.create_version()
        plain, running = await platform.hear(), await platform.hear(background=True)
        answer = await platform.call("POST", f"{BASE}/responses/{plain['id']}/cancel")
        assert (answer.status, answer.error["message"]) == (400, "Cannot cancel a synchronous response.")
        await platform.platform.sandboxes.stop_all(0)
        answer = await platform.call("POST", f"{BASE}/responses/{running['id']}/cancel")
        assert (answer.status, answer.error["message"]) == (400, "Cannot cancel a failed response.")
        assert (await retrieved(platform, running["id"]))["status"] == "failed"


async def test_a_container_without_cancellation(tmp_path: Path) -> None:
    """400 with a sentence: the response is there, only the question is not."""

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        if request.path.endswith("/cancel"):
            return Reply(405)
        return Reply(200, {"content-type": "application/json"}, orjson.dumps(response_body(request, "", "queued")))

    async with open_platform(tmp_path, Behaviour(handler=answer)) as platform:
        await platform.create_version()
        response = await platform.hear(background=True)
        refused = await platform.call("POST", f"{BASE}/responses/{response['id']}/cancel")
        assert refused.status == 400
        assert "405" in refused.error["message"]


async def test_a_refusal_of_the_process_passes(tmp_path: Path) -> None:
    """What it says about a response that has just ended is for the caller."""
    refusal = {"error": {"code": "invalid_request_error", "message": "Cannot cancel a completed response."}}

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        if request.path.endswith("/cancel"):
            return Reply(400, {"content-type": "application/json"}, orjson.dumps(refusal))
        return Reply(200, {"content-type": "application/json"}, orjson.dumps(response_body(request, "", "queued")))

    async with open_platform(tmp_path, Behaviour(handler=answer)) as platform:
        await platform.create_version()
        response = await platform.hear(background=True)
        refused = await platform.call("POST", f"{BASE}/responses/{response['id']}/cancel")
        assert (refused.status, refused.json()) == (400, refusal)


@pytest.mark.parametrize("status", [200, 404])
async def test_a_container_without_replay(tmp_path: Path, status: int) -> None:
    """Whatever it answers instead of a stream: a sentence, and a status that fits a response that is there."""

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        if "stream=true" in request.path:
            return Reply(status, {"content-type": "application/json"}, b"{}")
        if request.method == "GET":
            return Reply(200, {"content-type": "application/json"}, b'{"status":"queued"}')
        return Reply(200, {"content-type": "application/json"}, orjson.dumps(response_body(request, "", "queued")))

    async with open_platform(tmp_path, Behaviour(handler=answer)) as platform:
        await platform.create_version()
        response = await platform.hear(background=True)
        refused = await platform.call("GET", f"{BASE}/responses/{response['id']}?stream=true")
        assert (refused.status, refused.error["param"]) == (400, "stream")


async def test_a_replay_looks_like_the_first_time(tmp_path: Path) -> None:
    """Filled in, without the framework's own fields, under the platform's id; numbers as they were."""

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        return Reply(200, EVENTS, events(request))

    async def events(request: Request) -> AsyncIterator[bytes]:
        first = {"id": "own", "internal_metadata": {"step": 1}}
        if request.method == "POST":
            yield event(0, "response.created", response=first)
        yield event(1, "response.output_text.delta", delta="hi")
        yield event(2, "response.completed", response={**first, "status": "completed"})

    async with open_platform(tmp_path, Behaviour(handler=answer)) as platform:
        await platform.create_version()
        heard = events_of(await platform.ask(background=True, stream=True, metadata={"k": "v"}))
        path = f"{BASE}/responses/{heard[0]['response']['id']}?stream=true&starting_after=0"
        replayed = events_of(await platform.call("GET", path))
        assert asked_of(platform)[-1].path.startswith("/responses/own?")
        assert [one["sequence_number"] for one in replayed] == [1, 2]
        assert replayed == heard[1:]
        assert "internal_metadata" not in str(replayed)


@pytest.mark.parametrize("after", ["x", "1.5", "³"])
async def test_a_cursor_of_a_replay_is_a_number(tmp_path: Path, after: str) -> None:
    """400 naming `starting_after`."""
    async with open_platform(tmp_path, in_background()) as platform:
        await platform.create_version()
        response = await platform.hear(background=True)
        path = f"{BASE}/responses/{response['id']}?stream=true&starting_after={quote(after)}"
        answer = await platform.call("GET", path)
        assert (answer.status, answer.error["param"]) == (400, "starting_after")


async def test_others_reach_no_process(tmp_path: Path) -> None:
    """Ownership is checked before the container is asked, which replays for anybody."""
    async with open_platform(tmp_path, in_background()) as platform:
        await platform.create_version()
        await platform.create_version("a2")
        response = await platform.hear(background=True)
        other, path = platform.caller("other"), f"{BASE}/responses/{response['id']}"
        before = len([one for one in asked_of(platform) if "stream" in one.path or "cancel" in one.path])
        for call, base in ((other, path), (platform.call, path.replace("/a1/", "/a2/"))):
            for method, suffix in (
                ("GET", "?stream=true"),
                ("POST", "/cancel"),
                ("DELETE", ""),
                ("GET", ""),
                ("GET", "/input_items"),
            ):
                assert (await call(method, base + suffix)).status == 404
        assert len([one for one in asked_of(platform) if "stream" in one.path or "cancel" in one.path]) == before


async def test_definitions_without_responses(platform: PlatformUnderTest) -> None:
    """The sentence says what the agent speaks instead."""
    only = {**DEFINITION, "protocol_versions": [{"protocol": "invocations", "version": "2.0.0"}]}
    await platform.create_version("a1", only)
    answer = await platform.ask()
    assert answer.status == 400
    assert "invocations" in answer.error["message"]


async def test_the_old_guides_definition_reaches_any_container(platform: PlatformUnderTest) -> None:
    """`v1` with tools, as the old guide has it: today's headers arrive, and no tools that a container would refuse."""
    definition = {
        "kind": "hosted",
        "image": "agent:1",
        "container_protocol_versions": [{"protocol": "responses", "version": "v1"}],
        "cpu": "1",
        "memory": "2Gi",
        "tools": [{"type": "file_search"}],
    }
    shown = await platform.create_version("old", definition)
    assert shown["definition"]["tools"] == [{"type": "file_search"}]
    asked = {"input": "hi", "agent": {"type": "agent_reference", "name": "old"}}
    answer = await platform.call("POST", f"{PROJECT}/openai/responses", asked)
    assert answer.status == 200, answer.body
    sandbox = next(iter(platform.place.sandboxes.values()))
    request = sandbox.requests[-1]
    assert b'"tools"' not in request.body
    assert {"x-aml-oid", "x-agent-user-id", "x-agent-foundry-call-id"} <= request.headers.keys()


async def test_a_session_that_did_not_become_ready_is_named(platform: PlatformUnderTest) -> None:
    """The 424 carries the evidence and says in header and body which session it was."""
    await platform.create_version()
    platform.place.behaviour = Behaviour(exit_code=3, output=("Traceback", "ModuleNotFoundError: No module named 'x'"))
    asked = {"input": "hi", "agent_session_id": "mine"}
    answer = await platform.call("POST", f"{BASE}/responses", asked)
    assert (answer.status, answer.error["code"]) == (424, "session_not_ready")
    assert answer.headers["x-agent-session-id"] == "mine"
    evidence = answer.error["additionalInfo"]
    assert (evidence["agent_session_id"], evidence["exit_code"], evidence["phase"]) == ("mine", 3, "start")
    assert "ModuleNotFoundError" in evidence["log"][-1]
