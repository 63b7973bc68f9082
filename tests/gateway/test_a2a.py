"""The A2A protocol through the gateway, against fake agents that speak the responses protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import select

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from cupola.errors import StartFailed
from cupola.store.tables import conversations
from tests.support.agents import ECHO, EVENTS, event, response_body
from tests.support.platform import (
    DEFINITION,
    OPENAI,
    PROJECT,
    Answer,
    Caller,
    PlatformUnderTest,
    open_platform,
)
from tests.support.waiting import wait_until

BASE = f"{PROJECT}/agents/a1/endpoint/protocols/a2a"
CARD = {
    "version": "1.2",
    "description": "Repeats what it hears",
    "skills": [{"id": "echo", "name": "Echo", "examples": ["hello"]}],
}
ENABLED = {"agent_card": CARD, "agent_endpoint": {"protocol_configuration": {"responses": {}, "a2a": {}}}}


@pytest.fixture
async def a2a(platform: PlatformUnderTest) -> PlatformUnderTest:
    """A platform with an echoing agent that has a card."""
    return await offered(platform)


async def offered(platform: PlatformUnderTest) -> PlatformUnderTest:
    await platform.create_version()
    enabled = await platform.call("PATCH", f"{PROJECT}/agents/a1", ENABLED)
    assert enabled.status == 200, enabled.body
    return platform


def message(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"role": "user", "messageId": "m1", "parts": [{"kind": "text", "text": text}], **fields}


async def rpc(
    platform: PlatformUnderTest,
    method: str,
    params: Any,
    *,
    query: str = "",
    by: Caller | None = None,
    **more: Any,
) -> Answer:
    """One JSON-RPC request with the id `r1`."""
    call = {"jsonrpc": "2.0", "id": "r1", "method": method, "params": params}
    return await (by or platform.call)("POST", BASE + query, call, **more)


async def sent(platform: PlatformUnderTest, text: str = "hello", *, query: str = "", **fields: Any) -> dict[str, Any]:
    """The task of a message, which must have worked."""
    answer = await rpc(platform, "message/send", {"message": message(text, **fields)}, query=query)
    assert answer.status == 200, answer.body
    body = answer.json()
    assert (body["jsonrpc"], body["id"]) == ("2.0", "r1")
    assert "error" not in body, body
    task: dict[str, Any] = body["result"]
    return task


def text_of(task: Mapping[str, Any]) -> str:
    return "".join(part["text"] for made in task["artifacts"] for part in made["parts"])


def told(answer: Answer) -> list[Any]:
    """The payloads of an event stream."""
    assert answer.headers["content-type"] == "text/event-stream", answer.body
    return [orjson.loads(block[6:]) for block in answer.body.split(b"\n\n") if block.startswith(b"data: ")]


def asked_of(platform: PlatformUnderTest) -> list[dict[str, Any]]:
    """The bodies that sandboxes were asked with, in order."""
    return [
        orjson.loads(request.body)
        for sandbox in platform.place.sandboxes.values()
        for request in sandbox.requests
        if request.path == "/responses"
    ]


def answering(reply: Reply) -> Behaviour:
    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        return reply

    return Behaviour(handler=answer)


# The card


@pytest.mark.operation("a2a.card_well_known")
@pytest.mark.parametrize("path", ["agentCard/v0.3", ".well-known/agent-card.json"])
async def test_the_card_says_where_and_what_the_agent_is(a2a: PlatformUnderTest, path: str) -> None:
    """What the operator wrote, and the address by which the caller came."""
    answer = await a2a.call("GET", f"{BASE}/{path}?api-version=v1", headers={"host": "agents.example:444"})
    assert answer.status == 200, answer.body
    card = answer.json()
    assert (card["name"], card["version"], card["description"]) == ("a1", "1.2", "Repeats what it hears")
    assert card["protocolVersion"] == "0.3"
    assert card["url"] == f"https://agents.example:444{BASE}"
    assert card["preferredTransport"] == "JSONRPC"
    assert {"transport": "HTTP+JSON", "url": card["url"]} in card["additionalInterfaces"]
    assert card["skills"] == [{"id": "echo", "name": "Echo", "description": "Echo", "tags": [], "examples": ["hello"]}]
    assert card["capabilities"]["streaming"] is True
    assert card["securitySchemes"]["bearer"]["scheme"] == "bearer"


async def test_the_card_needs_a_token(a2a: PlatformUnderTest) -> None:
    """Nobody reads a card anonymously."""
    answer = await Caller(a2a.platform.clients, None)("GET", f"{BASE}/agentCard/v0.3")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    ("patch", "param"),
    [
        ({"agent_card": CARD}, "agent_endpoint"),
        ({"agent_endpoint": {"protocols": ["responses", "a2a"]}}, "agent_card"),
        ({}, "agent_endpoint"),
    ],
)
async def test_card_and_endpoint_are_both_needed(
    platform: PlatformUnderTest, patch: Mapping[str, Any], param: str
) -> None:
    """404 with the PATCH that is missing, for the card and for a message; no agent is asked."""
    await platform.create_version()
    await platform.call("PATCH", f"{PROJECT}/agents/a1", patch)
    for answer in (
        await platform.call("GET", f"{BASE}/agentCard/v0.3"),
        await rpc(platform, "message/send", {"message": message()}),
    ):
        assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "a2a_not_enabled", param)
        assert "PATCH /agents/a1" in answer.error["message"]
    assert asked_of(platform) == []


async def test_the_older_list_of_protocols_enables_too(platform: PlatformUnderTest) -> None:
    """`protocols`, as SDKs before 2.3 send it; or the definition, where the endpoint names none."""
    await platform.create_version()
    await platform.call(
        "PATCH", f"{PROJECT}/agents/a1", {"agent_card": CARD, "agent_endpoint": {"protocols": ["responses", "a2a"]}}
    )
    assert (await platform.call("GET", f"{BASE}/agentCard/v0.3")).status == 200

    declaring = {
        **DEFINITION,
        "protocol_versions": [{"protocol": "responses", "version": "2.0.0"}, {"protocol": "a2a"}],
    }
    await platform.create_version("a2", declaring)
    await platform.call("PATCH", f"{PROJECT}/agents/a2", {"agent_card": CARD})
    assert (await platform.call("GET", f"{BASE.replace('a1', 'a2')}/agentCard/v0.3")).status == 200


async def test_the_agent_must_speak_responses(platform: PlatformUnderTest) -> None:
    """A2A is carried by the responses protocol."""
    await platform.create_version(
        definition={**DEFINITION, "protocol_versions": [{"protocol": "invocations", "version": "2.0.0"}]}
    )
    await platform.call("PATCH", f"{PROJECT}/agents/a1", ENABLED)
    answer = await platform.call("GET", f"{BASE}/agentCard/v0.3")
    assert (answer.status, answer.error["code"]) == (404, "a2a_not_enabled")
    assert "invocations" in answer.error["message"]


async def test_an_unknown_agent(platform: PlatformUnderTest) -> None:
    """404 in Foundry's envelope: there is no A2A endpoint to say it."""
    answer = await rpc(platform, "message/send", {"message": message()})
    assert (answer.status, answer.error["code"]) == (404, "not_found")


# message/send


async def test_a_message_becomes_a_response(a2a: PlatformUnderTest) -> None:
    """The task is the response, under its id; the session is named as on every protocol."""
    answer = await rpc(a2a, "message/send", {"message": message("hello")})
    task = answer.json()["result"]
    assert task["kind"] == "task"
    assert task["status"]["state"] == "completed"
    assert text_of(task) == "You said: hello"
    assert task["history"] == [{"kind": "message", **message(), "taskId": task["id"], "contextId": task["contextId"]}]
    stored = (await a2a.call("GET", f"{OPENAI}/responses/{task['id']}")).json()
    assert stored["agent_session_id"] == answer.headers["x-agent-session-id"]
    assert stored["conversation"] == {"id": task["contextId"]}
    (asked,) = asked_of(a2a)
    assert (asked["input"], asked["conversation"]) == ("hello", task["contextId"])


async def test_azd_gets_its_answer(a2a: PlatformUnderTest) -> None:
    """The request of azd: version header, api-version and session in the query, ids as uuids."""
    answer = await rpc(
        a2a,
        "message/send",
        {"message": message("What can you do?")},
        query="?api-version=v1&agent_session_id=mine",
        headers={"a2a-version": "0.3"},
    )
    assert answer.headers["x-agent-session-id"] == "mine"
    assert text_of(answer.json()["result"]) == "You said: What can you do?"


async def test_a_context_goes_on_in_its_session(a2a: PlatformUnderTest) -> None:
    """The next message of a context reaches the same conversation and the same sandbox."""
    first = await sent(a2a, "one")
    second = await sent(a2a, "two", contextId=first["contextId"])
    assert second["contextId"] == first["contextId"]
    assert second["id"] != first["id"]
    one, two = asked_of(a2a)
    assert one["conversation"] == two["conversation"] == first["contextId"]
    assert one["agent_session_id"] == two["agent_session_id"]
    items = (await a2a.call("GET", f"{OPENAI}/conversations/{first['contextId']}/items?order=asc")).json()["data"]
    assert [item["content"][0]["text"] for item in items] == ["one", "You said: one", "two", "You said: two"]


async def test_a_session_has_a_context_of_its_own(a2a: PlatformUnderTest) -> None:
    """Callers that name only a session, as azd does, continue what they said there before."""
    first = await sent(a2a, "one", query="?agent_session_id=s1")
    second = await sent(a2a, "two", query="?agent_session_id=s1")
    other = await sent(a2a, "three", query="?agent_session_id=s2")
    assert first["contextId"] == second["contextId"] != other["contextId"]
    named = await sent(a2a, "four", contextId=first["contextId"])
    assert named["contextId"] == first["contextId"]
    assert sorted((asked["input"], asked["agent_session_id"]) for asked in asked_of(a2a)) == [
        ("four", "s1"),
        ("one", "s1"),
        ("three", "s2"),
        ("two", "s1"),
    ]


async def test_a_caller_may_name_his_contexts(a2a: PlatformUnderTest) -> None:
    """A name that is not ours begins a context, and is what the caller reads ever after."""
    first = await sent(a2a, "one", contextId="my-talk")
    second = await sent(a2a, "two", contextId="my-talk")
    assert first["contextId"] == second["contextId"] == "my-talk"
    one, two = asked_of(a2a)
    assert one["conversation"] == two["conversation"]
    got = (await rpc(a2a, "tasks/get", {"id": second["id"]})).json()["result"]
    assert got["contextId"] == "my-talk"


async def test_contexts_of_others_stay_theirs(a2a: PlatformUnderTest) -> None:
    """A context's id is no key to it, and two callers' contexts of one name are two."""
    mine = await sent(a2a, "secret")
    stranger = a2a.caller("stranger")
    params = {"message": message("hi", contextId=mine["contextId"])}
    refused = (await rpc(a2a, "message/send", params, by=stranger)).json()["error"]
    assert refused["code"] == -32602
    assert "does not exist" in refused["message"]

    await sent(a2a, "one", contextId="shared-name")
    params = {"message": message("two", contextId="shared-name")}
    assert "result" in (await rpc(a2a, "message/send", params, by=stranger)).json()
    assert len({asked["conversation"] for asked in asked_of(a2a)}) == 3


async def test_what_the_container_is_told(a2a: PlatformUnderTest) -> None:
    """The caller's headers as on the responses protocol, but none about his own body."""
    headers = {"x-client-trace": "t", "content-language": "de", "a2a-version": "0.3", "accept": "text/event-stream"}
    answer = await rpc(a2a, "message/send", {"message": message()}, headers=headers)
    assert answer.status == 200
    (request,) = [r for r in a2a.sandbox.requests if r.path == "/responses"]
    assert request.headers["x-client-trace"] == "t"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-agent-user-id"] == a2a.user
    for hidden in ("authorization", "a2a-version", "content-language", "accept"):
        assert hidden not in request.headers


async def test_several_parts_are_lines(a2a: PlatformUnderTest) -> None:
    """Text parts become one text; `type` is read where emitters mean `kind`."""
    parts = [{"kind": "text", "text": "one"}, {"type": "text", "text": "two"}, {"text": "three"}]
    await sent(a2a, parts=parts)
    assert asked_of(a2a)[0]["input"] == "one\ntwo\nthree"


async def test_history_is_as_long_as_asked_for(a2a: PlatformUnderTest) -> None:
    """`historyLength` 0 leaves it out, on sending and on getting."""
    params = {"message": message(), "configuration": {"historyLength": 0, "acceptedOutputModes": ["text/plain"]}}
    task = (await rpc(a2a, "message/send", params)).json()["result"]
    assert "history" not in task
    assert "history" not in (await rpc(a2a, "tasks/get", {"id": task["id"], "historyLength": 0})).json()["result"]
    (shown,) = (await rpc(a2a, "tasks/get", {"id": task["id"], "historyLength": 5})).json()["result"]["history"]
    assert (shown["role"], shown["parts"]) == ("user", [{"kind": "text", "text": "hello"}])


# What is refused


@pytest.mark.parametrize(
    ("params", "number", "names"),
    [
        ({"message": message(parts=[{"kind": "file", "file": {"uri": "https://x"}}])}, -32005, "parts.0"),
        ({"message": message(parts=[{"kind": "text", "text": "a"}, {"kind": "data", "data": {}}])}, -32005, "parts.1"),
        ({"message": message(parts=[{"data": {}}])}, -32005, "data"),
        ({"message": message(), "configuration": {"acceptedOutputModes": ["image/png"]}}, -32005, "image/png"),
        ({"message": message(parts=[])}, -32602, "message.parts"),
        ({"message": message(parts=[{"kind": "text", "text": 5}])}, -32602, "parts.0.text"),
        ({"message": message(role="agent")}, -32602, "message.role"),
        ({"message": {"role": "user", "parts": [{"kind": "text", "text": "x"}]}}, -32602, "messageId"),
        ({"message": message(contextId="x" * 513)}, -32602, "contextId"),
        ({"message": message(contextId="conv_" + "0" * 50)}, -32602, "does not exist"),
        ({"message": message(taskId="caresp_unknown")}, -32001, "caresp_unknown"),
        ({}, -32602, "message"),
        ([], -32602, "params"),
        ({"message": message(), "configuration": {"pushNotificationConfig": {"url": "https://x"}}}, -32003, "Push"),
    ],
)
@pytest.mark.parametrize("method", ["message/send", "message/stream"])
async def test_messages_at_fault(a2a: PlatformUnderTest, method: str, params: Any, number: int, names: str) -> None:
    """Each has its number and a sentence that names the field; no agent is asked."""
    answer = await rpc(a2a, method, params)
    assert answer.status == 200
    body = answer.json() if method == "message/send" else told(answer)[0]
    assert body["id"] == "r1"
    assert body["error"]["code"] == number, body
    assert names in body["error"]["message"]
    assert asked_of(a2a) == []


@pytest.mark.parametrize(
    ("raw", "number", "id"),
    [
        (b"{", -32700, None),
        (b"", -32600, None),
        (b"[]", -32600, None),
        (b'{"id": 1, "method": "tasks/get"}', -32600, 1),
        (b'{"jsonrpc": "2.0", "id": 1}', -32600, 1),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "tasks/get"}', -32600, None),
        (b'{"jsonrpc": "2.0", "id": true, "method": "tasks/get"}', -32600, None),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "SendMessage"}', -32601, 7),
        (b'{"jsonrpc": "2.0", "id": "x", "method": "tasks/get", "params": {}}', -32602, "x"),
        (b'{"jsonrpc": "2.0", "id": "x", "method": "tasks/get", "params": {"id": "nope"}}', -32001, "x"),
        (b'{"jsonrpc": "2.0", "id": "x", "method": "tasks/cancel", "params": {"id": "nope"}}', -32001, "x"),
        (b'{"jsonrpc": "2.0", "id": "x", "method": "tasks/resubscribe", "params": {"id": "nope"}}', -32004, "x"),
        (b'{"jsonrpc": "2.0", "id": "x", "method": "tasks/pushNotificationConfig/set"}', -32003, "x"),
        (b'{"jsonrpc": "2.0", "id": "x", "method": "agent/getAuthenticatedExtendedCard"}', -32007, "x"),
    ],
)
async def test_requests_at_fault(a2a: PlatformUnderTest, raw: bytes, number: int, id: object) -> None:
    """JSON-RPC's own errors and A2A's, always with status 200 and the request's id where it has one."""
    answer = await a2a.call("POST", BASE, raw=raw)
    body = answer.json()
    assert (answer.status, body["id"], body["error"]["code"]) == (200, id, number), body


async def test_what_callers_say_is_not_repeated_at_length(a2a: PlatformUnderTest) -> None:
    """Errors stay sentences, whatever was sent."""
    long = "x" * 5000
    refused = [
        (await rpc(a2a, long, {})).json()["error"],
        (await rpc(a2a, "tasks/get", {"id": long})).json()["error"],
        (await rpc(a2a, "tasks/get", {"id": "t"}, headers={"a2a-version": long})).json()["error"],
        (await rpc(a2a, "message/send", {"message": message(role=long)})).json()["error"],
        (await rpc(a2a, "message/send", {"message": message(parts=[{"kind": long}])})).json()["error"],
    ]
    assert [error["code"] for error in refused] == [-32601, -32001, -32009, -32602, -32005]
    assert max(len(error["message"]) for error in refused) < 300


@pytest.mark.parametrize(
    ("header", "query", "spoken"),
    [
        ("0.3", "", "0.3"),
        ("0.3.0", "", "0.3"),
        (None, "", "0.3"),
        ("", "", "0.3"),
        (None, "?a2a-version=0.3", "0.3"),
        ("1.0", "", "1.0"),
        ("1.0.2", "", "1.0"),
        (None, "?A2A-Version=1.0", "1.0"),
        ("0.3", "?a2a-version=1.0", "0.3"),
        ("0.30", "", None),
        ("1.1", "", None),
        ("latest", "", None),
    ],
)
async def test_the_version_is_asked_for(
    a2a: PlatformUnderTest, header: str | None, query: str, spoken: str | None
) -> None:
    """In the header or in the query; without either it is 0.3. HTTP+JSON is 0.3's alone."""
    headers = {} if header is None else {"a2a-version": header}
    numbers = {}
    for method in ("message/send", "SendMessage"):
        body = (await rpc(a2a, method, {"message": message()}, query=query, headers=headers)).json()
        numbers[method] = body.get("error", {}).get("code")
    if spoken is None:
        assert set(numbers.values()) == {-32009}
    else:
        old = spoken == "0.3"
        assert numbers == {"message/send": None if old else -32601, "SendMessage": -32601 if old else None}
    rest = await a2a.call("POST", f"{BASE}/v1/message:send{query}", {"message": message()}, headers=headers)
    assert rest.status == (200 if spoken == "0.3" else 400)
    if spoken != "0.3":
        assert rest.json()["code"] == -32009


async def test_a_bad_session_id_is_named(a2a: PlatformUnderTest) -> None:
    """What the platform finds wrong in the request is A2A's invalid params; the new context is not kept."""
    answer = await rpc(a2a, "message/send", {"message": message()}, query="?agent_session_id=a%2Fb")
    assert answer.json()["error"]["code"] == -32602
    assert answer.json()["error"]["data"]["param"] == "agent_session_id"


async def test_a_disabled_agent(a2a: PlatformUnderTest) -> None:
    """Foundry's envelope, as on every protocol."""
    await a2a.call("POST", f"{PROJECT}/agents/a1:disable")
    for method in ("message/send", "message/stream"):
        answer = await rpc(a2a, method, {"message": message()})
        assert (answer.status, answer.error["code"]) == (403, "agent_disabled")


@pytest.mark.parametrize("fields", [{}, {"contextId": "talk"}])
async def test_a_session_that_does_not_start(tmp_path: Path, fields: Mapping[str, Any]) -> None:
    """424 with the evidence and the header that azd reads; the context that was begun for it is gone."""
    async with open_platform(tmp_path, ECHO) as platform:
        await offered(platform)
        await sent(platform)  # takes the warm sandbox
        kept = await platform.store.read(lambda conn: conn.execute(select(conversations)).all())
        assert len(kept) == 1
        platform.place.behaviour = Behaviour(fails=StartFailed("No room.", phase="create"))
        answer = await rpc(platform, "message/send", {"message": message(**fields)})
        assert answer.status == 424, answer.body
        assert await platform.store.read(lambda conn: conn.execute(select(conversations)).all()) == kept
        assert answer.error["code"] == "session_not_ready"
        assert answer.headers["x-adc-response-details"] == "ReadinessTimeout"
        platform.place.behaviour = ECHO
        assert (await sent(platform))["status"]["state"] == "completed"


# What agents answer


@pytest.mark.parametrize(
    ("status", "error", "state"),
    [
        ("failed", {"code": "server_error", "message": "Out of luck."}, "failed"),
        ("incomplete", None, "failed"),
        ("cancelled", None, "canceled"),
        ("in_progress", None, "working"),
        ("queued", None, "submitted"),
    ],
)
async def test_statuses_become_states(tmp_path: Path, status: str, error: Mapping[str, Any] | None, state: str) -> None:
    """The reason of a failure is the status' message, where every client looks for it."""

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        body = {**response_body(request, "half", status), "error": error}
        return Reply(200, {"content-type": "application/json"}, orjson.dumps(body))

    async with open_platform(tmp_path, Behaviour(handler=answer)) as platform:
        await offered(platform)
        task = await sent(platform)
        assert task["status"]["state"] == state
        got = (await rpc(platform, "tasks/get", {"id": task["id"]})).json()["result"]
        assert got["status"]["state"] == state
        if status in ("failed", "incomplete"):
            (part,) = task["status"]["message"]["parts"]
            assert part["text"] == ("Out of luck." if error else "The answer is incomplete: the agent gave no reason.")


@pytest.mark.parametrize(
    ("reply", "number", "says"),
    [
        (Reply(400, {}, b'{"error": {"message": "No such model."}}'), -32602, "No such model."),
        (Reply(500, {}, b"oops"), -32603, "status 500"),
        (Reply(200, {}, b"[]"), -32006, "not a response"),
    ],
)
async def test_agents_that_fail(tmp_path: Path, reply: Reply, number: int, says: str) -> None:
    """Their complaint is passed on as an error of A2A, whole and streamed, with the session's id."""
    async with open_platform(tmp_path, answering(reply)) as platform:
        await offered(platform)
        for method in ("message/send", "message/stream"):
            answer = await rpc(platform, method, {"message": message()})
            assert answer.status == 200
            assert answer.headers["x-agent-session-id"]
            error = (answer.json() if method == "message/send" else told(answer)[0])["error"]
            assert error["code"] == number
            assert says in error["message"]


async def test_a_bare_error_of_an_old_adapter_fails_the_task(tmp_path: Path) -> None:
    """It is answered with status 200 and no response; the task says what it says."""
    bare = Reply(200, {}, b'{"code": "server_error", "message": "old adapter"}')
    async with open_platform(tmp_path, answering(bare)) as platform:
        await offered(platform)
        task = await sent(platform)
        assert task["status"]["state"] == "failed"
        assert task["status"]["message"]["parts"][0]["text"] == "old adapter"


# Streams


async def test_a_stream_tells_task_text_and_end(a2a: PlatformUnderTest) -> None:
    """First the task, then its text piece by piece as an artifact, then its final status."""
    answer = await rpc(a2a, "message/stream", {"message": message("hello")})
    assert answer.headers["x-agent-session-id"]
    events = [told_event["result"] for told_event in told(answer)]
    assert [entry["kind"] for entry in events] == ["task", *["artifact-update"] * 4, "status-update"]
    task, *updates, end = events
    assert (task["status"]["state"], task["history"][0]["parts"][0]["text"]) == ("working", "hello")
    assert "".join(update["artifact"]["parts"][0]["text"] for update in updates) == "You said: hello "
    assert [(update["append"], update["lastChunk"]) for update in updates] == [
        (False, False),
        (True, False),
        (True, False),
        (True, True),
    ]
    assert {update["artifact"]["artifactId"] for update in updates} == {updates[0]["artifact"]["artifactId"]}
    assert (end["status"]["state"], end["final"], end["taskId"]) == ("completed", True, task["id"])
    got = (await rpc(a2a, "tasks/get", {"id": task["id"]})).json()["result"]
    assert got["status"]["state"] == "completed"
    assert got["contextId"] == task["contextId"]


async def test_a_stream_is_not_held_back(tmp_path: Path) -> None:
    """Each word reaches the caller while the agent waits to say the next."""
    begun, heard, spoken, gate = (asyncio.Event() for _ in range(4))

    class Heard(asyncio.Event):
        """Set by every piece: the first is the task, the second the word."""

        def set(self) -> None:
            (heard if begun.is_set() else begun).set()

    async def words(request: Request) -> AsyncIterator[bytes]:
        yield event(0, "response.created", response=response_body(request, "", "in_progress"))
        await spoken.wait()
        yield event(1, "response.output_text.delta", delta="one", output_index=0, item_id="msg_1")
        await gate.wait()
        yield event(2, "response.completed", response=response_body(request, "one"))

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        return Reply(200, EVENTS, words(request))

    async with open_platform(tmp_path, Behaviour(handler=answer)) as platform:
        await offered(platform)
        asking = asyncio.create_task(rpc(platform, "message/stream", {"message": message()}, on_chunk=Heard()))
        async with asyncio.timeout(10):
            await begun.wait()
            spoken.set()
            await heard.wait()
        assert not asking.done()
        gate.set()
        events = [entry["result"] for entry in told(await asking)]
        assert [entry["kind"] for entry in events][:2] == ["task", "artifact-update"]
        assert events[1]["artifact"] == {"artifactId": "msg_1", "parts": [{"kind": "text", "text": "one"}]}


async def test_a_caller_who_leaves_is_noticed(tmp_path: Path) -> None:
    """The agent sees that nobody listens any more."""
    left, heard, gate = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def words(request: Request) -> AsyncIterator[bytes]:
        yield event(0, "response.created", response=response_body(request, "", "in_progress"))
        await gate.wait()

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        return Reply(200, EVENTS, words(request))

    async with open_platform(tmp_path, Behaviour(handler=answer)) as platform:
        await offered(platform)
        asking = asyncio.create_task(rpc(platform, "message/stream", {"message": message()}, left=left, on_chunk=heard))
        async with asyncio.timeout(10):
            await heard.wait()
            left.set()
            await asking
            await wait_until(lambda: platform.sandbox.abandoned == 1)
        gate.set()


async def test_an_agent_that_does_not_stream(tmp_path: Path) -> None:
    """The stream is one event: the task, as it ended."""

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        body = orjson.dumps(response_body(request, "all at once"))
        return Reply(200, {"content-type": "application/json"}, body)

    async with open_platform(tmp_path, Behaviour(handler=answer)) as platform:
        await offered(platform)
        answered = await rpc(platform, "message/stream", {"message": message()})
        (only,) = told(answered)
        assert answered.headers["x-agent-session-id"]
        assert (only["result"]["kind"], only["result"]["status"]["state"]) == ("task", "completed")
        assert text_of(only["result"]) == "all at once"


@pytest.mark.parametrize(
    ("ending", "state", "says"),
    [
        ("response.completed", "completed", None),
        ("response.failed", "failed", "Out of luck."),
        ("error", "failed", "Out of luck."),
        (None, "failed", "broke off"),
    ],
)
async def test_streams_end_with_a_final_status(
    tmp_path: Path, ending: str | None, state: str, says: str | None
) -> None:
    """However the agent's stream ends; text that came without deltas is told before."""

    async def words(request: Request) -> AsyncIterator[bytes]:
        yield event(0, "response.created", response=response_body(request, "", "in_progress"))
        body = response_body(request, "whole", "completed" if state == "completed" else "failed")
        if ending == "error":
            yield event(1, "error", message="Out of luck.")
        elif ending is not None:
            error = None if state == "completed" else {"code": "x", "message": "Out of luck."}
            yield event(1, ending, response={**body, "error": error})

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        return Reply(200, EVENTS, words(request))

    async with open_platform(tmp_path, Behaviour(handler=answer)) as platform:
        await offered(platform)
        events = [entry["result"] for entry in told(await rpc(platform, "message/stream", {"message": message()}))]
        end = events[-1]
        assert [entry["kind"] for entry in events].count("status-update") == 1
        assert (end["kind"], end["status"]["state"], end["final"]) == ("status-update", state, True)
        if ending == "response.completed":
            assert events[1]["artifact"]["parts"][0]["text"] == "whole"
            assert (events[1]["append"], events[1]["lastChunk"]) == (False, True)
        if says is not None:
            assert says in end["status"]["message"]["parts"][0]["text"]


# Tasks


def background() -> Behaviour:
    """Answers background requests with `in_progress`, and cancels them."""

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        json = {"content-type": "application/json"}
        if request.path.endswith("/cancel"):
            response_id = request.path.split("/")[2]
            return Reply(200, json, orjson.dumps({"id": response_id, "status": "cancelled", "output": []}))
        assert orjson.loads(request.body)["background"] is True
        return Reply(200, json, orjson.dumps(response_body(request, "", "in_progress")))

    return Behaviour(handler=answer)


UNBLOCKED = {"message": message(), "configuration": {"blocking": False}}


async def test_a_caller_who_does_not_wait(tmp_path: Path) -> None:
    """`blocking: false` is a background response: the task is working, can be polled and cancelled."""
    async with open_platform(tmp_path, background()) as platform:
        await offered(platform)
        task = (await rpc(platform, "message/send", UNBLOCKED)).json()["result"]
        assert task["status"]["state"] == "working"
        more = await rpc(platform, "message/send", {"message": message(taskId=task["id"])})
        assert more.json()["error"]["code"] == -32004
        got = await rpc(platform, "tasks/get", {"id": task["id"]})
        assert got.json()["result"]["status"]["state"] == "working"
        assert got.headers["x-agent-session-id"]
        cancelled = (await rpc(platform, "tasks/cancel", {"id": task["id"]})).json()["result"]
        assert (cancelled["id"], cancelled["status"]["state"]) == (task["id"], "canceled")
        assert cancelled["contextId"] == task["contextId"]


async def test_what_cannot_be_cancelled(tmp_path: Path) -> None:
    """A finished task, one that the agent refuses to cancel, and one whose sandbox is gone."""
    async with open_platform(tmp_path, ECHO) as platform:
        await offered(platform)
        task = await sent(platform)
        error = (await rpc(platform, "tasks/cancel", {"id": task["id"]})).json()["error"]
        assert error["code"] == -32002
        assert "completed" in error["message"]


async def test_an_agent_that_refuses_to_cancel(tmp_path: Path) -> None:
    """Its reason is passed on."""

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        if request.path.endswith("/cancel"):
            return Reply(400, {}, b'{"error": {"message": "Cannot cancel a synchronous response."}}')
        return Reply(200, {"content-type": "application/json"}, orjson.dumps(response_body(request, "", "in_progress")))

    async with open_platform(tmp_path, Behaviour(handler=answer)) as platform:
        await offered(platform)
        task = await sent(platform)
        error = (await rpc(platform, "tasks/cancel", {"id": task["id"]})).json()["error"]
        assert (error["code"], error["message"]) == (-32002, "Cannot cancel a synchronous response.")
        platform.sandbox.exit(1)
        error = (await rpc(platform, "tasks/cancel", {"id": task["id"]})).json()["error"]
        assert error["code"] == -32002


async def test_a_finished_task_takes_no_message(a2a: PlatformUnderTest) -> None:
    """The error says how to go on."""
    task = await sent(a2a)
    error = (await rpc(a2a, "message/send", {"message": message(taskId=task["id"])})).json()["error"]
    assert error["code"] == -32004
    assert task["contextId"] in error["message"]


@pytest.mark.parametrize("method", ["tasks/get", "tasks/cancel"])
async def test_tasks_of_others_do_not_exist(a2a: PlatformUnderTest, method: str) -> None:
    """Neither another caller nor another agent's endpoint knows a task, by either transport."""
    task = await sent(a2a)
    stranger = a2a.caller("stranger")
    assert (await rpc(a2a, method, {"id": task["id"]}, by=stranger)).json()["error"]["code"] == -32001
    path = f"{BASE}/v1/tasks/{task['id']}" + (":cancel" if method == "tasks/cancel" else "")
    rest = await stranger("GET" if method == "tasks/get" else "POST", path)
    assert (rest.status, rest.json()["code"], rest.error["code"]) == (404, -32001, "task_not_found")
    more = await rpc(a2a, "message/send", {"message": message(taskId=task["id"])}, by=stranger)
    assert more.json()["error"]["code"] == -32001

    await a2a.create_version("a2")
    await a2a.call("PATCH", f"{PROJECT}/agents/a2", ENABLED)
    elsewhere = await a2a.call(
        "POST", BASE.replace("a1", "a2"), {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"id": task["id"]}}
    )
    assert elsewhere.json()["error"]["code"] == -32001


async def test_responses_of_other_protocols_are_tasks_too(a2a: PlatformUnderTest) -> None:
    """A response outside any conversation is its own context."""
    body = await a2a.hear("hello")
    got = (await rpc(a2a, "tasks/get", {"id": body["id"]})).json()["result"]
    assert got["contextId"] == body["id"]
    assert text_of(got) == "You said: hello"


# HTTP+JSON


async def test_http_json_speaks_protobufs_json(a2a: PlatformUnderTest) -> None:
    """Requests as the official clients spell them, answers without `kind` and with enums in capitals."""
    asked = {"message_id": "m1", "role": "ROLE_USER", "content": [{"text": "hello"}]}
    answer = await a2a.call("POST", f"{BASE}/v1/message:send?agent_session_id=s1", {"request": asked})
    assert answer.status == 200, answer.body
    assert answer.headers["x-agent-session-id"] == "s1"
    task = answer.json()["task"]
    assert "kind" not in task
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert task["artifacts"][0]["parts"] == [{"text": "You said: hello"}]
    assert task["history"][0]["role"] == "ROLE_USER"
    assert task["history"][0]["content"] == [{"text": "hello"}]
    got = await a2a.call("GET", f"{BASE}/v1/tasks/{task['id']}?historyLength=0")
    assert got.json() == {name: value for name, value in task.items() if name != "history"} | {
        "status": got.json()["status"]
    }


async def test_http_json_streams(a2a: PlatformUnderTest) -> None:
    """The same events, each under the field that tells its kind."""
    answer = await a2a.call("POST", f"{BASE}/v1/message:stream", {"message": message("hello")})
    events = told(answer)
    assert [next(iter(entry)) for entry in events] == ["task", *["artifactUpdate"] * 4, "statusUpdate"]
    assert events[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_http_json_cancels(tmp_path: Path) -> None:
    """With or without a body."""
    async with open_platform(tmp_path, background()) as platform:
        await offered(platform)
        for body in (None, {"name": "ignored"}):
            task = (await platform.call("POST", f"{BASE}/v1/message:send", UNBLOCKED)).json()["task"]
            answer = await platform.call("POST", f"{BASE}/v1/tasks/{task['id']}:cancel", body)
            assert answer.json()["status"]["state"] == "TASK_STATE_CANCELLED"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "number"),
    [
        ("POST", "message:send", b"{", 400, -32700),
        ("POST", "message:send", b"{}", 400, -32602),
        ("POST", "message:stream", b"{}", 400, -32602),
        ("POST", "message:send", {"message": message(parts=[{"kind": "data", "data": {}}])}, 415, -32005),
        ("POST", "message:stream", {"message": message(parts=[{"data": {"data": {}}}])}, 415, -32005),
        ("GET", "tasks/nope", None, 404, -32001),
        ("POST", "tasks/nope:cancel", None, 404, -32001),
    ],
)
async def test_http_json_failures_have_a_status(
    a2a: PlatformUnderTest, method: str, path: str, body: Any, status: int, number: int
) -> None:
    """The protocol's number stands in the body, beside a sentence."""
    raw = body if isinstance(body, bytes) else None
    answer = await a2a.call(method, f"{BASE}/v1/{path}", None if raw else body, raw=raw)
    told = answer.json()
    assert (answer.status, told["code"]) == (status, number), answer.body
    assert told["message"] == answer.error["message"]
    assert told["type"].endswith("Error")


async def test_http_json_offers_no_push_notifications(a2a: PlatformUnderTest) -> None:
    """501 in Foundry's envelope, as for whatever the wire has and the platform does not serve."""
    answer = await a2a.call("POST", f"{BASE}/v1/tasks/t1/pushNotificationConfigs", {"url": "https://x"})
    assert (answer.status, answer.error["code"]) == (501, "not_implemented")


# Version 1.0

V1 = {"a2a-version": "1.0"}
MESSAGE_1_0 = {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": "hello"}]}


async def test_the_card_of_1_0(a2a: PlatformUnderTest) -> None:
    """The same content, with the interfaces that each version has, the newest first."""
    card = (await a2a.call("GET", f"{BASE}/agentCard/v1.0", headers={"host": "agents.example"})).json()
    old = (await a2a.call("GET", f"{BASE}/agentCard/v0.3", headers={"host": "agents.example"})).json()
    for field in ("name", "version", "description", "skills", "defaultInputModes", "defaultOutputModes"):
        assert card[field] == old[field]
    assert [(face["protocolBinding"], face["protocolVersion"]) for face in card["supportedInterfaces"]] == [
        ("JSONRPC", "1.0"),
        ("JSONRPC", "0.3"),
        ("HTTP+JSON", "0.3"),
    ]
    assert {face["url"] for face in card["supportedInterfaces"]} == {old["url"]}


async def test_1_0_sends_gets_and_cancels(tmp_path: Path) -> None:
    """Results are protobuf's JSON; `returnImmediately` is a background response."""
    async with open_platform(tmp_path, background()) as platform:
        await offered(platform)
        params = {"message": MESSAGE_1_0, "configuration": {"returnImmediately": True}}
        task = (await rpc(platform, "SendMessage", params, headers=V1)).json()["result"]["task"]
        assert "kind" not in task
        assert task["status"]["state"] == "TASK_STATE_WORKING"
        shown = {**MESSAGE_1_0, "taskId": task["id"], "contextId": task["contextId"]}
        assert task["history"] == [shown]
        got = (await rpc(platform, "GetTask", {"id": task["id"]}, headers=V1)).json()["result"]
        assert (got["id"], got["status"]["state"]) == (task["id"], "TASK_STATE_WORKING")
        ended = (await rpc(platform, "CancelTask", {"id": task["id"]}, headers=V1)).json()["result"]
        assert ended["status"]["state"] == "TASK_STATE_CANCELED"


async def test_1_0_streams(a2a: PlatformUnderTest) -> None:
    """The same events; the end of the stream, not a field, says that a status is final."""
    events = [
        entry["result"] for entry in told(await rpc(a2a, "SendStreamingMessage", {"message": MESSAGE_1_0}, headers=V1))
    ]
    assert [next(iter(entry)) for entry in events] == ["task", *["artifactUpdate"] * 4, "statusUpdate"]
    assert events[1]["artifactUpdate"]["artifact"]["parts"] == [{"text": "You "}]
    assert "final" not in events[-1]["statusUpdate"]


@pytest.mark.parametrize(
    ("method", "params", "number", "reason"),
    [
        ("SendMessage", {"message": {**MESSAGE_1_0, "parts": [{"data": {}}]}}, -32005, "CONTENT_TYPE_NOT_SUPPORTED"),
        ("SendMessage", {"message": {**MESSAGE_1_0, "parts": [{"url": "x"}]}}, -32005, "CONTENT_TYPE_NOT_SUPPORTED"),
        (
            "SendMessage",
            {"message": MESSAGE_1_0, "configuration": {"taskPushNotificationConfig": {"url": "https://x"}}},
            -32003,
            "PUSH_NOTIFICATION_NOT_SUPPORTED",
        ),
        ("GetTask", {"id": "nope"}, -32001, "TASK_NOT_FOUND"),
        ("CancelTask", {"id": "nope"}, -32001, "TASK_NOT_FOUND"),
        ("SubscribeToTask", {"id": "nope"}, -32004, "UNSUPPORTED_OPERATION"),
        ("ListTasks", {}, -32004, "UNSUPPORTED_OPERATION"),
        ("CreateTaskPushNotificationConfig", {}, -32003, "PUSH_NOTIFICATION_NOT_SUPPORTED"),
        ("GetExtendedAgentCard", {}, -32007, "EXTENDED_AGENT_CARD_NOT_CONFIGURED"),
        ("GetTask", {}, -32602, None),
    ],
)
async def test_failures_of_1_0_say_their_reason(
    a2a: PlatformUnderTest, method: str, params: Any, number: int, reason: str | None
) -> None:
    """A2A's own errors carry it as `ErrorInfo`; JSON-RPC's have none."""
    error = (await rpc(a2a, method, params, headers=V1)).json()["error"]
    assert error["code"] == number
    assert [detail["reason"] for detail in error.get("data", [])] == ([] if reason is None else [reason])
