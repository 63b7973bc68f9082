"""What stands between an image reference and a startable image: its grammar, pulling, and what goes wrong.

Engines report every failed pull as one English line. `explain_pull` turns that line into the error that the
users of hosted agents know (`ImagePullBackOff`, `InvalidContainerImage`) with what to do about it. Pure
functions; the pull itself is in `docker.py`, credentials in `docker_credentials.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cupola.errors import StartFailed

DOCKER_HUB = "docker.io"
PULL_DENIED = "ImagePullBackOff"
NO_SUCH_IMAGE = "InvalidContainerImage"
REPORT_EVERY = 1.0
"""Seconds between two lines about a pull: often enough to see it live, seldom enough to read."""

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_NAME = re.compile(
    rf"(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*:[0-9a-fA-F]{32,}))?"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """An image reference, taken apart. `registry` is None when the caller named none."""

    registry: str | None
    path: str
    tag: str | None
    digest: str | None

    @property
    def host(self) -> str:
        return self.registry or DOCKER_HUB

    @property
    def name(self) -> str:
        """The full name without tag or digest, as the engine itself would complete it."""
        library = "library/" if self.host == DOCKER_HUB and "/" not in self.path else ""
        return f"{self.host}/{library}{self.path}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag or ('' if digest else ':latest')}{digest}"


def parse_reference(image: str) -> Reference:
    """Takes a reference apart as engines do, or raises `StartFailed` with what is wrong with it."""
    first, slash, rest = image.partition("/")
    registry = first if slash and _looks_like_host(first) else None
    match = _NAME.fullmatch(image if registry is None else rest)
    if match is None or (registry is not None and _HOST.fullmatch(registry) is None):
        raise pull_failed(f"{image!r} is not an image reference: {_what_is_wrong(image)}", NO_SUCH_IMAGE)
    return Reference(registry, match["path"], match["tag"], match["digest"])


def _what_is_wrong(image: str) -> str:
    path = image.partition("@")[0].rpartition("/")[2].partition(":")[0]
    if path != path.lower():
        return "repository names are lower case"
    return "expected registry/name:tag, without spaces or a scheme"


def _looks_like_host(name: str) -> bool:
    return "." in name or ":" in name or name == "localhost"


def pull_failed(sentence: str, *names: str) -> StartFailed:
    """An image that cannot be had; `names` are those that users of hosted agents look for."""
    return StartFailed(
        sentence,
        phase="pull",
        code="ImageError",
        details=[{"code": name, "message": sentence} for name in names],
    )


def wrong_architecture(image: str, image_platform: str, engine_platform: str) -> StartFailed:
    """An image for another processor, or another operating system."""
    sentence = (
        f"The image {image} is built for {image_platform}, but the container engine runs {engine_platform}: "
        f"build it with docker build --platform {engine_platform} -t {image} ."
    )
    return StartFailed(
        sentence,
        phase="validate",
        code="ImageError",
        details=[{"code": NO_SUCH_IMAGE, "message": sentence}],
    )


@dataclass(frozen=True, slots=True)
class _Cause:
    """A reason of a failed pull: the words by which engines name it, and what we say."""

    words: Sequence[str]
    sentence: str
    names: Sequence[str]


_UNREACHABLE = _Cause(
    (
        "connection refused",
        "i/o timeout",
        "tls handshake timeout",
        "client.timeout",
        "deadline exceeded",
        "network is unreachable",
        "no route to host",
        "temporary failure in name resolution",
        "server misbehaving",
        "connection reset",
        "proxyconnect",
    ),
    "The registry {host} could not be reached for image {image}: check the network, a proxy and the "
    "registry's name, or build or load the image on this machine (docker build -t {image} .)",
    (PULL_DENIED,),
)

_CAUSES = (
    _Cause(
        ("no matching manifest", "no image found in manifest list", "no image found in image index"),
        "The image {image} is not published for the platform of this container engine: "
        "build it with docker build --platform linux/amd64 and push it again",
        (NO_SUCH_IMAGE,),
    ),
    _Cause(
        ("no space left on device",),
        "There is no space left for image {image}: free some (docker system df shows what takes it)",
        (PULL_DENIED,),
    ),
    _Cause(
        ("toomanyrequests", "too many requests", "rate limit"),
        "The registry {host} limits how often image {image} may be pulled: wait, or docker login {host}",
        (PULL_DENIED,),
    ),
    _Cause(
        ("x509", "certificate", "server gave http response to https client"),
        "The container engine does not trust the registry {host} of image {image}: add its certificate to "
        "the engine, or list it under insecure-registries",
        (PULL_DENIED,),
    ),
    _Cause(
        (
            "unauthorized",
            "authentication required",
            "no basic auth credentials",
            "denied",
            "forbidden",
            "invalid username/password",
        ),
        "The registry {host} did not allow image {image} to be pulled: run docker login {host}{azure}",
        (PULL_DENIED,),
    ),
    _Cause(
        ("no such host",),
        "The registry {host} of image {image} does not exist: check the image's path",
        (NO_SUCH_IMAGE,),
    ),
    _Cause(
        (
            "manifest unknown",
            "not found",
            "name unknown",
            "name invalid",
            "unknown:",
            "invalid reference",
            "no such image",
        ),
        "The image {image} does not exist in the registry {host}: check path and tag; if it is local, "
        "build it with docker build -t {image} .",
        (NO_SUCH_IMAGE,),
    ),
    _UNREACHABLE,
)

_AMBIGUOUS = ("pull access denied", "repository does not exist or may require")


def explain_pull(image: str, reference: Reference, message: str) -> StartFailed:
    """The error for a pull that ended with the engine's `message`."""
    lowered = message.lower()
    if any(words in lowered for words in _AMBIGUOUS):
        return _absent_or_denied(image, reference, message)
    if reference.host == DOCKER_HUB and "no such host" in lowered:
        return _explained(_UNREACHABLE, image, reference, message)  # Docker Hub exists: the network does not
    for cause in _CAUSES:
        if any(words in lowered for words in cause.words):
            return _explained(cause, image, reference, message)
    return pull_failed(f"The image {image} could not be pulled. The engine said: {message}", PULL_DENIED)


def _explained(cause: _Cause, image: str, reference: Reference, message: str) -> StartFailed:
    sentence = cause.sentence.format(image=image, host=reference.host, azure=_azure_remedy(reference))
    return pull_failed(f"{sentence}. The engine said: {message}", *cause.names)


def _absent_or_denied(image: str, reference: Reference, message: str) -> StartFailed:
    """Registries hide what one may not see, so engines say both; the likelier name comes first."""
    names = (NO_SUCH_IMAGE, PULL_DENIED) if reference.registry is None else (PULL_DENIED, NO_SUCH_IMAGE)
    return pull_failed(
        f"The image {image} either does not exist or may not be pulled from {reference.host}: if it is "
        f"local, build it with docker build -t {image} .; else check path and tag, and run docker login "
        f"{reference.host}{_azure_remedy(reference)}. The engine said: {message}",
        *names,
    )


def _azure_remedy(reference: Reference) -> str:
    if not reference.host.endswith(".azurecr.io"):
        return ""
    name = reference.host.partition(".")[0]
    return f" (or az acr login --name {name}); on Azure grant AcrPull on it to the project's managed identity"


@dataclass(slots=True)
class PullProgress:
    """Turns an engine's flood of progress events into a line now and then."""

    image: str
    _layers: dict[str, tuple[int, int]] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)
    _last: float = float("-inf")

    def feed(self, event: Mapping[str, Any], now: float) -> str | None:
        """Takes one event; returns a line when it is time for one."""
        layer, status = str(event.get("id", "")), str(event.get("status", ""))
        if status == "Downloading":
            sizes = event.get("progressDetail") or {}
            self._layers[layer] = (int(sizes.get("current") or 0), int(sizes.get("total") or 0))
        elif status in {"Pulling fs layer", "Waiting"}:
            self._layers.setdefault(layer, (0, 0))
        elif status in {"Pull complete", "Already exists"}:
            self._layers.setdefault(layer, (0, 0))
            self._done.add(layer)
        else:
            return None
        if now - self._last < REPORT_EVERY:
            return None
        self._last = now
        return self._line()

    def _line(self) -> str:
        current = sum(size for size, _ in self._layers.values())
        total = sum(size for _, size in self._layers.values())
        sizes = f", {current / 1e6:.0f} of {total / 1e6:.0f} MB" if total else ""
        return f"pulling {self.image}: {len(self._done)} of {len(self._layers)} layers{sizes}"
