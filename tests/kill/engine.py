"""A container engine of the test's own, which may be stopped and started again; the shared one never is."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PATIENCE = 30.0


class PrivateEngine:
    """`dockerd` with directories and socket of its own. `folder` has a short name: that of a socket is bounded."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"unix://{folder}/sock"

    def start(self) -> None:
        """Returns when it answers."""
        command = [
            "dockerd",
            f"--data-root={self._folder}/data",
            f"--exec-root={self._folder}/exec",
            f"--pidfile={self._folder}/pid",
            f"--host={self.address}",
            "--bridge=none",  # the default bridge is the shared engine's
            "--iptables=false",
            "--ip6tables=false",
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _PATIENCE
        while subprocess.run(self._docker("info"), capture_output=True, check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the engine did not start:\n{(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def end(self) -> None:
        """Returns when it is gone, and its containers with it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE)
            self._process = None

    def take_image(self, image: str) -> None:
        """Copies an image of the shared engine."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
            subprocess.run(self._docker("load"), stdin=saving.stdout, capture_output=True, check=True)

    def _docker(self, *arguments: str) -> list[str]:
        return ["docker", "--host", self.address, *arguments]


def complaint() -> str | None:
    """Why no second engine can be run here; None when it can."""
    if shutil.which("dockerd") is None:
        return "there is no dockerd here"
    return None if os.geteuid() == 0 else "only root may run a second engine"


@contextmanager
def private_engine() -> Iterator[PrivateEngine]:
    """An engine that answers; nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="cupola-engine-"))
    engine = PrivateEngine(folder)
    try:
        engine.start()
        yield engine
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            engine.end()
        subprocess.run(["rm", "-rf", str(folder)], check=True)
