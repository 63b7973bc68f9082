"""State stores as the containers' adapters use them (container-contract.md §4.3)."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cupola.identity import Call, SandboxIdentity
from tests.support.agents import ECHO
from tests.support.platform import PROJECT, Answer, Caller, PlatformUnderTest, open_platform

DAY = 24 * 3600


def b64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@dataclass(frozen=True)
class Stores:
    """A sandbox of the agent `a1` that calls back, for a user or for nobody."""

    platform: PlatformUnderTest
    call: Caller
    headers: Mapping[str, str]

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        sent = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return await self.call(method, f"{PROJECT}/storage/state_stores{path}", body, headers=sent)

    async def make(self, name: str = "notes", **fields: Any) -> str:
        """A store; returns its path."""
        made = await self("POST", "", {"name": name, **fields})
        assert made.status == 201, made.body
        return "/" + b64(name)

    async def keys(self, path: str, **query: Any) -> list[str]:
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        listed = await self("GET", f"{path}/items:keys?{asked}")
        assert listed.status == 200, listed.body
        return [entry["key"] for entry in listed.json()["data"]]

    def serving(self, user: str | None) -> Stores:
        """The same sandbox in a call of another user, or in none."""
        (live,) = self.platform.platform.sandboxes.live
        call = None if user is None else Call(user, "a1", live.row.session_id)
        headers = {} if call is None else {"x-agent-foundry-call-id": self.platform.tokens.call_id(call)}
        return replace(self, headers=headers)


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncGenerator[Stores]:
    async with open_platform(tmp_path, ECHO) as platform:
        await platform.create_version()
        await platform.hear()  # by which the sandbox gets a session, of `platform.user`
        yield Stores(platform, platform.sandbox_caller(), {}).serving(platform.user)


# Stores


async def test_a_store_is_made_read_described_and_deleted(stores: Stores) -> None:
    """In the official client's shape, with what was left out filled in."""
    made = await stores("POST", "", {"name": "checkpoints/thread ü"})
    assert made.status == 201
    shown = made.json()
    now = int(stores.platform.clock.now)
    assert shown.pop("id").startswith("ss_")
    assert shown == {
        "object": "state_store",
        "name": "checkpoints/thread ü",
        "user_isolation": False,
        "item_ttl_seconds": 30 * DAY,
        "description": None,
        "tags": {},
        "created_at": now,
        "updated_at": now,
    }
    path = "/" + b64("checkpoints/thread ü")
    assert (await stores("GET", path)).json() == made.json()
    stores.platform.clock.now += 5
    described = await stores("PATCH", path, {"description": "d", "tags": {"a": "b"}})
    assert described.json() == {**made.json(), "description": "d", "tags": {"a": "b"}, "updated_at": now + 5}
    cleared = await stores("PATCH", path, {"description": None, "tags": {}})
    assert (cleared.json()["description"], cleared.json()["tags"]) == (None, {})
    deleted = {"object": "state_store", "name": "checkpoints/thread ü", "deleted": True}
    assert (await stores("DELETE", path)).json() == {"id": made.json()["id"], **deleted}
    assert (await stores("DELETE", path)).json() == deleted
    gone = await stores("GET", path)
    assert (gone.status, gone.error["param"]) == (404, "name")
    assert (await stores("PATCH", path, {"description": "d"})).status == 404


async def test_a_name_is_taken_once(stores: Stores) -> None:
    """409 with the field, and the first one keeps its settings; the loser of a race reads the winner's."""
    path = await stores.make(item_ttl_seconds=60)
    again = await stores("POST", "", {"name": "notes", "item_ttl_seconds": 5})
    assert (again.status, again.error["code"], again.error["param"]) == (409, "already_exists", "name")
    assert (await stores("GET", path)).json()["item_ttl_seconds"] == 60
    raced = await asyncio.gather(*(stores("POST", "", {"name": "raced"}) for _ in range(20)))
    assert sorted(answer.status for answer in raced) == [201] + [409] * 19


async def test_a_deleted_store_takes_its_items_along(stores: Stores) -> None:
    """A new one of the same name is empty."""
    path = await stores.make()
    await stores("PUT", f"{path}/items/{b64('k')}", {"value": {}})
    await stores("DELETE", path)
    missing = await stores("GET", f"{path}/items/{b64('k')}")
    assert (missing.status, missing.error["param"]) == (404, "name")
    await stores.make()
    assert (await stores("GET", f"{path}/items/{b64('k')}")).error["param"] == "key"
    assert await stores.keys(path) == []


async def test_agents_are_apart(stores: Stores) -> None:
    """Two agents have stores of one name; neither reaches the other's, nor uses the other's call ids."""
    path = await stores.make()
    await stores.platform.create_version("a2")
    identity = SandboxIdentity("demo", "a2", "1", "s2", "sbx-2")
    other = Stores(
        stores.platform, Caller(stores.platform.callbacks, stores.platform.tokens.mint_sandbox(identity)[0]), {}
    )
    assert (await other("GET", path)).status == 404
    await other.make(description="of a2")
    assert (await stores("GET", path)).json()["description"] is None
    borrowed = await other("GET", f"{path}/items/{b64('k')}", **dict(stores.headers))
    assert borrowed.status == 403


async def test_a_deleted_agent_takes_its_stores_along(stores: Stores) -> None:
    """The next agent of that name finds nothing, and a sandbox that lags behind makes nothing."""
    path = await stores.make()
    await stores("PUT", f"{path}/items/{b64('k')}", {"value": {}})
    deleted = await stores.platform.call("DELETE", f"{PROJECT}/agents/a1?force=true")
    assert deleted.status == 200, deleted.body
    assert (await stores("POST", "", {"name": "late"})).status == 404
    await stores.platform.create_version()
    assert (await stores("GET", path)).status == 404


async def test_they_survive_a_crash(stores: Stores) -> None:
    """What was answered is there after a SIGKILL."""
    path = await stores.make()
    written = await stores("PUT", f"{path}/items/{b64('k')}", {"value": {"n": 1}})
    await stores.platform.restart()
    again = replace(stores, call=stores.platform.sandbox_caller())
    item = (await again("GET", f"{path}/items/{b64('k')}")).json()
    assert (item["value"], item["etag"]) == ({"n": 1}, written.json()["etag"])


# Items


async def test_an_item_is_written_read_and_deleted(stores: Stores) -> None:
    """References carry no value; reading gives it back as it was; etags stand in body and header."""
    path = await stores.make()
    value = {"nested": [1, 2.5, None, True, "ü"], "big": 2**63, "": {}}
    made = await stores("POST", f"{path}/items", {"key": "a/b", "value": value, "tags": {"kind": "x"}})
    assert made.status == 201
    ref = made.json()
    assert set(ref) == {"id", "object", "key", "etag", "created_at", "updated_at"}
    assert ref["id"].startswith("it_")
    assert (ref["object"], ref["key"], made.headers["etag"]) == ("state_store.item", "a/b", ref["etag"])
    one = f"{path}/items/{b64('a/b')}"
    found = await stores("GET", one)
    assert found.json() == {**ref, "value": value, "tags": {"kind": "x"}}
    assert found.headers["etag"] == ref["etag"]

    stores.platform.clock.now += 7
    replaced = await stores("PUT", one, {"value": {"n": 2}})
    assert replaced.status == 200
    after = replaced.json()
    assert (after["id"], after["created_at"]) == (ref["id"], ref["created_at"])
    assert after["updated_at"] == ref["updated_at"] + 7
    assert after["etag"] != ref["etag"]
    found = await stores("GET", one)
    assert (found.json()["value"], found.json()["tags"]) == ({"n": 2}, None)

    deleted = {"object": "state_store.item", "key": "a/b", "deleted": True}
    assert (await stores("DELETE", one)).json() == {"id": ref["id"], **deleted}
    assert (await stores("DELETE", one)).json() == deleted
    gone = await stores("GET", one)
    assert (gone.status, gone.error["param"]) == (404, "key")
    assert (await stores("PUT", one, {"value": {}})).status == 201


async def test_a_key_is_created_once(stores: Stores) -> None:
    """409 for the second create, however many come at once; the first value stays."""
    path = await stores.make()
    raced = await asyncio.gather(*(stores("POST", f"{path}/items", {"key": "k", "value": {"n": n}}) for n in range(20)))
    assert sorted(answer.status for answer in raced) == [201] + [409] * 19
    winner = next(n for n, answer in enumerate(raced) if answer.status == 201)
    loser = next(answer for answer in raced if answer.status == 409)
    assert (loser.error["code"], loser.error["param"]) == ("already_exists", "key")
    assert (await stores("GET", f"{path}/items/{b64('k')}")).json()["value"] == {"n": winner}


async def test_if_match_is_compared_and_set_at_once(stores: Stores) -> None:
    """Of many writers with one etag one wins; the others hear the etag that stands now."""
    path = await stores.make()
    one = f"{path}/items/{b64('k')}"
    etag = (await stores("PUT", one, {"value": {"n": 0}})).json()["etag"]
    raced = await asyncio.gather(*(stores("PUT", one, {"value": {"n": n}}, if_match=etag) for n in range(1, 21)))
    assert sorted(answer.status for answer in raced) == [200] + [412] * 19
    now = (await stores("GET", one)).json()["etag"]
    lost = next(answer for answer in raced if answer.status == 412)
    assert (lost.headers["etag"], lost.error["code"]) == (now, "precondition_failed")
    assert now in lost.error["message"]


async def test_if_match_wants_something_there(stores: Stores) -> None:
    """`*` and any etag are refused for a key without an item, without an etag to go on with; deletes obey too."""
    path = await stores.make()
    one = f"{path}/items/{b64('k')}"
    for method, body in (("PUT", {"value": {}}), ("DELETE", None)):
        for wanted in ("*", '"x"'):
            refused = await stores(method, one, body, if_match=wanted)
            assert (refused.status, "etag" in refused.headers) == (412, False)
    etag = (await stores("PUT", one, {"value": {}})).json()["etag"]
    assert (await stores("PUT", one, {"value": {}}, if_match="*")).status == 200
    assert (await stores("DELETE", one, if_match=etag)).status == 412
    assert (await stores("DELETE", one, if_match="*")).status == 200
    assert (await stores("GET", one)).status == 404


async def test_keys_are_listed_in_the_order_of_their_creation(stores: Stores) -> None:
    """Newest first or oldest first, page by page both ways; a replaced item keeps its place."""
    path = await stores.make()
    for key in "abcde":
        await stores("PUT", f"{path}/items/{b64(key)}", {"value": {"big": "x"}, "tags": {"of": key}})
    await stores("PUT", f"{path}/items/{b64('b')}", {"value": {}})
    assert await stores.keys(path) == list("edcba")
    assert await stores.keys(path, order="asc") == list("abcde")
    first = (await stores("GET", f"{path}/items:keys?limit=2")).json()
    assert (first["object"], [entry["key"] for entry in first["data"]], first["has_more"]) == ("list", ["e", "d"], True)
    assert (first["first_id"], first["last_id"]) == (first["data"][0]["id"], first["data"][-1]["id"])
    assert set(first["data"][0]) == {"id", "object", "key", "etag", "created_at", "updated_at", "tags"}
    assert first["data"][0]["tags"] == {"of": "e"}
    assert await stores.keys(path, limit=2, after=first["last_id"]) == ["c", "b"]
    last = (await stores("GET", f"{path}/items:keys?limit=9&after={first['last_id']}")).json()
    assert ([entry["key"] for entry in last["data"]], last["has_more"]) == (["c", "b", "a"], False)
    assert await stores.keys(path, limit=2, before=last["last_id"]) == ["c", "b"]
    empty = (await stores("GET", f"{path}/items:keys?after={last['last_id']}")).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_keys_are_found_by_their_tags(stores: Stores) -> None:
    """An item must have all tags that are asked for, whatever characters they are made of."""
    path = await stores.make()
    tags = {"a": {"x": "1", "y": "2"}, "b": {"x": "1"}, "c": {"y": "2"}, "d": {'q"$.': "v w"}}
    for key, own in tags.items():
        await stores("PUT", f"{path}/items/{b64(key)}", {"value": {}, "tags": own})
    assert await stores.keys(path, **{"tags.x": "1"}) == ["b", "a"]
    assert await stores.keys(path, **{"tags.x": "1", "tags.y": "2"}) == ["a"]
    assert await stores.keys(path, **{"tags.x": "2"}) == []
    assert await stores.keys(path, **{"tags.q%22$.": "v+w"}) == ["d"]
    assert await stores.keys(path, **{"tags.x": "1", "limit": 1}) == ["b"]
    twice = await stores("GET", f"{path}/items:keys?tags.x=1&tags.x=2")
    assert (twice.status, twice.error["param"]) == (400, "tags.x")


# Users


async def test_users_are_apart_where_the_store_says_so(stores: Stores) -> None:
    """Each has items of his own under the same keys; elsewhere all share them."""
    for isolated in (True, False):
        path = await stores.make(f"isolated-{isolated}", user_isolation=isolated)
        one = f"{path}/items/{b64('k')}"
        other = stores.serving("another user")
        await stores("PUT", one, {"value": {"of": "first"}})
        assert (await other("GET", one)).status == (404 if isolated else 200)
        assert (await other("PUT", one, {"value": {"of": "other"}})).status == (201 if isolated else 200)
        assert (await stores("GET", one)).json()["value"] == {"of": "first" if isolated else "other"}
        assert await other.keys(path) == ["k"]
        await other("DELETE", one)
        assert await stores.keys(path) == (["k"] if isolated else [])


async def test_isolated_items_need_a_user(stores: Stores) -> None:
    """Outside of a call the store is there and its items are not; shared ones are."""
    isolated, shared = await stores.make("isolated", user_isolation=True), await stores.make("shared")
    nobody = stores.serving(None)
    assert (await nobody("GET", isolated)).status == 200
    refused = await nobody("PUT", f"{isolated}/items/{b64('k')}", {"value": {}})
    assert (refused.status, refused.error["param"]) == (400, "x-agent-foundry-call-id")
    assert (await nobody("PUT", f"{shared}/items/{b64('k')}", {"value": {}})).status == 201
    forged = await stores("GET", f"{shared}/items/{b64('k')}", x_agent_foundry_call_id="call_e30.forged")
    assert forged.status == 403


async def test_nobody_chooses_whose_items_he_sees(stores: Stores) -> None:
    """`x-ms-user-id` may name the user of the call, or outside of one the session's owner; all else is refused."""
    path = await stores.make(user_isolation=True)
    one = f"{path}/items/{b64('k')}"
    user = stores.platform.user
    assert (await stores("PUT", one, {"value": {}}, x_ms_user_id=user)).status == 201
    nobody = stores.serving(None)
    assert (await nobody("GET", one, x_ms_user_id=user)).status == 200
    for asking, named in ((stores, "another user"), (nobody, "another user"), (stores.serving("another user"), user)):
        refused = await asking("GET", one, x_ms_user_id=named)
        assert (refused.status, refused.error["param"]) == (403, "x-ms-user-id")


# Time


async def test_items_expire(stores: Stores) -> None:
    """From the moment on nobody sees them, and a key is free again."""
    path = await stores.make(item_ttl_seconds=60)
    one = f"{path}/items/{b64('k')}"
    etag = (await stores("PUT", one, {"value": {"n": 1}})).json()["etag"]
    stores.platform.clock.now += 59
    assert (await stores("GET", one)).status == 200
    stores.platform.clock.now += 1
    assert (await stores("GET", one)).status == 404
    assert await stores.keys(path) == []
    assert (await stores("PUT", one, {"value": {}}, if_match=etag)).status == 412
    assert "id" not in (await stores("DELETE", one)).json()
    made = await stores("POST", f"{path}/items", {"key": "k", "value": {"n": 2}})
    assert (made.status, made.json()["created_at"]) == (201, int(stores.platform.clock.now))


async def test_a_write_renews_an_items_life(stores: Stores) -> None:
    """Reading does not; -1 keeps it for ever."""
    path = await stores.make(item_ttl_seconds=60)
    one = f"{path}/items/{b64('k')}"
    await stores("PUT", one, {"value": {}})
    stores.platform.clock.now += 40
    await stores("PUT", one, {"value": {}})
    stores.platform.clock.now += 40
    assert (await stores("GET", one)).status == 200
    stores.platform.clock.now += 40
    assert (await stores("GET", one)).status == 404
    forever = await stores.make("forever", item_ttl_seconds=-1)
    await stores("PUT", f"{forever}/items/{b64('k')}", {"value": {}})
    stores.platform.clock.now += 100 * 365 * DAY
    assert await stores.keys(forever) == ["k"]


# What is refused


def _deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 513}, "name"),
        ({"name": "s", "item_ttl_seconds": 0}, "item_ttl_seconds"),
        ({"name": "s", "user_isolation": 1}, "user_isolation"),
        ({"name": "s", "description": "x" * 1025}, "description"),
        ({"name": "s", "tags": {"a": 1}}, "tags.a"),
    ],
)
async def test_stores_that_cannot_be(stores: Stores, body: Any, param: str) -> None:
    """400 with the field, and nothing is made."""
    refused = await stores("POST", "", body)
    assert (refused.status, refused.error["param"]) == (400, param)
    assert (await stores("GET", "/" + b64("s"))).status == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"value": {}}, "key"),
        ({"key": "x" * 513, "value": {}}, "key"),
        ({"key": "k"}, "value"),
        ({"key": "k", "value": [1]}, "value"),
        ({"key": "k", "value": {"a": "x" * 1024 * 1024}}, "value"),
        ({"key": "k", "value": {}, "tags": {str(n): "" for n in range(17)}}, "tags"),
    ],
)
async def test_items_that_cannot_be(stores: Stores, body: Any, param: str) -> None:
    """400 with the field, by POST and by PUT, and nothing is kept."""
    path = await stores.make()
    refused = await stores("POST", f"{path}/items", body)
    assert (refused.status, refused.error["param"]) == (400, param)
    if param != "key":
        put = await stores("PUT", f"{path}/items/{b64('k')}", body)
        assert (put.status, put.error["param"]) == (400, param)
    assert await stores.keys(path) == []


async def test_values_come_back_as_they_were_or_not_at_all(stores: Stores) -> None:
    """The largest value and the deepest are kept; a number that would lose digits, or one level more, is refused."""
    path = await stores.make()
    one = f"{path}/items/{b64('k')}"
    kept: tuple[Any, ...] = ({"a": "x" * (1024 * 1024 - 8)}, _deep(98), {"n": [2**64 - 1, -(2**63), 1.5]})
    for value in kept:
        assert (await stores("PUT", one, {"value": value})).status in (200, 201)
        assert (await stores("GET", one)).json()["value"] == value
    for value in ('{"n": 18446744073709551616}', '{"n": -99999999999999999999}'):
        raw = f'{{"value": {value}}}'.encode()
        url = f"{PROJECT}/storage/state_stores{one}"
        refused = await stores.call("PUT", url, raw=raw, headers=stores.headers)
        assert (refused.status, refused.error["param"]) == (400, "value")


@pytest.mark.parametrize("segment", ["a", "_____w", "a=b", "a b", b64("x" * 513), b64("a\0")])
async def test_paths_that_name_nothing(stores: Stores, segment: str) -> None:
    """What is no base64url of a possible name is said to be that."""
    path = await stores.make()
    for asked, param in ((f"/{segment}", "name"), (f"{path}/items/{segment}", "key")):
        refused = await stores("GET", asked)
        assert (refused.status, refused.error["param"]) == (400, param), asked


async def test_pages_that_cannot_be(stores: Stores) -> None:
    """Limits and orders as everywhere; one direction at a time."""
    path = await stores.make()
    for query, param in (
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("order=up", "order"),
        ("after=a&before=b", "before"),
    ):
        refused = await stores("GET", f"{path}/items:keys?{query}")
        assert (refused.status, refused.error["param"]) == (400, param)
