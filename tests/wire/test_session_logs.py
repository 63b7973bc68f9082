"""Log streams, with the SDK of two generations and in the shapes of azd, on an agent from code and on an image.

The SDK's method yields bytes: whole frames of what was and of what is written while it reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.served import Platform, built_image, require_engine, rest_client

from .conftest import MODES, RunClient
from .deployed import AGENTS, endpoint
from .packing import code_zip, wait_until_active

pytestmark = pytest.mark.wire

KINDS = ("code", pytest.param("image", marks=pytest.mark.engine))


def body_of_image() -> dict[str, Any]:
    require_engine()
    definition = {
        "kind": "hosted",
        "cpu": "1",
        "memory": "2Gi",
        "container_configuration": {"image": built_image("talking", AGENTS / "talking")},
        "protocol_versions": [{"protocol": "invocations", "version": "2.0.0"}],
    }
    return {"json": {"definition": definition}}


@pytest.fixture(scope="module")
def talking(platform: Platform) -> Iterator[Callable[[str], str]]:
    """The name of an agent of that kind that writes what it is told."""
    made: dict[str, str] = {}
    with rest_client(platform) as rest:

        def deployed(kind: str) -> str:
            if kind not in made:
                name = f"talking-{uuid4().hex[:10]}"
                body = (
                    body_of_image() if kind == "image" else code_zip(AGENTS / "talking", "invocations", requirements="")
                )
                created = rest.post(f"/agents/{name}/versions", **body)
                assert created.status_code in (200, 201), created.text
                wait_until_active(rest, name, created.json()["version"])
                made[kind] = name
            return made[kind]

        yield deployed
        for name in made.values():
            rest.delete(f"/agents/{name}", params={"force": "true"}).raise_for_status()


def tell(rest: httpx.Client, name: str, text: str, *, session: str | None = None, stream: str = "stdout") -> str:
    """Lets the agent write a line; the session that did."""
    params = {} if session is None else {"agent_session_id": session}
    answer = rest.post(endpoint(name, "invocations"), json={"text": text, "stream": stream}, params=params)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-agent-session-id"])


def frames(text: str) -> list[dict[str, Any]]:
    return [json.loads(frame.removeprefix("event: log\ndata: ")) for frame in text.split("\n\n") if frame]


@pytest.mark.operation("sessions.logs")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("generation", ["2.1.0", "newest"])
@pytest.mark.parametrize("mode", MODES)
def test_the_sdk_follows(
    rest: httpx.Client, talking: Callable[[str], str], run_client: RunClient, generation: str, mode: str, kind: str
) -> None:
    """Bytes of frames: what was written before, then what is written while it reads; then it leaves."""
    name = talking(kind)
    session = tell(rest, name, "before")
    rest.post(f"/agents/{name}/endpoint/sessions/{session}:stop").raise_for_status()
    tell(rest, name, "complaint", session=session, stream="stderr")
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(run_client, generation, mode, "logs", name, "1", session, "meanwhile")
        while not following.done():
            try:
                following.result(timeout=1)
            except NotYet:
                # Only once it reads can a line be one that came meanwhile: so it is written again and again.
                tell(rest, name, "meanwhile", session=session)
        found = following.result()
    assert found["ways"] == ["sdk"]
    rows = [json.loads(data) for data in found["frames"]]
    assert rows[0]["message"] == "Successfully connected to container"
    told = [(row["stream"], row["message"]) for row in rows[1:]]
    assert told[0][0] == "status"
    lines = [line for line in told if line[0] != "status"]
    wrong = "stdout" if kind == "code" else "stderr"  # a process has one file for both
    assert lines[:4] == [("stdout", "talking"), ("stdout", "before"), ("stdout", "talking"), (wrong, "complaint")]
    assert lines[-1] == ("stdout", "meanwhile")
    assert ("status", "Sandbox ended: session stopped") in told


@pytest.mark.operation("sessions.logs_of_session")
@pytest.mark.parametrize("kind", KINDS)
def test_azd_reads_and_follows(rest: httpx.Client, talking: Callable[[str], str], kind: str) -> None:
    """`azd ai agent monitor`: no version in the path, `tail`, `follow`, and both kinds."""
    name = talking(kind)
    session = tell(rest, name, "one")
    rest.post(f"/agents/{name}/endpoint/sessions/{session}:stop").raise_for_status()
    path = f"/agents/{name}/sessions/{session}:logstream"
    read = rest.get(path, params={"kind": "console", "tail": "2", "follow": "false"})
    assert read.headers["content-type"] == "text/event-stream"
    assert [row["message"] for row in frames(read.text)] == [
        "Successfully connected to container",
        "one",
        "Sandbox ended: session stopped",
    ]
    states = frames(rest.get(path, params={"kind": "system", "follow": "false"}).text)
    assert [row["session_state"] for row in states] == ["Starting", "Running", "Stopped"]
    assert {row["session_id"] for row in states} == {session}
    with rest.stream("GET", path, params={"follow": "true"}) as following:
        got = ""
        for piece in following.iter_text():
            got += piece
            if "session stopped" in got and "two" not in got:
                tell(rest, name, "two", session=session)
            if '"two"' in got:
                break
    assert [row["message"] for row in frames(got)][-1] == "two"
    assert rest.get(f"/agents/{name}/endpoint/sessions/{session}").json()["status"] == "active"


@pytest.mark.operation("agents.logs_of_version")
def test_the_retired_stream(rest: httpx.Client, talking: Callable[[str], str]) -> None:
    """Lines of text, of all sandboxes of a version."""
    name = talking("code")
    tell(rest, name, "plainly")
    path = f"/agents/{name}/versions/1/containers/default:logstream"
    with rest.stream("GET", path, params={"tail": "20"}) as following:
        assert following.headers["content-type"].startswith("text/plain")
        for line in following.iter_lines():
            if line.endswith("stdout plainly"):
                return
    pytest.fail("the line did not come")
