"""Which TCP port a child process is to listen on."""

from __future__ import annotations

import errno
import secrets
import socket
from itertools import chain

HOST = "127.0.0.1"

PORTS = range(20_000, 32_768)
"""Where sandboxes listen: well above what services use, below what Linux (32768) and macOS (49152) give by chance."""


def free_port(taken: set[int]) -> int:
    """A TCP port that nobody listens on; one that a sleeping sandbox was promised is not given again.

    It lies below those that the kernel gives to whoever asks for any: between this look and the agent's bind, nobody
    on this machine gets it by chance.
    """
    first = secrets.randbelow(len(PORTS))
    for port in chain(PORTS[first:], PORTS[:first]):
        if port not in taken and _is_free(port):
            return port
    raise OSError(errno.EADDRINUSE, f"no TCP port from {PORTS.start} to {PORTS.stop - 1} is free on {HOST}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
