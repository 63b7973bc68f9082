"""Warnings on a version."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cupola.advice import warnings_of
from cupola.agents import GIB, Definition, ProtocolVersion

PLAIN = Definition(image="agent:1", code=None, protocols=(ProtocolVersion("responses", "2.0.0"),))
TOKEN = "ghp_" + "a1B2" * 9


def warned(definition: Definition, host_memory: int = 16 * GIB) -> tuple[str, ...]:
    return warnings_of(definition, host_memory=host_memory)


def test_a_careful_definition_has_none() -> None:
    """A tag, plain variables, today's protocol."""
    careful = replace(PLAIN, environment={"MODEL_NAME": "gpt-4o-mini", "LOG_LEVEL": "debug"})
    assert warned(careful) == ()
    assert warned(replace(careful, image="r.example/agent@sha256:" + "0" * 64)) == ()
    assert warned(replace(careful, image=None)) == ()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("agent", "has no tag"),
        ("r.example:5000/a/agent", "has no tag"),
        ("agent:latest", "tagged latest"),
        ("r.example:5000/agent:latest", "tagged latest"),
    ],
)
def test_a_tag_that_moves(image: str, said: str) -> None:
    """No tag and `latest` mean another image tomorrow."""
    (warning,) = warned(replace(PLAIN, image=image))
    assert said in warning
    assert image in warning


@pytest.mark.parametrize(("name", "value"), [("ANY", TOKEN), ("DB_PASSWORD", "hunter2"), ("API_KEY", "0a1b2c3d" * 4)])
def test_a_secret_in_a_variable(name: str, value: str) -> None:
    """The variable is named, its value is not."""
    (warning,) = warned(replace(PLAIN, environment={"OTHER": "x", name: value}))
    assert f"'{name}'" in warning
    assert value not in warning
    assert "connection reference" in warning


@pytest.mark.parametrize(
    "value",
    [
        "${{connections.github.credentials.token}}",
        "Bearer ${{connections.my-api.credentials.key}}",
        "${{connections.a.target}}",
    ],
)
def test_a_connection_reference_is_no_secret(value: str) -> None:
    """It is what the warning asks for."""
    assert warned(replace(PLAIN, environment={"API_TOKEN": value})) == ()


def test_a_secret_beside_a_reference_is_one() -> None:
    """Only the reference itself is innocent."""
    assert len(warned(replace(PLAIN, environment={"A": "${{connections.a.target}} " + TOKEN}))) == 1


def test_more_memory_than_there_is() -> None:
    """Both sizes are named; what just fits is no matter."""
    (warning,) = warned(replace(PLAIN, memory=8 * GIB), host_memory=4 * GIB)
    assert "8Gi" in warning
    assert "4.0 GiB" in warning
    assert warned(replace(PLAIN, memory=4 * GIB), host_memory=4 * GIB) == ()


def test_tools_and_old_protocols() -> None:
    """Both work on, and both surprise."""
    old = replace(PLAIN, tools=({"type": "mcp"},), protocols=(ProtocolVersion("responses", "v1"),))
    tools, protocol = warned(old)
    assert "adapters of the first generation" in tools
    assert "responses" in protocol
    assert "'2.0.0'" in protocol
