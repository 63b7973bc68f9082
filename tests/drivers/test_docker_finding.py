"""Finding a container engine: where to look, what to say when nothing can be used."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Collection
from pathlib import Path

import pytest

from cupola.drivers.docker import connect
from cupola.drivers.docker_engine import (
    Candidate,
    engine_traits,
    explain_connection,
    explain_no_engine,
    find_engines,
    runs_natively,
)
from cupola.errors import DriverUnavailable


def context(home: Path, name: str, host: str, *, current: bool = True) -> None:
    directory = home / ".docker/contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
    directory.mkdir(parents=True)
    (directory / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host}}}))
    if current:
        (home / ".docker/config.json").write_text(json.dumps({"currentContext": name}))


def urls(home: Path, environ: dict[str, str], there: Collection[str] = ()) -> list[str]:
    found = find_engines(environ, home, lambda path: str(path) in there)
    return [candidate.url for candidate in found]


def test_docker_host_stands_alone(tmp_path: Path) -> None:
    """What the user named explicitly is not second-guessed."""
    environ = {"DOCKER_HOST": "unix:///mine.sock"}
    assert urls(tmp_path, environ, ["/var/run/docker.sock"]) == ["unix:///mine.sock"]


def test_the_current_context_comes_first(tmp_path: Path) -> None:
    """The docker command's current context is tried before the usual sockets."""
    context(tmp_path, "colima", "unix:///c.sock")
    assert urls(tmp_path, {}, ["/var/run/docker.sock"]) == ["unix:///c.sock", "unix:///var/run/docker.sock"]


def test_docker_context_stands_alone(tmp_path: Path) -> None:
    """DOCKER_CONTEXT overrides the current context; a context that does not exist finds nothing."""
    context(tmp_path, "a", "unix:///a.sock")
    context(tmp_path, "b", "unix:///b.sock", current=False)
    assert urls(tmp_path, {"DOCKER_CONTEXT": "b"}, ["/var/run/docker.sock"]) == ["unix:///b.sock"]
    assert urls(tmp_path, {"DOCKER_CONTEXT": "c"}, ["/var/run/docker.sock"]) == []


def test_the_default_context_is_the_usual_socket(tmp_path: Path) -> None:
    """The context `default` has no file of its own."""
    environ = {"DOCKER_CONTEXT": "default"}
    assert urls(tmp_path, environ, ["/var/run/docker.sock"]) == ["unix:///var/run/docker.sock"]


def test_the_usual_sockets_are_tried_in_order(tmp_path: Path) -> None:
    """Only sockets that exist are tried, Docker's before Podman's."""
    there = [
        "/run/podman/podman.sock",
        "/run/user/7/podman/podman.sock",
        "/run/user/7/docker.sock",
        str(tmp_path / ".docker/run/docker.sock"),
        str(tmp_path / ".colima/default/docker.sock"),
    ]
    assert urls(tmp_path, {"XDG_RUNTIME_DIR": "/run/user/7"}, there) == [
        "unix:///run/user/7/docker.sock",
        f"unix://{tmp_path}/.docker/run/docker.sock",
        f"unix://{tmp_path}/.colima/default/docker.sock",
        "unix:///run/podman/podman.sock",
        "unix:///run/user/7/podman/podman.sock",
    ]


def test_damaged_configuration_is_as_none(tmp_path: Path) -> None:
    """A config file or a context that cannot be read does not stop the search."""
    context(tmp_path, "a", "unix:///a.sock")
    next((tmp_path / ".docker/contexts/meta").glob("*/meta.json")).write_text("{")
    assert urls(tmp_path, {}) == []
    (tmp_path / ".docker/config.json").write_text("[]")
    assert urls(tmp_path, {}) == []


def test_docker_config_names_the_directory(tmp_path: Path) -> None:
    """DOCKER_CONFIG moves contexts and credentials, as for the docker command."""
    context(tmp_path, "a", "unix:///a.sock")
    environ = {"DOCKER_CONFIG": str(tmp_path / ".docker")}
    assert urls(tmp_path / "elsewhere", environ) == ["unix:///a.sock"]


def test_no_engine_at_all_says_what_to_install() -> None:
    """Without any candidate the sentence names both engines."""
    sentence = explain_no_engine([])
    assert "Docker" in sentence
    assert "Podman" in sentence


def test_each_failure_is_named() -> None:
    """Each candidate is named with the reason for which it cannot be used."""
    failures = [(Candidate("unix:///a", "here"), "asleep"), (Candidate("unix:///b", "there"), "busy")]
    sentence = explain_no_engine(failures)
    assert "unix:///a (here): asleep" in sentence
    assert "unix:///b (there): busy" in sentence


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [("Permission denied", "docker group"), ("No such file or directory", "install"), ("odd", "odd")],
)
def test_reasons_have_remedies(reason: str, remedy: str) -> None:
    """A refused socket says whom to ask, an absent one what to install."""
    assert remedy in explain_connection(f"Cannot connect [{reason}]")


async def test_nothing_at_the_socket(tmp_path: Path) -> None:
    """A socket without an engine behind it becomes one sentence."""
    with pytest.raises(DriverUnavailable, match=r"nothing answers there, install Docker"):
        await connect("t", environ={"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}, home=tmp_path)


@pytest.mark.parametrize("host", ["ssh://me@far", "what"])
async def test_engines_that_cannot_be_used(host: str, tmp_path: Path) -> None:
    """An engine on another machine is refused with the reason, and so is an address that is none."""
    with pytest.raises(DriverUnavailable, match="No container engine can be used"):
        await connect("t", environ={"DOCKER_HOST": host}, home=tmp_path)


async def test_an_engine_elsewhere_is_refused(tmp_path: Path) -> None:
    """An engine reached over TCP that runs on another kernel could not call back."""
    answers = {"version": b'{"ApiVersion":"1.41"}', "info": b'{"KernelVersion":"other"}'}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readuntil(b"\r\n\r\n")):
            body = answers[head.split()[1].decode().rpartition("/")[2]]
            lines = ["HTTP/1.1 200 OK", "content-type: application/json", f"content-length: {len(body)}"]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(serve, "0.0.0.0", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(DriverUnavailable, match="another machine"):
            await connect("t", environ={"DOCKER_HOST": f"tcp://0.0.0.0:{port}"}, home=tmp_path)


def test_traits_of_docker_and_podman() -> None:
    """The engine's own words tell Podman from Docker, rootless from not, here from a virtual machine."""
    docker = engine_traits(
        {"Components": [{"Name": "Engine"}], "Version": "20.10", "Os": "linux", "Arch": "x86_64"},
        {"KernelVersion": "6.1", "SecurityOptions": ["name=seccomp"]},
        kernel="6.1",
    )
    assert (docker.podman, docker.rootless, docker.shares_kernel) == (False, False, True)
    assert docker.architecture == "amd64"
    podman = engine_traits(
        {"Components": [{"Name": "Podman Engine"}], "Arch": "arm64"},
        {"KernelVersion": "6.2", "SecurityOptions": ["name=rootless"]},
        kernel="6.1",
    )
    assert (podman.podman, podman.rootless, podman.shares_kernel) == (True, True, False)


def test_what_a_processor_executes() -> None:
    """64-bit processors execute their 32-bit ancestors' programs, and no one else's."""
    assert runs_natively("x86_64", "amd64")
    assert runs_natively("386", "amd64")
    assert runs_natively("arm", "aarch64")
    assert not runs_natively("arm64", "amd64")
    assert not runs_natively("amd64", "arm64")
