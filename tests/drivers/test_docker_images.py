"""Image references, credentials, and what is said about pulls that fail."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from cupola.drivers.docker_credentials import HUB_KEY, ask_helper, credentials_for
from cupola.drivers.docker_images import PullProgress, explain_pull, parse_reference, wrong_architecture
from cupola.errors import StartFailed


@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("agent", "docker.io/library/agent:latest"),
        ("me/agent:1", "docker.io/me/agent:1"),
        ("reg.azurecr.io/team/agent:v2", "reg.azurecr.io/team/agent:v2"),
        ("localhost/agent", "localhost/agent:latest"),
        ("localhost:5000/agent", "localhost:5000/agent:latest"),
        ("reg.example/agent@sha256:" + "0" * 64, "reg.example/agent@sha256:" + "0" * 64),
        ("me/agent:1@sha256:" + "0" * 64, "docker.io/me/agent:1@sha256:" + "0" * 64),
        ("a__b.c-d---e", "docker.io/library/a__b.c-d---e:latest"),
    ],
)
def test_references(image: str, full: str) -> None:
    """A reference is completed as the docker command completes it."""
    assert str(parse_reference(image)) == full


@pytest.mark.parametrize(
    "image",
    [
        "",
        "Agent",
        "me/Agent:1",
        "https://reg.example/a",
        "a b",
        "a:",
        "reg.example/",
        "a//b",
        "a:b:c",
        "-.-/a",
    ],
)
def test_what_is_no_reference(image: str) -> None:
    """A reference that cannot be is refused before the engine is asked, under the name users look for."""
    with pytest.raises(StartFailed) as caught:
        parse_reference(image)
    assert caught.value.phase == "pull"
    assert caught.value.code == "ImageError"
    assert names(caught.value) == ["InvalidContainerImage"]


def names(error: StartFailed) -> list[str]:
    return [detail["code"] for detail in error.details]


@pytest.mark.parametrize(
    ("image", "message", "expected", "said"),
    [
        (
            "r.azurecr.io/a:1",
            "unauthorized: authentication required",
            ["ImagePullBackOff"],
            "az acr login --name r",
        ),
        ("r.azurecr.io/a:1", "denied: requested access", ["ImagePullBackOff"], "grant AcrPull"),
        ("ghcr.io/a/b:1", "denied", ["ImagePullBackOff"], "docker login ghcr.io"),
        ("r.example/a:1", "no basic auth credentials", ["ImagePullBackOff"], "docker login r.example"),
        (
            "r.example/a:1",
            "manifest for r.example/a:1 not found: manifest unknown: manifest unknown",
            ["InvalidContainerImage"],
            "check path and tag",
        ),
        (
            "r.example/a:1",
            "lookup r.example on 1.1.1.1:53: no such host",
            ["InvalidContainerImage"],
            "r.example",
        ),
        (
            "a:1",
            "lookup registry.example.com on 1.1.1.1:53: no such host",
            ["ImagePullBackOff"],
            "could not be reached",
        ),
        ("r.example/a:1", "dial tcp 1.2.3.4:443: i/o timeout", ["ImagePullBackOff"], "could not be reached"),
        (
            "r.example/a:1",
            "connect: connection refused",
            ["ImagePullBackOff"],
            "could not be reached",
        ),
        (
            "a",
            "pull access denied for a, repository does not exist or may require 'docker login'",
            ["InvalidContainerImage", "ImagePullBackOff"],
            "docker build -t a .",
        ),
        (
            "r.azurecr.io/a",
            "pull access denied for r.azurecr.io/a, repository does not exist or may require 'docker login'",
            ["ImagePullBackOff", "InvalidContainerImage"],
            "AcrPull",
        ),
        (
            "r.example/a",
            "no matching manifest for linux/arm64/v8 in the manifest list entries",
            ["InvalidContainerImage"],
            "--platform linux/amd64",
        ),
        ("a", "toomanyrequests: You have reached your pull rate limit", ["ImagePullBackOff"], "wait"),
        ("r.example/a", "x509: certificate signed by unknown authority", ["ImagePullBackOff"], "trust"),
        ("r.example/a", "write /x: no space left on device", ["ImagePullBackOff"], "docker system df"),
        ("r.example/a", "something new", ["ImagePullBackOff"], "something new"),
    ],
)
def test_failed_pulls_are_named(image: str, message: str, expected: list[str], said: str) -> None:
    """Each way in which a pull fails has the name that users know, and a remedy."""
    error = explain_pull(image, parse_reference(image), message)
    assert (error.phase, error.code) == ("pull", "ImageError")
    assert names(error) == expected
    assert said in error.message
    assert all(detail["message"] == error.message for detail in error.details)


def test_wrong_architecture_names_both() -> None:
    """The sentence says what the image is for, what the engine runs, and how to build it."""
    error = wrong_architecture("a:1", "linux/arm64", "linux/amd64")
    assert (error.phase, error.code) == ("validate", "ImageError")
    for part in ("linux/arm64", "docker build --platform linux/amd64 -t a:1"):
        assert part in error.message


def test_progress_is_told_now_and_then() -> None:
    """The first event makes a line, the next one only a second later, and noise none."""
    progress = PullProgress("a:1")
    assert progress.feed({"status": "Pulling from a", "id": "1"}, 0.0) is None
    assert progress.feed({"status": "Pulling fs layer", "id": "x"}, 0.0) == "pulling a:1: 0 of 1 layers"
    half = {"status": "Downloading", "id": "x", "progressDetail": {"current": 5e6, "total": 10e6}}
    assert progress.feed(half, 0.5) is None
    assert progress.feed(half, 1.5) == "pulling a:1: 0 of 1 layers, 5 of 10 MB"
    done = {"status": "Pull complete", "id": "x"}
    assert progress.feed(done, 3.0) == "pulling a:1: 1 of 1 layers, 5 of 10 MB"


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


async def ask_nobody(helper: str, registry: str) -> Mapping[str, Any] | None:
    raise AssertionError(f"{helper} was asked about {registry}")


@pytest.mark.parametrize(
    ("registry", "auths", "expected"),
    [
        ("r.example", {"r.example": {"auth": basic("me", "a:b")}}, {"username": "me", "password": "a:b"}),
        (
            "r.example",
            {"https://r.example/v2/": {"auth": basic("me", "x")}},
            {"username": "me", "password": "x"},
        ),
        ("docker.io", {HUB_KEY: {"auth": basic("me", "x")}}, {"username": "me", "password": "x"}),
        ("r.example", {"r.example": {"identitytoken": "t"}}, {"identitytoken": "t"}),
        ("r.example", {"r.example": {}}, None),
        ("r.example", {"r.example": {"auth": "%%%"}}, None),
        ("r.example", {"other.example": {"auth": basic("me", "x")}}, None),
        ("r.example", {}, None),
    ],
)
async def test_credentials_in_the_file(
    registry: str, auths: Mapping[str, Any], expected: Mapping[str, str] | None
) -> None:
    """Credentials are found under each spelling that docker login has written over the years."""
    assert await credentials_for(registry, {"auths": auths}, ask_nobody) == expected


async def test_credentials_from_a_program() -> None:
    """A registry's own helper goes before the general one, and a token is told from a password."""
    asked: list[tuple[str, str]] = []

    async def ask(helper: str, registry: str) -> Mapping[str, Any] | None:
        asked.append((helper, registry))
        return {"acr": {"Username": "<token>", "Secret": "t"}, "desktop": {"Username": "me", "Secret": "x"}}[helper]

    config = {"credsStore": "desktop", "credHelpers": {"r.azurecr.io": "acr"}}
    assert await credentials_for("r.azurecr.io", config, ask) == {"identitytoken": "t"}
    assert await credentials_for("docker.io", config, ask) == {"username": "me", "password": "x"}
    assert asked == [("acr", "r.azurecr.io"), ("desktop", HUB_KEY)]


async def test_a_missing_program_knows_nothing() -> None:
    """A configured helper that is not installed leaves the pull without a name."""
    assert await ask_helper("cupola-test-no-such-helper", "r.example") is None
