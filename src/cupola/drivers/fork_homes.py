"""Hands homes to forked sandboxes as mounts that can be sent over a socket: the server's side of it.

A box has no way to the directory of all homes, and a server that is not root cannot mount. A small program beside it
can, in a user namespace of its own: `fork_box`, run by the server's interpreter, with none of the agent's code in it.
It is begun when it is first needed and ends with the server's socket, so also when the server is killed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from cupola.drivers.fork_parent import NotForked

PROGRAM = Path(__file__).with_name("fork_box.py")

PATIENCE = 10.0
"""Seconds that an answer may take; a mount takes less than a millisecond."""


class HomeBroker:
    """The program, begun when it is first asked. May be asked from any thread."""

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._running: tuple[socket.socket, subprocess.Popen[bytes]] | None = None

    def home(self, directory: Path) -> int:
        """A descriptor of the mount of `directory`, for the caller to close. Raises `NotForked`."""
        with self._asking:
            try:
                broker = self._running[0] if self._running is not None else self._begin()
                broker.send(os.fsencode(directory))
                answer, descriptors, _, _ = socket.recv_fds(broker, 4096, 1)
                if not descriptors:
                    raise NotForked(answer.decode(errors="replace") or "the broker of homes has ended")
            except OSError as error:
                self._end()
                raise NotForked(f"the broker of homes does not answer ({error})") from error
            except NotForked:
                self._end()
                raise
            return descriptors[0]

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE)
        with theirs:
            command = [sys.executable, "-I", str(PROGRAM), str(theirs.fileno())]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), start_new_session=True
            )
        self._running = ours, process
        greeting = ours.recv(4096)
        if greeting != b"ready":
            raise NotForked(greeting.decode(errors="replace") or "the broker of homes does not start")
        return ours

    def close(self) -> None:
        with self._asking:
            self._end()

    def _end(self) -> None:
        if self._running is not None:
            broker, process = self._running
            self._running = None
            broker.close()
            process.kill()  # it may hang in a file system
            process.wait()
