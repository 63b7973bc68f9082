"""Merge patches."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupola.web.patch import merge_patch


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": "foo"}, "bar", "bar"),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patches_as_the_rfc_has_them(target: object, patch: object, merged: object) -> None:
    """RFC 7396, appendix A."""
    assert merge_patch(target, patch) == merged


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(max_size=2), JSON, max_size=4)


def holds_null(value: object) -> bool:
    return value is None or (isinstance(value, dict) and any(map(holds_null, value.values())))


@given(OBJECTS, OBJECTS)
def test_a_patch_twice_is_a_patch_once(target: dict[str, object], patch: dict[str, object]) -> None:
    """Clients that try again do no harm; the target stays as it was."""
    before = copy.deepcopy(target)
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    assert target == before


@given(OBJECTS, OBJECTS)
def test_what_is_omitted_stays_and_null_removes(target: dict[str, object], patch: dict[str, object]) -> None:
    """Member by member; nothing that the patch brings is null afterwards."""
    merged = merge_patch(target, patch)
    for name, value in target.items():
        if name not in patch:
            assert merged[name] == value
    for name, value in patch.items():
        assert (name in merged) is (value is not None)
        assert value is None or not holds_null(merge_patch({}, patch)[name])


@given(OBJECTS)
def test_nothing_is_changed_by_nothing(target: dict[str, object]) -> None:
    """An empty patch of an object leaves it as it is."""
    assert merge_patch(target, {}) == target
