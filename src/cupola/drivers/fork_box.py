"""The system calls by which a forked child leaves its parent's box for one of its own.

Runs in the agent's interpreter, so it knows the standard library only. The parent lives in an ordinary bubblewrap box,
with a read-only root and without capabilities. A child makes a user namespace in it, where it may mount: its own home,
/tmp, /dev/shm, terminals and process space come to lie over the parent's, for good, because what a user namespace
inherits cannot be unmounted in it. Then it gives its rights up.

A home cannot be reached from within the parent's box: it comes as a detached mount, over a socket. A server that is not
root may not make one; a process with a user namespace of its own may. So this file is also the program of a broker that
runs beside the server, none of the agent's code in it, and hands out homes for as long as the server holds its socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_LIBC: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID = 1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29
_READ_ONLY, _NO_SUID, _NO_DEV, _NO_EXEC = 1, 2, 4, 8
_RECURSIVE, _PRIVATE = 1 << 14, 1 << 18

# The same numbers on every architecture: they are younger than the common table.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_EMPTY_PATH, _CLONE, _WITH_MOUNTS, _FROM_EMPTY_PATH = -100, 0x1000, 1, 0x8000, 4

_SET_NO_NEW_PRIVS, _SUBREAPER, _DROP_BOUND, _AMBIENT, _AMBIENT_CLEAR = 38, 36, 24, 47, 4
_SETFCAP = 31
_CAPABILITIES_V3 = 0x20080522


OWN_DIRECTORIES = ("/tmp", "/dev/shm")  # noqa: S108 - they are the sandbox's own
"""Where a sandbox may write beside its home, to be forgotten with it."""


UNCOVERED = "/run/cupola/processes"
"""Where the parent's process space can be seen as a whole; in a child there is nothing."""


def _done(result: int, what: str) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _mount(kind: str, place: str, flags: int, options: str = "") -> None:
    arguments = (kind.encode(), place.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _done(_LIBC.mount(*arguments), f"mounting {place}")


def _own_user_namespace(more: int) -> None:
    """Into a new user namespace, as the same user, with every capability in it."""
    user, group = os.geteuid(), os.getegid()
    _done(_LIBC.unshare(_NEWUSER | more), "making namespaces")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path(f"/proc/self/{name}").write_text(text)


def see_the_host() -> None:
    """For the broker: a copy of the host's mounts in which it may clone them."""
    _own_user_namespace(_NEWNS)


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def _cloned(path: bytes, flags: int) -> int:
    return _done(_LIBC.syscall(_OPEN_TREE, _AT_FDCWD, path, flags | os.O_CLOEXEC), "cloning a mount")


def _attach(tree: int, place: str) -> None:
    moved = _LIBC.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, place.encode(), _FROM_EMPTY_PATH)
    _done(moved, f"mounting {place}")
    os.close(tree)


def detached(directory: bytes) -> int:
    """A file descriptor of a mount of `directory` that lies nowhere yet; nothing on it is a device or gains rights."""
    tree = _cloned(directory, _CLONE)
    attributes = _MountAttributes(_NO_SUID | _NO_DEV, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    try:
        changed = _LIBC.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size)
        _done(changed, "restricting a home's mount")
    except OSError:
        os.close(tree)
        raise
    return tree


def uncover_processes() -> None:
    """For the parent, before the agent's code runs: a process space that children may mount anew.

    The kernel lets nobody mount one where all that can be seen are partly covered, as bubblewrap's is when root runs
    it. Read-only it needs no covers. When another user runs it nothing is covered, and this is neither needed nor
    allowed.
    """
    with contextlib.suppress(PermissionError):
        _mount("proc", UNCOVERED, _READ_ONLY | _NO_SUID | _NO_DEV | _NO_EXEC)


def adopt_orphans() -> None:
    """Children whose own parent dies come to this process."""
    _done(_LIBC.prctl(_SUBREAPER, 1, 0, 0, 0), "becoming a reaper")


def enter(home: int, place: str, code: Sequence[str]) -> None:
    """Gives the calling process namespaces of its own, with the home of the descriptor `home` at `place`.

    `code` is what has to be seen in spite of the new /tmp, because it lies in there. The process space is that of the
    next process that it forks, which has to call `see_own_processes`.
    """
    _own_user_namespace(_NEWNS | _NEWPID | _NEWIPC | _NEWUTS | _NEWCGROUP)
    _done(_LIBC.mount(None, b"/", None, ctypes.c_ulong(_RECURSIVE | _PRIVATE), None), "parting the mounts")
    _attach(home, place)
    trees = [(path, _cloned(path.encode(), _CLONE | _WITH_MOUNTS)) for path in code]
    for directory in OWN_DIRECTORIES:
        _mount("tmpfs", directory, _NO_SUID | _NO_DEV, "mode=0755")
    _mount("tmpfs", UNCOVERED, _READ_ONLY)
    for path, tree in trees:
        Path(path).mkdir(parents=True)
        _attach(tree, path)
    _mount("devpts", "/dev/pts", _NO_SUID | _NO_EXEC, "newinstance,ptmxmode=0666,mode=620")


def see_own_processes() -> None:
    """For the first process of a process space: /proc shows that, and nothing of the parent."""
    _mount("proc", "/proc", _READ_ONLY | _NO_SUID | _NO_DEV | _NO_EXEC)


def give_up_rights(*, may_map_root: bool = False) -> None:
    """No capability any more, here and in what is executed from here.

    `may_map_root` keeps the one without which a root user cannot make a user namespace of its own; it opens nothing
    in a box where no file system honours a program's capabilities.
    """
    kept = 1 << _SETFCAP if may_map_root and os.geteuid() == 0 else 0
    _done(_LIBC.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "forbidding new rights")
    _done(_LIBC.prctl(_AMBIENT, _AMBIENT_CLEAR, 0, 0, 0), "dropping rights")
    for capability in range(64):
        if kept >> capability & 1:
            continue
        if _LIBC.prctl(_DROP_BOUND, capability, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EINVAL:
            break  # beyond the last one that this kernel has
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    sets = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
    _done(_LIBC.capset(ctypes.byref(header), ctypes.byref(sets)), "dropping rights")


def limit_data(size: int) -> None:
    """No more than `size` bytes of private memory: what holds where there are no control groups."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def rewrite_environment_block(text: bytes) -> None:
    """Puts `text` where `/proc/<pid>/environ` reads, in place of what the program was started with.

    Call it when nothing of that is in use any more. What does not fit is left out.
    """
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    if end > start:
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, text, min(len(text), end - start - 1))


def hand_out_homes(descriptor: int) -> None:
    """Answers each path with a descriptor of its mount, or with the sentence that says why not."""
    server = socket.socket(fileno=descriptor)
    try:
        see_the_host()
    except OSError as error:
        server.send(f"this machine does not let us make user namespaces ({error})".encode())
        return
    server.send(b"ready")
    while path := server.recv(4096):
        try:
            home = detached(path)
        except OSError as error:
            server.send(f"the home could not be handed over ({error})".encode())
            continue
        socket.send_fds(server, [b"home"], [home])
        os.close(home)


if __name__ == "__main__":
    hand_out_homes(int(sys.argv[1]))
