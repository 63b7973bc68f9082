"""Puts a process into a file system and process space of its own with bubblewrap.

The sandbox sees the system's programs and libraries, the part of `/etc` that name look-up, certificates and
users need, the interpreter, its own code and its own home; nothing of the state directory, the user's home or
other processes. It shares the host's network: see `process.py`. Capabilities are dropped for good.

It does not die with the platform (no `--die-with-parent`): a restarted platform adopts it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cupola.drivers.base import SANDBOX_HOME

CA_BUNDLE = "/run/cupola/ca.pem"
"""Where a sandbox finds the platform's certificates."""

MERGED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Links into `/usr` on most systems, directories on the others."""

SYSTEM = ("/usr", "/nix/store", "/gnu/store")

ETC = (
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "gai.conf",
    "group",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "passwd",
    "pki",
    "protocols",
    "resolv.conf",
    "services",
    "timezone",
)
"""What programs look for in `/etc`; the rest can hold secrets, which root could read."""

CERTIFICATES = ("certs", "cert.pem", "openssl.cnf")
"""What of `/etc/ssl` is public; `private` is not."""


@dataclass(frozen=True, slots=True)
class Box:
    """What one sandbox sees beside the system: paths to read, its home, where it starts, what it trusts."""

    readable: tuple[Path, ...]
    directory: Path
    home: Path
    ca_bundle: Path


def wrap(
    bubblewrap: Path, box: Box, system: Sequence[str], command: Sequence[str], *, more: Sequence[str] = ()
) -> list[str]:
    """The argument vector that runs `command` in `box`. Order matters: what is mounted later lies on top.

    `more` arguments come after all others.
    """
    arguments = [str(bubblewrap), *system]
    arguments += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - it is the sandbox's own
    for path in box.readable:
        arguments += ["--ro-bind", str(path), str(path)]
    arguments += ["--ro-bind-try", str(box.ca_bundle), CA_BUNDLE]
    arguments += ["--bind", str(box.home), SANDBOX_HOME]
    arguments += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", "sandbox"]
    arguments += ["--unshare-cgroup-try", "--new-session", "--cap-drop", "ALL"]
    arguments += more
    return [*arguments, "--chdir", str(box.directory), "--", *command]


def system_mounts(root: Path = Path("/")) -> list[str]:
    """The arguments that show the machine's own programs, read-only."""
    arguments: list[str] = []
    for name in SYSTEM:
        arguments += ["--ro-bind-try", name, name]
    for name in MERGED:
        place = root / name.lstrip("/")
        if place.is_symlink():
            arguments += ["--symlink", str(place.readlink()), name]
        elif place.exists():
            arguments += ["--ro-bind", name, name]
    for name in (*ETC, *(f"ssl/{name}" for name in CERTIFICATES)):
        place = root / "etc" / name
        if place.exists():
            # resolv.conf is often a link to a place that the sandbox does not see
            arguments += ["--ro-bind-try", str(place.resolve()), f"/etc/{name}"]
    return arguments


def interpreter_paths(command: Sequence[str], private: Iterable[Path]) -> tuple[Path, ...]:
    """What must be readable for the program of `command` to run: its prefix, followed through links.

    A prefix that contains one of the `private` paths (a home directory with a `bin`) is not shown: then only
    the program itself is.
    """
    program = Path(command[0])
    if not program.is_absolute():
        return ()
    found: list[Path] = []
    for path in (program, program.resolve()):
        prefix = path.parent.parent if path.parent.name == "bin" else path
        if any(one.is_relative_to(prefix) for one in private):
            prefix = path
        if not any(prefix.is_relative_to(shown) for shown in (*SYSTEM, *MERGED, *map(str, found))) and prefix != Path(
            "/"
        ):
            found.append(prefix)
    return tuple(found)


def works(bubblewrap: Path, system: Sequence[str]) -> bool:
    """Whether this machine lets us use it: user namespaces can be forbidden."""
    home = Path("/usr")
    command = wrap(bubblewrap, Box((), home, home, home / "none"), system, ["/usr/bin/env", "true"])
    command = [part if part != "--bind" else "--ro-bind" for part in command]
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
