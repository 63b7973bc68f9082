"""Session files by the official SDK and as azd has them, for agents that run as child processes and in containers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.served import Platform, built_image, require_engine, rest_client

from .conftest import MODES, RunClient
from .packing import code_zip, wait_until_active

pytestmark = pytest.mark.wire

AGENT = Path(__file__).parent / "agents" / "files"
Tell = Callable[..., Any]


@pytest.fixture(scope="module", params=["code", pytest.param("image", marks=pytest.mark.engine)])
def agent(platform: Platform, request: pytest.FixtureRequest) -> Iterator[str]:
    """The agent of `agents/files`, from a zip and as an image whose user owns nothing."""
    name = f"files-{request.param}-{uuid4().hex[:8]}"
    with rest_client(platform) as rest:
        if request.param == "code":
            created = rest.post(f"/agents/{name}/versions", **code_zip(AGENT, "invocations"))
        else:
            require_engine()
            definition = {
                "kind": "hosted",
                "cpu": "0.5",
                "memory": "1Gi",
                "container_configuration": {"image": built_image("files", AGENT)},
                "protocol_versions": [{"protocol": "invocations", "version": "2.0.0"}],
            }
            created = rest.post(f"/agents/{name}/versions", json={"definition": definition})
        assert created.status_code == 200, created.text
        wait_until_active(rest, name, "1")
        yield name
        rest.delete(f"/agents/{name}", params={"force": "true"}).raise_for_status()


@pytest.fixture
def session() -> str:
    return f"s-{uuid4().hex[:10]}"


@pytest.fixture
def files(agent: str, session: str) -> str:
    return f"/agents/{agent}/endpoint/sessions/{session}/files"


@pytest.fixture
def tell(rest: httpx.Client, agent: str, session: str) -> Tell:
    """Has the agent do a thing in the session; what came of it."""

    def told(do: str, path: str = ".", **more: Any) -> Any:
        url = f"/agents/{agent}/endpoint/protocols/invocations"
        answer = rest.post(url, json={"do": do, "path": path, **more}, params={"agent_session_id": session})
        assert answer.status_code == 200, answer.text
        assert "failed" not in answer.json(), answer.json()
        return answer.json()["done"]

    return told


def put(rest: httpx.Client, files: str, path: str, content: bytes) -> None:
    answer = rest.put(f"{files}/content", params={"path": path}, content=content)
    assert answer.status_code == 201, answer.text


@pytest.mark.operation("sessions.files.upload", "sessions.files.download")
@pytest.mark.operation("sessions.files.list", "sessions.files.delete")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("generation", ["2.1.0", "2.2.0", "2.3.0", "newest"])
def test_the_sdk_works_with_the_agents_files(
    run_client: RunClient, agent: str, session: str, tell: Tell, generation: str, mode: str
) -> None:
    """Uploaded before the first request, found by the agent, and the other way round; up to 50 MB."""
    found = run_client(generation, mode, "files", agent, session)
    assert found["ways"] == ["sdk"]
    assert found["uploaded"] == {"path": "data/in.csv", "bytes_written": 8}
    assert found["downloaded"] == "a,b\n1,2\n"
    assert found["big"] is True
    home = {entry["name"]: (entry["is_directory"], entry["size"]) for entry in found["home"]}
    home.pop("shipped.txt", None)
    assert home == {"big.bin": (False, 50 * 1024 * 1024), "data": (True, 0), "many": (True, 0)}
    assert found["pages"] == ["0", "1", "2"]
    for title, status, word in (
        ("too large", 413, "50 MB"),
        ("missing", 404, "'none'"),
        ("outside", 400, "'..'"),
        ("not empty", 409, "recursive"),
    ):
        assert found[title]["status"] == status, found[title]
        assert word in found[title]["message"]
    assert {"many", "huge.bin"}.isdisjoint(found["left"])
    assert tell("read", "data/in.csv") == "a,b\n1,2\n"


@pytest.mark.operation("sessions.files.upload", "sessions.files.download")
def test_the_agent_and_its_user_share_the_home(rest: httpx.Client, files: str, tell: Tell, agent: str) -> None:
    """What one has written the other reads, changes and removes, while it runs, stopped, and when it runs again."""
    tell("write", "out/result.txt", text="from the agent")
    content = rest.get(f"{files}/content", params={"path": "out/result.txt"})
    assert (content.status_code, content.text) == (200, "from the agent")
    put(rest, files, "out/result.txt", b"from outside")
    put(rest, files, "in/deep/data.txt", b"data")
    put(rest, files, "top.txt", b"top")
    tell("append", "out/result.txt", text=", and on")
    tell("write", "in/deep/more.txt", text="more")
    tell("remove", "top.txt")
    tell("remove", "in")
    rest.post(f"/agents/{agent}/endpoint/sessions/{files.split('/')[-2]}:stop").raise_for_status()
    assert rest.get(f"{files}/content", params={"path": "out/result.txt"}).text == "from outside, and on"
    put(rest, files, "asleep.txt", b"while asleep")
    assert tell("read", "asleep.txt") == "while asleep"
    shown = {entry["name"] for entry in rest.get(files).json()["entries"]}
    assert shown - {"shipped.txt"} == {"out", "asleep.txt"}


@pytest.mark.operation("sessions.files.download")
def test_parts_of_a_file(rest: httpx.Client, files: str, tell: Tell) -> None:
    """A download that broke off goes on where it was, as long as the file is the same."""
    tell("write", "long.txt", text="0123456789" * 100_000)

    def get(**headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return rest.get(f"{files}/content", params={"path": "long.txt"}, headers=named)

    whole = get()
    assert (whole.status_code, len(whole.content)) == (200, 1_000_000)
    assert whole.headers["accept-ranges"] == "bytes"
    part = get(range="bytes=999995-", if_range=whole.headers["etag"])
    assert (part.status_code, part.text, part.headers["content-range"]) == (206, "56789", "bytes 999995-999999/1000000")
    assert get(range="bytes=-3").text == "789"
    assert get(range="bytes=1000000-").status_code == 416
    head = rest.head(f"{files}/content", params={"path": "long.txt"})
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "1000000", b"")
    tell("append", "long.txt", text="!")
    assert get(range="bytes=999995-", if_range=whole.headers["etag"]).status_code == 200


@pytest.mark.operation("sessions.files.make_directory", "sessions.files.stat", "sessions.files.list")
@pytest.mark.operation("sessions.files.upload", "sessions.files.download", "sessions.files.delete")
def test_as_azd_does_it(rest: httpx.Client, files: str, tell: Tell) -> None:
    """Paths with a slash in front, `is_dir`, `mode` and `path`, mkdir and stat."""
    tell("list")
    made = rest.post(f"{files}/mkdir", json={"path": "/data/output"})
    assert made.status_code in (200, 201, 204)
    headers = {"content-type": "application/octet-stream", "Foundry-Features": "HostedAgents=V1Preview"}
    sent = rest.put(f"{files}/content", params={"path": "/data/input.csv"}, content=b"a,b\n", headers=headers)
    assert sent.status_code in (200, 201)
    listed = rest.get(files, params={"path": "/data"}).json()
    assert listed["path"] == "data"
    assert [(entry["name"], entry["path"], entry["is_dir"], entry["size"]) for entry in listed["entries"]] == [
        ("input.csv", "data/input.csv", False, 4),
        ("output", "data/output", True, 0),
    ]
    assert all(isinstance(entry["mode"], int) and entry["modified_time"] > 1e9 for entry in listed["entries"])
    assert rest.get(f"{files}/stat", params={"path": "/data/input.csv"}).json() == listed["entries"][0]
    tell("write", "data/output/result.csv", text="1,2\n")
    assert rest.get(f"{files}/content", params={"path": "/data/output/result.csv"}).text == "1,2\n"
    for path, recursive in (("/data/input.csv", "false"), ("/data", "true")):
        gone = rest.delete(files, params={"path": path, "recursive": recursive})
        assert gone.status_code in (200, 204)
    assert tell("list") in ([], ["shipped.txt"])


@pytest.mark.operation("sessions.files.download", "sessions.files.upload")
def test_links_of_the_agent_lead_nowhere(rest: httpx.Client, files: str, tell: Tell) -> None:
    """Whatever the agent points to outside its home, neither reading nor writing gets there."""
    tell("link", "passwd", to="/etc/passwd")
    tell("link", "etc", to="/etc")
    tell("link", "up", to="..")
    for path in ("passwd", "etc/passwd", "up/../etc/passwd", "up/secret", "etc"):
        refused = rest.get(f"{files}/content", params={"path": path})
        assert refused.status_code in (400, 409), refused.text
        assert "root:" not in refused.text
        assert rest.get(files, params={"path": path}).status_code in (400, 409)
    assert rest.put(f"{files}/content", params={"path": "etc/motd"}, content=b"x").status_code == 409
    put(rest, files, "passwd", b"mine")
    assert tell("read", "passwd") == "mine"
