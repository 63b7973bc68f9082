"""The process driver beyond the contract: isolation, what survives a crash, and the choice of limits."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from cupola.drivers import bubblewrap, cgroups
from cupola.drivers.base import CodeSource, Handle, ImageSource, Life, Step
from cupola.drivers.cgroups import Hierarchy, Limits, choose, settings
from cupola.drivers.process import ProcessDriver
from cupola.drivers.process_ports import PORTS
from cupola.errors import DriverUnavailable, StartFailed
from tests.contract.place import Agent, ask
from tests.contract.place_process import Processes, open_place

V2 = Hierarchy(2, frozenset({"memory", "cpu", "pids"}), Path("/cg"))
V1_MEMORY = Hierarchy(1, frozenset({"memory"}), Path("/cg/memory"))
V1_CPU = Hierarchy(1, frozenset({"cpu"}), Path("/cg/cpu"))


def test_version_2_serves_everything_where_it_can() -> None:
    """One group is enough when version 2 has all controllers."""
    assert choose([V1_MEMORY, V2]).paths("x") == (Path("/cg/x"),)


def test_a_mixture_of_versions_is_used() -> None:
    """Each limit is served by the hierarchy that has its controller."""
    chosen = choose([V1_MEMORY, V1_CPU, Hierarchy(2, frozenset({"pids"}), Path("/cg/unified"))])
    assert {name: one.version for name, one in chosen.serving.items()} == {"memory": 1, "cpu": 1, "pids": 2}


def test_without_control_groups_nothing_is_enforced() -> None:
    """Nothing found means no group and no path."""
    assert choose([]).paths("x") == ()


def test_limits_become_the_kernels_numbers() -> None:
    """Half a vCPU is half a period; swap does not stretch the memory limit."""
    limits = Limits(memory=1 << 30, cpu=0.5)
    assert settings("cpu", 2, limits) == (("cpu.max", "50000 100000", True),)
    assert ("memory.swap.max", "0", False) in settings("memory", 2, limits)
    assert ("memory.memsw.limit_in_bytes", str(1 << 30), False) in settings("memory", 1, limits)


def test_hierarchies_are_found_in_the_mount_table(tmp_path: Path) -> None:
    """A delegated group of version 2 is found below a mount that is not ours to write."""
    mount, proc = tmp_path / "cgroup", tmp_path / "proc"
    delegated = mount / "user"
    delegated.mkdir(parents=True)
    proc.mkdir()
    for name in ("cgroup.procs", "cgroup.subtree_control"):
        (delegated / name).write_text("memory pids")
    (proc / "mountinfo").write_text(f"1 2 0:3 / {mount} rw - cgroup2 cgroup2 rw\n")
    (proc / "cgroup").write_text("0::/user/session\n")
    (found,) = cgroups.find(proc)
    assert (found.version, found.parent) == (2, delegated)


def test_out_of_memory_is_read_from_either_version(tmp_path: Path) -> None:
    """The kernel's counter of kills is what counts."""
    assert not cgroups.out_of_memory([tmp_path])
    (tmp_path / "memory.events").write_text("oom 3\noom_kill 0\n")
    assert not cgroups.out_of_memory([tmp_path])
    (tmp_path / "memory.oom_control").write_text("under_oom 0\noom_kill 1\n")
    assert cgroups.out_of_memory([tmp_path])


def test_a_box_shows_the_code_and_hides_the_rest() -> None:
    """Code is read-only, HOME is the only place that is bound for writing, and no capability is left."""
    box = bubblewrap.Box((Path("/code"),), Path("/code"), Path("/homes/h"), Path("/ca.pem"))
    command = bubblewrap.wrap(Path("/usr/bin/bwrap"), box, (), ["python", "main.py"])
    line = " ".join(command)
    assert "--ro-bind /code /code" in line
    assert command.count("--bind") == 1
    assert "--bind /homes/h /home/session" in line
    assert "--cap-drop ALL" in line
    assert "--die-with-parent" not in line
    assert line.endswith("-- python main.py")


def test_an_interpreter_in_a_home_does_not_open_the_home(tmp_path: Path) -> None:
    """`~/bin/python` shows that file; `~/.tools/3.13/bin/python` shows its own prefix."""
    home = tmp_path / "user"
    assert bubblewrap.interpreter_paths([str(home / "bin" / "python")], [home]) == (home / "bin" / "python",)
    prefix = home / ".tools" / "3.13"
    assert bubblewrap.interpreter_paths([str(prefix / "bin" / "python")], [home]) == (prefix,)
    assert bubblewrap.interpreter_paths(["/usr/bin/python3"], [home]) == ()


async def test_an_image_needs_an_engine(tmp_path: Path) -> None:
    """An image is refused with what to install, and with the way that works without."""
    driver = ProcessDriver(tmp_path, "test")
    with pytest.raises(StartFailed, match=r"docker.io.*podman.*zip") as caught:
        await driver.prepare(ImageSource("registry/agent:1"), lambda line: None)
    assert (caught.value.phase, caught.value.code) == ("validate", "ImageError")


async def test_a_bubblewrap_that_does_not_work_is_said(tmp_path: Path) -> None:
    """A box that was asked for by name is never silently left out."""
    driver = ProcessDriver(tmp_path, "test", bubblewrap=tmp_path / "bwrap")
    with pytest.raises(DriverUnavailable, match="does not work here"):
        await driver.callback_reach()


async def test_names_cannot_leave_their_directory(tmp_path: Path) -> None:
    """A home or sandbox is one path component."""
    driver = ProcessDriver(tmp_path, "test")
    with pytest.raises(ValueError, match="cannot name"):
        await driver.delete_home("../other")
    with pytest.raises(ValueError, match="cannot name"):
        await driver.poll(Handle("process", "../../etc/passwd", Step.CREATED))


async def test_ports_are_none_that_the_kernel_gives_away(tmp_path: Path) -> None:
    """Between our look and the agent's bind, no other program gets a sandbox's port by asking for any."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    async with open_place(tmp_path, "ports") as place:
        handles = [handle async for handle in place.driver.start(place.spec(place.source(Agent.ECHO)))]
        address = handles[-1].address
        await place.driver.stop(handles[-1], 0)
    assert address is not None
    assert address.port in PORTS
    assert address.port not in range(first, last + 1)


def run(place: Processes, script: str) -> CodeSource:
    """A source that runs `script`."""
    directory = place.root / "code" / uuid4().hex
    directory.mkdir(parents=True)
    (directory / "main.py").write_text(script)
    like = place.source(Agent.ECHO)
    assert isinstance(like, CodeSource)
    return CodeSource(directory, (), like.command)


async def finish(place: Processes, source: CodeSource) -> list[str]:
    """The output of a script that ends by itself."""
    handles = [handle async for handle in place.driver.start(place.spec(source))]
    async with asyncio.timeout(20):
        while (await place.driver.poll(handles[-1])).life is Life.RUNNING:
            await asyncio.sleep(0.02)
    return list(await place.driver.output(handles[-1], 50))


async def serves(handle: Handle) -> bool:
    """Whether a sandbox answers its readiness probe, once it listens."""
    assert handle.address is not None
    async with asyncio.timeout(20):
        while True:
            try:
                return (await ask(handle.address, "GET", "/readiness"))[0] == 200
            except OSError:
                await asyncio.sleep(0.02)


LOOK_AROUND = """
import os, pathlib
print(os.environ["HOME"], os.getcwd() == os.path.dirname(os.path.abspath("main.py")))
for path in ("{state}", "{real_home}/.ssh", "/etc/shadow", "/var/lib", "/run/docker.sock", "/sys/kernel"):
    print(os.path.exists(path))
print(len([name for name in os.listdir("/proc") if name.isdigit()]) < 5)
print(pathlib.Path(os.environ["SSL_CERT_FILE"]).read_text())
for path in ("main.py", "/usr/new", "{interpreter}/new"):
    try:
        open(path, "a")
    except OSError as error:
        print("refused")
open(os.environ["HOME"] + "/mine", "w").write("x")
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")])
"""


async def test_a_box_keeps_the_host_out_of_reach(tmp_path: Path) -> None:
    """In bubblewrap an agent sees neither our state nor the host's secrets and processes, and writes only its home."""
    async with open_place(tmp_path, f"test-{uuid4().hex}") as place:
        assert isinstance(place.driver, ProcessDriver)
        if (await place.driver.surroundings()).bubblewrap is None:
            pytest.skip("bubblewrap is not here, or may not make namespaces")
        script = LOOK_AROUND.format(
            state=tmp_path / "state" / "sandboxes", real_home=Path.home(), interpreter=sys.base_prefix
        )
        lines = await finish(place, run(place, script))
    assert lines == [
        "/home/session True",
        *["False"] * 6,
        "True",
        "certificates",
        *["refused"] * 3,
        "['0000000000000000']",
    ]


async def test_a_home_is_private(tmp_path: Path) -> None:
    """No other user of the machine reads a session's files."""
    async with open_place(tmp_path, f"test-{uuid4().hex}") as place:
        await finish(place, run(place, "print('done')"))
    assert stat.S_IMODE((tmp_path / "state" / "homes" / "h1").stat().st_mode) == 0o700


async def test_nothing_is_inherited(tmp_path: Path) -> None:
    """An agent gets no open file and no variable of ours."""
    script = "import os; print(sorted(os.environ)); print(os.read(0, 1)); print(len(os.listdir('/proc/self/fd')))"
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        async with open_place(tmp_path, f"test-{uuid4().hex}", "bare") as place:
            names, stdin, files = await finish(place, run(place, script))
    finally:
        os.close(reader)
        os.close(writer)
    assert set(eval(names)) <= {
        *("HOME", "PATH", "LANG", "PORT", "DEFAULT_AD_PORT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
        *("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "CUPOLA_SANDBOX_ID", "PWD", "LC_CTYPE"),
    }
    assert stdin == "b''"
    assert files == "4"  # 0, 1, 2, and the one that lists them


@pytest.mark.parametrize("variant", ["", "bare", "meagre"])
async def test_a_process_that_was_not_written_down_is_found(tmp_path: Path, variant: str) -> None:
    """Killed between starting a process and noting its id, the server's successor still finds and ends it."""
    async with open_place(tmp_path, f"test-{uuid4().hex}", variant) as place:
        handles = [handle async for handle in place.driver.start(place.spec(place.source(Agent.ECHO)))]
        assert await serves(handles[-1])  # while a program replaces its shell, its environment reads empty
        file = tmp_path / "state" / "sandboxes" / f"{handles[0].reference}.json"
        process = handles[-1].extra["process"]
        written = file.read_text()
        assert process in written
        file.write_text(written.replace(f'"{process}"', "null"))
        driver = await place.restart()
        (found,) = await driver.list()
        assert found.handle == handles[-1]
        await driver.stop(found.handle, 0)
        assert not Path(f"/proc/{process.split(':')[0]}").exists()
        assert await driver.list() == []


@pytest.mark.parametrize("variant", ["", "bare", "meagre"])
async def test_children_that_went_astray_are_ended(tmp_path: Path, variant: str) -> None:
    """A daemon that an agent has left behind does not outlive the sandbox."""
    script = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], start_new_session=True)\n"
        "sys.exit(0)\n"
    )
    async with open_place(tmp_path, f"test-{uuid4().hex}", variant) as place:
        await finish(place, run(place, script))
        (found,) = await place.driver.list()
        mark = f"CUPOLA_SANDBOX_ID={found.handle.reference}".encode()
        await place.driver.stop(found.handle, 1)
    assert not any(mark in _environ(path) for path in Path("/proc").glob("[0-9]*"))


def _environ(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


SERVER = """
import asyncio, json, signal, sys
from pathlib import Path
from cupola.drivers.base import LABEL_INSTALLATION, CodeSource, SandboxSpec
from cupola.drivers.process import ProcessDriver
from cupola.drivers.process_ports import PORTS

async def main(root, installation, *command):
    source = CodeSource(Path(root) / "code" / "echo", (), command)
    spec = SandboxSpec("killed", source, {}, 1.0, 2**28, "h1", {LABEL_INSTALLATION: installation}, Path("ca"))
    async for handle in ProcessDriver(Path(root) / "state", installation).start(spec):
        pass
    print(json.dumps(handle.to_json()), flush=True)
    signal.pause()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_sandboxes_outlive_a_killed_server(tmp_path: Path) -> None:
    """SIGKILL to the server's whole process group leaves its sandboxes running, for the next server to adopt."""
    async with open_place(tmp_path, f"test-{uuid4().hex}") as place:
        source = place.source(Agent.ECHO)
        place.spec(source)
        assert isinstance(source, CodeSource)
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SERVER, str(tmp_path), place.installation, *source.command),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )
        assert server.stdout is not None
        handle = Handle.from_json(json.loads(await server.stdout.readline()))
        os.killpg(server.pid, signal.SIGKILL)
        await server.wait()
        assert await serves(handle)
        assert (await place.driver.poll(handle)).life is Life.RUNNING
        assert [found.handle for found in await place.driver.list()] == [handle]
        await place.driver.stop(handle, 10)
        assert (await place.driver.poll(handle)).life is Life.GONE
        assert (tmp_path / "state" / "homes" / "h1" / "terminated").read_text() == "yes"


async def test_the_end_of_a_process_is_remembered(tmp_path: Path) -> None:
    """The exit code that one driver has seen is known to the next, though only a parent learns it."""
    async with open_place(tmp_path, f"test-{uuid4().hex}") as place:
        await finish(place, run(place, "import sys; sys.exit(7)"))
        driver = await place.restart()
        (found,) = await driver.list()
        assert (await driver.poll(found.handle)).exit_code == 7


async def test_stopped_sandboxes_leave_only_the_home(tmp_path: Path) -> None:
    """After a stop there is no file about the sandbox, none of its output, and no control group."""
    async with open_place(tmp_path, f"test-{uuid4().hex}") as place:
        assert isinstance(place.driver, ProcessDriver)
        spec = place.spec(place.source(Agent.ECHO))
        handles = [handle async for handle in place.driver.start(spec)]
        groups = (await place.driver.surroundings()).cgroups.paths(f"cupola-{place.installation}-{spec.sandbox_id}")
        assert all(path.is_dir() for path in groups)
        await place.driver.stop(handles[-1], 0)
        assert not any(path.exists() for path in groups)
        assert list((tmp_path / "state" / "sandboxes").iterdir()) == []
        assert list((tmp_path / "state" / "output").iterdir()) == []


async def test_a_cancelled_start_can_be_undone(tmp_path: Path) -> None:
    """Whoever cancels a start in the middle and stops its handle leaves no process."""
    async with open_place(tmp_path, f"test-{uuid4().hex}") as place:
        starting = place.driver.start(place.spec(place.source(Agent.ECHO)))
        handle = await anext(starting)
        task = asyncio.ensure_future(anext(starting))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await place.driver.stop(handle, 0)
        assert await place.driver.list() == []
        mark = f"CUPOLA_SANDBOX_ID={handle.reference}".encode()
        assert not any(mark in _environ(path) for path in Path("/proc").glob("[0-9]*"))


async def test_many_sandboxes_get_ports_of_their_own(tmp_path: Path) -> None:
    """Sandboxes that are started at the same time do not share a port."""
    async with open_place(tmp_path, f"test-{uuid4().hex}") as place:

        async def start(home: str) -> Handle:
            spec = place.spec(place.source(Agent.STUBBORN), home=home)
            return [handle async for handle in place.driver.start(spec)][-1]

        handles = await asyncio.gather(*(start(f"h{number}") for number in range(6)))
        assert len({handle.address for handle in handles}) == 6
        for handle in handles:
            assert await serves(handle)
