"""The official `FoundryStateStore`, unmodified, in a sandbox that calls back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.served import Platform, rest_client

from .packing import code_zip, wait_until_active

pytestmark = pytest.mark.wire

AGENT = Path(__file__).parent / "containers" / "state"
Do = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def do(platform: Platform) -> Iterator[Do]:
    """Has an agent do steps with a store of that name: `(method, arguments)`, as its client has them."""
    name = f"state-{uuid4().hex[:10]}"
    with rest_client(platform) as rest:
        created = rest.post(f"/agents/{name}/versions", **code_zip(AGENT, "invocations"))
        assert created.status_code == 200, created.text
        wait_until_active(rest, name, created.json()["version"])

        def steps(store: str, *told: tuple[str, dict[str, Any]], bare: bool = False, **settings: Any) -> list[Any]:
            asked = {"store": store, "settings": settings, "steps": told, "bare": bare}
            url = f"/agents/{name}/endpoint/protocols/invocations"
            answer = rest.post(url, json=asked, params={"agent_session_id": "s1"})
            assert answer.status_code == 200, answer.text
            done: list[Any] = answer.json()
            return done

        yield steps
        rest.delete(f"/agents/{name}", params={"force": "true"}).raise_for_status()


@pytest.mark.operation("state_stores.create", "state_stores.get", "state_stores.update", "state_stores.delete")
def test_a_store_lives_and_ends(do: Do) -> None:
    """`get_or_create` makes it as it was told to, once; what can change changes; a second delete finds nothing."""
    told = {"user_isolation": True, "item_ttl_seconds": 60, "description": "d", "tags": {"a": "b"}}
    (made,) = do("threads/1", ("get", {}), **told)
    assert made["id"]
    assert {name: made[name] for name in told} == told
    assert (made["object"], made["name"], type(made["created_at"])) == ("state_store", "threads/1", int)
    same, changed, cleared, deleted, again, gone = do(
        "threads/1",
        ("get", {}),
        ("update", {"description": "e", "tags": {"c": "d"}}),
        ("update", {"description": None, "tags": None}),
        ("delete", {}),
        ("delete", {}),
        ("get", {}),
        item_ttl_seconds=-1,
    )
    assert same == made
    assert (changed["description"], changed["tags"], changed["id"]) == ("e", {"c": "d"}, made["id"])
    assert (cleared["description"], cleared["tags"] or {}) == (None, {})
    assert (deleted["id"], deleted["deleted"]) == (made["id"], True)
    assert (again.get("id"), again["deleted"]) == (None, True)
    assert (gone["error"], gone["status_code"]) == ("FoundryStorageNotFoundError", 404)


@pytest.mark.operation("state_stores.create_item", "state_stores.put_item")
@pytest.mark.operation("state_stores.get_item", "state_stores.delete_item")
def test_an_item_is_written_with_care(do: Do) -> None:
    """A create happens once, an etag lets one write through and the next error says the etag that would."""
    value = {"text": "ü", "list": [1, 2.5, None, {"deep": True}], "big": 2**63}
    made, twice, found, replaced, stale, retried, read, deleted, again, nothing, unborn = do(
        "items/1",
        ("create_item", {"key": "turn/1", "value": value, "tags": {"kind": "turn"}}),
        ("create_item", {"key": "turn/1", "value": {}}),
        ("get_item", {"key": "turn/1"}),
        ("set_item", {"key": "turn/1", "value": {"n": 2}, "if_match": "$0"}),
        ("set_item", {"key": "turn/1", "value": {"n": 3}, "if_match": "$0"}),
        ("set_item", {"key": "turn/1", "value": {"n": 4}, "if_match": "$4"}),
        ("get_item", {"key": "turn/1"}),
        ("delete_item", {"key": "turn/1", "if_match": "$5"}),
        ("delete_item", {"key": "turn/1"}),
        ("get_item", {"key": "turn/1"}),
        ("set_item", {"key": "turn/1", "value": {}, "require_exists": True}),
        user_isolation=True,
    )
    assert (twice["error"], twice["status_code"]) == ("FoundryStorageConflictError", 409)
    assert found == {**made, "value": value, "tags": {"kind": "turn"}}
    assert (replaced["id"], replaced["created_at"]) == (made["id"], made["created_at"])
    assert (stale["error"], stale["current_etag"]) == ("FoundryStoragePreconditionError", replaced["etag"])
    assert (read["value"], read["etag"], read["tags"]) == ({"n": 4}, retried["etag"], None)
    assert (deleted["id"], deleted["key"]) == (made["id"], "turn/1")
    assert (again.get("id"), again["deleted"], nothing) == (None, True, None)
    assert (unborn["error"], unborn["current_etag"]) == ("FoundryStoragePreconditionError", None)


@pytest.mark.operation("state_stores.list_keys")
def test_keys_are_listed(do: Do) -> None:
    """In either order, page by page, and by tags."""
    writes = [("set_item", {"key": key, "value": {}, "tags": {"of": key}}) for key in "abcde"]
    *_, newest, oldest, tagged = do(
        "keys/1",
        *writes,
        ("list_keys", {"limit": 2}),
        ("list_keys", {"order": "asc"}),
        ("list_keys", {"tags": {"of": "c"}}),
    )
    assert [key["key"] for key in newest["keys"]] == ["e", "d"]
    assert newest["has_more"]
    assert [key["key"] for key in oldest["keys"]] == list("abcde")
    assert (oldest["has_more"], oldest["keys"][0]["tags"]) == (False, {"of": "a"})
    assert [key["key"] for key in tagged["keys"]] == ["c"]
    rest, before = do(
        "keys/1", ("list_keys", {"after": newest["last_id"]}), ("list_keys", {"before": newest["last_id"]})
    )
    assert [key["key"] for key in rest["keys"]] == ["c", "b", "a"]
    assert [key["key"] for key in before["keys"]] == ["e"]


def test_what_cannot_be_names_the_field(do: Do) -> None:
    """The client's exception carries the field; a store that was never made is not there."""
    long, large, tags, nobody = do(
        "limits/1",
        ("set_item", {"key": "k" * 513, "value": {}}),
        ("set_item", {"key": "k", "value": {"a": "x" * 1024 * 1024}}),
        ("set_item", {"key": "k", "value": {}, "tags": {str(n): "" for n in range(17)}}),
        ("get_item", {"key": "k"}),
    )
    for refused, param in ((long, "key"), (large, "value"), (tags, "tags")):
        assert (refused["error"], refused["param"]) == ("FoundryStorageBadRequestError", param)
    assert nobody is None
    (missing,) = do("limits/never made", ("set_item", {"key": "k", "value": {}}), bare=True)
    assert missing["error"] == "FoundryStorageNotFoundError"
    (delegated,) = do("limits/1", ("get_item", {"key": "k"}), user_id="somebody else")
    assert (delegated["status_code"], delegated["error"]) == (403, "FoundryStorageApiError")
