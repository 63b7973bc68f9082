"""Packs an agent's folder as the zip that a code deployment uploads.

The same files give the same bytes (sorted names, fixed times), so deploying an unchanged folder again makes no
new version.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

AGENT_FOLDER = Path(os.environ.get("AGENT_FOLDER", Path(__file__).parent / "agent"))
LEFT_OUT = {"Dockerfile", ".dockerignore", "__pycache__"}


def write_code_zip(folder: Path, target: Path) -> Path:
    """Writes the files of `folder`, flat at the root of the zip `target`, and returns `target`."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and LEFT_OUT.isdisjoint(name.parts):
                entry = zipfile.ZipInfo(name.as_posix(), date_time=(2026, 1, 1, 0, 0, 0))
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return target
