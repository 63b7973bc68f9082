"""The wire's spellings of definitions: both generations in, both out, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupola.agents import GIB, Definition, ProtocolVersion
from cupola.errors import BadRequest
from cupola.web.definitions import PROTOCOLS, read_definition, show_definition

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


def refusal(body: Mapping[str, Any]) -> BadRequest | None:
    try:
        read_definition(body)
    except BadRequest as error:
        return error
    return None


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
    [
        "agent",
        "agent:1",
        "localhost:5000/a/b:x",
        "r.example/a_b/c-d@sha256:" + "0" * 64,
        "a__b/c:v1.0_x",
        "user/agent",
        "[::1]:5000/a:1",
        "a@sha512:" + "0" * 128,
        "R.EXAMPLE/a",
    ],
)
def test_image_references(image: str) -> None:
    """Registry, path, tag and digest, each optional but the path."""
    assert read_definition(changed(container_configuration={"image": image})).image == image


@pytest.mark.parametrize(
    "image",
    [
        "Agent:1",
        "agent:",
        "a b",
        "https://r.example/a:1",
        "a@sha256:12",
        "-a",
        "a:b:c",
        "",
        "a//b",
        "a" * 256,
        "r:123456/a",
        "a:" + "t" * 129,
        "a\n",
    ],
)
def test_malformed_image_references(image: str) -> None:
    """`InvalidContainerImage` stands in the details."""
    error = refused(container_configuration={"image": image})
    assert error.param == "definition.container_configuration.image"
    assert [detail["code"] for detail in error.details] == ["InvalidContainerImage"]
    assert repr(image)[:50] in error.message


_PART = st.from_regex(r"[a-z0-9]+(?:(?:[._]|__|-{1,3})[a-z0-9]+){0,3}", fullmatch=True)
_HOSTS = st.sampled_from(
    ["", "localhost/", "localhost:5000/", "r.example/", "R.Example.com:443/", "[::1]:5000/", "10.0.0.1/"]
)
_TAGS = st.just("") | st.from_regex(r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)
_DIGESTS = st.just("") | st.from_regex(r"@sha256:[0-9a-f]{64}", fullmatch=True)


@given(_HOSTS, st.lists(_PART, min_size=1, max_size=3), _TAGS, _DIGESTS)
def test_references_made_by_the_grammar_are_taken(host: str, path: list[str], tag: str, digest: str) -> None:
    """Whatever registry, path, tag and digest they are made of, up to 255 characters of a name."""
    name = (host + "/".join(path))[:255].rstrip("._-/")
    image = name + tag + digest
    assert read_definition(changed(container_configuration={"image": image})).image == image


@given(st.text(max_size=300))
def test_any_text_is_a_reference_or_a_sentence(text: str) -> None:
    """Nothing else comes of it, and a reference holds nothing that a shell or a header could misread."""
    body = changed(container_configuration={"image": text})
    error = refusal(body)
    assert error is None or error.param == "definition.container_configuration.image"
    if error is None:
        assert read_definition(body).image == text
        assert text.isascii()
        assert not set(text) & set(" \t\r\n'\"\\$`;&|<>?*(){}")


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_a_sentence(text: str) -> None:
    """Python reads more as a number than the wire means."""
    for field in ("cpu", "memory"):
        error = refusal(changed(**{field: text}))
        assert error is None or error.param == f"definition.{field}"


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


def test_the_two_spellings_of_the_protocols_must_agree() -> None:
    """The same twice is what clients send back; two different lists are a guess."""
    listed = [{"protocol": "responses", "version": "v1"}]
    both = changed(protocol_versions=listed, container_protocol_versions=listed)
    assert read_definition(both).protocols == (ProtocolVersion("responses", "v1"),)
    error = refused(container_protocol_versions=listed)
    assert error.param == "definition.container_protocol_versions"


def test_a_protocol_is_declared_in_one_version() -> None:
    """Twice the same is once; two versions of one protocol are refused, under whatever name."""
    twice = [{"protocol": "responses", "version": "2.0.0"}] * 2
    assert read_definition(changed(protocol_versions=twice)).protocols == (ProtocolVersion("responses", "2.0.0"),)
    names = [{"protocol": "activity", "version": "v1"}, {"protocol": "activity_protocol", "version": "2.0.0"}]
    error = refused(protocol_versions=names)
    assert error.param == "definition.protocol_versions.1.version"
    assert "declare one" in error.message


def test_fields_that_nothing_acts_on_come_back() -> None:
    """Moderation, telemetry, snapshots and the registry's connection are kept as they were sent."""
    fields: dict[str, Any] = {
        "container_configuration": {"image": IMAGE, "registry_connection_id": "registry", "later": 1},
        "rai_config": {"rai_policy_name": "/p", "invocations_moderation": {"response_mode": "both"}},
        "telemetry_config": {
            "endpoints": [
                {
                    "kind": "OTLP",
                    "endpoint": "https://otel",
                    "protocol": "Http",
                    "data": ["ContainerOtel", "Metrics"],
                    "auth": {"type": "header", "header_name": "api-key", "secret_id": "c", "secret_key": "k"},
                }
            ]
        },
        "enable_memory_snapshot": False,
        "tools": [{"type": "mcp", "server_label": "x"}, {"type": "from_the_future", "a": [1]}],
        "later": {"a": None},
    }
    shown = show_definition(read_definition(changed(**fields)))
    assert {**shown, **fields} == shown


def test_another_registry_connection_is_a_change() -> None:
    """It decides whether the image can be pulled."""
    plain = read_definition(NEWER)
    with_connection = changed(container_configuration={"image": IMAGE, "registry_connection_id": "r"})
    assert read_definition(with_connection).digest() != plain.digest()


# Azure's limits


@pytest.mark.parametrize(
    ("cpu", "memory"),
    [("0.25", "0.5Gi"), ("0.25", "512Mi"), ("1", "2Gi"), ("1.0", "2.0Gi"), ("3.75", "7.5Gi"), ("4", "8Gi")],
)
def test_azures_pairs(cpu: str, memory: str) -> None:
    """Every quarter of a vCPU with twice as many GiB, compared as numbers."""
    definition = read_definition(changed(cpu=cpu, memory=memory), azure_limits=True)
    assert definition.memory == definition.cpu * 2 * GIB


@pytest.mark.parametrize(
    ("cpu", "memory", "param", "said"),
    [
        ("1", "4Gi", "memory", "a cpu of 1 comes with 2Gi"),
        ("2", "2Gi", "memory", "a cpu of 2 comes with 4Gi"),
        ("0.3", "0.6Gi", "cpu", "steps of 0.25"),
        ("0.1", "1Gi", "cpu", "from 0.25 to 4"),
        ("4.25", "8.5Gi", "cpu", "from 0.25 to 4"),
        ("4", "9Gi", "memory", "from 0.5Gi to 8Gi"),
        ("2", None, "memory", "a cpu of 2 comes with 4Gi"),
    ],
)
def test_other_pairs_are_refused_with_azures_limits(cpu: str, memory: str | None, param: str, said: str) -> None:
    """In the service's own words, then ours."""
    with pytest.raises(BadRequest, match="CPU and Memory must be specified as a valid resource tier") as caught:
        read_definition(changed(cpu=cpu, memory=memory), azure_limits=True)
    assert (caught.value.code, caught.value.param) == ("bad_request", f"definition.{param}")
    assert said in caught.value.message


def test_the_defaults_are_a_pair_of_azures() -> None:
    """Leaving the sizes out works everywhere."""
    assert read_definition({"kind": "hosted", "image": "agent:1"}, azure_limits=True).cpu == 1


def test_the_first_protocol_version_is_refused_with_azures_limits() -> None:
    """The service answers 400 to `v1`, and takes the later ones."""
    with pytest.raises(BadRequest, match=r"Unsupported responses protocol version 'v1'\. Please use one of 1\.0\.0"):
        read_definition(OLDER, azure_limits=True)
    for number in ("1.0.0", "2.0.0"):
        listed = [{"protocol": "responses", "version": number}]
        assert read_definition(changed(protocol_versions=listed), azure_limits=True).protocols


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


# Whatever is sent


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_PROTOCOL_LISTS = st.lists(
    st.fixed_dictionaries(
        {"protocol": st.sampled_from([*PROTOCOLS, "soap", 5]), "version": st.sampled_from(["v1", "2.0.0"])}
    ),
    max_size=3,
)
_LIKELY: Mapping[str, st.SearchStrategy[Any]] = {
    "image": st.just(IMAGE),
    "container_configuration": st.fixed_dictionaries({"image": st.just(IMAGE)}),
    "code_configuration": st.just(CODE),
    "protocol_versions": _PROTOCOL_LISTS,
    "container_protocol_versions": _PROTOCOL_LISTS,
    "cpu": st.sampled_from(["1", 2, 0.5, "9"]),
    "memory": st.sampled_from(["2Gi", "1024Mi", 2]),
    "environment_variables": st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
    "tools": st.lists(st.fixed_dictionaries({"type": st.text(max_size=4)}), max_size=2),
    "session_configuration": st.fixed_dictionaries({"idle_timeout_seconds": st.integers(0, 20_000)}),
    "rai_config": st.none(),
    "telemetry_config": st.none(),
    "enable_memory_snapshot": st.booleans(),
    "later": _JSON,
}
_UNLIKELY = st.dictionaries(st.sampled_from(sorted(_LIKELY)), _JSON, max_size=1)


@settings(max_examples=150)
@given(
    st.fixed_dictionaries(
        {"kind": st.just("hosted")}, optional={name: st.none() | value for name, value in _LIKELY.items()}
    ),
    _UNLIKELY,
    st.booleans(),
)
def test_any_definition_is_read_or_refused_with_a_sentence(
    likely: dict[str, Any], unlikely: dict[str, Any], azure_limits: bool
) -> None:
    """What is read can be kept and shown, with all that was sent, and means the same when it is sent back."""
    body = {**likely, **unlikely}
    try:
        definition = read_definition(body, azure_limits=azure_limits)
    except BadRequest as refused_with:
        error: BadRequest | None = refused_with
    else:
        error = None
        assert Definition.from_json(json.loads(json.dumps(definition.to_json()))) == definition
        shown = show_definition(definition)
        container = {**(body.get("container_configuration") or {}), "image": definition.image}
        sent = {name: value for name, value in body.items() if value not in (None, [])}
        sent["container_configuration"] = container
        assert {**shown, **sent} == shown
        assert shown["image"] == definition.image
        again = read_definition(shown)
        assert (again.image, again.cpu, again.memory) == (definition.image, definition.cpu, definition.memory)
        assert set(again.protocols) == set(definition.protocols)
    assert error is None or (error.param or "").startswith("definition.")
