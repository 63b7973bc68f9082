"""Starts the platform again and again, each time as a process of its own, without importing it anew each time.

One line on stdin starts `cupola up` with this program's own arguments and environment, and its pid is the line on
stdout. What runs in the child is all of the command; only that Python has its modules already differs, which makes a
start cost a fifth. When stdin ends, the last one is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import cupola.app
import cupola.logs
from cupola.cli import main
from cupola.store import migrate

_LOADED = (cupola.app, cupola.logs, migrate)


def start(arguments: list[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    sys.argv = ["cupola", *arguments]
    main()
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children, and none stays a zombie
    last = 0
    while sys.stdin.buffer.read(1):
        last = start(sys.argv[1:])
        print(last, flush=True)
    if last:
        with contextlib.suppress(ProcessLookupError):
            os.kill(last, signal.SIGKILL)
