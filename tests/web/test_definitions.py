"""The wire's spellings of definitions: both generations in, both out, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cupola.agents import GIB, ProtocolVersion
from cupola.errors import BadRequest
from cupola.web.definitions import read_definition, show_definition

IMAGE = "registry.example/my-agent:1.2"
OLDER: Mapping[str, Any] = {
    "container_protocol_versions": [{"protocol": "responses", "version": "v1"}],
    "cpu": "1",
    "memory": "2Gi",
    "image": IMAGE,
    "tools": [{"type": "code_interpreter"}, {"type": "mcp", "server_label": "x", "server_url": "https://x.example"}],
    "environment_variables": {"MODEL_NAME": "gpt-4o-mini"},
    "kind": "hosted",
}
NEWER: Mapping[str, Any] = {
    "cpu": "2.0",
    "memory": "4.0Gi",
    "container_configuration": {"image": IMAGE},
    "protocol_versions": [{"protocol": "responses", "version": "2.0.0"}],
    "session_configuration": {"idle_timeout_seconds": 600},
    "rai_config": {"rai_policy_name": "p"},
    "kind": "hosted",
}
CODE = {"runtime": "python_3_13", "entry_point": ["python", "main.py"]}


def changed(**fields: Any) -> dict[str, Any]:
    """Today's definition with other fields; None takes one away."""
    body = {**NEWER, **fields}
    return {name: value for name, value in body.items() if value is not None}


def refused(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read_definition(changed(**fields))
    return caught.value


def test_both_spellings_mean_the_same() -> None:
    """Image, protocols, sizes and the rest land in one internal form."""
    older, newer = read_definition(OLDER), read_definition(NEWER)
    assert older.image == newer.image == IMAGE
    assert older.protocols == (ProtocolVersion("responses", "v1"),)
    assert newer.protocols == (ProtocolVersion("responses", "2.0.0"),)
    assert (older.cpu, older.memory) == (1.0, 2 * GIB)
    assert (newer.cpu, newer.memory) == (2.0, 4 * GIB)
    assert len(older.tools) == 2
    assert older.environment == {"MODEL_NAME": "gpt-4o-mini"}
    assert newer.idle_timeout == 600


def test_the_older_spelling_is_echoed_with_the_newer_beside() -> None:
    """Clients of both generations find their own names."""
    shown = show_definition(read_definition(OLDER))
    assert {**shown, **OLDER} == shown
    assert shown["container_configuration"] == {"image": IMAGE}
    assert shown["protocol_versions"] == OLDER["container_protocol_versions"]


def test_the_newer_spelling_is_echoed_with_the_older_beside() -> None:
    """Sizes stay as they were written, fields that are only kept come back."""
    shown = show_definition(read_definition(NEWER))
    assert {**shown, **NEWER} == shown
    assert shown["image"] == IMAGE
    assert shown["container_protocol_versions"] == NEWER["protocol_versions"]
    assert shown["rai_config"] == {"rai_policy_name": "p"}


def test_nulls_are_as_good_as_nothing() -> None:
    """A client that writes out what it leaves unset gets the values that hold, not its nulls."""
    body = {
        **OLDER,
        "container_configuration": None,
        "protocol_versions": None,
        "code_configuration": None,
        "cpu": None,
    }
    shown = show_definition(read_definition(body))
    assert shown["container_configuration"] == {"image": IMAGE}
    assert shown["protocol_versions"] == OLDER["container_protocol_versions"]
    assert shown["cpu"] == "1"
    assert "code_configuration" not in shown


def test_defaults() -> None:
    """1 vCPU, 2 GiB, the responses protocol as it is today."""
    definition = read_definition({"kind": "hosted", "image": "agent:1"})
    assert (definition.cpu, definition.memory) == (1.0, 2 * GIB)
    assert definition.protocols == (ProtocolVersion("responses", "2.0.0"),)
    shown = show_definition(definition)
    assert (shown["cpu"], shown["memory"], shown["environment_variables"]) == ("1", "2Gi", {})


@pytest.mark.parametrize("cpu", ["0.5", "1", "1.0", "2.25", "4", 0.5, 4])
def test_processors_from_a_half_to_four(cpu: Any) -> None:
    """As text or as a number."""
    assert read_definition(changed(cpu=cpu)).cpu == float(cpu)


@pytest.mark.parametrize("cpu", ["0.49", "4.1", "0", "-1", "x", "", "nan", "inf", "1000m"])
def test_other_processors_are_refused(cpu: str) -> None:
    """The sentence has the field, the value and what is allowed."""
    error = refused(cpu=cpu)
    assert error.param == "definition.cpu"
    assert repr(cpu) in error.message
    assert "from 0.5 to 4" in error.message
    assert "valid resource tier" in error.message


@pytest.mark.parametrize(("memory", "expected"), [("1Gi", GIB), ("8Gi", 8 * GIB), ("1536Mi", 3 * GIB // 2)])
def test_memory_from_one_to_eight_gibibytes(memory: str, expected: int) -> None:
    """In Gi or Mi."""
    assert read_definition(changed(memory=memory)).memory == expected


@pytest.mark.parametrize("memory", ["0.5Gi", "1023Mi", "8.1Gi", "9Gi", "2", "2G", "2GB", "", "Gi", "-2Gi"])
def test_other_memory_is_refused(memory: str) -> None:
    """The sentence has the field, the value and what is allowed."""
    error = refused(memory=memory)
    assert error.param == "definition.memory"
    assert repr(memory) in error.message
    assert "from 1Gi to 8Gi" in error.message


@pytest.mark.parametrize("number", ["v1", "1.0.0", "2.0.0"])
def test_every_protocol_version_is_understood(number: str) -> None:
    """Old ones too, which Azure refuses by now."""
    listed = [{"protocol": "responses", "version": number}]
    assert read_definition(changed(protocol_versions=listed)).protocols == (ProtocolVersion("responses", number),)


def test_other_protocol_versions_are_refused_under_the_name_that_users_know() -> None:
    """`ProtocolVersionNotSupported` stands in the details, the remedy in the message."""
    error = refused(protocol_versions=[{"protocol": "responses", "version": "3.0.0"}])
    assert error.param == "definition.protocol_versions.0.version"
    assert "'3.0.0'" in error.message
    assert "v1, 1.0.0, 2.0.0" in error.message
    assert [detail["code"] for detail in error.details] == ["ProtocolVersionNotSupported"]
    with pytest.raises(BadRequest) as caught:
        read_definition({**OLDER, "container_protocol_versions": [{"protocol": "responses", "version": "v2"}]})
    assert caught.value.param == "definition.container_protocol_versions.0.version"


def test_the_old_name_of_the_activity_protocol() -> None:
    """`activity_protocol` is `activity`."""
    definition = read_definition(changed(protocol_versions=[{"protocol": "activity_protocol", "version": "v1"}]))
    assert definition.protocol("activity") is not None


def test_an_unknown_protocol_is_refused() -> None:
    """The sentence lists what there is."""
    error = refused(protocol_versions=[{"protocol": "soap", "version": "v1"}])
    assert error.param == "definition.protocol_versions.0.protocol"
    assert "'soap'" in error.message
    assert "responses, invocations" in error.message


@pytest.mark.parametrize(
    "image",
    ["agent", "agent:1", "localhost:5000/a/b:x", "r.example/a_b/c-d@sha256:" + "0" * 64, "a__b/c:v1.0_x", "user/agent"],
)
def test_image_references(image: str) -> None:
    """Registry, path, tag and digest, each optional but the path."""
    assert read_definition(changed(container_configuration={"image": image})).image == image


@pytest.mark.parametrize("image", ["Agent:1", "agent:", "a b", "https://r.example/a:1", "a@sha256:12", "-a", "a:b:c"])
def test_malformed_image_references(image: str) -> None:
    """`InvalidContainerImage` stands in the details."""
    error = refused(container_configuration={"image": image})
    assert error.param == "definition.container_configuration.image"
    assert [detail["code"] for detail in error.details] == ["InvalidContainerImage"]
    assert repr(image) in error.message


def test_two_different_images_are_refused() -> None:
    """One image under both names is fine, two are not."""
    assert read_definition(changed(image=IMAGE)).image == IMAGE
    assert refused(image="other:1").param == "definition.image"


def test_an_image_or_code_and_not_both() -> None:
    """Exactly one of them."""
    assert "exactly one" in refused(container_configuration=None).message
    assert "exactly one" in refused(code_configuration=CODE).message


def test_code_needs_its_zip() -> None:
    """A JSON body that announces code is told how to send it."""
    error = refused(container_configuration=None, code_configuration=CODE)
    assert error.param == "definition.code_configuration"
    assert "multipart/form-data" in error.message


def test_code_and_its_hash() -> None:
    """The zip's hash is shown as `content_hash`; dependencies are bundled unless said otherwise."""
    definition = read_definition(changed(container_configuration=None, code_configuration=CODE), code_sha256="ab" * 32)
    assert definition.code is not None
    assert definition.code.dependency_resolution == "bundled"
    shown = show_definition(definition)
    assert shown["code_configuration"] == {**CODE, "content_hash": "ab" * 32}
    assert "image" not in shown


def test_a_zip_for_an_image_is_refused() -> None:
    """Which of them should run could only be guessed."""
    with pytest.raises(BadRequest, match="names an image"):
        read_definition(NEWER, code_sha256="ab" * 32)


@pytest.mark.parametrize("name", ["1A", "A-B", "A B", "", "Ä"])
def test_names_of_variables(name: str) -> None:
    """The sentence has the name and what is allowed."""
    error = refused(environment_variables={name: "x"})
    assert error.param == f"definition.environment_variables.{name}"
    assert "letters, digits and underscores" in error.message


@pytest.mark.parametrize("name", ["FOUNDRY_X", "AGENT_NAME", "foundry_y"])
def test_reserved_variables(name: str) -> None:
    """What the platform sets cannot be set."""
    error = refused(environment_variables={name: "x"})
    assert "reserved" in error.message
    assert name in error.message


def test_other_kinds_are_refused() -> None:
    """Prompt agents and workflows are not what runs here."""
    error = refused(kind="prompt")
    assert error.param == "definition.kind"
    assert "'prompt'" in error.message
    assert "'hosted'" in error.message


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"session_configuration": {"idle_timeout_seconds": 60}}, "session_configuration.idle_timeout_seconds", "120"),
        (
            {"session_configuration": {"idle_timeout_seconds": 20000}},
            "session_configuration.idle_timeout_seconds",
            "14400",
        ),
        ({"environment_variables": {"A": 1}}, "environment_variables.A", "string"),
        ({"environment_variables": ["A"]}, "environment_variables", "dictionary"),
        ({"tools": "x"}, "tools", "list"),
        ({"tools": [{}] * 129}, "tools", "128"),
        ({"container_configuration": "x"}, "container_configuration", "dictionary"),
        ({"protocol_versions": [{"version": "v1"}]}, "protocol_versions.0.protocol", "required"),
        ({"code_configuration": {"runtime": "python_3_13"}}, "code_configuration.entry_point", "required"),
        ({"code_configuration": {**CODE, "entry_point": []}}, "code_configuration.entry_point", "at least 1"),
        (
            {"code_configuration": {**CODE, "dependency_resolution": "magic"}},
            "code_configuration.dependency_resolution",
            "'bundled' or 'remote_build'",
        ),
    ],
)
def test_every_field_at_fault_is_named(fields: dict[str, Any], param: str, said: str) -> None:
    """The parameter, and in words what is allowed there."""
    error = refused(**fields)
    assert error.code == "invalid_payload"
    assert error.param == f"definition.{param}"
    assert said in error.message
