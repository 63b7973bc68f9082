"""Where a container engine may listen, and what has to be known about one that does.

Docker and Podman speak the same protocol over sockets that lie in a dozen places. `find_engines` lists them
in the order in which the `docker` command would look, without connecting; `engine_traits` reads from two
answers of the engine what the driver decides by. Connecting itself is in `docker.py`.

Left out: reading TLS material of remote engines (`DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH` are the client
library's), and starting an engine that is not running.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOW_TO_GET_ONE = (
    "install Docker (on Debian or Ubuntu: apt install docker.io) or Podman (apt install podman, then "
    "systemctl --user start podman.socket), start it, or set DOCKER_HOST; code deployments need no engine"
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address at which an engine may answer, and who said so."""

    url: str
    origin: str

    @property
    def socket(self) -> Path | None:
        return Path(self.url.removeprefix("unix://")) if self.url.startswith("unix://") else None

    def __str__(self) -> str:
        return f"{self.url} ({self.origin})"


@dataclass(frozen=True, slots=True)
class EngineTraits:
    """What the driver has to know about its engine.

    `shares_kernel` is True when sandboxes run on this very kernel, and not in a virtual machine beside it.
    """

    name: str
    version: str
    os: str
    architecture: str
    podman: bool
    rootless: bool
    shares_kernel: bool


def docker_config_directory(environ: Mapping[str, str], home: Path) -> Path:
    """Where the `docker` command keeps its configuration, its contexts and its credentials."""
    return Path(environ["DOCKER_CONFIG"]) if environ.get("DOCKER_CONFIG") else home / ".docker"


def read_docker_config(directory: Path) -> Mapping[str, Any]:
    """The user's `config.json`, empty when there is none that can be read."""
    return _read_object(directory / "config.json")


def find_engines(
    environ: Mapping[str, str], home: Path, exists: Callable[[Path], bool] = Path.exists
) -> list[Candidate]:
    """Every place worth trying, best first. What the user named explicitly stands alone."""
    if host := environ.get("DOCKER_HOST"):
        return [Candidate(host, "DOCKER_HOST")]
    directory = docker_config_directory(environ, home)
    if name := environ.get("DOCKER_CONTEXT"):
        chosen = _context(directory, name, "DOCKER_CONTEXT")
        if chosen or name != "default":
            return chosen
    current = read_docker_config(directory).get("currentContext")
    chosen = _context(directory, current, "current context") if isinstance(current, str) else []
    return _distinct([*chosen, *_usual_sockets(environ, home, exists)])


def _context(directory: Path, name: str, origin: str) -> list[Candidate]:
    for file in sorted((directory / "contexts" / "meta").glob("*/meta.json")):
        meta = _read_object(file)
        host = meta.get("Endpoints", {}).get("docker", {}).get("Host")
        if meta.get("Name") == name and host:
            return [Candidate(str(host), f"{origin} {name!r}")]
    return []


def _usual_sockets(environ: Mapping[str, str], home: Path, exists: Callable[[Path], bool]) -> Iterable[Candidate]:
    runtime = Path(environ["XDG_RUNTIME_DIR"]) if environ.get("XDG_RUNTIME_DIR") else None
    places = [
        (Path("/var/run/docker.sock"), "Docker"),
        (runtime and runtime / "docker.sock", "rootless Docker"),
        (home / ".docker/run/docker.sock", "Docker Desktop"),
        (home / ".colima/default/docker.sock", "Colima"),
        (Path("/run/podman/podman.sock"), "Podman"),
        (runtime and runtime / "podman/podman.sock", "rootless Podman"),
    ]
    return [Candidate(f"unix://{path}", origin) for path, origin in places if path and exists(path)]


def _distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    seen: dict[str, Candidate] = {}
    for candidate in candidates:
        seen.setdefault(candidate.url, candidate)
    return list(seen.values())


def _read_object(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def explain_no_engine(failures: Iterable[tuple[Candidate, str]]) -> str:
    """One sentence that names what was tried, why each failed, and what to do."""
    tried = [f"{candidate}: {reason}" for candidate, reason in failures]
    if not tried:
        return f"No container engine was found: {HOW_TO_GET_ONE}."
    return f"No container engine can be used. Tried {'; '.join(tried)}."


def explain_connection(reason: str) -> str:
    """Why one candidate did not answer, with its remedy."""
    lowered = reason.lower()
    if "permission denied" in lowered:
        return "permission denied, add yourself to the docker group (sudo usermod -aG docker $USER, then log in again)"
    if "no such file" in lowered or "refused" in lowered:
        return f"nothing answers there, {HOW_TO_GET_ONE}"
    return reason


def explain_unsupported(candidate: Candidate) -> str | None:
    """Why a candidate is not even tried, or None. Sandboxes of an engine elsewhere could not call back."""
    scheme = candidate.url.partition("://")[0]
    if scheme in {"unix", "npipe", "tcp", "http", "https"}:
        return None
    return (
        f"an engine reached over {scheme} runs on another machine, where sandboxes cannot reach this "
        "platform; use an engine on this machine, or run the platform there"
    )


def engine_traits(version: Mapping[str, Any], info: Mapping[str, Any], *, kernel: str | None = None) -> EngineTraits:
    """Reads the engine's `/version` and `/info`."""
    kernel = os.uname().release if kernel is None and hasattr(os, "uname") else kernel
    components = [str(part.get("Name", "")) for part in version.get("Components") or ()]
    podman = any(name.startswith("Podman") for name in components)
    return EngineTraits(
        name="Podman" if podman else "Docker",
        version=str(version.get("Version", "")),
        os=str(version.get("Os", "linux")),
        architecture=normal_architecture(str(version.get("Arch", ""))),
        podman=podman,
        rootless=any("rootless" in str(option) for option in info.get("SecurityOptions") or ()),
        shares_kernel=info.get("KernelVersion") == kernel,
    )


ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i386": "386"}


def normal_architecture(name: str) -> str:
    """One spelling for each architecture, the one that images use."""
    return ARCHITECTURES.get(name, name)


def runs_natively(image: str, engine: str) -> bool:
    """Whether a processor of architecture `engine` executes programs for `image`."""
    image, engine = normal_architecture(image), normal_architecture(engine)
    return image == engine or (engine, image) in {("amd64", "386"), ("arm64", "arm")}
