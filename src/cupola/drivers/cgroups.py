"""Enforces memory, cpu and process limits on child processes through Linux control groups.

A group is made per sandbox in whichever hierarchies this process may write to: version 2, version 1, or the
mixture of both that some systems mount. The functions that look after an existing group take its paths, not
the way it was made, because a later server may find other hierarchies than the one that made the group.

Left out: systemd's bus interface (it would enforce limits for users without write access, at the price of a
daemon that many containers do not have) and io limits.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

WANTED = ("memory", "cpu", "pids")
TICK = 0.01
"""Seconds between tries to remove a group that the kernel still holds."""

PERIOD = 100_000
"""Microseconds over which the cpu quota is counted: the kernel's default."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sandbox may use: bytes, vCPUs, and processes with threads."""

    memory: int
    cpu: float
    pids: int = 512


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted hierarchy and the group in it, writable for us, under which we make ours."""

    version: int
    controllers: frozenset[str]
    parent: Path


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The hierarchy that serves each controller; a controller that is absent is not enforced."""

    serving: Mapping[str, Hierarchy] = field(default_factory=dict)

    def paths(self, name: str) -> tuple[Path, ...]:
        """Where the group `name` lies: one directory per hierarchy."""
        return tuple(dict.fromkeys(hierarchy.parent / name for hierarchy in self.serving.values()))

    def create(self, name: str, limits: Limits) -> None:
        """Makes the group `name` with its limits, which hold from the first process on."""
        for controller, hierarchy in self.serving.items():
            group = hierarchy.parent / name
            group.mkdir(exist_ok=True)
            for file, value, needed in settings(controller, hierarchy.version, limits):
                if needed or (group / file).exists():
                    (group / file).write_text(value)


def settings(controller: str, version: int, limits: Limits) -> tuple[tuple[str, str, bool], ...]:
    """The files that set a limit, in the order to write them: name, value, whether every kernel has it."""
    memory, quota = str(limits.memory), str(int(limits.cpu * PERIOD))
    table: dict[tuple[str, int], tuple[tuple[str, str, bool], ...]] = {
        ("memory", 2): (
            ("memory.max", memory, True),
            ("memory.swap.max", "0", False),
            ("memory.oom.group", "1", False),
        ),
        ("memory", 1): (
            ("memory.limit_in_bytes", memory, True),
            ("memory.memsw.limit_in_bytes", memory, False),  # absent without swap accounting
        ),
        ("cpu", 2): (("cpu.max", f"{quota} {PERIOD}", True),),
        ("cpu", 1): (("cpu.cfs_period_us", str(PERIOD), True), ("cpu.cfs_quota_us", quota, True)),
        ("pids", 2): (("pids.max", str(limits.pids), True),),
        ("pids", 1): (("pids.max", str(limits.pids), True),),
    }
    return table[controller, version]


def choose(found: Iterable[Hierarchy]) -> Cgroups:
    """For each limit that we want the first hierarchy that can enforce it, version 2 before version 1."""
    ordered = sorted(found, key=lambda hierarchy: -hierarchy.version)
    serving: dict[str, Hierarchy] = {}
    for controller in WANTED:
        for hierarchy in ordered:
            if controller in hierarchy.controllers:
                serving[controller] = hierarchy
                break
    return Cgroups(serving)


def find(proc: Path = Path("/proc/self")) -> list[Hierarchy]:
    """The hierarchies mounted here in which this process may make groups."""
    try:
        mounts = (proc / "mountinfo").read_text().splitlines()
        own = (proc / "cgroup").read_text().splitlines()
    except OSError:
        return []
    unified = next((line.removeprefix("0::/") for line in own if line.startswith("0::/")), "")
    found = []
    for line in mounts:
        ours, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        point = Path(ours.split(" ")[4])
        if kind == "cgroup":
            named = frozenset(options.split(",")) & frozenset(WANTED)
            if named and _writable(point):
                found.append(Hierarchy(1, named, point))
        elif kind == "cgroup2":
            found.extend(_delegated(point, unified))
    return found


def _delegated(point: Path, own: str) -> list[Hierarchy]:
    """The topmost group of version 2, from the mount down to our own, that hands controllers to new groups.

    Topmost, because a group that holds processes may not hand out controllers: our own group never can.
    """
    parts = [part for part in own.split("/") if part and part != ".."]
    for depth in range(len(parts) + 1):
        group = point.joinpath(*parts[:depth])
        if _writable(group):
            controllers = _handed_out(group)
            if "memory" in controllers:
                return [Hierarchy(2, controllers, group)]
    return []


def _handed_out(group: Path) -> frozenset[str]:
    """What the group's children are given, after asking for what is missing and could be."""
    control, wanted = group / "cgroup.subtree_control", frozenset(WANTED)
    for controller in sorted((wanted & _words(group / "cgroup.controllers")) - _words(control)):
        with contextlib.suppress(OSError):
            control.write_text(f"+{controller}")
    return wanted & _words(control)


def _words(file: Path) -> frozenset[str]:
    try:
        return frozenset(file.read_text().split())
    except OSError:
        return frozenset()


def _writable(group: Path) -> bool:
    return os.access(group, os.W_OK | os.X_OK) and os.access(group / "cgroup.procs", os.W_OK)


def joining(paths: Sequence[Path]) -> str:
    """Shell code by which a shell moves itself, and so what it executes, into a group."""
    return "".join(f"echo $$ > {shlex.quote(str(path / 'cgroup.procs'))} || exit 125\n" for path in paths)


def works(cgroups: Cgroups, name: str) -> bool:
    """Whether a group can really be made and joined: rights on a parent can forbid it."""
    paths = cgroups.paths(name)
    try:
        cgroups.create(name, Limits(memory=64 << 20, cpu=1.0))
        tried = subprocess.run(["/bin/sh", "-c", joining(paths)], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    else:
        return tried.returncode == 0
    finally:
        remove(paths)


def members(paths: Iterable[Path]) -> set[int]:
    """The ids of the processes in a group."""
    found: set[int] = set()
    for path in paths:
        with contextlib.suppress(OSError):
            found.update(map(int, (path / "cgroup.procs").read_text().split()))
    return found


def kill(paths: Iterable[Path]) -> None:
    """SIGKILL to every process in a group, at one stroke where the kernel can."""
    for path in paths:
        with contextlib.suppress(OSError):
            if (path / "cgroup.kill").exists():
                (path / "cgroup.kill").write_text("1")
    for pid in members(paths):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def remove(paths: Iterable[Path]) -> bool:
    """Removes a group; False while the kernel still counts a process in it."""
    gone = True
    for path in paths:
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            gone = False
    return gone


def remove_empty(paths: Sequence[Path], patience: float) -> None:
    """Removes a group whose processes are ending; the kernel gets `patience` seconds to forget them."""
    deadline = time.monotonic() + patience
    while not remove(paths) and time.monotonic() < deadline:
        time.sleep(TICK)


def out_of_memory(paths: Iterable[Path]) -> bool:
    """Whether the kernel has killed a process of the group because the memory limit was reached."""
    for path in paths:
        for file in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                counters = dict(line.split() for line in (path / file).read_text().splitlines())
                if int(counters.get("oom_kill", "0")) > 0:
                    return True
    return False


def cpu_seconds(paths: Iterable[Path]) -> float | None:
    """Processor time that a group has used, with all that has ended in it; None where no hierarchy counts it."""
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            return int((path / "cpuacct.usage").read_text()) / 1e9
        with contextlib.suppress(OSError, ValueError, KeyError):
            counters = dict(line.split() for line in (path / "cpu.stat").read_text().splitlines())
            return int(counters["usage_usec"]) / 1e6
    return None
