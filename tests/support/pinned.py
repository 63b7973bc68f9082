"""Programs in environments of their own, made from exact pins with hashes, so that no package of ours is near them."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from tests.support.served import CACHE, CHECKOUT, finish, locked


def pinned_python(name: str) -> Path:
    """The Python of `requirements/<name>.txt`, made at the first call and again when the pins change."""
    pins = CHECKOUT / "requirements" / f"{name}.txt"
    home = CACHE / f"{name}-py{sys.version_info.major}.{sys.version_info.minor}"
    stamp, python = home / "pins.sha256", home / "bin" / "python"
    wanted = hashlib.sha256(pins.read_bytes()).hexdigest()
    with locked(CACHE / f"{name}.lock"):
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(home, ignore_errors=True)
            finish([sys.executable, "-m", "venv", str(home)])
            finish([str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(pins)])
            stamp.write_text(wanted)
    return python
