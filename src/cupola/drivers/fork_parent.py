"""One prepared parent: begun, told to fork, let go of.

It has no session and sees no session's values. It is known by a record of its own, like a sandbox, so that a later
server can remove it. It ends when the server lets go of its control socket, be it on purpose or by dying; its box stays
while it holds children. What runs in the parent and its children is `fork_bootstrap`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import socket
import struct
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cupola.drivers import process_tree as tree
from cupola.drivers.base import CodeSource, SandboxSpec
from cupola.drivers.fork_box import UNCOVERED
from cupola.drivers.process_files import Record, SandboxFiles, last_lines
from cupola.drivers.process_launch import Launcher

PREPARING = 60.0
"""Seconds that an agent gets to come to where it serves; then it is started as ever."""

FORKING = 10.0
"""Seconds that a fork gets; it takes a few milliseconds."""

ENDING = 10.0
"""Seconds that killed processes get to be gone; more only passes when a disk hangs."""

HERE = Path(__file__).parent
PROGRAMS = tuple(HERE / f"fork_{name}.py" for name in ("bootstrap", "box", "serving", "values"))
"""What runs in a parent; each is shown in its box, our other files are not."""

PARENT_BOX = (
    "--unshare-user",
    *("--dir", UNCOVERED),
    *("--remount-ro", "/dev", "--remount-ro", "/"),  # children would share what is written there
    *("--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SETFCAP", "--cap-add", "CAP_SETPCAP"),
)
"""Beside what every box has. The capabilities hold in the box's own user namespace and are dropped before the agent's
code runs: see `fork_bootstrap.keep_box`."""

BOX_TMP = "/tmp"  # noqa: S108 - a box's own; where code lies in the machine's, it is shown in there


class NotForked(Exception):
    """Why a sandbox has to be started in the ordinary way, as the end of a sentence."""


class Lost(NotForked):
    """The parent is not there any more or does not answer: another one may do better."""


@dataclass(slots=True, eq=False)
class Parent:
    """A parent that waits for orders.

    `record` names the first process of its box, `process` the one that forks; until it is `ready` they are the same.
    """

    record: Record
    process: str
    control: socket.socket
    directory: Path
    used_at: float
    ready: bool = False

    @property
    def waits(self) -> bool:
        return tree.look_at(replace(self.record, process=self.process))[0]

    def fork(
        self,
        launcher: Launcher,
        spec: SandboxSpec,
        source: CodeSource,
        record: Record,
        files: SandboxFiles,
        mount_home: Callable[[Path], int],
    ) -> Record:
        """A new sandbox as `record` reserves it in `files`, its group made: the record with its process, written.

        Raises `NotForked` or `OSError`, with no process left.
        """
        wish = {
            "environment": launcher.environment(spec, source, record, files),
            "directory": str(source.directory),
            "data_limit": launcher.data_limit(spec),
            "mark": tree.MARK,
            "code": [str(path) for path in launcher.readable(source) if path.is_relative_to(BOX_TMP)],
        }
        channel, theirs = socket.socketpair()
        with channel:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            with theirs, _opened(spec, record, files, mount_home) as handed_over:
                socket.send_fds(self.control, [b"fork"], [theirs.fileno(), *handed_over])
            _, pid = self._answer(channel, FORKING)
            record = replace(record, process=tree.identity(pid), parent=self.record.sandbox_id)
            try:
                files.write(record)
                for group in record.group_paths:
                    (group / "cgroup.procs").write_text(str(pid))
                channel.sendall(json.dumps(wish).encode())
                channel.shutdown(socket.SHUT_WR)
                answer, _ = self._answer(channel, FORKING)
                if answer != b"serves":
                    raise Lost(f"its fork failed: {_words(answer)}")
            except BaseException:
                tree.end_all(record, ENDING)
                files.write(replace(record, process=None, parent=None))
                raise
        return record

    def _answer(self, channel: socket.socket, patience: float) -> tuple[bytes, int]:
        """The next message, and the process that sent it as the kernel says."""
        deadline = time.monotonic() + patience
        while not select.select([channel], [], [], 0.1)[0]:
            if not self.waits:
                raise Lost(self._ended)
            if time.monotonic() > deadline:
                missing = "its parent does not answer" if self.ready else "it does not come to where it serves"
                raise Lost(f"{missing} within {patience:.0f} s")
        message, extra, _, _ = channel.recvmsg(65536, socket.CMSG_SPACE(struct.calcsize("3i")))
        if not message:
            raise Lost(self._ended)
        for level, kind, content in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                return message, struct.unpack("3i", content)[0]
        raise Lost("the kernel does not say who answers")

    @property
    def _ended(self) -> str:
        return "its parent has ended" if self.ready else "it ends before it serves"

    def let_go(self) -> None:
        """It ends; its children do not."""
        self.control.close()
        deadline = time.monotonic() + ENDING
        while self.waits and time.monotonic() < deadline:
            time.sleep(tree.TICK)

    def await_ready(self, order: Mapping[str, object], output: Path) -> None:
        """Says what to run and waits until it would serve. Raises `NotForked` with the reason why it will not."""
        try:
            self.control.send(json.dumps(order).encode())
            answer, pid = self._answer(self.control, PREPARING)
        except (OSError, Lost) as error:
            last = last_lines(output, 1)
            raise NotForked(f"{error}{f' ({_words(last[0].encode())})' if last else ''}") from error
        if answer != b"ready":
            raise NotForked(_words(answer))
        self.process = tree.identity(pid) or ""
        self.ready = True


def begin(
    launcher: Launcher, spec: SandboxSpec, source: CodeSource, record: Record, files: SandboxFiles, now: float
) -> Parent:
    """A new parent that is ready, as `record` in `files` describes it; `spec` is nobody's in particular.

    Raises `NotForked` or `OSError`; what has begun by then is named by the record.
    """
    run = arguments(source)
    files.home(spec.home).mkdir(mode=0o700)
    files.output(spec.sandbox_id).touch(mode=0o600)
    files.write(record)
    launcher.make_group(record, spec)
    standins = {name: secrets.token_hex(16) for name in sorted(spec.personal)}
    if not record.boxed:
        standins["HOME"] = f"/proc/{secrets.token_hex(16)}"  # nothing can be made there, let alone be shared
    control, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as undo:
        undo.callback(control.close)
        control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs:
            process = launcher.begin(
                spec,
                replace(source, command=(source.command[0], "-s", str(PROGRAMS[0]), str(theirs.fileno()))),
                record,
                files,
                shown=PROGRAMS,
                box_arguments=PARENT_BOX,
                pass_fds=(theirs.fileno(),),
            )
        record = replace(record, process=process)
        files.write(record)
        parent = Parent(record, process or "", control, source.directory, now)
        order = {"boxed": record.boxed, "port": record.port, "standins": standins, "run": run}
        parent.await_ready(order, files.output(spec.sandbox_id))
        undo.pop_all()
    return parent


def arguments(source: CodeSource) -> list[str]:
    """What comes after the interpreter and its switches: a file or `-m module`, with their arguments."""
    program, *rest = source.command
    while rest and rest[0] in ("-s", "-u", "-B", "-E"):
        rest.pop(0)
    if not Path(program).name.startswith("python") or not rest or (rest[0].startswith("-") and rest[0] != "-m"):
        raise NotForked("only `python <file>` and `python -m <module>` can be forked")
    return rest


@contextmanager
def _opened(
    spec: SandboxSpec, record: Record, files: SandboxFiles, mount_home: Callable[[Path], int]
) -> Iterator[list[int]]:
    """The files that a child cannot open itself: its output, the note of its end, the mount of its home."""
    with contextlib.ExitStack() as opened:
        output = opened.enter_context(files.output(spec.sandbox_id).open("ab"))
        ending = opened.enter_context(files.ending(spec.sandbox_id).open("wb"))
        found = [output.fileno(), ending.fileno()]
        if record.boxed:
            home = mount_home(files.home(spec.home))
            opened.callback(os.close, home)
            found.append(home)
        yield found


def _words(told: bytes) -> str:
    """What the agent's side says, as a part of our sentence: it may be anything."""
    return textwrap.shorten(told.decode(errors="replace"), 300, placeholder=" ...")
