"""Starts the main process of a sandbox, or of a prepared parent, with its limits, its box and its environment.

Left out is what is kept of it on disk, `process_files`, and what becomes of it, `process_tree`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cupola.drivers import bubblewrap as bwrap
from cupola.drivers import cgroups
from cupola.drivers import process_tree as tree
from cupola.drivers.base import SANDBOX_HOME, CodeSource, SandboxSpec
from cupola.drivers.process_files import Record, SandboxFiles
from cupola.drivers.process_surroundings import Surroundings


@dataclass(frozen=True, slots=True)
class Launcher:
    """What all starts on this machine share; `private` is the directory that no box shows."""

    installation: str
    private: Path
    surroundings: Surroundings

    @property
    def boxes(self) -> bool:
        return self.surroundings.bubblewrap is not None

    def group_name(self, sandbox_id: str) -> str:
        return f"cupola-{self.installation}-{sandbox_id}"

    def groups(self, sandbox_id: str) -> tuple[str, ...]:
        """Where the control groups of a sandbox are going to be."""
        return tuple(map(str, self.surroundings.cgroups.paths(self.group_name(sandbox_id))))

    def make_group(self, record: Record, spec: SandboxSpec) -> None:
        self.surroundings.cgroups.create(self.group_name(record.sandbox_id), cgroups.Limits(spec.memory, spec.cpu))

    def data_limit(self, spec: SandboxSpec) -> int | None:
        """Bytes of private memory per process, where no control group counts memory."""
        return None if "memory" in self.surroundings.limits else spec.memory

    def begin(
        self,
        spec: SandboxSpec,
        source: CodeSource,
        record: Record,
        files: SandboxFiles,
        *,
        shown: Sequence[Path] = (),
        box_arguments: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> str | None:
        """Starts the source's command in the record's group, which is there, and returns which process it is.

        `shown` can be read in the box too; `box_arguments` are more of them for bubblewrap.
        """
        command = [*source.command]
        if self.surroundings.bubblewrap is not None:
            box = bwrap.Box(
                readable=(*self.readable(source), *shown),
                directory=source.directory,
                home=files.home(spec.home),
                ca_bundle=spec.ca_bundle,
            )
            command = bwrap.wrap(
                self.surroundings.bubblewrap, box, self.surroundings.system, command, more=box_arguments
            )
        prologue = cgroups.joining(record.group_paths)
        limit = self.data_limit(spec)
        if limit is not None:
            prologue += f"ulimit -d {limit // 1024} 2>/dev/null || :\n"
        with files.output(spec.sandbox_id).open("ab") as output:
            pid = tree.begin(
                ["/bin/sh", "-c", f'{prologue}exec "$@"', "sh", *command],
                environment=self.environment(spec, source, record, files),
                directory=source.directory,
                output=output,
                pass_fds=pass_fds,
            )
        return tree.identity(pid)

    def readable(self, source: CodeSource) -> tuple[Path, ...]:
        """What of the machine a box shows beside the system: the interpreter and the agent's code."""
        private = (self.private, Path.home())
        shown = (*bwrap.interpreter_paths(source.command, private), source.directory, *source.import_path)
        return tuple(dict.fromkeys(path for path in shown if path.exists()))

    def environment(self, spec: SandboxSpec, source: CodeSource, record: Record, files: SandboxFiles) -> dict[str, str]:
        """All variables of a sandbox, those that only the driver knows too."""
        program = Path(source.command[0])
        search = ["/usr/local/bin", "/usr/bin", "/bin"]
        if program.is_absolute():
            search.insert(0, str(program.parent))
        imports = [*map(str, source.import_path), *filter(None, [spec.environment.get("PYTHONPATH")])]
        ca_bundle = bwrap.CA_BUNDLE if record.boxed else str(spec.ca_bundle)
        return {
            "LANG": "C.UTF-8",
            "PATH": ":".join(search),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            **spec.environment,
            **({"PYTHONPATH": ":".join(imports)} if imports else {}),
            "HOME": SANDBOX_HOME if record.boxed else str(files.home(spec.home)),
            "PORT": str(record.port),
            "DEFAULT_AD_PORT": str(record.port),
            "SSL_CERT_FILE": ca_bundle,
            "REQUESTS_CA_BUNDLE": ca_bundle,
            tree.MARK: spec.sandbox_id,
        }
