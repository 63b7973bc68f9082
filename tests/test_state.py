"""The rules of state stores: what a name, a tag, a time-to-live and an If-Match may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cupola import state
from cupola.errors import BadRequest, PreconditionFailed
from cupola.state import StateItemRef, StateStore, check_match

STORE = StateStore("demo", "a1", "notes", "ss_1", created_at=1.0, updated_at=1.0, description="old", tags={"a": "b"})
ITEM = StateItemRef(key="k", id="it_1", etag='"e1"', created_at=1.0, updated_at=1.0)


def _read_key(value: object) -> str:
    return state.read_name(value, "key")


def test_an_item_lives_as_long_as_its_store_says() -> None:
    """The time-to-live counts from the write; -1 is for ever."""
    assert STORE.expiry(100.0) == 100.0 + 2_592_000
    forever = StateStore("demo", "a1", "notes", "ss_1", 1.0, 1.0, item_ttl_seconds=-1)
    assert forever.expiry(100.0) is None


def test_only_description_and_tags_change() -> None:
    """Null clears, what is not named stays, and what is fixed says so."""
    cleared = STORE.to_described({"description": None, "tags": {}}, 5.0)
    assert (cleared.description, cleared.tags, cleared.updated_at, cleared.created_at) == (None, None, 5.0, 1.0)
    kept = STORE.to_described({"tags": {"c": "d"}}, 5.0)
    assert (kept.description, kept.tags) == ("old", {"c": "d"})
    for fixed in ("name", "user_isolation", "item_ttl_seconds"):
        with pytest.raises(BadRequest, match="fixed when a state store is made") as refused:
            STORE.to_described({fixed: "x"}, 5.0)
        assert refused.value.param == fixed


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (_read_key, "x" * 512),
        (_read_key, "ü/ ☃"),
        (state.read_ttl, 1),
        (state.read_ttl, -1),
        (state.read_ttl, 2**31 - 1),
        (state.read_description, "x" * 1024),
        (state.read_description, None),
        (state.read_tags, {str(n): "" for n in range(16)}),
        (state.read_tags, {"k" * 64: "v" * 256}),
        (state.read_isolation, True),
    ],
)
def test_what_is_allowed(read: Callable[[Any], Any], value: Any) -> None:
    """The limits themselves are within the limits."""
    assert read(value) == value


def test_what_is_left_out() -> None:
    """Thirty days, shared by all users, without tags."""
    assert (state.read_ttl(None), state.read_isolation(None), state.read_tags({})) == (2_592_000, False, None)


@pytest.mark.parametrize(
    ("read", "value", "param"),
    [
        (_read_key, "", "key"),
        (_read_key, "x" * 513, "key"),
        (_read_key, "a\0b", "key"),
        (_read_key, None, "key"),
        (_read_key, 5, "key"),
        (state.read_ttl, 0, "item_ttl_seconds"),
        (state.read_ttl, -2, "item_ttl_seconds"),
        (state.read_ttl, 2**31, "item_ttl_seconds"),
        (state.read_ttl, 1.5, "item_ttl_seconds"),
        (state.read_ttl, True, "item_ttl_seconds"),
        (state.read_isolation, "yes", "user_isolation"),
        (state.read_description, "x" * 1025, "description"),
        (state.read_description, 5, "description"),
        (state.read_tags, [], "tags"),
        (state.read_tags, {str(n): "" for n in range(17)}, "tags"),
        (state.read_tags, {"k" * 65: "v"}, "tags"),
        (state.read_tags, {"": "v"}, "tags"),
        (state.read_tags, {"k": "v" * 257}, "tags.k"),
        (state.read_tags, {"k": None}, "tags.k"),
    ],
)
def test_what_is_not(read: Callable[[Any], Any], value: Any, param: str) -> None:
    """One sentence that names the field."""
    with pytest.raises(BadRequest) as refused:
        read(value)
    assert refused.value.param == param
    assert refused.value.message.count(".") <= 2


@pytest.mark.parametrize("wanted", [None, "*", " * ", '"e1"', "e1", '"x", "e1"', '"x","e1"'])
def test_if_match_lets_through(wanted: str | None) -> None:
    """No condition, any item, this etag, one of several; without quotation marks too."""
    check_match(wanted, "k", ITEM)


@pytest.mark.parametrize("wanted", ['"x"', "x", 'W/"e1"', "", '"x", "y"'])
def test_if_match_holds_back(wanted: str) -> None:
    """Another etag, a weak one, none: the error carries the one that would do."""
    with pytest.raises(PreconditionFailed) as refused:
        check_match(wanted, "k", ITEM)
    assert refused.value.etag == '"e1"'


@pytest.mark.parametrize("wanted", ["*", '"e1"'])
def test_if_match_wants_an_item(wanted: str) -> None:
    """What is not there matches nothing, and has no etag."""
    with pytest.raises(PreconditionFailed, match="does not exist") as refused:
        check_match(wanted, "k", None)
    assert refused.value.etag is None
