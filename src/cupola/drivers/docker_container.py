"""What a sandbox is in the words of the Docker Engine API, and what its answers mean: pure functions.

`container_config` is the one place that decides how a sandbox is shut in; the rest reads inspections,
translates errors and parses `/proc/net/tcp`. No init process is put before the agent: with one, a missing
command or a foreign binary would be a mere exit code where the engine now says what is wrong.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cupola.drivers.base import (
    LABEL_INSTALLATION,
    LABEL_SANDBOX,
    SANDBOX_HOME,
    SANDBOX_PORT,
    Address,
    Handle,
    ImageSource,
    Life,
    Listener,
    Observation,
    SandboxSpec,
    Step,
)
from cupola.errors import StartFailed

DRIVER = "docker"
CA_BUNDLE = "/etc/cupola/ca-bundle.pem"
MAX_PROCESSES = 512
"""Processes and threads of one sandbox: plenty for an agent with its tools, too few for a fork bomb."""

NOWHERE = Address("127.0.0.1", 0)
"""The address of a sandbox that ended before it could be asked for one: nothing ever listens on port 0."""

KILLED = 128 + 9
"""The exit code of a process that SIGKILL ended."""

SOURCE_HOME = "/source/cupola-home"
TARGET_HOME = "/cupola-home"
"""Where a container that serves for a copy shows the two homes. Both have one name, as that is what an archive holds;
the target lies right below the root, as engines refuse links that lead out of where they unpack."""

PORT_KEY = f"{SANDBOX_PORT}/tcp"
EMBEDDED_RESOLVER = "127.0.0.11"
"""The engine's own name server, which listens inside every sandbox."""

_SAFE = re.compile(r"[A-Za-z0-9_-]{1,128}")
_LISTENING = "0A"


def network_name(installation: str) -> str:
    return f"cupola-{installation}"


def container_name(installation: str, sandbox_id: str) -> str:
    return f"cupola-{installation}-{_safe(sandbox_id)}"


def home_name(installation: str, home: str) -> str:
    """The volume of a home."""
    return f"cupola-{installation}-{_safe(home)}"


def _safe(name: str) -> str:
    """`name` itself, or a digest of it with a dot that no safe name has, so that no two names meet."""
    return name if _SAFE.fullmatch(name) else f"sha256.{hashlib.sha256(name.encode()).hexdigest()}"


def container_config(
    spec: SandboxSpec, installation: str, *, network: str, publish: bool, podman: bool
) -> dict[str, Any]:
    """The body of `POST /containers/create` for a sandbox.

    `publish` makes the port reachable on 127.0.0.1 of this host, for engines whose networks it cannot reach.
    """
    assert isinstance(spec.source, ImageSource)
    config: dict[str, Any] = {
        "Image": spec.source.content or spec.source.image,
        "Env": [f"{name}={value}" for name, value in environment(spec).items()],
        "Labels": {**own_labels(installation, spec.sandbox_id), **spec.labels},
        "StopSignal": "SIGTERM",
        "ExposedPorts": {PORT_KEY: {}},
        "HostConfig": {
            "NetworkMode": network,
            "NanoCpus": round(spec.cpu * 1_000_000_000),
            "Memory": spec.memory,
            "MemorySwap": spec.memory,  # no swap beside it, or the limit is none
            "PidsLimit": MAX_PROCESSES,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
            "Mounts": _mounts(spec, installation),
        },
    }
    if publish:
        config["HostConfig"]["PortBindings"] = {PORT_KEY: [{"HostIp": "127.0.0.1", "HostPort": ""}]}
        if not podman:  # Podman names the host by itself
            config["HostConfig"]["ExtraHosts"] = ["host.docker.internal:host-gateway"]
    if not podman:  # the platform probes by itself; Podman asks systemd for a timer even to have none
        config["Healthcheck"] = {"Test": ["NONE"]}
    return config


def own_labels(installation: str, sandbox_id: str) -> Mapping[str, str]:
    return {LABEL_INSTALLATION: installation, LABEL_SANDBOX: sandbox_id}


def environment(spec: SandboxSpec) -> Mapping[str, str]:
    """The sandbox's variables. What only the driver can know wins over what a definition says."""
    return {
        **spec.environment,
        "HOME": SANDBOX_HOME,
        "PORT": str(SANDBOX_PORT),
        "DEFAULT_AD_PORT": str(SANDBOX_PORT),
        "SSL_CERT_FILE": CA_BUNDLE,
        "REQUESTS_CA_BUNDLE": CA_BUNDLE,
    }


def _mounts(spec: SandboxSpec, installation: str) -> list[dict[str, Any]]:
    return [
        home_mount(spec.home, installation),
        {"Type": "bind", "Source": str(spec.ca_bundle.absolute()), "Target": CA_BUNDLE, "ReadOnly": True},
    ]


def home_mount(home: str, installation: str) -> dict[str, Any]:
    """The volume of a home, in its place; one that is not there yet is made with it."""
    return {
        "Type": "volume",
        "Source": home_name(installation, home),
        "Target": SANDBOX_HOME,
        "VolumeOptions": {"Labels": {LABEL_INSTALLATION: installation}},
    }


def labelled_home(home: str, installation: str) -> dict[str, Any]:
    """The body of `POST /volumes/create` for a home; one that exists stays as it is."""
    return {"Name": home_name(installation, home), "Labels": {LABEL_INSTALLATION: installation}}


def copying_config(image: str, source: str, target: str) -> dict[str, Any]:
    """The body of `POST /containers/create` for a container that shows two volumes and never runs.

    It does not bear the installation's label: it is no sandbox, to be found among them as one that nobody owns.
    """
    shown = {SOURCE_HOME: (source, True), TARGET_HOME: (target, False)}
    return {
        "Image": image,
        "Cmd": ["never"],
        "HostConfig": {
            "NetworkMode": "none",
            "Mounts": [
                {
                    "Type": "volume",
                    "Source": volume,
                    "Target": place,
                    "ReadOnly": read_only,
                    "VolumeOptions": {"NoCopy": True},
                }
                for place, (volume, read_only) in shown.items()
            ],
        },
    }


def has_unprivileged_user(image: Mapping[str, Any]) -> bool:
    """Whether an inspected image runs as someone who may not write into a new volume."""
    user = str((image.get("Config") or {}).get("User") or "")
    return user.partition(":")[0] not in {"", "0", "root"}


def observation(state: Mapping[str, Any], *, told_of_memory: bool = True) -> Observation:
    """What an inspection's `State` says. A child killed for memory counts if the sandbox failed with it.

    Podman does not always notice that the kernel ended a sandbox for its memory (never with version 1 of control
    groups): with `told_of_memory` False a SIGKILL that we did not send, and after ours it is gone, counts as that.
    """
    if state.get("Running") or state.get("Status") == "stopping":
        return Observation(Life.RUNNING)  # of one that was told to end, Podman does not say that it runs, and it does
    if state.get("Status") in {"created", "configured", "initialized"}:
        return Observation(Life.EXITED)  # made, never run: nothing that could still answer
    code = int(state.get("ExitCode", 0))
    told = bool(state.get("OOMKilled")) and code != 0
    return Observation(Life.EXITED, code, out_of_memory=told or (code == KILLED and not told_of_memory))


def used_cpu_seconds(stats: Mapping[str, Any]) -> float | None:
    """Processor time of a container that runs, from the engine's statistics; one that has ended shows none."""
    nanoseconds = ((stats.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage")
    return nanoseconds / 1e9 if nanoseconds else None


def inspected_address(container: Mapping[str, Any], *, publish: bool) -> Address | None:
    """Where an inspected container is reached; None when it has no address (any more)."""
    settings = container.get("NetworkSettings") or {}
    if publish:
        bindings = (settings.get("Ports") or {}).get(PORT_KEY) or ()
        return next((Address("127.0.0.1", int(bound["HostPort"])) for bound in bindings), None)
    return _network_address(settings)


def listed_handle(container: Mapping[str, Any], *, publish: bool) -> Handle:
    """A handle from an entry of `GET /containers/json`."""
    settings = container.get("NetworkSettings") or {}
    if container.get("State") in {"created", "configured", "initialized"}:
        return Handle(DRIVER, str(container["Id"]), Step.CREATED)
    if publish:
        ports = [port for port in container.get("Ports") or () if port.get("PublicPort")]
        address = next((Address("127.0.0.1", int(port["PublicPort"])) for port in ports), None)
    else:
        address = _network_address(settings)
    return Handle(DRIVER, str(container["Id"]), Step.STARTED, address or NOWHERE)


def _network_address(settings: Mapping[str, Any]) -> Address | None:
    attached = (settings.get("Networks") or {}).values()
    hosts = (str(network["IPAddress"]) for network in attached if network.get("IPAddress"))
    return next((Address(host, SANDBOX_PORT) for host in hosts), None)


def explain_create(image: str, status: int, message: str) -> StartFailed:
    """The error for a container that could not be created."""
    lowered = message.lower()
    if status == 404 and "image" in lowered:
        sentence = f"The image {image} is not on this machine (any more): build or pull it, then try again."
        return _failed("create", sentence, code="ImageError", name="InvalidContainerImage")
    if status == 409 or "already in use" in lowered:
        return _failed("create", f"A sandbox of this name exists already: {message}")
    if "no command specified" in lowered or "no command" in lowered:
        sentence = f"The image {image} says no command: add CMD or ENTRYPOINT to its Dockerfile."
        return _failed("create", sentence, code="ImageError", name="InvalidContainerImage")
    return _failed("create", f"The container engine could not create a sandbox from {image}: {message}")


def explain_start(image: str, message: str) -> StartFailed:
    """The error for a container that was created but could not be started."""
    lowered = message.lower()
    if "exec format error" in lowered:
        sentence = (
            f"The program in image {image} is built for another processor architecture (exec format "
            "error): build with docker build --platform linux/amd64, or as this engine needs it; "
            "a script needs a #! line."
        )
        return _failed("start", sentence, code="ImageError", exit_code=126, name="InvalidContainerImage")
    if "executable file not found" in lowered or "no such file or directory" in lowered:
        sentence = (
            f"The command of image {image} does not exist in it: check CMD and ENTRYPOINT, and the #! line "
            f"of a script. The engine said: {message}"
        )
        return _failed("start", sentence, exit_code=127)
    if "permission denied" in lowered:
        sentence = (
            f"The command of image {image} may not be executed: chmod +x it in the Dockerfile. "
            f"The engine said: {message}"
        )
        return _failed("start", sentence, exit_code=126)
    return _failed("start", f"The container engine could not start a sandbox from {image}: {message}")


def _failed(
    phase: str,
    sentence: str,
    *,
    code: str | None = None,
    exit_code: int | None = None,
    name: str | None = None,
) -> StartFailed:
    details = [] if name is None else [{"code": name, "message": sentence}]
    return StartFailed(sentence, phase=phase, code=code, exit_code=exit_code, details=details)


def output_lines(pieces: Sequence[str], tail: int) -> list[str]:
    """The last lines of a log that came in pieces of any size."""
    lines = "".join(pieces).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.rstrip("\r") for line in lines[-tail:]] if tail > 0 else []


def parse_proc_net_tcp(text: str) -> list[Listener] | None:
    """The listening sockets in the text of `/proc/net/tcp` and `/proc/net/tcp6`; None if it is neither."""
    if "local_address" not in text:
        return None
    found: dict[Listener, None] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[3] == _LISTENING and ":" in fields[1]:
            host, _, port = fields[1].partition(":")
            found[Listener(_decode_host(host), int(port, 16))] = None
    return [listener for listener in found if listener.host != EMBEDDED_RESOLVER]


def _decode_host(hexadecimal: str) -> str:
    """The kernel prints addresses as 32-bit words in the machine's own byte order."""
    words = [int(hexadecimal[at : at + 8], 16) for at in range(0, len(hexadecimal), 8)]
    order = "<" if sys.byteorder == "little" else ">"
    return str(ipaddress.ip_address(struct.pack(f"{order}{len(words)}I", *words)))
