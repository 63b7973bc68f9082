"""Three ways of asking: one caller who waits for each answer, sixty-four who don't, one who reads a stream.

The single callers are blocking sockets: no event loop of ours adds its own delay to what is measured.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from benchmarks.servers import LOAD_CORE, Target, on_core

_LUA = """wrk.method = "POST"
wrk.body = '{"input": "hello"}'
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer TOKEN"
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d\\n", summary.requests, summary.duration, errors.status + errors.connect
    + errors.read + errors.write + errors.timeout))
end
"""


class Line:
    """One kept connection to a target."""

    def __init__(self, target: Target) -> None:
        self._target = target
        raw = socket.create_connection((target.host, target.port), timeout=30)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = target.context()
        self._socket = raw if context is None else context.wrap_socket(raw, server_hostname=target.host)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self) -> float:
        """Seconds from the request to the whole answer."""
        began = time.perf_counter()
        self._post(b'{"input": "hello"}')
        head = self._until(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        if length is None or b" 200 " not in head[:20]:
            raise SystemExit(f"{self._target.name} answered {head[:200]!r}")
        self._exactly(int(length[1]))
        return time.perf_counter() - began

    def first_event(self) -> float:
        """Seconds from the agent's writing of an event to its being here, by the machine's one monotonic clock."""
        self._post(json.dumps({"events": 2, "gap": 0.01}).encode())
        self._until(b"data: ")
        arrived = time.monotonic_ns()
        written = int(self._until(b" ")[:-1])
        self._until(b"0\r\n\r\n")
        return (arrived - written) / 1e9

    def _post(self, body: bytes) -> None:
        head = (
            f"POST {self._target.path} HTTP/1.1\r\nhost: {self._target.host}:{self._target.port}\r\n"
            f"authorization: Bearer {self._target.token}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode("ascii") + body)

    def _until(self, mark: bytes) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            self._read()
        taken, self._buffer = self._buffer[: at + len(mark)], self._buffer[at + len(mark) :]
        return taken

    def _exactly(self, size: int) -> None:
        while len(self._buffer) < size:
            self._read()
        self._buffer = self._buffer[size:]

    def _read(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise SystemExit(f"{self._target.name} closed the connection.")
        self._buffer += data


def medians(targets: Sequence[Target], *, events: bool, rounds: int, each: int) -> list[float]:
    """The median of each target, in milliseconds; the targets take turns, so that all see the same machine."""
    samples: list[list[float]] = [[] for _ in targets]
    with _alone_on(LOAD_CORE):
        lines = [Line(target) for target in targets]
        for line in lines:
            line.ask()
        for _ in range(rounds):
            await_quiet(1.0)
            for line, taken in zip(lines, samples, strict=True):
                taken += [line.first_event() if events else line.ask() for _ in range(each)]
        for line in lines:
            line.__exit__(None, None, None)
    return [statistics.median(taken) * 1000 for taken in samples]


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_second` on the clock, `per_cpu_second` of the process's own time, which a busy machine blurs less."""

    per_second: float
    per_cpu_second: float


def rates(targets: Sequence[Target], directory: Path, *, rounds: int = 3, seconds: int = 2) -> list[Rate] | None:
    """Requests at 64 connections, the medians of some short runs in turns; None without wrk."""
    program = shutil.which("wrk")
    if program is None:
        return None
    samples: list[list[Rate]] = [[] for _ in targets]
    for _ in range(rounds):
        for target, taken in zip(targets, samples, strict=True):
            script = directory / "post.lua"
            script.write_text(_LUA.replace("TOKEN", target.token))
            command = [*on_core(LOAD_CORE), program, "-t1", "-c64", f"-d{seconds}s", "-s", str(script), target.url]
            await_quiet()
            before = cpu_seconds(target.pid)
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            spent = cpu_seconds(target.pid) - before
            result = re.search(r"RESULT (\d+) (\d+) (\d+)", said)
            if result is None or int(result[3]):
                raise SystemExit(f"wrk against {target.name}: {said}")
            count = int(result[1])
            taken.append(Rate(count / int(result[2]) * 1e6, count / spent if spent else 0.0))
    return [
        Rate(
            statistics.median(rate.per_second for rate in taken),
            statistics.median(rate.per_cpu_second for rate in taken),
        )
        for taken in samples
    ]


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has taken so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def await_quiet(patience: float = 10.0, busy: float = 15.0) -> None:
    """Waits a while for the machine to have nothing else to do."""
    deadline = time.monotonic() + patience
    while psutil.cpu_percent(interval=0.2) > busy and time.monotonic() < deadline:
        pass


class _alone_on:
    """Pins this process to a core for a while."""

    def __init__(self, core: int) -> None:
        self._core = core
        self._before = os.sched_getaffinity(0)

    def __enter__(self) -> None:
        if len(self._before) > 1:
            os.sched_setaffinity(0, {self._core})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.sched_setaffinity(0, self._before)
