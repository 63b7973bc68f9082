"""Ids have the shapes that the containers' adapters insist on."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from cupola import ids


def test_response_ids_have_the_adapters_shape() -> None:
    """A prefix, a partition key of 16 hex and two zeros, and 32 alphanumerics."""
    made = ids.new_response_id()
    assert re.fullmatch(r"caresp_[0-9a-f]{16}00[A-Za-z0-9]{32}", made)
    assert ids.is_response_id(made)
    assert ids.new_response_id() != made


def test_a_chain_stays_in_one_partition() -> None:
    """A response takes the key of what it continues: a response, a conversation, an item."""
    conversation = ids.new_conversation_id()
    first = ids.new_response_id(near=conversation)
    second = ids.new_response_id(near=first)
    item = ids.new_item_id("msg", near=second)
    keys = {made.partition("_")[2][:18] for made in (conversation, first, second, item)}
    assert len(keys) == 1
    assert item.startswith("msg_")


def test_a_legacy_id_gives_its_key() -> None:
    """In ids of 48 characters the key stands at the end."""
    legacy = "resp_" + "b" * 32 + "0123456789abcdef"
    assert ids.is_response_id(legacy)
    assert ids.new_response_id(near=legacy).startswith("caresp_0123456789abcdef00")


@pytest.mark.parametrize("value", ["", "caresp_", "caresp_" + "a" * 49, "msg_" + "a" * 50, "caresp_" + "-" * 50])
def test_what_is_no_response_id(value: str) -> None:
    """Other lengths, prefixes and characters are refused."""
    assert not ids.is_response_id(value)


def test_an_odd_neighbour_gets_a_new_partition() -> None:
    """An id that is not one of ours still leads to a well-formed one."""
    assert ids.is_response_id(ids.new_response_id(near="thread-7"))


def test_session_ids_are_63_hex_characters() -> None:
    """As the container runtime itself would make them."""
    assert re.fullmatch(r"[0-9a-f]{63}", ids.new_session_id())
    assert re.fullmatch(r"[0-9a-f]{32}", ids.new_guid_hex())


def test_no_two_are_the_same() -> None:
    """Whoever makes them: several threads, and a child that was forked in the middle of it."""
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: ids.new_request_id(), range(2000)))
    readable, writable = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writable, " ".join(ids.new_request_id() for _ in range(100)).encode())
        os._exit(0)
    os.close(writable)
    os.waitpid(child, 0)
    with os.fdopen(readable) as told:
        made += told.read().split()
    made += [ids.new_request_id() for _ in range(300)]
    assert len(made) == len(set(made)) == 2400
