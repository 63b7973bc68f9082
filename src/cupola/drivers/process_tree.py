"""The processes of one sandbox: begun, looked at, found, told to end, killed.

A process is known by its id and start time together, because ids are given again. To a sandbox belong its main
process, what descends from it, what is in its control group, and, where there is no group or the main process is not
known, what carries its mark. Left out is what is kept of them on disk: `process_files`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from cupola.drivers import cgroups
from cupola.drivers.base import Listener
from cupola.drivers.process_files import Record

MARK = "CUPOLA_SANDBOX_ID"
"""The variable by which the processes of a sandbox are found when nobody wrote down their ids."""


TICK = 0.01
"""Seconds between looks at processes that were told to end."""


def begin(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    output: IO[bytes],
    pass_fds: Sequence[int] = (),
) -> int:
    """Starts the main process, in a process session of its own, and returns its id."""
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=pass_fds,
    )
    process.returncode = 0  # we wait by the process id; Popen would complain of a process that outlives it
    return process.pid


def identity(pid: int) -> str | None:
    """`pid:start time`, or None when there is no such process."""
    found = _stat(pid)
    return None if found is None else f"{pid}:{found[1]}"


def _stat(pid: int) -> tuple[bool, str] | None:
    """Whether a process is a zombie, and when it started, in a unit that does not move with the clock."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0] in "ZX", fields[19]
    except OSError:
        pass
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE, str(process.create_time())
    return None


def look_at(record: Record) -> tuple[bool, int | None]:
    """Whether the main process runs; its exit code if it has ended and was our child.

    The start time is compared before waiting: another child of ours could have the id by now.
    """
    found = _stat(record.pid)
    if found is None or f"{record.pid}:{found[1]}" != record.process:
        return False, None
    try:
        pid, status = os.waitpid(record.pid, os.WNOHANG)
    except ChildProcessError:
        return not found[0], None
    if pid == 0:
        return True, None
    code = os.waitstatus_to_exitcode(status)
    return False, code if code >= 0 else 128 - code


def tell(record: Record) -> bool:
    """SIGTERM to the agent. In a box that is the first child of the box's init: bubblewrap passes none on.

    Of a forked sandbox the main process only waits for the agent, or for the init of its box.
    """
    between = 2 if record.boxed else 0 if record.parent is None else 1
    try:
        process = psutil.Process(record.pid)
        for _ in range(between):
            children = process.children()
            if not children:
                return False
            process = min(children, key=lambda child: child.create_time())
        process.terminate()
    except psutil.Error:
        return False
    return True


def marked(sandbox_id: str) -> list[psutil.Process]:
    """Every process that carries the mark of a sandbox in its environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == sandbox_id:
                found.append(process)
    return found


def _tree(record: Record) -> list[psutil.Process]:
    """The processes of a sandbox: the main one, what descends from it, what is in its group."""
    found: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.Error):
        if record.process is not None and identity(record.pid) == record.process:
            main = psutil.Process(record.pid)
            for process in (main, *main.children(recursive=True)):
                found[process.pid] = process
    for pid in cgroups.members(record.group_paths) - found.keys():
        with contextlib.suppress(psutil.Error):
            found[pid] = psutil.Process(pid)
    return list(found.values())


def kill_all(record: Record) -> bool:
    """SIGKILL to everything of the sandbox; whether something was still there."""
    processes = _tree(record)
    if not record.groups or record.process is None:
        processes += marked(record.sandbox_id)
    cgroups.kill(record.group_paths)
    alive = False
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    if record.process is not None:
        alive = look_at(record)[0]
    return alive or any(map(is_alive, processes))


def end_all(record: Record, patience: float) -> None:
    """Kills everything of the sandbox and waits until it is gone, `patience` seconds at most."""
    deadline = time.monotonic() + patience
    while kill_all(record) and time.monotonic() < deadline:
        time.sleep(TICK)


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def listeners(record: Record) -> Sequence[Listener] | None:
    """Where the processes listen; None when that is not ours to see."""
    found: set[tuple[str, int]] = set()
    for process in _tree(record):
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.NoSuchProcess:
            continue
        except (psutil.Error, OSError):
            return None
        found.update((one.laddr.ip, one.laddr.port) for one in connections if one.status == psutil.CONN_LISTEN)
    return [Listener(host, port) for host, port in sorted(found)]


def cpu_seconds(record: Record) -> float | None:
    """Processor time of the whole sandbox: as its group has counted it, else as its processes say.

    Without a group that leaves out what has ended without its parent's noticing.
    """
    counted = cgroups.cpu_seconds(record.group_paths)
    if counted is not None:
        return counted
    used = [times for times in map(_cpu_times, _tree(record)) if times is not None]
    return sum(used) if used else None


def _cpu_times(process: psutil.Process) -> float | None:
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return sum((times.user, times.system, times.children_user, times.children_system))
    return None
