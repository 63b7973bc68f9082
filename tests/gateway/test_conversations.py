"""Conversations and their items, in OpenAI's shapes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.platform import OPENAI, PROJECT, PlatformUnderTest

BASES = [OPENAI, OPENAI.removesuffix("/v1"), f"{PROJECT}/openai/v1", f"{PROJECT}/openai"]


def message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


async def make(platform: PlatformUnderTest, **body: Any) -> str:
    answer = await platform.call("POST", f"{OPENAI}/conversations", body)
    assert answer.status == 200, answer.body
    return str(answer.json()["id"])


@pytest.mark.parametrize("base", BASES)
async def test_every_base_leads_to_the_same(platform: PlatformUnderTest, base: str) -> None:
    """Of the project and of an agent, in both layouts; an empty call makes one."""
    made = await platform.call("POST", f"{base}/conversations", {})
    assert made.status == 200
    body = made.json()
    assert (body["object"], body["metadata"]) == ("conversation", {})
    assert body["id"].startswith("conv_")
    assert body["created_at"] == int(platform.clock.now)
    for other in BASES:
        assert (await platform.call("GET", f"{other}/conversations/{body['id']}")).json() == body


async def test_update_and_delete(platform: PlatformUnderTest) -> None:
    """Metadata is replaced; what is deleted is gone with its items."""
    conversation = await make(platform, metadata={"a": "1"}, items=[message("x")])
    path = f"{OPENAI}/conversations/{conversation}"
    assert (await platform.call("GET", path)).json()["metadata"] == {"a": "1"}
    updated = await platform.call("POST", path, {"metadata": {"b": "2"}})
    assert updated.json()["metadata"] == {"b": "2"}
    gone = await platform.call("DELETE", path)
    assert gone.json() == {"id": conversation, "object": "conversation.deleted", "deleted": True}
    assert (await platform.call("GET", path)).status == 404
    assert (await platform.call("GET", f"{path}/items")).status == 404


async def test_items(platform: PlatformUnderTest) -> None:
    """Added, listed by cursor, read, deleted one by one."""
    conversation = await make(platform, items=[message("one")])
    path = f"{OPENAI}/conversations/{conversation}/items"
    added = (await platform.call("POST", path, {"items": [message("two"), message("three")]})).json()
    assert [item["content"][0]["text"] for item in added["data"]] == ["two", "three"]
    assert all(item["id"].startswith("msg_") and item["status"] == "completed" for item in added["data"])
    listed = (await platform.call("GET", f"{path}?order=asc&limit=2")).json()
    assert [item["content"][0]["text"] for item in listed["data"]] == ["one", "two"]
    assert listed["has_more"] is True
    rest = (await platform.call("GET", f"{path}?order=asc&after={listed['last_id']}")).json()
    assert [item["content"][0]["text"] for item in rest["data"]] == ["three"]
    assert rest["has_more"] is False
    newest = (await platform.call("GET", path)).json()["data"]
    assert newest[0]["content"][0]["text"] == "three"
    one = f"{path}/{listed['first_id']}"
    assert (await platform.call("GET", one)).json()["content"][0]["text"] == "one"
    assert (await platform.call("DELETE", one)).json()["object"] == "conversation"
    assert (await platform.call("GET", one)).status == 404
    assert len((await platform.call("GET", path)).json()["data"]) == 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": "x"}, "metadata"),
        ({"metadata": 0}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"items": {}}, "items"),
        ({"items": [{"type": "item_reference", "id": "msg_1"}]}, "items[0].type"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"items": "x"}, "items"),
        ({"items": ["x"]}, "items"),
        ({"items": [message("x")] * 21}, "items"),
    ],
)
async def test_bodies_are_checked(platform: PlatformUnderTest, body: dict[str, Any], param: str) -> None:
    """400 with the field; nothing is made."""
    answer = await platform.call("POST", f"{OPENAI}/conversations", body)
    assert (answer.status, answer.error["param"]) == (400, param)


async def test_adding_nothing_is_refused(platform: PlatformUnderTest) -> None:
    """`items` needs at least one."""
    conversation = await make(platform)
    answer = await platform.call("POST", f"{OPENAI}/conversations/{conversation}/items", {})
    assert (answer.status, answer.error["param"]) == (400, "items")


async def test_an_id_that_is_no_text_is_replaced(platform: PlatformUnderTest) -> None:
    """Items are kept under ids that are strings."""
    conversation = await make(platform, items=[{**message("x"), "id": 7}])
    (item,) = (await platform.call("GET", f"{OPENAI}/conversations/{conversation}/items")).json()["data"]
    assert item["id"].startswith("msg_")


async def test_others_conversations_do_not_exist(platform: PlatformUnderTest) -> None:
    """404 on every route, for another caller and in another project."""
    conversation = await make(platform, items=[message("x")])
    path = f"{OPENAI}/conversations/{conversation}"
    other = platform.caller("other")
    assert (await other("GET", path)).status == 404
    assert (await other("POST", path, {"metadata": {}})).status == 404
    assert (await other("GET", f"{path}/items")).status == 404
    assert (await other("POST", f"{path}/items", {"items": [message("y")]})).status == 404
    assert (await other("DELETE", path)).status == 404
    elsewhere = path.replace("/demo/", "/other/")
    assert (await platform.call("GET", elsewhere)).status == 404
    assert len((await platform.call("GET", f"{path}/items")).json()["data"]) == 1


async def test_an_update_without_metadata_changes_nothing(platform: PlatformUnderTest) -> None:
    """Null empties it."""
    conversation = await make(platform, metadata={"a": "1"})
    path = f"{OPENAI}/conversations/{conversation}"
    assert (await platform.call("POST", path, {})).json()["metadata"] == {"a": "1"}
    assert (await platform.call("POST", path, {"metadata": None})).json()["metadata"] == {}


async def test_an_item_that_is_not_there_is_not_deleted(platform: PlatformUnderTest) -> None:
    """404, as when it is read."""
    conversation = await make(platform)
    answer = await platform.call("DELETE", f"{OPENAI}/conversations/{conversation}/items/msg_1")
    assert (answer.status, answer.error["param"]) == (404, "item_id")


async def test_pages_of_items_go_both_ways(platform: PlatformUnderTest) -> None:
    """`after` and `before` in either order; `include` is ignored; a bad page is named."""
    conversation = await make(platform, items=[message(str(n)) for n in range(5)])
    path = f"{OPENAI}/conversations/{conversation}/items"

    async def page(query: str) -> tuple[str, bool]:
        body = (await platform.call("GET", f"{path}?{query}")).json()
        return "".join(item["content"][0]["text"] for item in body["data"]), body["has_more"]

    ids = [item["id"] for item in (await platform.call("GET", f"{path}?order=asc")).json()["data"]]
    assert await page("limit=2") == ("43", True)
    assert await page(f"limit=2&after={ids[3]}") == ("21", True)
    assert await page(f"limit=2&after={ids[1]}&include[]=message.output_text.logprobs") == ("0", False)
    assert await page(f"order=asc&before={ids[2]}") == ("01", False)
    assert await page("after=msg_nothing") == ("", False)
    for query, param in (("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("order=up", "order")):
        answer = await platform.call("GET", f"{path}?{query}")
        assert (answer.status, answer.error["param"]) == (400, param)


async def test_a_deleted_conversation_leaves_responses_their_history(platform: PlatformUnderTest) -> None:
    """Its items are reached no more, but what was answered in it can be read and continued."""
    await platform.create_version()
    conversation = await make(platform, items=[message("before")])
    response = await platform.hear("in it", conversation=conversation)
    path = f"{OPENAI}/conversations/{conversation}"
    (first, *_) = (await platform.call("GET", f"{path}/items?order=asc")).json()["data"]
    await platform.call("DELETE", path)
    assert (await platform.call("GET", f"{path}/items/{first['id']}")).status == 404
    assert (await platform.call("POST", f"{path}/items", {"items": [message("x")]})).status == 404
    assert (await platform.ask("again", conversation=conversation)).status == 404
    assert (await platform.call("GET", f"{OPENAI}/responses/{response['id']}")).status == 200
    listed = (await platform.call("GET", f"{OPENAI}/responses/{response['id']}/input_items")).json()["data"]
    assert [item["content"][0]["text"] for item in listed] == ["in it"]
    assert (await platform.hear("go on", previous_response_id=response["id"]))["status"] == "completed"


async def test_items_of_a_deleted_response_stay_in_their_conversation(platform: PlatformUnderTest) -> None:
    """The talk goes on; only the response itself and its input are gone."""
    await platform.create_version()
    conversation = await make(platform)
    response = await platform.hear("one", conversation=conversation)
    path = f"{OPENAI}/responses/{response['id']}"
    assert (await platform.call("DELETE", path)).status == 200
    assert (await platform.call("GET", f"{path}/input_items")).status == 404
    listed = (await platform.call("GET", f"{OPENAI}/conversations/{conversation}/items?order=asc")).json()["data"]
    assert [item["role"] for item in listed] == ["user", "assistant"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_that_is_not_stored_leaves_no_trace(platform: PlatformUnderTest, stream: bool) -> None:
    """Neither in its conversation nor as something to continue."""
    await platform.create_version()
    conversation = await make(platform)
    answer = await platform.ask("secret", conversation=conversation, store=False, stream=stream)
    assert answer.status == 200
    assert (await platform.call("GET", f"{OPENAI}/conversations/{conversation}/items")).json()["data"] == []
    first = await platform.hear("kept")
    chained = await platform.hear("secret", previous_response_id=first["id"], store=False)
    assert chained["store"] is False
    assert (await platform.call("GET", f"{OPENAI}/responses/{chained['id']}")).status == 404
    assert (await platform.ask("x", previous_response_id=chained["id"])).status == 404


@pytest.mark.parametrize("as_object", [False, True])
async def test_a_conversation_binds_a_session_and_a_chain_does_not(
    platform: PlatformUnderTest, as_object: bool
) -> None:
    """Named by its id or by an object with it."""
    await platform.create_version()
    conversation = await make(platform)
    named: Any = {"id": conversation} if as_object else conversation
    turns = [await platform.hear("x", conversation=named) for _ in range(2)]
    assert len({turn["agent_session_id"] for turn in turns}) == 1
    chained = await platform.hear("x", previous_response_id=turns[0]["id"])
    assert chained["agent_session_id"] != turns[0]["agent_session_id"]
