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
