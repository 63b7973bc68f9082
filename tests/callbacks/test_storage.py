"""Response storage as the containers' adapters use it (container-contract.md §4.1)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cupola.identity import Call, SandboxIdentity
from cupola.ids import new_response_id
from tests.support.agents import ECHO
from tests.support.platform import OPENAI, PROJECT, Answer, Caller, PlatformUnderTest, open_platform

STORAGE = f"{PROJECT}/storage"


def item(name: str, role: str = "user") -> dict[str, Any]:
    return {"id": name, "type": "message", "role": role, "status": "completed", "content": []}


@dataclass
class Container:
    """A sandbox that calls back while it serves a user's call."""

    platform: PlatformUnderTest
    call: Caller
    headers: Mapping[str, str]

    async def __call__(self, method: str, path: str, body: Any = None) -> Answer:
        return await self.call(method, f"{STORAGE}/{path}", body, headers=self.headers)

    async def create(self, *items: str, history: tuple[str, ...] = (), **fields: Any) -> str:
        """A response in progress, with these items as its input."""
        response_id = new_response_id()
        response = {"id": response_id, "status": "in_progress", "output": [], **fields}
        made = await self(
            "POST",
            "responses",
            {"response": response, "input_items": [item(name) for name in items], "history_item_ids": list(history)},
        )
        assert made.status == 201, made.body
        return response_id

    async def finish(self, response_id: str, *output: str, **fields: Any) -> None:
        body = {"id": response_id, "status": "completed", "output": [item(o, "assistant") for o in output], **fields}
        updated = await self("POST", f"responses/{response_id}", body)
        assert updated.status == 200, updated.body

    async def history(self, **query: Any) -> Any:
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        return (await self("GET", f"history/item_ids?{asked}")).json()

    @classmethod
    async def serving(cls, platform: PlatformUnderTest, by: Caller, agent: str = "a1") -> Container:
        """The container of a new session of that client."""
        asked = await by("POST", f"{PROJECT}/agents/{agent}/endpoint/protocols/openai/v1/responses", {"input": "hello"})
        session = asked.json()["agent_session_id"]
        live = platform.platform.sandboxes.live_of(("demo", agent, session))
        assert live is not None
        assert live.session is not None
        call_id = platform.tokens.call_id(Call(live.session.caller, agent, session))
        return cls(platform, platform.sandbox_caller(live.row.id), {"x-agent-foundry-call-id": call_id})

    async def anothers(self) -> Container:
        """A container of the same agent, in the session of another user."""
        return await Container.serving(self.platform, self.platform.caller("another user"))


@pytest.fixture
async def container(tmp_path: Path) -> AsyncGenerator[Container]:
    async with open_platform(tmp_path, ECHO) as platform:
        await platform.create_version()
        yield await Container.serving(platform, platform.call)


@pytest.mark.operation(
    "storage.responses.create", "storage.responses.update", "storage.responses.get", "storage.responses.delete"
)
async def test_create_update_get_delete(container: Container) -> None:
    """What is written is read; a deleted response is gone."""
    response = await container.create("msg_1")
    assert (await container("GET", f"responses/{response}")).json()["status"] == "in_progress"
    await container.finish(
        response, "msg_2", internal_metadata={"a": 1}, metadata={"_internal_metadata": "x", "k": "v"}
    )
    body = (await container("GET", f"responses/{response}")).json()
    assert (body["status"], body["internal_metadata"]) == ("completed", {"a": 1})
    assert body["metadata"] == {"_internal_metadata": "x", "k": "v"}
    assert (await container("DELETE", f"responses/{response}")).status == 200
    for method in ("GET", "DELETE"):
        assert (await container(method, f"responses/{response}")).status == 404


async def test_clients_see_it_without_the_frameworks_keys(container: Container) -> None:
    """The owner retrieves what his container stored."""
    response = await container.create()
    await container.finish(response, internal_metadata={"a": 1}, metadata={"_internal_metadata": "x", "k": "v"})
    shown = (await container.platform.call("GET", f"{OPENAI}/responses/{response}")).json()
    assert "internal_metadata" not in shown
    assert shown["metadata"] == {"k": "v"}


async def test_a_second_create_is_a_conflict_that_adapters_swallow(container: Container) -> None:
    """409 `already_exists`, and the first one stays."""
    response = await container.create("msg_1")
    again = await container("POST", "responses", {"response": {"id": response, "status": "failed"}})
    assert (again.status, again.error["code"]) == (409, "already_exists")
    assert (await container("GET", f"responses/{response}")).json()["status"] == "in_progress"


async def test_a_final_response_stays_final(container: Container) -> None:
    """A late update of an unfinished state changes nothing."""
    response = await container.create()
    await container.finish(response)
    await container("POST", f"responses/{response}", {"id": response, "status": "in_progress"})
    assert (await container("GET", f"responses/{response}")).json()["status"] == "completed"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"response": "x"},
        {"response": {}},
        {"response": {"id": 5}},
        {"response": {"id": "caresp_1"}, "input_items": "x"},
        {"response": {"id": "caresp_1"}, "history_item_ids": "x"},
        {"response": {"id": "caresp_1"}, "history_item_ids": [5]},
        {"response": {"id": "caresp_1", "conversation": {"id": 5}}},
    ],
)
async def test_creates_that_make_no_sense(container: Container, body: Any) -> None:
    """400, not an internal error."""
    answer = await container("POST", "responses", body)
    assert answer.status == 400, answer.body


@pytest.mark.operation("storage.input_items.list")
async def test_input_items(container: Container) -> None:
    """In the order asked for, by cursor, in OpenAI's shape."""
    response = await container.create("msg_1", "msg_2", "msg_3")
    listed = (await container("GET", f"responses/{response}/input_items?limit=100&order=asc")).json()
    assert [one["id"] for one in listed["data"]] == ["msg_1", "msg_2", "msg_3"]
    assert (listed["object"], listed["first_id"], listed["has_more"]) == ("list", "msg_1", False)
    newest = (await container("GET", f"responses/{response}/input_items?limit=1&after=msg_3")).json()
    assert [one["id"] for one in newest["data"]] == ["msg_2"]


@pytest.mark.operation("storage.history.list")
async def test_history_of_a_chain(container: Container) -> None:
    """What it was given, its input, its output; oldest first; the limit keeps the newest."""
    first = await container.create("i1")
    await container.finish(first, "o1", "o2")
    assert await container.history(previous_response_id=first, limit=-1) == ["i1", "o1", "o2"]
    second = await container.create("i2", history=("i1", "o1", "o2"))
    await container.finish(second, "o3")
    assert await container.history(previous_response_id=second) == ["i1", "o1", "o2", "i2", "o3"]
    assert await container.history(previous_response_id=second, limit=2) == ["i2", "o3"]
    assert await container.history() == []
    unknown = await container("GET", f"history/item_ids?previous_response_id={new_response_id()}")
    assert unknown.status == 404
    assert (await container("GET", "history/item_ids?limit=x")).status == 400


@pytest.mark.operation("storage.history.list")
async def test_history_of_a_conversation(container: Container) -> None:
    """Items put into it and those of its responses, in the order in which they came."""
    platform = container.platform
    created = await platform.call("POST", f"{OPENAI}/conversations", {"items": [item("c1")]})
    conversation = created.json()["id"]
    response = await container.create("i1", conversation={"id": conversation})
    await container.finish(response, "o1", conversation={"id": conversation})
    await platform.call("POST", f"{OPENAI}/conversations/{conversation}/items", {"items": [item("c2")]})
    assert await container.history(conversation_id=conversation) == ["c1", "i1", "o1", "c2"]


@pytest.mark.operation("storage.items.retrieve")
async def test_a_batch_is_aligned(container: Container) -> None:
    """One entry per id, null for what is unknown, also when asked twice."""
    await container.create("i1", "i2")
    asked = {"item_ids": ["i2", "unknown", "i1", "i2"]}
    batch = (await container("POST", "items/batch/retrieve", asked)).json()
    assert [None if one is None else one["id"] for one in batch] == ["i2", None, "i1", "i2"]
    assert (await container("POST", "items/batch/retrieve", {"item_ids": []})).json() == []
    for odd in ({}, {"item_ids": "x"}, {"item_ids": [1]}):
        assert (await container("POST", "items/batch/retrieve", odd)).status == 400


async def test_users_are_apart(container: Container) -> None:
    """Another user's response, items and history do not exist, even for the same agent."""
    response = await container.create("i1")
    other = await container.anothers()
    assert (await other("GET", f"responses/{response}")).status == 404
    assert (await other("POST", f"responses/{response}", {"id": response, "status": "failed"})).status == 404
    assert (await other("DELETE", f"responses/{response}")).status == 404
    assert (await other("GET", f"responses/{response}/input_items")).status == 404
    assert (await other("GET", f"history/item_ids?previous_response_id={response}")).status == 404
    assert (await other("POST", "items/batch/retrieve", {"item_ids": ["i1"]})).json() == [None]
    conversation = await container.platform.conversation()
    assert (await other("GET", f"history/item_ids?conversation_id={conversation}")).status == 404


async def test_nobody_writes_into_anothers_conversation(container: Container) -> None:
    """A response that names a conversation of another user leaves it as it was."""
    platform = container.platform
    conversation = await platform.conversation()
    response = new_response_id()
    body = {
        "response": {"id": response, "status": "completed", "conversation": {"id": conversation}},
        "input_items": [item("evil")],
    }
    answer = await (await container.anothers())("POST", "responses", body)
    assert answer.status == 404
    listed = await platform.call("GET", f"{OPENAI}/conversations/{conversation}/items")
    assert listed.json()["data"] == []


async def test_agents_are_apart(container: Container) -> None:
    """Another agent's container sees nothing of it, whatever call id it has got hold of."""
    response = await container.create("i1")
    await container.platform.create_version("a2")
    own = await Container.serving(container.platform, container.platform.call, "a2")
    stolen = Container(container.platform, own.call, container.headers)
    for method in ("GET", "DELETE"):
        assert (await own(method, f"responses/{response}")).status == 404
        assert (await stolen(method, f"responses/{response}")).status == 403
    assert (await stolen("GET", f"history/item_ids?previous_response_id={response}")).status == 403
    assert (await stolen("POST", "items/batch/retrieve", {"item_ids": ["i1"]})).status == 403


async def test_a_sandbox_acts_for_nobody_but_the_owner_of_its_session(container: Container) -> None:
    """Neither another user's isolation key nor his call id opens his data, wherever the container has it from."""
    theirs = await container.anothers()
    response = await theirs.create("i1")
    platform = container.platform
    user = platform.tokens.call(theirs.headers["x-agent-foundry-call-id"]).user
    own_session = platform.tokens.call(container.headers["x-agent-foundry-call-id"]).session
    for headers in (
        theirs.headers,
        {"x-agent-user-isolation-key": user},
        {"x-agent-user-isolation-key": "ä"},
        {"x-agent-foundry-call-id": platform.tokens.call_id(Call(user, "a1", own_session))},
    ):
        thief = Container(platform, container.call, headers)
        for method, path, body in (
            ("GET", f"responses/{response}", None),
            ("POST", f"responses/{response}", {"id": response, "status": "failed"}),
            ("DELETE", f"responses/{response}", None),
            ("GET", f"responses/{response}/input_items", None),
            ("GET", f"history/item_ids?previous_response_id={response}", None),
            ("POST", "items/batch/retrieve", {"item_ids": ["i1"]}),
            ("POST", "responses", {"response": {"id": new_response_id(), "status": "completed"}}),
        ):
            assert (await thief(method, path, body)).status == 403, (headers, method, path)
    assert (await theirs("GET", f"responses/{response}")).json()["status"] == "in_progress"


async def test_call_ids_outlive_platform_and_sandbox(container: Container) -> None:
    """What a container was told before a restart, or in an earlier life, still says for whom it calls."""
    response = await container.create("i1")
    platform = container.platform
    await platform.restart()
    session = platform.tokens.call(container.headers["x-agent-foundry-call-id"]).session
    after = Container(platform, platform.sandbox_caller(), container.headers)
    assert (await after("GET", f"responses/{response}")).status == 200
    platform.clock.now += 901
    await platform.platform.reaper.once()
    assert platform.running() == []
    await platform.hear(agent_session_id=session)
    woken = Container(platform, platform.sandbox_caller(), container.headers)
    assert (await woken("GET", f"responses/{response}")).status == 200


async def test_a_warm_sandbox_acts_for_nobody(container: Container) -> None:
    """As long as it has no session, there is nobody for whom it could call."""
    platform = container.platform
    await platform.create_version("a2")
    (warm,) = [live for live in platform.platform.sandboxes.live if live.session is None]
    headers = {"x-agent-foundry-call-id": platform.tokens.call_id(Call(platform.user, "a2", warm.row.session_id))}
    before = Container(platform, platform.sandbox_caller(warm.row.id), headers)
    assert (await before("GET", "history/item_ids")).status == 403
    adopted = await Container.serving(platform, platform.call, "a2")
    assert adopted.headers == headers
    assert (await before("GET", "history/item_ids")).json() == []


async def test_whose_call_it_is_must_be_said_and_true(container: Container) -> None:
    """Without a call id 400, with a forged one 403; the older isolation key works."""
    response = await container.create()
    path = f"responses/{response}"
    nobody = Container(container.platform, container.call, {})
    assert (await nobody("GET", path)).error["param"] == "x-agent-foundry-call-id"
    unknown = Container(container.platform, container.call, {"x-agent-user-isolation-key": "somebody"})
    assert (await unknown("GET", path)).error["code"] == "session_not_accessible"
    forged = Container(container.platform, container.call, {"x-agent-foundry-call-id": "call_x.y"})
    assert (await forged("GET", path)).status == 403
    older = Container(container.platform, container.call, {"x-agent-user-isolation-key": container.platform.user})
    assert (await older("GET", path)).status == 200


async def test_only_a_sandboxs_token_opens_its_own_project(container: Container) -> None:
    """No token, a client's token, another project's path."""
    platform = container.platform
    path = f"{STORAGE}/responses/x"
    assert (await Caller(platform.callbacks, None)("GET", path)).status == 401
    client = Caller(platform.callbacks, platform.tokens.mint_client()[0])
    assert (await client("GET", path)).status == 401
    elsewhere = await container.call("GET", "/api/projects/other/storage/responses/x", headers=container.headers)
    assert elsewhere.status == 403
    assert "/api/projects/demo/" in elsewhere.error["message"]


async def test_the_callbacks_serve_nothing_else(container: Container) -> None:
    """Neither the control plane nor the endpoint is reached from a sandbox."""
    for method, path in (("GET", f"{PROJECT}/agents"), ("POST", f"{OPENAI}/responses"), ("GET", "/cupola/status")):
        answer = await container.call(method, path, headers=container.headers)
        assert answer.status in (403, 404, 501)
    clients = Caller(
        container.platform.platform.clients,
        container.platform.tokens.mint_sandbox(SandboxIdentity("demo", "a1", "1", "s", "sbx"))[0],
    )
    assert (await clients("GET", f"{PROJECT}/agents")).status == 401
