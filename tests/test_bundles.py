"""Reading debug bundles."""

from __future__ import annotations

from pathlib import Path

import pytest

from cupola.bundles import read_bundle, timing_of
from cupola.errors import BadRequest
from cupola.timings import SessionStart, Timing
from tests.support.bundles import recorded, write


def test_turns_are_as_a_client_sends_them(tmp_path: Path) -> None:
    """Without the ids of this platform; a message of one text is that text, anything else stays a list."""
    picture = recorded(2, "look", "I see")
    picture["input"].append({"type": "message", "role": "user", "id": "x", "content": []})
    made = write(tmp_path / "b.zip", [recorded(1, "hi", "hello", temperature=0.5), picture], protocols=["invocations"])
    bundle = read_bundle(made)
    first, second = bundle.turns
    assert (first.input, first.text, first.status, first.milliseconds) == ("hi", "hello", "completed", 10.0)
    assert first.fields == {"temperature": 0.5}
    assert [sorted(item) for item in second.input if isinstance(item, dict)] == [["content", "role", "type"]] * 2
    assert (bundle.agent, bundle.version, bundle.session, bundle.others) == ("greeter", "3", "s1", {"invocations": 1})


def test_conversations_keep_what_no_turn_put_there(tmp_path: Path) -> None:
    """The rest comes anew with the turns."""
    items = [{"id": "sys", "type": "message", "role": "system"}, {"id": "in_1", "type": "message"}, {"id": "out_1"}]
    turn = recorded(1, "hi", "hello", conversation="conv_1")
    bundle = read_bundle(write(tmp_path / "b.zip", [turn], conversations=[{"id": "conv_1", "items": items}]))
    assert bundle.conversations == {"conv_1": [{"type": "message", "role": "system"}]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"no zip", "is no debug bundle"), (None, "There is no file"), ("later", "of format 2"), ("other", "is no debug")],
)
def test_what_cannot_be_read_gets_a_sentence(tmp_path: Path, content: object, sentence: str) -> None:
    """It says what to do."""
    path = tmp_path / "b.zip"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "later":
        write(path, [], format_version=2)
    elif content == "other":
        write(path, [], format="something")
    with pytest.raises(BadRequest, match=sentence):
        read_bundle(path)


def timing(began_at: float, seconds: float, protocol: str = "responses") -> Timing:
    parts = (0.0, 0.0, 0.0, 1.0, 1.0)
    return Timing("p", "a", "1", "s", "r", protocol, SessionStart.WARM, 200, began_at, *parts, seconds * 1000)


def test_a_response_has_the_timing_of_the_request_that_made_it() -> None:
    """The last that had begun, if it had not ended."""
    first, second, other = timing(10, 5), timing(20, 5), timing(21, 5, "invocations")
    made = [first, second, other]
    assert timing_of(14, made) == first
    assert timing_of(22, made) == second
    assert timing_of(40, made) is None
