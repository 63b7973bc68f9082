"""Sandboxes forked from a prepared parent: what each has for itself, when it is not done, and what is left of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
import uvicorn

from cupola.drivers import fork_server
from cupola.drivers import process_tree as tree
from cupola.drivers.base import LABEL_INSTALLATION, CodeSource, Handle, Life
from cupola.drivers.process import ProcessDriver
from cupola.drivers.process_files import Record
from tests.contract.place import MIB, Agent, ask
from tests.contract.place_process import Processes, open_place
from tests.drivers.test_process import run, serves

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forking a sandbox needs Linux")

VARIANTS = ["forked", "bare-forked", "meagre-forked"]
PERSONAL = frozenset({"SESSION", "SECRET"})

AGENT = """
import json, os, random, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Settings:
    def __init__(self):
        self.session = os.environ["SESSION"]
        self.headers = {"X-Secret": "Bearer " + os.environ["SECRET"]}

class Class:
    session = os.environ["SESSION"]

class Slotted:
    __slots__ = ("session",)

SESSION = os.environ["SESSION"]
settings = Settings()
slotted = Slotted()
slotted.session = os.environ["SESSION"]
listed = [[os.environ["SESSION"]]]
closed_over = (lambda value: lambda: value)(os.environ["SESSION"])

def tell(what):
    if what == "values":
        held = [SESSION, settings.session, Class.session, slotted.session, listed[0][0], closed_over()]
        return [*held, settings.headers]
    if what == "own":
        return [os.environ["HOME"], os.environ["PORT"], random.random(), os.getcwd(), os.getsid(0), sys.argv]
    if what == "environ":
        return open("/proc/self/environ").read()
    return eval(what)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        asked = self.rfile.read(int(self.headers["content-length"])).decode()
        try:
            answer = tell(asked)
        except Exception as error:
            answer = type(error).__name__
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())
    def log_message(self, *arguments):
        pass

if __name__ == "__main__":
    print("prepared", flush=True)
    server = HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
    server.serve_forever()
    print("served", flush=True)
"""


async def begin(
    place: Processes, source: CodeSource, home: str = "h1", environment: Mapping[str, str] | None = None
) -> Handle:
    """A sandbox that has been started, with values that are its own."""
    own = {"SESSION": f"session of {home}", "SECRET": f"secret of {home}", **(environment or {})}
    spec = replace(place.spec(source, home=home, environment=own), personal=PERSONAL)
    return [handle async for handle in place.driver.start(spec)][-1]


async def tell(handle: Handle, what: str) -> object:
    """What an agent answers, once it serves."""
    await serves(handle)
    assert handle.address is not None
    return json.loads((await ask(handle.address, "POST", "/", what.encode()))[1])


def record_of(place: Processes, handle: Handle) -> Record:
    return Record.from_json(json.loads((place.root / "state" / "sandboxes" / f"{handle.reference}.json").read_text()))


def parents(place: Processes) -> list[Record]:
    """The records of all prepared parents."""
    files = sorted((place.root / "state" / "parents" / "sandboxes").glob("*.json"))
    return [Record.from_json(json.loads(file.read_text())) for file in files]


def forking_process(place: Processes) -> psutil.Process:
    """The process that forks, of the only parent."""
    (parent,) = place.driver._parents._parents.values()  # type: ignore[attr-defined]  # of the process driver
    return psutil.Process(int(parent.process.partition(":")[0]))


async def gone(process: psutil.Process) -> None:
    """Waits until a process has ended."""
    async with asyncio.timeout(20):
        while tree.is_alive(process):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("variant", VARIANTS)
async def test_children_have_everything_for_themselves(tmp_path: Path, variant: str) -> None:
    """Two children of one parent share neither values, home, port, random numbers, session nor output."""
    async with open_place(tmp_path, f"test-{uuid4().hex}", variant) as place:
        source = run(place, AGENT)
        handles = [await begin(place, source, home) for home in ("h1", "h2")]
        assert [handle.warning for handle in handles] == [None, None]
        (parent,) = parents(place)
        assert [record_of(place, handle).parent for handle in handles] == [parent.sandbox_id] * 2
        for home, handle in zip(("h1", "h2"), handles, strict=True):
            value, header = f"session of {home}", {"X-Secret": f"Bearer secret of {home}"}
            assert await tell(handle, "values") == [value] * 6 + [header]
            environ = str(await tell(handle, "environ"))
            assert environ.rstrip("\0") == f"{tree.MARK}={handle.reference}"
        first, second = [await tell(handle, "own") for handle in handles]
        assert isinstance(first, list)
        assert isinstance(second, list)
        assert first[1:3] != second[1:3]
        assert first[3] == second[3] == str(source.directory)
        assert first[5] == second[5] == ["main.py"]
        await tell(handles[0], "open(os.environ['HOME'] + '/mine', 'w').write('x')")
        await tell(handles[0], "print('said', flush=True)")
        homes = place.root / "state" / "homes"
        assert ([path.name for path in (homes / "h1").iterdir()], list((homes / "h2").iterdir())) == (["mine"], [])
        assert [await place.driver.output(handle, 5) for handle in handles] == [["said"], []]


@pytest.mark.parametrize("variant", VARIANTS)
async def test_nothing_of_a_start_is_inherited(tmp_path: Path, variant: str) -> None:
    """A child has no open file beside its standard ones, what it listens with, and what its server works with."""
    async with open_place(tmp_path, f"test-{uuid4().hex}", variant) as place:
        source = run(place, AGENT)
        await begin(place, source, "h1")
        handle = await begin(place, source, "h2")
        found = await tell(
            handle, "[os.readlink('/proc/self/fd/' + one) for one in sorted(os.listdir('/proc/self/fd'))[:-1]]"
        )
        assert isinstance(found, list)
        assert sum(one.startswith("socket:") for one in found) == 2, "one that listens, one with this connection"
        assert not any(one.endswith((".ending", ".json")) for one in found), found
        assert len(found) <= 6, found


async def test_a_forked_box_is_as_tight_as_any(tmp_path: Path) -> None:
    """From inside: no other home, no process and no memory of the parent or a sibling, no rights, nothing to write."""
    async with open_place(tmp_path, f"test-{uuid4().hex}", "forked") as place:
        assert isinstance(place.driver, ProcessDriver)
        if (await place.driver.surroundings()).bubblewrap is None:
            pytest.skip("bubblewrap is not here, or may not make namespaces")
        source = run(place, AGENT)
        sibling = await begin(place, source, "h1")
        await tell(sibling, "[open(p + '/left', 'w').write('x') for p in (os.environ['HOME'], '/tmp', '/dev/shm')]")
        handle = await begin(place, source, "h2")
        assert handle.warning is None
        assert await tell(handle, "os.environ['HOME']") == "/home/session"
        for directory in ("/home/session", "/dev/shm", "/run/cupola/processes", "/dev/pts"):
            left = await tell(handle, f"[name for name in os.listdir('{directory}') if name != 'ptmx']")
            assert left == [], directory
        assert await tell(handle, "os.path.exists('/tmp/left')") is False
        assert await tell(handle, "sorted(name for name in os.listdir('/proc') if name.isdigit())") == ["1", "2"]
        for hidden in (tmp_path / "state" / "homes", Path.home() / ".ssh", "/etc/shadow", "/var/lib", "/sys/kernel"):
            assert await tell(handle, f"os.path.exists('{hidden}')") is False, hidden
        for locked in ("/new", "/dev/new", "/run/new", "/home/new", "/usr/new", "/proc/self/comm", "main.py"):
            assert await tell(handle, f"open('{locked}', 'a')") in ("OSError", "PermissionError"), locked
        status = "[line.split()[1] for line in open('/proc/self/status') if line[:3] == 'Cap']"
        assert await tell(handle, status) == ["0" * 16] * 5
        assert await tell(handle, "[l.split()[1] for l in open('/proc/self/status') if l[:5] == 'NoNew']") == ["1"]
        unmount = "__import__('ctypes').CDLL(None, use_errno=True).umount2(b'{}', 2)"
        for over in ("/home/session", "/tmp", "/proc", "/run/cupola/processes"):
            assert await tell(handle, unmount.format(over)) == -1, over
            again = f"__import__('ctypes').CDLL(None).unshare(0x10020000) or {unmount.format(over)}"
            assert await tell(handle, f"(os.fork() or os._exit(({again}) == 0)) and os.wait()[1]") == 0, over
        namespaces = {
            one: await tell(handle, f"os.readlink('/proc/self/ns/{one}')") for one in ("user", "mnt", "pid", "ipc")
        }
        others = {one: await tell(sibling, f"os.readlink('/proc/self/ns/{one}')") for one in namespaces}
        assert not namespaces.items() & others.items()
        assert (place.root / "state" / "homes" / "h1" / "left").read_text() == "x"


async def test_limits_hold_per_child(tmp_path: Path) -> None:
    """Each child has a control group of its own, and the parent's is another."""
    async with open_place(tmp_path, f"test-{uuid4().hex}", "bare-forked") as place:
        if not place.names_out_of_memory:
            pytest.skip("control groups cannot be made here")
        source = run(place, AGENT)
        handles = [await begin(place, source, home) for home in ("h1", "h2")]
        for handle in handles:
            await serves(handle)
            record = record_of(place, handle)
            inside = set.intersection(*(set((one / "cgroup.procs").read_text().split()) for one in record.group_paths))
            main = psutil.Process(record.pid)
            assert inside == {str(one.pid) for one in (main, *main.children(recursive=True))}
        hoard = f"len(bytearray(b'x') * {512 * MIB})"
        with pytest.raises(ConnectionError):
            await tell(handles[0], hoard)
        async with asyncio.timeout(20):
            while (await place.driver.poll(handles[0])).life is Life.RUNNING:
                await asyncio.sleep(0.02)
        ended = await place.driver.poll(handles[0])
        assert (ended.exit_code, ended.out_of_memory) == (137, True)
        assert (await place.driver.poll(handles[1])).life is Life.RUNNING


NOT_FORKED = {
    "it has started threads before it serves (Thread-1 (wait))": (
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n" + AGENT
    ),
    "it serves from another thread than its main one": AGENT.replace(
        "    server.serve_forever()",
        "    import threading\n    thread = threading.Thread(target=server.serve_forever)\n"
        "    thread.start()\n    thread.join()",
    ),
    "it has started other processes before it serves": (
        "import subprocess\nchild = subprocess.Popen(['sleep', '60'])\n" + AGENT
    ),
    "it keeps SECRET in a tuple before it serves": "import os\nkept = (os.environ['SECRET'], [])\n" + AGENT,
    "a function that is running keeps SESSION in its variable mine": AGENT.replace(
        "    server.serve_forever()",
        "    def main():\n        mine = os.environ['SESSION']\n        server.serve_forever()\n    main()",
    ),
    "it holds pipe:": "import os\nends = os.pipe()\n" + AGENT,
    "it makes its event loop before it serves": (
        "import asyncio\nasyncio.new_event_loop().run_until_complete(asyncio.sleep(0))\n" + AGENT
    ),
}


@pytest.mark.parametrize("reason", NOT_FORKED)
async def test_what_cannot_be_forked_is_started_as_ever(tmp_path: Path, reason: str) -> None:
    """With a warning that says why; nothing of the parent is left, and the next start does not try again."""
    async with open_place(tmp_path, f"test-{uuid4().hex}", "bare-forked") as place:
        source = run(place, NOT_FORKED[reason])
        for home in ("h1", "h2"):
            handle = await begin(place, source, home)
            assert handle.warning is not None
            assert reason in handle.warning
            assert await tell(handle, "SESSION") == f"session of {home}"
            assert record_of(place, handle).parent is None
            assert parents(place) == []


async def test_a_home_that_is_written_before_the_fork(tmp_path: Path) -> None:
    """What an agent puts into its home as it begins would be missing in its children."""
    async with open_place(tmp_path, f"test-{uuid4().hex}", "forked") as place:
        script = "import os\nopen(os.environ['HOME'] + '/cache', 'w').close()\n" + AGENT
        handle = await begin(place, run(place, script))
        assert handle.warning is not None
        assert await tell(handle, "os.path.exists(os.environ['HOME'] + '/cache')") is True


async def test_a_home_that_is_remembered_without_a_box(tmp_path: Path) -> None:
    """Without a box homes differ by name: an agent that keeps the name is not forked."""
    script = "import os, pathlib\nHOME = pathlib.Path(os.environ['HOME']) / 'x'\n" + AGENT
    async with open_place(tmp_path, f"test-{uuid4().hex}", "bare-forked") as place:
        handle = await begin(place, run(place, script))
        assert handle.warning is not None
        assert "it keeps HOME" in handle.warning
        home = str(place.root / "state" / "homes" / "h1" / "x")
        assert await tell(handle, "str(HOME)") == home


async def test_an_agent_that_does_not_ask_is_not_forked(tmp_path: Path) -> None:
    """Without the variable nothing changes."""
    async with open_place(tmp_path, f"test-{uuid4().hex}", "bare") as place:
        handle = await begin(place, run(place, AGENT))
        assert (handle.warning, record_of(place, handle).parent, parents(place)) == (None, None, [])


async def test_asyncio_and_a_module(tmp_path: Path) -> None:
    """`python -m` and `asyncio.run` are recognised too."""
    script = (
        "import asyncio, os\n"
        "async def answer(reader, writer):\n"
        "    await reader.readuntil(b'\\r\\n\\r\\n')\n"
        "    writer.write(b'HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\nconnection: close\\r\\n\\r\\n')\n"
        "    await writer.drain()\n"
        "    writer.close()\n"
        "async def main(port):\n"
        "    async with await asyncio.start_server(answer, '127.0.0.1', port) as server:\n"
        "        await server.serve_forever()\n"
        "asyncio.run(main(int(os.environ['PORT'])))\n"
    )
    async with open_place(tmp_path, f"test-{uuid4().hex}", "bare-forked") as place:
        source = run(place, script)
        source = replace(source, command=(*source.command[:-1], "-m", "main"))
        for home in ("h1", "h2"):
            handle = await begin(place, source, home)
            assert handle.warning is None
            assert await serves(handle)


UVICORN = """
import os, uvicorn

async def app(scope, receive, send):
    if scope["type"] == "http":
        body = json.dumps([os.environ["SESSION"], type(asyncio.get_running_loop()).__module__]).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

import asyncio, json
uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), loop="uvloop")
"""


@pytest.mark.parametrize("variant", ["forked", "bare-forked"])
async def test_uvicorn_on_an_event_loop_of_its_own(tmp_path: Path, variant: str) -> None:
    """It is stopped before it makes the loop, also one that is not Python's."""
    pytest.importorskip("uvloop")
    packages = Path(uvicorn.__file__).parent.parent
    async with open_place(tmp_path, f"test-{uuid4().hex}", variant) as place:
        source = replace(run(place, UVICORN), import_path=(packages,))
        for home in ("h1", "h2"):
            handle = await begin(place, source, home)
            assert handle.warning is None
            assert await tell(handle, "") == [f"session of {home}", "uvloop"]


@pytest.mark.parametrize("variant", VARIANTS)
async def test_children_outlive_a_parent_that_is_killed(tmp_path: Path, variant: str) -> None:
    """And the next start makes a new one; exit codes of the old one's children are known all the same."""
    async with open_place(tmp_path, f"test-{uuid4().hex}", variant) as place:
        source = run(place, AGENT)
        first = await begin(place, source, "h1")
        assert await serves(first)
        process = forking_process(place)
        process.kill()
        await gone(process)
        assert (await place.driver.poll(first)).life is Life.RUNNING
        assert await serves(first)
        second = await begin(place, source, "h2")
        assert second.warning is None
        assert await serves(second)
        assert len(parents(place)) == 2, "the old one's box is kept for its child"
        with pytest.raises(ConnectionError):
            await tell(first, "os._exit(7)")
        async with asyncio.timeout(20):
            while (await place.driver.poll(first)).life is Life.RUNNING:
                await asyncio.sleep(0.02)
        assert (await place.driver.poll(first)).exit_code == 7
        await place.driver.stop(first, 0)
        (left,) = parents(place)
        assert left.sandbox_id == record_of(place, second).parent


SERVER = """
import asyncio, json, signal, sys
from pathlib import Path
from cupola.drivers.base import LABEL_INSTALLATION, CodeSource, SandboxSpec
from cupola.drivers.process import ProcessDriver

async def main(root, installation, directory, *command):
    source = CodeSource(Path(directory), (), command)
    environment = {"CUPOLA_FORK": "1", "SESSION": "s" * 8, "SECRET": "k" * 8}
    labels = {LABEL_INSTALLATION: installation}
    driver = ProcessDriver(Path(root) / "state", installation)
    ca = Path(root) / "ca.pem"
    spec = SandboxSpec("killed", source, environment, 1.0, 2**28, "h1", labels, ca, frozenset({"SESSION", "SECRET"}))
    async for handle in driver.start(spec):
        pass
    print(json.dumps(handle.to_json()), flush=True)
    signal.pause()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_killed_server_s_successor_adopts_and_tidies(tmp_path: Path) -> None:
    """SIGKILL to the server leaves its forked sandbox serving; with the last child the old parent's box goes, too."""
    async with open_place(tmp_path, f"test-{uuid4().hex}", "forked") as place:
        source = run(place, AGENT)
        place.spec(source)
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SERVER, str(tmp_path), place.installation, str(source.directory), *source.command),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )
        assert server.stdout is not None
        handle = Handle.from_json(json.loads(await server.stdout.readline()))
        os.killpg(server.pid, signal.SIGKILL)
        await server.wait()
        assert handle.warning is None
        driver = await place.restart()
        await driver.callback_reach()
        assert [found.handle for found in await driver.list()] == [handle]
        assert (await driver.poll(handle)).life is Life.RUNNING
        assert await tell(handle, "SESSION") == "s" * 8
        (parent,) = parents(place)
        box = psutil.Process(parent.pid)
        await driver.stop(handle, 5)
        assert parents(place) == []
        await gone(box)
        assert await driver.list() == []


@pytest.mark.parametrize("variant", VARIANTS)
async def test_nothing_is_left_behind(tmp_path: Path, variant: str) -> None:
    """When the sandboxes are stopped and the driver is closed there is no process, group or file of a parent."""
    async with open_place(tmp_path, f"test-{uuid4().hex}", variant) as place:
        source = run(place, AGENT)
        handles = [await begin(place, source, home) for home in ("h1", "h2")]
        (parent,) = parents(place)
        process = forking_process(place)
        for handle in handles:
            await place.driver.stop(handle, 5)
        assert parents(place) == [parent], "it waits for the next start"
        await place.driver.aclose()
        await gone(process)
        assert parents(place) == []
        assert not any(path.exists() for path in parent.group_paths)
        state = place.root / "state"
        assert [list((state / "parents" / name).iterdir()) for name in ("homes", "output", "sandboxes")] == [[], [], []]
        assert list((state / "sandboxes").iterdir()) == []


async def test_a_parent_is_let_go_when_it_is_not_needed(tmp_path: Path) -> None:
    """Unused for a quarter of an hour, or when the version's code is gone."""
    async with open_place(tmp_path, f"test-{uuid4().hex}", "bare-forked") as place:
        assert isinstance(place.driver, ProcessDriver)
        now = 0.0
        made = place.driver._parents
        made._clock = lambda: now
        source = run(place, AGENT)
        await place.driver.stop(await begin(place, source), 0)
        assert await asyncio.to_thread(made.retire)
        assert len(parents(place)) == 1
        now += fork_server.UNUSED
        assert not await asyncio.to_thread(made.retire)
        assert parents(place) == []

        await place.driver.stop(await begin(place, source), 0)
        source.directory.rename(source.directory.with_name("deleted"))
        assert not await asyncio.to_thread(made.retire)
        assert parents(place) == []


async def test_versions_do_not_share_a_parent(tmp_path: Path) -> None:
    """What differs beside the personal values gets a parent of its own: another variable, another label."""
    async with open_place(tmp_path, f"test-{uuid4().hex}", "bare-forked") as place:
        source = run(place, AGENT)
        await begin(place, source, "h1")
        handle = await begin(place, source, "h2", {"MODEL": "other"})
        assert len(parents(place)) == 2
        assert await tell(handle, "os.environ['MODEL']") == "other"
        assert all(parent.labels[LABEL_INSTALLATION] == place.installation for parent in parents(place))


async def test_many_at_once_share_a_parent(tmp_path: Path) -> None:
    """Starts at the same time wait for one parent, and each gets its own values from it."""
    async with open_place(tmp_path, f"test-{uuid4().hex}", "forked") as place:
        source = run(place, AGENT)
        homes = [f"h{number}" for number in range(5)]
        handles = await asyncio.gather(*(begin(place, source, home) for home in homes))
        assert len(parents(place)) == 1
        told = [await tell(handle, "settings.session") for handle in handles]
        assert told == [f"session of {home}" for home in homes]


async def test_a_crash_in_the_parent_shows_as_in_any_start(tmp_path: Path) -> None:
    """An agent that fails before it serves leaves the output and exit code of an ordinary start."""
    async with open_place(tmp_path, f"test-{uuid4().hex}", "bare-forked") as place:
        source = place.source(Agent.CRASH)
        assert isinstance(source, CodeSource)
        handle = await begin(place, source)
        async with asyncio.timeout(20):
            while (await place.driver.poll(handle)).life is Life.RUNNING:
                await asyncio.sleep(0.02)
        assert (await place.driver.poll(handle)).exit_code == 3
        assert list(await place.driver.output(handle, 5)) == ["first line", "second line"]
