"""What this machine lets child processes have: a box around them, and limits.

It finds out by trying, because programs and mounts that are there may still be forbidden. Left out is how a box or
a group is made: `bubblewrap` and `cgroups` know.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cupola.drivers import bubblewrap as bwrap
from cupola.drivers import cgroups
from cupola.errors import DriverUnavailable


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What this machine lets us use; `system` are the mounts that show its programs in a box."""

    bubblewrap: Path | None
    system: tuple[str, ...]
    cgroups: cgroups.Cgroups

    @property
    def limits(self) -> frozenset[str]:
        """Which of memory, cpu, pids are enforced over the whole sandbox."""
        return frozenset(self.cgroups.serving)


def look_around(bubblewrap: Path | Literal["auto"] | None, groups: Literal["auto"] | None) -> Surroundings:
    """What is there of what is wanted; raises `DriverUnavailable` for a bubblewrap asked for that does not work."""
    system = tuple(bwrap.system_mounts())
    return Surroundings(_find_bubblewrap(bubblewrap, system), system, _find_groups(groups))


def _find_groups(groups: Literal["auto"] | None) -> cgroups.Cgroups:
    found = cgroups.choose(cgroups.find()) if groups == "auto" else cgroups.Cgroups()
    if found.serving and cgroups.works(found, f"cupola-try-{os.getpid()}-{time.monotonic_ns()}"):
        return found
    return cgroups.Cgroups()


def _find_bubblewrap(wanted: Path | Literal["auto"] | None, system: Sequence[str]) -> Path | None:
    if wanted == "auto":
        program = shutil.which("bwrap")
        return Path(program) if program is not None and bwrap.works(Path(program), system) else None
    if wanted is not None and not bwrap.works(wanted, system):
        raise DriverUnavailable(
            f"{wanted} does not work here: it is missing, or user namespaces are forbidden "
            "(Debian: sysctl kernel.unprivileged_userns_clone=1; Ubuntu: an AppArmor profile for bwrap)."
        )
    return wanted
