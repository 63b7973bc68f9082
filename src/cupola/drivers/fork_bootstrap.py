"""Runs an agent's entry point up to where it would serve, and forks a sandbox from there whenever it is told to.

The program of a prepared parent. It runs in the agent's interpreter, with its import path and nothing of ours beside
its neighbours `fork_*`, so it knows the standard library only. It is started in place of the agent:

    server ── control socket ──> parent ── fork ──> sandbox's main process ──> (init of its process space) ──> agent

The *main process* is known to the server, waits for the agent and writes down how it ended. What a sandbox is to be
comes over a socket of its own, which only its main process reads: the parent sees no session's credentials. When the
server lets go of the control socket, the parent ends and its children go on.

Left out: which agents may be forked is for their definition to say; that it can be done is looked at here (`obstacle`).
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib.util
import json
import os
import runpy
import signal
import socket
import stat
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn


def _beside(name: str) -> Any:
    """A module of this folder, which is not on the agent's import path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(name + ".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


box = _beside("fork_box")
serving = _beside("fork_serving")
values = _beside("fork_values")

LONGEST = 1 << 16
"""Bytes of the first message, which says what to run."""

DIED = 70
"""The exit code of a sandbox that could not be made."""


class Parent:
    """Everything that is true of this process up to and between its forks."""

    def __init__(self, control: socket.socket, order: Mapping[str, Any]) -> None:
        self.control = control
        self.boxed: bool = order["boxed"]
        self.standins: Mapping[str, str] = order["standins"]
        self.serving = serving.Serving(order["port"], self.serve_forks, self.refuse)
        self.held: Any = []
        self.found: dict[str, set[str]] = {}
        """What was there before the agent's code ran."""
        self.on_child_s_end: Any = signal.SIG_DFL
        """What the agent does on SIGCHLD."""

    def prepare(self) -> None:
        """Makes this process ready for the agent's code."""
        os.environ.update(self.standins)
        self.serving.intercept()
        self.found = {directory: _names(directory) for directory in self._writable()}

    def _writable(self) -> list[str]:
        """Where what the agent writes before the fork would be missing in its children."""
        return [os.environ["HOME"], *box.OWN_DIRECTORIES] if self.boxed else []

    def refuse(self, reason: str) -> NoReturn:
        self.control.send(reason.encode())
        sys.stdout.flush()
        os._exit(0)

    def obstacle(self) -> str | None:
        """Why this process must not be forked."""
        if threading.current_thread() is not threading.main_thread():
            return "it serves from another thread than its main one"
        if len(_names("/proc/self/task")) > 1:
            names = ", ".join(sorted(one.name for one in threading.enumerate() if one is not threading.main_thread()))
            return f"it has started threads before it serves ({names or 'of a library'})"
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        if children.exists() and children.read_text().strip():
            return "it has started other processes before it serves"
        for directory in self._writable():
            if _names(directory) != self.found[directory]:
                return f"it writes to {directory} before it serves"
        return self._open_file()

    def _open_file(self) -> str | None:
        """What is open is shared by all children: only what can do no harm may be."""
        known = {0, 1, 2, self.control.fileno(), *(one.fileno() for one in self.serving.bound)}
        for descriptor in sorted(map(int, _names("/proc/self/fd"))):
            try:
                mode = os.fstat(descriptor).st_mode
                target = Path(f"/proc/self/fd/{descriptor}").readlink()
                writes = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            except OSError:
                continue  # the one by which the directory was read
            harmless = stat.S_ISCHR(mode) or (stat.S_ISREG(mode) and not writes)
            if descriptor not in known and not harmless:
                return f"it holds {target} open before it serves"
        return None

    # Forking

    def serve_forks(self) -> None:
        """Waits for orders to fork; returns in each child, and never in this process."""
        reason = self.obstacle()
        if reason is None:
            self.serving.import_for_later()
            reason = self.obstacle()
        if reason is None:
            try:
                self.held = values.find(self.standins)
            except values.Fixed as error:
                reason = str(error)
        if reason is not None:
            self.refuse(reason)
        gc.collect()
        gc.freeze()
        sys.stdout.flush()
        sys.stderr.flush()
        self.on_child_s_end = signal.signal(signal.SIGCHLD, signal.SIG_IGN) or signal.SIG_DFL  # nobody waits for them
        self.control.send(b"ready")
        while True:
            order, descriptors, _, _ = socket.recv_fds(self.control, 1, 4)
            if not order:
                os._exit(0)
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                self.control.close()
                self.serving.waiting = False
                self._become_sandbox(descriptors)
                return
            for descriptor in descriptors:
                os.close(descriptor)

    def _become_sandbox(self, descriptors: list[int]) -> None:
        """In the child: returns in the agent's process, while the ones before it wait for its end."""
        channel, output, ending, *home = descriptors
        server = socket.socket(fileno=channel)
        try:
            os.setsid()
            server.send(b"begun")
            with server.makefile("rb") as told:
                text = told.read()
            if not text:
                os._exit(DIED)  # the server has gone, or given up
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            wish = json.loads(text)
            self._take_environment(wish)
            if wish["data_limit"] is not None:
                box.limit_data(wish["data_limit"])
            if self.boxed:
                box.enter(home[0], wish["environment"]["HOME"], wish["code"])
                _fork_and_wait(ending, boxed=True)
                box.see_own_processes()
                box.give_up_rights()
            _fork_and_wait(None if self.boxed else ending)
            os.chdir(wish["directory"])
            os.close(ending)
            signal.signal(signal.SIGCHLD, self.on_child_s_end)
            self.serving.take_port(int(wish["environment"]["PORT"]))
            values.replace(self.held, self.standins, wish["environment"])
            values.reseed()
            self.serving.make_up()
            server.send(b"serves")
            server.close()
        except BaseException as error:
            with contextlib.suppress(OSError):
                server.send(f"{type(error).__name__}: {error}".encode())
            os._exit(DIED)

    def _take_environment(self, wish: Mapping[str, Any]) -> None:
        os.environ.clear()
        os.environ.update(wish["environment"])
        # By its mark a sandbox is found when nobody wrote down its process.
        box.rewrite_environment_block(f"{wish['mark']}={wish['environment'][wish['mark']]}\0".encode())


def _names(directory: str) -> set[str]:
    return {path.name for path in Path(directory).iterdir()}


def _fork_and_wait(ending: int | None, *, boxed: bool = False) -> None:
    """Returns in a new child. The process itself waits for its end, notes it in `ending`, and ends likewise."""
    child = os.fork()
    if child == 0:
        return
    if boxed:
        box.give_up_rights()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    if ending is None:
        os.closerange(3, 1 << 30)
    else:
        os.dup2(ending, 3)
        os.closerange(4, 1 << 30)
    status = wait_for(child)
    if ending is not None:
        os.write(3, str(status).encode())
    os._exit(status)


def wait_for(child: int) -> int:
    """Reaps whatever ends until `child` does, and says how, as a shell would."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def keep_box() -> None:
    """Returns in the parent to be. This process stays while the box has children, so that a dead parent's go on."""
    box.uncover_processes()
    box.adopt_orphans()
    child = os.fork()
    if child == 0:
        box.give_up_rights(may_map_root=True)
        return
    os.closerange(3, 1 << 30)
    status = wait_for(child)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        os._exit(status)


def run(arguments: list[str]) -> None:
    """As `python <arguments>` would: a file, or `-m` and a module."""
    if arguments[0] == "-m":
        sys.argv[:] = arguments[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = arguments
        file = Path(arguments[0]).absolute()
        sys.path[0] = str(file.parent)
        agent = ModuleType("__main__")
        agent.__file__ = str(file)
        sys.modules["__main__"] = agent
        exec(compile(file.read_bytes(), str(file), "exec"), vars(agent))  # noqa: S102 - as the interpreter would


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    order = json.loads(control.recv(LONGEST))
    if order["boxed"]:
        keep_box()
    parent = Parent(control, order)
    parent.prepare()
    run(order["run"])
    if parent.serving.waiting:
        parent.refuse("it ends without a call that is known to serve (asyncio.run, uvicorn, serve_forever)")


if __name__ == "__main__":
    main()
