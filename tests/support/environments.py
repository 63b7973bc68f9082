"""Virtual environments for official packages, made from exact pins with hashes, once per content.

uv makes one in a second or two where pip needs half a minute. uv does not read pip's configuration, and a machine may
have its index nowhere else: what pip is configured with is handed to uv in variables, and where uv cannot do it
all the same, pip does.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from uv import find_uv_bin

from tests.support.served import finish, locked

_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "no-index": "UV_NO_INDEX",
    "cert": "SSL_CERT_FILE",
}
"""uv's variable for each of pip's options that say where packages come from."""

_SECTIONS = ("global", "install", ":env:")
"""Of pip's configuration; the later one wins."""


def environment(pins: Path, home: Path) -> Path:
    """The Python of the environment `home` that holds exactly `pins`; made, or made again, if it must be."""
    stamp = home / "pins.sha256"
    wanted = hashlib.sha256(pins.read_bytes()).hexdigest()
    python = home / "bin" / "python"
    with locked(home.with_name(f"{home.name}.lock")):
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(home, ignore_errors=True)
            if not _made_by_uv(pins, home, python):
                shutil.rmtree(home, ignore_errors=True)
                finish([sys.executable, "-m", "venv", str(home)])
                finish([str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(pins)])
            stamp.write_text(wanted)
    return python


def _made_by_uv(pins: Path, home: Path, python: Path) -> bool:
    uv = find_uv_bin()
    listed = finish([sys.executable, "-m", "pip", "config", "list"]).splitlines()
    variables = {**uv_variables(listed), **os.environ}
    return all(
        subprocess.run(command, env=variables, capture_output=True, check=False).returncode == 0
        for command in (
            [uv, "venv", "--python", sys.executable, str(home)],
            [uv, "pip", "install", "--python", str(python), "--require-hashes", "-r", str(pins)],
        )
    )


def uv_variables(listed: Iterable[str]) -> dict[str, str]:
    """uv's variables for what `pip config list` prints; any index may have the best file, as with pip: hashes check."""
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for _, option, value in sorted(_options(listed), key=lambda entry: _SECTIONS.index(entry[0])):
        separator = "," if option == "find-links" else " "
        found[_VARIABLES[option]] = separator.join(value.split())
    return found


def _options(listed: Iterable[str]) -> Iterable[tuple[str, str, str]]:
    """Section, option and value of each line that concerns where packages come from."""
    for line in listed:
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if option in _VARIABLES and section in _SECTIONS:
            yield section, option, str(ast.literal_eval(value))
