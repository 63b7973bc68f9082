"""A container engine of the test's own, which may be stopped and started again; the shared one never is."""

from __future__ import annotations

import contextlib
import os
import secrets
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
        self._bridge = f"cupola{secrets.token_hex(3)}"
        self.address = f"unix://{folder}/sock"

    def make_bridge(self) -> None:
        """A default bridge of its own. No sandbox is on it; its addresses are of a range for benchmarks (RFC 2544)."""
        _ip("link", "add", "name", self._bridge, "type", "bridge")
        _ip("address", "add", f"198.18.{secrets.randbelow(256)}.1/24", "dev", self._bridge)

    def remove_bridge(self) -> None:
        _ip("link", "delete", self._bridge)

    def start(self) -> None:
        """Returns when it answers."""
        command = [
            "dockerd",
            f"--data-root={self._folder}/data",
            f"--exec-root={self._folder}/exec",
            f"--pidfile={self._folder}/pid",
            f"--host={self.address}",
            f"--bridge={self._bridge}",  # without one, dockerd removes the shared engine's
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


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def complaint() -> str | None:
    """Why no second engine can be run here; None when it can."""
    if missing := [name for name in ("dockerd", "ip") if shutil.which(name) is None]:
        return f"there is no {' and no '.join(missing)} here"
    return None if os.geteuid() == 0 else "only root may run a second engine"


@contextmanager
def private_engine() -> Iterator[PrivateEngine]:
    """An engine that answers; nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="cupola-engine-"))
    engine = PrivateEngine(folder)
    engine.make_bridge()
    try:
        engine.start()
        yield engine
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            engine.end()
        engine.remove_bridge()
        subprocess.run(["rm", "-rf", str(folder)], check=True)
