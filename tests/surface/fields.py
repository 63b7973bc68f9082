"""The fields of the wire, one by one, and what becomes of each (control-plane.md §2.1 to §2.9).

`served` fields do something; what is `kept` comes back as it was sent and does nothing here; `ignored` ones are taken
and forgotten; `passed` ones reach the agent untouched; `shown` ones only come back. Each state has a test that sends
or reads every field of it (test_fields.py); what a served field does is shown by the tests that are marked with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    SERVED = "served"
    KEPT = "kept"
    IGNORED = "ignored"
    PASSED = "passed"
    SHOWN = "shown"


@dataclass(frozen=True, slots=True)
class Field:
    """`since` is the first SDK generation that has it, `until` the last; `sample` is a value to send.

    `beside` are other members of the same object, without which the field would be refused.
    """

    name: str
    state: State
    meaning: str
    since: str = "2.0.0b3"
    until: str = ""
    sample: Any = None
    beside: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return self.name.partition(".")[0]

    @property
    def path(self) -> tuple[str, ...]:
        """The field's names below its place."""
        return tuple(self.name.split(".")[1:])

    def sent(self) -> dict[str, Any]:
        """An object that holds the sample where the field belongs."""
        value: Any = self.sample
        for depth, name in enumerate(reversed(self.path)):
            value = {name: value, **(self.beside if depth == 0 else {})}
        assert isinstance(value, dict)
        return value


S, K, I, P, H = State.SERVED, State.KEPT, State.IGNORED, State.PASSED, State.SHOWN  # noqa: E741 - columns of a table

_TELEMETRY = {
    "endpoints": [{"kind": "OTLP", "endpoint": "https://otel.example", "protocol": "Http", "data": ["Metrics"]}]
}
_MODERATION = {"input_content_type": "json", "output_content_type": "text", "response_mode": "both"}
_SKILL = {"id": "s", "name": "Speak", "description": "says it", "tags": ["t"], "examples": ["e"]}
_BESIDE = {"stream_options": {"stream": True}}
_RULES = [{"type": "FixedRatio", "agent_version": "1", "traffic_percentage": 100}]

DEFINITION = (
    Field("definition.kind", S, "`hosted`; any other kind is refused", sample="hosted"),
    Field("definition.image", S, "the image to run", until="2.1.0", sample="agent:1"),
    Field("definition.container_configuration.image", S, "the image to run", since="2.1.0", sample="agent:1"),
    Field(
        "definition.container_configuration.registry_connection_id",
        K,
        "a connection for pulling; images are pulled with the machine's own `docker login`",
        since="2.5.0",
        sample="my-registry",
    ),
    Field(
        "definition.container_protocol_versions",
        S,
        "what the container speaks",
        until="2.1.0",
        sample=[{"protocol": "responses", "version": "v1"}],
    ),
    Field(
        "definition.protocol_versions",
        S,
        "what the container speaks",
        since="2.1.0",
        sample=[{"protocol": "responses", "version": "2.0.0"}],
    ),
    Field("definition.cpu", S, "vCPUs of each sandbox, 0.5 to 4", sample="2"),
    Field("definition.memory", S, "memory of each sandbox, 1Gi to 8Gi", sample="4Gi"),
    Field("definition.environment_variables", S, "variables of the container", sample={"MODEL": "m"}),
    Field(
        "definition.tools",
        K,
        "tools of the agent; the container does not get them",
        until="2.2.0",
        sample=[{"type": "code_interpreter"}],
    ),
    Field("definition.rai_config.rai_policy_name", K, "content safety; nothing is moderated", sample="/policies/p"),
    Field(
        "definition.rai_config.invocations_moderation",
        K,
        "content safety of invocations; nothing is moderated",
        since="2.3.0",
        sample=_MODERATION,
        beside={"rai_policy_name": "/policies/p"},
    ),
    Field("definition.telemetry_config", K, "where telemetry goes; none is sent", since="2.1.0", sample=_TELEMETRY),
    Field("definition.code_configuration.runtime", S, "the Python that runs the code", since="2.1.0"),
    Field("definition.code_configuration.entry_point", S, "the command that starts the agent", since="2.1.0"),
    Field(
        "definition.code_configuration.dependency_resolution",
        S,
        "`bundled`, or `remote_build`: requirements.txt is installed",
        since="2.2.0",
    ),
    Field("definition.code_configuration.content_hash", H, "SHA-256 of the zip", since="2.2.0"),
    Field(
        "definition.session_configuration.idle_timeout_seconds",
        S,
        "after how much quiet a sandbox is stopped",
        since="2.6.0",
        sample=600,
    ),
    Field("definition.enable_memory_snapshot", K, "no memory is kept while idle", since="2.10.0", sample=False),
)

VERSION = (
    Field("version.definition", S, "what the version freezes", sample=None),
    Field("version.description", S, "for people", sample="says it"),
    Field("version.metadata", S, "at most 16 pairs", sample={"k": "v"}),
    Field("version.draft", S, "not listed, never the latest", since="2.3.0", sample=True),
    Field(
        "version.blueprint_reference",
        I,
        "an agent's blueprint is derived from its guid",
        since="2.2.0",
        sample={"type": "ManagedAgentIdentityBlueprint", "blueprint_id": "b"},
    ),
    Field("version.digital_worker_type", I, "there are no digital workers", since="2.6.0", sample="m365"),
    *(
        Field(f"version.{name}", H, meaning, since)
        for name, meaning, since in (
            ("object", "`agent.version`", "2.0.0b3"),
            ("id", "`<agent>:<version>`", "2.0.0b3"),
            ("name", "the agent's name", "2.0.0b3"),
            ("version", "a number, or `draft-<ms>`", "2.0.0b3"),
            ("created_at", "unix seconds", "2.0.0b3"),
            ("status", "`creating`, `active`, `failed`, …", "2.1.0"),
            ("error", "why it failed: code, message and evidence", "2.0.0b3"),
            ("agent_guid", "the agent's own id", "2.1.0"),
            ("instance_identity", "made up from the guid; opens nothing in Azure", "2.1.0"),
            ("blueprint", "made up from the guid; opens nothing in Azure", "2.1.0"),
        )
    ),
)

AGENT = tuple(
    Field(f"agent.{name}", H, meaning, since)
    for name, meaning, since in (
        ("object", "`agent`", "2.0.0b3"),
        ("id", "the agent's name", "2.0.0b3"),
        ("name", "the agent's name", "2.0.0b3"),
        ("versions", "the latest version that is no draft", "2.0.0b3"),
        ("agent_endpoint", "see below", "2.1.0"),
        ("agent_card", "see below", "2.1.0"),
        ("instance_identity", "made up from the guid; opens nothing in Azure", "2.1.0"),
        ("blueprint", "made up from the guid; opens nothing in Azure", "2.1.0"),
        ("blueprint_reference", "made up from the guid", "2.1.0"),
        ("state", "`enabled` or `disabled`", "2.3.0"),
        ("state_source", "always null", "2.5.0"),
        ("digital_worker_type", "always null", "2.6.0"),
        ("configuration_state", "as `state`", "2.7.0"),
    )
)

ENDPOINT = (
    Field(
        "agent_endpoint.version_selector",
        S,
        "weights of versions, 100 in all",
        since="2.1.0",
        sample={"version_selection_rules": _RULES},
    ),
    Field(
        "agent_endpoint.protocol_configuration",
        K,
        "protocols of the endpoint",
        since="2.3.0",
        sample={"responses": {}, "invocations": {}, "activity": {"enable_m365_public_endpoint": True}},
    ),
    Field("agent_endpoint.protocols", K, "the same in older words", since="2.1.0", until="2.2.0", sample=["responses"]),
    Field(
        "agent_endpoint.authorization_schemes",
        K,
        "who may call; Cupola's own tokens decide",
        since="2.1.0",
        sample=[{"type": "Entra"}, {"type": "BotServiceRbac"}],
    ),
)

CARD = (
    Field("agent_card.version", S, "the card's version", since="2.1.0", sample="1.0"),
    Field("agent_card.description", S, "for callers", since="2.1.0", sample="says it"),
    Field("agent_card.skills", S, "what the agent can do", since="2.1.0", sample=[_SKILL]),
)

REQUEST = (
    Field("response.input", S, "what is said"),
    Field("response.agent_reference", S, "which agent, on the project's base: name and version"),
    Field("response.agent", S, "the same, as some samples write it"),
    Field("response.agent_session_id", S, "which session"),
    Field("response.conversation", S, "which conversation, as an id or an object with one"),
    Field("response.previous_response_id", S, "what it follows"),
    Field("response.stream", S, "answer by events"),
    Field("response.store", S, "keep it; true if left out"),
    Field("response.background", S, "answer at once and go on"),
    *(
        Field(f"response.{name}", P, "for the agent", sample=sample, beside=_BESIDE.get(name, {}))
        for name, sample in {
            "model": "m",
            "instructions": "be brief",
            "metadata": {"k": "v"},
            "temperature": 0.5,
            "top_p": 0.5,
            "max_output_tokens": 100,
            "max_tool_calls": 3,
            "parallel_tool_calls": True,
            "reasoning": {"effort": "low"},
            "text": {"format": {"type": "text"}},
            "tools": [{"type": "function", "name": "f", "parameters": {}}],
            "tool_choice": "auto",
            "truncation": "auto",
            "include": ["reasoning.encrypted_content"],
            "prompt": {"id": "p"},
            "prompt_cache_key": "k",
            "prompt_cache_retention": "24h",
            "safety_identifier": "u",
            "service_tier": "auto",
            "stream_options": {"include_obfuscation": False},
            "top_logprobs": 2,
            "user": "u",
        }.items()
    ),
)

CONVERSATION = (
    Field("conversation.items", S, "the first items"),
    Field("conversation.metadata", S, "at most 16 pairs", sample={"k": "v"}),
    *(
        Field(f"conversation.{name}", H, meaning)
        for name, meaning in (
            ("id", "`conv_…`"),
            ("object", "`conversation`"),
            ("created_at", "unix seconds"),
        )
    ),
)

SESSION = (
    Field("session.agent_session_id", S, "its id, if it shall have a certain one", since="2.1.0"),
    Field("session.version_indicator", S, "which version, if not what the endpoint selects", since="2.1.0"),
    *(
        Field(f"session.{name}", H, meaning, since)
        for name, meaning, since in (
            ("status", "`creating`, `active`, `idle`, …", "2.1.0"),
            ("created_at", "unix seconds", "2.1.0"),
            ("last_accessed_at", "unix seconds", "2.1.0"),
            ("expires_at", "30 days after the last access", "2.1.0"),
            ("stopped_at", "since when it is idle", "2.7.0"),
        )
    ),
)

PLACES: Mapping[str, tuple[str, tuple[Field, ...]]] = {
    "definition": ("The hosted definition", DEFINITION),
    "version": ("A version", VERSION),
    "agent": ("An agent", AGENT),
    "agent_endpoint": ("An agent's endpoint", ENDPOINT),
    "agent_card": ("An agent's card", CARD),
    "response": ("A request for a response", REQUEST),
    "conversation": ("A conversation", CONVERSATION),
    "session": ("A session", SESSION),
}

FIELDS = tuple(field for _, fields in PLACES.values() for field in fields)
