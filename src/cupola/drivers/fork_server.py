"""Starts sandboxes by forking them from prepared parents: which parent, when it is made, and when it goes.

A parent belongs to one version (strictly: to what its sandboxes have in common). It is begun at the first start that
asks for it, has run the agent's code up to where it would serve, and then forks whenever it is told to: a fork takes
a few milliseconds where the imports take hundreds. That an agent cannot be forked is found out in the parent, comes
here as `NotForked`, and leads to an ordinary start.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from cupola.drivers import cgroups, fork_parent
from cupola.drivers import process_tree as tree
from cupola.drivers.base import LABEL_INSTALLATION, LABEL_SANDBOX, LABEL_SESSION, CodeSource, SandboxSpec
from cupola.drivers.fork_homes import HomeBroker
from cupola.drivers.fork_parent import ENDING, Lost, NotForked, Parent
from cupola.drivers.process_files import Record, SandboxFiles
from cupola.drivers.process_launch import Launcher
from cupola.drivers.process_ports import free_port

FORK = "CUPOLA_FORK"
"""The variable by which a definition says that its agent may be forked: `1`."""

UNUSED = 900.0
"""Seconds after which a parent that nobody asks is stopped: about 50 MiB for the next start's half second."""


def forking_asked(spec: SandboxSpec) -> bool:
    """Whether the agent says that it may be forked."""
    return spec.environment.get(FORK) == "1"


class Parents:
    """The prepared parents of this server. Its calls block, and come from any thread."""

    def __init__(self, sandboxes: SandboxFiles, installation: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._sandboxes = sandboxes
        self._files = SandboxFiles(sandboxes.root / "parents")
        self._installation = installation
        self._clock = clock
        self._parents: dict[str, Parent] = {}
        self._refused: dict[str, str] = {}
        """Why what cannot be forked cannot; it is not tried again before the next start of the server."""
        self._turns: dict[str, threading.Lock] = defaultdict(threading.Lock)
        """One start at a time of what shares a parent."""
        self._begun: set[str] = set()
        """The ids of parents that are being prepared."""
        self._tidying = threading.Lock()
        self._homes = HomeBroker()

    def fork(self, launcher: Launcher, spec: SandboxSpec, source: CodeSource, record: Record) -> Record:
        """A new sandbox as `record` reserves it, its group made: the record with its process, written.

        Raises `NotForked`, with no process left.
        """
        if not sys.platform.startswith("linux"):
            raise NotForked("only Linux has what that needs")
        key = _key(spec, source)
        with self._turns[key]:
            parent = self._ready(key, launcher, spec, source)
            parent.used_at = self._clock()
            try:
                return parent.fork(launcher, spec, source, record, self._sandboxes, self._homes.home)
            except (OSError, Lost) as error:
                self._forget(key)
                self.tidy()
                raise NotForked(str(error)) from error

    def _ready(self, key: str, launcher: Launcher, spec: SandboxSpec, source: CodeSource) -> Parent:
        if key in self._refused:
            raise NotForked(self._refused[key])
        parent = self._parents.get(key)
        if parent is not None and parent.waits:
            return parent
        self._forget(key)
        try:
            self._parents[key] = parent = self._prepare(launcher, spec, source)
        except OSError as error:
            self.tidy()
            raise NotForked(f"its parent could not be started: {error}") from error
        except NotForked as error:
            self._refused[key] = str(error)
            self.tidy()
            raise
        self._begun.discard(parent.record.sandbox_id)
        return parent

    def _prepare(self, launcher: Launcher, spec: SandboxSpec, source: CodeSource) -> Parent:
        spec = _without_session(spec, self._installation)
        self._files.make_directories()
        taken = {known.port for files in (self._files, self._sandboxes) for known in files.all()}
        record = Record(
            sandbox_id=spec.sandbox_id,
            labels=dict(spec.labels),
            port=free_port(taken),
            boxed=launcher.boxes,
            groups=launcher.groups(spec.sandbox_id),
        )
        self._begun.add(spec.sandbox_id)
        try:
            return fork_parent.begin(launcher, spec, source, record, self._files, self._clock())
        except BaseException:
            self._begun.discard(spec.sandbox_id)
            raise

    def retire(self) -> bool:
        """Lets go of parents that nobody has asked for long, or whose code is gone; whether some are left."""
        now = self._clock()
        for key, parent in list(self._parents.items()):
            turn = self._turns[key]
            unneeded = now - parent.used_at >= UNUSED or not parent.directory.is_dir()
            if unneeded and turn.acquire(blocking=False):
                try:
                    self._forget(key)
                finally:
                    turn.release()
        self.tidy()
        return bool(self._parents) or bool(self._files.known())

    def close(self) -> None:
        """Lets go of all; children go on."""
        for key in list(self._parents):
            self._forget(key)
        self._homes.close()
        self.tidy()

    def _forget(self, key: str) -> None:
        parent = self._parents.pop(key, None)
        if parent is not None:
            parent.let_go()

    def tidy(self) -> None:
        """Removes what is left of parents that are not in use and whose last child has ended."""
        with self._tidying:
            used = self._begun | {parent.record.sandbox_id for parent in list(self._parents.values())}
            used |= {one.parent for one in self._sandboxes.all() if one.parent is not None and tree.look_at(one)[0]}
            for record in self._files.all():
                if record.sandbox_id not in used and record.labels.get(LABEL_INSTALLATION) == self._installation:
                    tree.end_all(record, ENDING)
                    cgroups.remove_empty(record.group_paths, ENDING)
                    self._files.remove_home(record.sandbox_id)
                    self._files.output(record.sandbox_id).unlink(missing_ok=True)
                    self._files.remove(record.sandbox_id)


def _shared(spec: SandboxSpec) -> dict[str, str]:
    return {name: value for name, value in spec.environment.items() if name not in spec.personal}


def _key(spec: SandboxSpec, source: CodeSource) -> str:
    """What names a parent: all that its children have in common."""
    labels = {name: value for name, value in spec.labels.items() if name not in (LABEL_SANDBOX, LABEL_SESSION)}
    code = [str(source.directory), *map(str, source.import_path), *source.command]
    parts = [code, _shared(spec), labels, spec.cpu, spec.memory, str(spec.ca_bundle)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _without_session(spec: SandboxSpec, installation: str) -> SandboxSpec:
    """The spec of a parent: nobody's environment, a home of its own."""
    name = f"parent-{secrets.token_hex(8)}"
    labels = {**spec.labels, LABEL_INSTALLATION: installation, LABEL_SANDBOX: name}
    labels.pop(LABEL_SESSION, None)
    return replace(spec, sandbox_id=name, home=name, environment=_shared(spec), labels=labels)
