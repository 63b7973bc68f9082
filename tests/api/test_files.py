"""The files of sessions over fake sandboxes: who may do what, in which shape, and what it does to the session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import quote

import pytest

from cupola.api.files import MAX_UPLOAD
from cupola.drivers.base import ImageSource
from cupola.drivers.fake import Behaviour
from cupola.drivers.fake_files import FakeFile, FakeFiles
from cupola.errors import StartFailed
from cupola.files import Entry, HomePath
from cupola.identity import Role
from tests.support.platform import PROJECT, Answer, Caller, PlatformUnderTest

SESSIONS = f"{PROJECT}/agents/a1/endpoint/sessions"
MINE = f"{SESSIONS}/mine/files"
BINARY = {"content-type": "application/octet-stream"}


@pytest.fixture(autouse=True)
async def session(platform: PlatformUnderTest) -> None:
    """The agent a1 and its session `mine`, whose sandbox is the only one."""
    await platform.create_version()
    await platform.hear(agent_session_id="mine")
    await platform.platform.sandboxes.stop_version("demo", "a1", "1")


def content(path: str) -> str:
    return f"{MINE}/content?path={quote(path)}&api-version=v1"


async def put(platform: PlatformUnderTest, path: str, data: bytes = b"x", *, by: Caller | None = None) -> Answer:
    return await (by or platform.call)("PUT", content(path), raw=data, headers=BINARY)


async def listed(platform: PlatformUnderTest, query: str = "") -> Mapping[str, Any]:
    answer = await platform.call("GET", f"{MINE}?api-version=v1&{query}")
    assert answer.status == 200, answer.body
    shown: Mapping[str, Any] = answer.json()
    return shown


async def session_row(platform: PlatformUnderTest) -> Mapping[str, Any]:
    shown: Mapping[str, Any] = (await platform.call("GET", f"{SESSIONS}/mine")).json()
    return shown


@pytest.mark.operation("sessions.files.upload", "sessions.files.download")
async def test_what_is_uploaded_is_in_the_home(platform: PlatformUnderTest) -> None:
    """The agent finds it, and so does a download; the path comes back as seen from the home."""
    answer = await put(platform, "/data/in.csv", b"a,b\n")
    assert (answer.status, answer.json()) == (201, {"path": "data/in.csv", "bytes_written": 4})
    assert platform.sandbox.files["data/in.csv"] == b"a,b\n"
    platform.sandbox.files["out.bin"] = b"\x00\xff" * 10
    found = await platform.call("GET", content("~/out.bin"))
    assert (found.status, found.body) == (200, b"\x00\xff" * 10)
    assert found.headers["content-type"] == "application/octet-stream"
    assert found.headers["content-length"] == "20"
    assert found.headers["accept-ranges"] == "bytes"
    assert found.headers["x-content-type-options"] == "nosniff"


@pytest.mark.operation("sessions.files.download")
async def test_a_part_of_a_file(platform: PlatformUnderTest) -> None:
    """One range, also from the end; one behind the end is a 416 with the size; HEAD has no body."""
    await put(platform, "a", b"0123456789")

    async def get(method: str = "GET", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await platform.call(method, content("a"), headers=named)

    part = await get(range="bytes=2-4")
    assert (part.status, part.body, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert (await get(range="bytes=-3")).body == b"789"
    behind = await get(range="bytes=10-")
    assert (behind.status, behind.headers["content-range"]) == (416, "bytes */10")
    assert behind.error["code"] == "range_not_satisfiable"
    etag = part.headers["etag"]
    assert (await get(range="bytes=9-", if_range=etag)).body == b"9"
    head = await get("HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "10")
    assert head.headers["last-modified"].endswith("GMT")
    await put(platform, "a", b"9876543210")
    whole = await get(range="bytes=9-", if_range=etag)
    assert (whole.status, whole.body) == (200, b"9876543210")


@pytest.mark.operation("sessions.files.list", "sessions.files.stat")
async def test_entries_as_every_client_reads_them(platform: PlatformUnderTest) -> None:
    """Both names of the flag, path and mode for azd, whole seconds; a directory has no size."""
    await put(platform, "dir/file", b"12345")
    assert await listed(platform) == {
        "object": "list",
        "path": ".",
        "entries": [
            {
                "name": "dir",
                "path": "dir",
                "size": 0,
                "is_directory": True,
                "is_dir": True,
                "modified_time": 0,
                "mode": 0o755,
            }
        ],
        "first_id": "dir",
        "last_id": None,
        "pagination_token": None,
        "has_more": False,
    }
    (entry,) = (await listed(platform, "path=/home/session/dir"))["entries"]
    assert (entry["name"], entry["path"], entry["size"], entry["is_dir"]) == ("file", "dir/file", 5, False)
    assert (await platform.call("GET", f"{MINE}/stat?path=dir/file")).json() == entry
    home = (await platform.call("GET", f"{MINE}/stat?path=.")).json()
    assert (home["name"], home["path"], home["is_dir"]) == (".", ".", True)


@pytest.mark.operation("sessions.files.list")
async def test_pages_go_by_name(platform: PlatformUnderTest) -> None:
    """As the SDK walks them: `after` the last id until there is none, also when that entry is gone by then."""
    for name in "edcba":
        await put(platform, name)

    async def walk(order: str) -> list[list[str]]:
        pages, query = [], f"limit=2&order={order}"
        while True:
            page = await listed(platform, query)
            pages.append([entry["name"] for entry in page["entries"]])
            if page["last_id"] is None:
                return pages
            query = f"limit=2&order={order}&after={page['last_id']}"

    assert await walk("asc") == [["a", "b"], ["c", "d"], ["e"]]
    assert await walk("desc") == [["e", "d"], ["c", "b"], ["a"]]
    assert [entry["name"] for entry in (await listed(platform))["entries"]] == list("abcde")
    for query, names in (
        ("after=bb&limit=2", "cd"),
        ("pagination_token=b&limit=1", "c"),
        ("before=d&limit=2", "bc"),
        ("before=b&order=desc&limit=2", "dc"),
        ("after=a&before=d", "bc"),
        ("after=e", ""),
    ):
        assert "".join(entry["name"] for entry in (await listed(platform, query))["entries"]) == names, query


async def test_a_client_that_cannot_page_sees_more_than_a_page(platform: PlatformUnderTest) -> None:
    """azd and the SDK's 2.1.0 ask once, without a limit."""
    platform.sandbox.files.update({f"f{number:04}": b"" for number in range(1001)})
    page = await listed(platform)
    assert (len(page["entries"]), page["last_id"], page["has_more"]) == (1000, "f0999", True)


@pytest.mark.operation("sessions.files.make_directory", "sessions.files.delete")
async def test_directories(platform: PlatformUnderTest) -> None:
    """Made with their parents, as often as one likes; deleted empty, or recursively."""
    for _ in range(2):
        made = await platform.call("POST", f"{MINE}/mkdir", {"path": "/a/b"})
        assert (made.status, made.json()["path"], made.json()["is_dir"]) == (201, "a/b", True)
    full = await platform.call("DELETE", f"{MINE}?path=a")
    assert (full.status, full.error["code"], full.error["param"]) == (409, "conflict", "path")
    assert (await platform.call("DELETE", f"{MINE}?path=a/b&recursive=false")).status == 204
    gone = await platform.call("DELETE", f"{MINE}?path=a&recursive=true")
    assert (gone.status, gone.body) == (204, b"")
    assert (await platform.call("DELETE", f"{MINE}?path=a&recursive=true")).status == 404
    assert (await platform.call("DELETE", f"{MINE}?path=.&recursive=true")).status == 400


@pytest.mark.operation("sessions.files.upload")
async def test_too_large_a_file(platform: PlatformUnderTest) -> None:
    """One that says so is refused at once, one that does not when it is too much; neither leaves anything."""
    most = await put(platform, "most", bytes(MAX_UPLOAD))
    assert (most.status, most.json()["bytes_written"]) == (201, MAX_UPLOAD)
    announced = await platform.call(
        "PUT", content("a"), raw=b"", headers={**BINARY, "content-length": str(MAX_UPLOAD + 1)}
    )
    grown = await put(platform, "b", bytes(MAX_UPLOAD + 1))
    for answer in (announced, grown):
        assert (answer.status, answer.error["code"]) == (413, "payload_too_large")
        assert answer.error["message"] == "The body is larger than 50 MB, the most that a file of a session may have."
    assert list(platform.sandbox.files) == ["most"]


async def test_no_room(platform: PlatformUnderTest) -> None:
    platform.place.full = True
    answer = await put(platform, "a")
    assert (answer.status, answer.error["code"]) == (503, "storage_full")
    assert platform.sandbox.files == {}


@pytest.mark.parametrize(
    "path", ["%FF", "a%2F..%2Fb", "%2e%2e/secret", "..%5Csecret", "a%00b", "a" * 300, "a&path=b", ""]
)
async def test_paths_that_cannot_be(platform: PlatformUnderTest, path: str) -> None:
    """Decoded once and strictly, and refused by every operation with the same field."""
    for method, address in (("PUT", "/content"), ("GET", "/content"), ("GET", "/stat"), ("DELETE", "")):
        answer = await platform.call(method, f"{MINE}{address}?path={path}", headers=BINARY)
        assert (answer.status, answer.error["param"]) == (400, "path"), answer.body
    assert platform.sandbox.files == {}


async def test_nothing_is_decoded_twice(platform: PlatformUnderTest) -> None:
    """`%252e%252e` is a file of that strange name, and none above the home."""
    answer = await platform.call("PUT", f"{MINE}/content?path=%252e%252e/a", raw=b"x", headers=BINARY)
    assert answer.json()["path"] == "%2e%2e/a"
    directory = await put(platform, "dir/")
    assert (directory.status, directory.error["param"]) == (400, "path")


async def test_a_caller_has_only_its_own_sessions(platform: PlatformUnderTest) -> None:
    """Another user gets a 403 for everything, an operator gets in, a reader lacks the role."""
    await put(platform, "a", b"mine")
    stranger, operator = platform.caller("eve", Role.USER), platform.caller("root")
    everything = [
        ("PUT", "/content?path=b", None),
        ("GET", "/content?path=a", None),
        ("GET", "", None),
        ("GET", "/stat?path=a", None),
        ("POST", "/mkdir", {"path": "d"}),
        ("DELETE", "?path=a", None),
    ]
    for method, address, body in everything:
        refused = await stranger(method, MINE + address, body)
        assert (refused.status, refused.error["code"]) == (403, "session_not_accessible")
        assert (await platform.caller("rea", Role.READER)(method, MINE + address, body)).error["code"] == "forbidden"
        missing = await stranger(method, MINE.replace("mine", "none") + address, body)
        assert (missing.status, missing.error["param"]) == (404, "agent_session_id")
    assert platform.sandbox.files == {"a": b"mine"}
    for method, address, body in everything:
        assert (await operator(method, MINE + address, body)).status < 300


async def test_a_sleeping_session_stays_asleep(platform: PlatformUnderTest) -> None:
    """Its files are read and written without a sandbox, and the next one finds them."""
    await platform.call("POST", f"{SESSIONS}/mine:stop")
    assert (await put(platform, "a", b"while asleep")).status == 201
    assert (await platform.call("GET", content("a"))).body == b"while asleep"
    assert (await session_row(platform))["status"] == "idle"
    assert platform.place.sandboxes == {}
    await platform.hear(agent_session_id="mine")
    assert platform.sandbox.files == {"a": b"while asleep"}


async def test_a_session_that_never_started(platform: PlatformUnderTest) -> None:
    """It has no home yet, and so no files; the first upload makes one."""
    platform.place.behaviour = Behaviour(fails=StartFailed("No.", phase="create"))
    failed = await platform.ask(agent_session_id="new")
    assert failed.status == 424
    new = MINE.replace("mine", "new")
    assert (await platform.call("GET", new)).json()["entries"] == []
    for method, address in (("GET", "/content"), ("GET", "/stat"), ("DELETE", "")):
        assert (await platform.call(method, f"{new}{address}?path=a")).error["param"] == "path"
    assert (await platform.call("GET", f"{new}?path=a")).status == 404
    assert (await platform.call("PUT", f"{new}/content?path=a", raw=b"x", headers=BINARY)).status == 201
    assert (await platform.call("GET", new)).json()["entries"][0]["name"] == "a"


async def test_a_look_counts_as_access_but_not_as_activity(platform: PlatformUnderTest) -> None:
    """It moves the day on which the session expires, and its sandbox still goes idle; also after it went."""
    await platform.call("GET", MINE)
    platform.clock.now += 899
    await platform.call("GET", MINE)
    assert (await session_row(platform))["last_accessed_at"] == platform.clock.now
    platform.clock.now += 1
    await platform.platform.reaper.once()
    row = await session_row(platform)
    assert (row["status"], row["last_accessed_at"]) == ("idle", platform.clock.now - 1)
    platform.clock.now += 500
    await put(platform, "a")
    assert (await session_row(platform))["last_accessed_at"] == platform.clock.now


async def test_a_disabled_agent_takes_no_new_files(platform: PlatformUnderTest) -> None:
    """What is there can be read and deleted."""
    await put(platform, "a")
    await platform.call("POST", f"{PROJECT}/agents/a1:disable")
    for refused in (await put(platform, "b"), await platform.call("POST", f"{MINE}/mkdir", {"path": "d"})):
        assert (refused.status, refused.error["code"]) == (403, "agent_disabled")
    assert (await platform.call("GET", content("a"))).status == 200
    assert len((await listed(platform))["entries"]) == 1
    assert (await platform.call("DELETE", f"{MINE}?path=a")).status == 204


async def test_a_session_that_is_deleted_while_a_file_comes(platform: PlatformUnderTest) -> None:
    """The upload is not found any more, and leaves no home that nobody would delete."""
    make_home = platform.driver.make_home

    async def deleted_meanwhile(home: str, image: ImageSource | None) -> None:
        await platform.call("DELETE", f"{SESSIONS}/mine")
        await make_home(home, image)

    platform.driver.make_home = deleted_meanwhile  # type: ignore[method-assign]  # the moment that is looked for
    answer = await put(platform, "a")
    assert (answer.status, answer.error["param"]) == (404, "agent_session_id")
    assert platform.place.homes == {}


class EndlessFiles(FakeFiles):
    """A home in which every file is larger than anybody reads."""

    def __init__(self) -> None:
        super().__init__({"a": b"x"}, lambda: False)
        self.closed = asyncio.Event()

    async def open(self, path: HomePath) -> EndlessFile:
        return EndlessFile(Entry(path, False, 1 << 60, 0.0, 0o644), self.closed)


class EndlessFile(FakeFile):
    def __init__(self, entry: Entry, closed: asyncio.Event) -> None:
        super().__init__(entry, b"")
        self.closed = closed

    async def read(self, start: int, end: int) -> AsyncGenerator[bytes]:
        while True:
            await asyncio.sleep(0)
            yield b"x"

    async def aclose(self) -> None:
        self.closed.set()


async def test_a_download_ends_when_its_caller_leaves(platform: PlatformUnderTest) -> None:
    """Nobody reads on for nobody, and the file is closed."""
    files = EndlessFiles()

    async def home_files(home: str, image: ImageSource | None) -> FakeFiles:
        return files

    platform.driver.home_files = home_files  # type: ignore[method-assign]  # a file of that size on no disk
    left = asyncio.Event()
    async with asyncio.timeout(10):
        answer = await platform.call("GET", content("a"), left=left, on_chunk=left)
    assert answer.status == 200
    assert answer.body
    assert files.closed.is_set()
