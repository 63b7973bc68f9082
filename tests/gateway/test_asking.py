"""What a create request may ask."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupola.errors import BadRequest
from cupola.gateway.asking import input_items_of, read_ask

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "input",
        "agent_session_id",
        "conversation",
        "previous_response_id",
        "stream",
        "store",
        "background",
        "metadata",
        "model",
        "stream_options",
        "agent_reference",
        "agent",
    ]
)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"stream_options": {}}, "invalid_mode", "stream"),
        ({"background": True, "store": False}, "unsupported_parameter", "background"),
        ({"conversation": "c", "previous_response_id": "p"}, "mutually_exclusive_parameters", "previous_response_id"),
        ({"metadata": []}, "invalid_request", "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "invalid_request", "metadata"),
        ({"metadata": {"k" * 65: ""}}, "invalid_request", "metadata"),
        ({"metadata": {"k": "v" * 513}}, "invalid_request", "metadata"),
        ({"metadata": {"k": 1}}, "invalid_request", "metadata"),
        ({"input": 5}, "invalid_request", "input"),
        ({"input": {"role": "user"}}, "invalid_request", "input"),
        ({"input": [{"role": "user"}, "x"]}, "invalid_request", "input[1]"),
        ({"model": 5}, "bad_request", "model"),
        ({"stream": "true"}, "bad_request", "stream"),
        ({"conversation": []}, "bad_request", "conversation"),
    ],
)
def test_faults_have_the_adapters_codes(body: dict[str, Any], code: str, param: str) -> None:
    """And name the field."""
    with pytest.raises(BadRequest) as refused:
        read_ask(body, "a")
    assert (refused.value.code, refused.value.param) == (code, param)


def test_what_is_at_the_limits_is_taken() -> None:
    """16 keys of 64 characters with 512 each; both forms of a conversation; empty input."""
    metadata = {f"{n:064}": "v" * 512 for n in range(16)}
    ask = read_ask({"metadata": metadata, "conversation": {"id": "c"}, "stream_options": {}, "stream": True}, "a")
    assert ask.conversation == "c"
    assert (
        read_ask({"conversation": "c", "stream_options": None, "metadata": None, "input": []}, "a").conversation == "c"
    )


@given(body=st.dictionaries(FIELDS, JSON, max_size=6))
def test_odd_bodies_are_read_or_refused(body: dict[str, Any]) -> None:
    """Nothing else happens, whatever stands in the fields."""
    try:
        ask = read_ask(body, "a")
    except BadRequest:
        return
    items = input_items_of(ask.body.get("input"), "caresp_x")
    assert all(isinstance(item["id"], str) and item["id"] for item in items)


def test_items_get_ids_of_their_kind() -> None:
    """In the partition of their response."""
    near = "caresp_" + "a" * 18 + "b" * 32
    kinds = ["message", "function_call_output", "reasoning", "something_new"]
    ids = [str(item["id"]) for item in input_items_of([{"type": kind} for kind in kinds], near)]
    assert [one.split("_")[0] for one in ids] == ["msg", "fco", "rs", "itm"]
    assert all(one.split("_")[1].startswith("a" * 18) for one in ids)
