"""Running a recorded session again, against a platform of a few lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cupola.bundles import read_bundle
from cupola.client import Answer
from cupola.errors import BadRequest, CupolaError, NotFound
from cupola.replay import Replay, all_as_before
from tests.support.bundles import IMAGE_DEFINITION, recorded, write


@dataclass
class Platform:
    """Answers like one: `says` in each response, `statuses` of them one after the other, `versions` as they come."""

    says: str = "hello"
    statuses: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=lambda: ["active"])
    missing: str | None = None
    asked: list[tuple[str, str, Any]] = field(default_factory=list)

    def ask(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Answer:
        what = path.removesuffix("?api-version=v1").removeprefix("/api/projects/demo/agents/greeter/")
        self.asked.append((method, what, body))
        if what == "endpoint/sessions" and self.missing is not None:
            return _answer(404, {"error": {"param": self.missing, "message": "not here"}})
        if what == "endpoint/sessions":
            return _answer(201, {"agent_session_id": "new"})
        if what.startswith("versions"):
            status = self.versions.pop(0) if self.versions else "active"
            return _answer(200, {"version": "7", "status": status, "error": {"message": "no such image"}})
        if "/conversations" in what:
            return _answer(200, {"id": "conv_new"})
        return self._respond(method)

    def _respond(self, method: str) -> Answer:
        status = self.statuses.pop(0) if self.statuses else "completed"
        if status.isdecimal():
            return _answer(int(status), {"error": {"message": "It did not start."}})
        number = sum(one[0] == "POST" and one[1].endswith("/responses") for one in self.asked)
        content = [{"type": "output_text", "text": self.says}]
        output = [{"type": "message", "content": content}]
        return _answer(200, {"id": f"new_{number}", "status": status, "output": output})

    def bodies(self, end: str) -> list[Any]:
        return [body for method, path, body in self.asked if method == "POST" and path.endswith(end)]


def _answer(status: int, body: Any) -> Answer:
    latency = {"x-ms-debug-latency-response-begin-ms": "12", "x-ms-debug-latency-session-start-type": "cold"}
    return Answer(status, latency, json.dumps(body).encode())


def replay(platform: Platform, path: Path) -> Replay:
    bundle = read_bundle(path)
    return Replay(platform, bundle, "demo", bundle.agent, bundle.version, sleep=lambda _: None)


def test_the_same_inputs_go_to_a_new_session(tmp_path: Path) -> None:
    """In order, chained and in conversations as they were, under the ids of here."""
    turns = [
        recorded(1, "one", "hello", conversation="conv_1", metadata={"k": "v"}),
        recorded(2, "two", "hello", previous_response_id="old_1"),
        recorded(3, "three", "hello", previous_response_id="old_unknown"),
    ]
    system = {"id": "sys", "type": "message", "role": "system", "content": "Be kind."}
    path = write(tmp_path / "b.zip", turns, conversations=[{"id": "conv_1", "items": [system]}])
    platform = Platform()
    again = replay(platform, path)
    again.begin()
    outcomes = list(again.run())
    assert platform.bodies("endpoint/sessions") == [
        {"version_indicator": {"type": "version_ref", "agent_version": "3"}}
    ]
    assert platform.bodies("/conversations") == [{"items": [{k: v for k, v in system.items() if k != "id"}]}]
    assert platform.bodies("/responses") == [
        {"input": "one", "agent_session_id": "new", "conversation": "conv_new", "metadata": {"k": "v"}},
        {"input": "two", "agent_session_id": "new", "previous_response_id": "new_1"},
        {"input": "three", "agent_session_id": "new"},
    ]
    assert all_as_before(outcomes)
    assert [outcome.differences for outcome in outcomes] == [[], [], []]
    assert (outcomes[0].milliseconds, outcomes[0].start_type) == (12.0, "cold")
    assert outcomes[2].note == "it continued a response that is not in the bundle, and begins anew here"


def test_long_conversations_are_made_in_parts(tmp_path: Path) -> None:
    """A request takes 20 items."""
    items = [{"id": f"i{number}", "type": "message"} for number in range(45)]
    turn = recorded(1, "x", "y", conversation="conv_1")
    platform = Platform()
    again = replay(platform, write(tmp_path / "b.zip", [turn], conversations=[{"id": "conv_1", "items": items}]))
    list(again.run())
    assert len(platform.bodies("/conversations")[0]["items"]) == 20
    assert [len(body["items"]) for body in platform.bodies("/items")] == [20, 5]


def test_what_is_different_is_told(tmp_path: Path) -> None:
    """Status and text each for themselves; a refusal is a status as well."""
    turns = [recorded(1, "x", "hello\nworld"), recorded(2, "x", "", status="failed"), recorded(3, "x", "hello")]
    again = replay(Platform("hello\nthere", ["completed", "failed", "424"]), write(tmp_path / "b.zip", turns))
    again.begin()
    first, second, third = again.run()
    assert (first.same_status, first.differences) == (True, ["-world", "+there"])
    assert (second.same_status, third.same_status) == (True, False)
    assert (third.status, third.note) == ("HTTP 424", "It did not start.")
    assert not all_as_before([first, second, third])


def test_background_responses_are_followed_to_their_end(tmp_path: Path) -> None:
    """They are asked for again until they have ended."""
    platform = Platform(statuses=["in_progress", "in_progress", "completed"])
    again = replay(platform, write(tmp_path / "b.zip", [recorded(1, "x", "hello", background=True)]))
    again.begin()
    (outcome,) = again.run()
    assert platform.bodies("/responses")[0]["background"] is True
    assert outcome.status == "completed"
    assert [method for method, path, _ in platform.asked if path.endswith("responses/new_1")] == ["GET", "GET"]


@pytest.mark.parametrize(
    ("missing", "definition", "sentence"),
    [
        ("agent_name", IMAGE_DEFINITION, r"'greeter' does not exist.*registry\.example/greeter:1.*--deploy.*--agent"),
        ("version", IMAGE_DEFINITION, r"has no version '3'.*--deploy.*--version"),
        ("agent_name", {"code_configuration": {}}, r"its code is not in the bundle.*create_version_from_code"),
    ],
)
def test_what_is_not_here_can_be_got(
    tmp_path: Path, missing: str, definition: Mapping[str, Any], sentence: str
) -> None:
    """One sentence says how."""
    path = write(tmp_path / "b.zip", [recorded(1, "x", "y")], definition=definition)
    with pytest.raises(NotFound, match=sentence):
        replay(Platform(missing=missing), path).begin()


def test_the_recorded_version_is_made_here(tmp_path: Path) -> None:
    """With the values that were masked; the session begins on the version that came of it."""
    platform = Platform(versions=["creating", "creating", "active"])
    again = replay(platform, write(tmp_path / "b.zip", [recorded(1, "x", "y")]))
    with pytest.raises(BadRequest, match=r"no values of API_KEY.*--env"):
        again.deploy({})
    again.deploy({"API_KEY": "k"})
    again.begin()
    (made,) = platform.bodies("versions")
    assert made["definition"]["environment_variables"] == {"LOG_LEVEL": "info", "API_KEY": "k"}
    assert platform.bodies("endpoint/sessions")[0]["version_indicator"]["agent_version"] == "7"


def test_a_version_that_does_not_become_active_ends_it(tmp_path: Path) -> None:
    """With its reason; code cannot be made at all."""
    path = write(tmp_path / "b.zip", [recorded(1, "x", "y")])
    with pytest.raises(CupolaError, match=r"greeter:7 did not become active: no such image"):
        replay(Platform(versions=["creating", "failed"]), path).deploy({"API_KEY": "k"})
    path = write(tmp_path / "c.zip", [recorded(1, "x", "y")], definition={"code_configuration": {}})
    with pytest.raises(BadRequest, match="ran code, which is not in the bundle"):
        replay(Platform(), path).deploy({})
