"""Good requests, as the official clients send them (control-plane.md §2): what the mutations start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Recorded:
    """`target` may name path parameters in braces; `body` is JSON, or None."""

    method: str
    target: str
    body: Any = None
    about: str = "recorded"


_AGENTS = "/api/projects/{project}/agents"
_AGENT = _AGENTS + "/{agent}"
_ENDPOINT = _AGENT + "/endpoint"
_FILES = _ENDPOINT + "/sessions/{session}/files"
_OPENAI = _ENDPOINT + "/protocols/openai"
_PROJECT_OPENAI = "/api/projects/{project}/openai"
_V1 = "?api-version=v1"
_B3 = "?api-version=2025-11-15-preview"

_OLD = {
    "definition": {
        "container_protocol_versions": [{"protocol": "responses", "version": "v1"}],
        "cpu": "1",
        "memory": "2Gi",
        "image": "registry.example/my-agent:latest",
        "tools": [
            {"type": "code_interpreter"},
            {"type": "file_search"},
            {"type": "mcp", "server_label": "x", "server_url": "https://x.example"},
        ],
        "environment_variables": {"AZURE_AI_PROJECT_ENDPOINT": "https://a.example", "MODEL_NAME": "gpt-4o-mini"},
        "kind": "hosted",
    },
    "description": "d",
    "metadata": {"k": "v"},
}
_NEW = {
    "definition": {
        "cpu": "1",
        "memory": "2Gi",
        "container_configuration": {"image": "registry.example/my-agent:latest"},
        "protocol_versions": [{"protocol": "responses", "version": "2.0.0"}],
        "environment_variables": {"MODEL_NAME": "gpt-4o-mini"},
        "session_configuration": {"idle_timeout_seconds": 600},
        "rai_config": {"rai_policy_name": "/subscriptions/s/raiPolicies/p"},
        "telemetry_config": {
            "endpoints": [
                {
                    "kind": "OTLP",
                    "endpoint": "https://otel.example",
                    "protocol": "Http",
                    "data": ["ContainerOtel"],
                    "auth": {"type": "header", "header_name": "api-key", "secret_id": "c", "secret_key": "k"},
                }
            ]
        },
        "enable_memory_snapshot": False,
        "kind": "hosted",
    },
    "description": "d",
    "draft": False,
    "metadata": {"k": "v"},
}
_CONFIGURATION = {
    "agent_endpoint": {
        "version_selector": {
            "version_selection_rules": [{"type": "FixedRatio", "agent_version": "1", "traffic_percentage": 100}]
        },
        "protocol_configuration": {"responses": {}, "activity": {"enable_m365_public_endpoint": True}},
        "protocols": ["responses"],
        "authorization_schemes": [{"type": "Entra", "isolation_key_source": {"kind": "Entra"}}],
    },
    "agent_card": {
        "version": "1",
        "description": "d",
        "skills": [{"id": "s", "name": "n", "description": "d", "tags": ["t"], "examples": ["e"]}],
    },
}
_ITEM = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
_INDICATOR = {"type": "version_ref", "agent_version": "1"}
_REFERENCE = {"name": "a1", "type": "agent_reference"}
_ASK = {
    "input": [_ITEM, {"role": "user", "content": "plain"}],
    "agent_session_id": "s1",
    "metadata": {"k": "v"},
    "stream": False,
    "store": True,
    "tools": [],
    "temperature": 1,
}

RECORDED: Sequence[Recorded] = (
    Recorded("GET", _AGENTS + _V1 + "&limit=20&order=desc"),
    Recorded("POST", _AGENTS + _B3, {"name": "fuzzed", **_OLD}),
    Recorded("GET", _AGENT + _V1),
    Recorded("POST", _AGENT + _B3, _OLD),
    Recorded("PATCH", _AGENT + _V1, _CONFIGURATION),
    Recorded("POST", _AGENT + ":disable" + _V1),
    Recorded("POST", _AGENT + ":enable" + _V1),
    Recorded("POST", _AGENT + "/versions" + _B3, _OLD),
    Recorded("POST", _AGENT + "/versions" + _V1, _NEW),
    Recorded("GET", _AGENT + "/versions" + _V1 + "&include_drafts=true"),
    Recorded("GET", _AGENT + "/versions/1" + _V1),
    Recorded("GET", _AGENT + "/code:download" + _V1 + "&agent_version=1"),
    Recorded("POST", _ENDPOINT + "/sessions" + _V1, {"agent_session_id": "s9", "version_indicator": _INDICATOR}),
    Recorded("GET", _ENDPOINT + "/sessions" + _V1),
    Recorded("POST", _ENDPOINT + "/sessions/{session}:stop" + _V1),
    Recorded("PUT", _FILES + "/content" + _V1 + "&path=dir%2Fdata.csv", {"any": "bytes"}),
    Recorded("GET", _FILES + "/content" + _V1 + "&path=dir%2Fdata.csv"),
    Recorded("GET", _FILES + _V1 + "&path=dir&limit=20&order=asc&after=a"),
    Recorded("GET", _FILES + "/stat" + _V1 + "&path=dir"),
    Recorded("POST", _FILES + "/mkdir" + _V1, {"path": "/dir/new"}),
    Recorded("DELETE", _FILES + _V1 + "&path=dir&recursive=true"),
    Recorded("DELETE", _ENDPOINT + "/sessions/{session}" + _V1),
    Recorded("POST", _OPENAI + "/responses" + _V1, _ASK),
    Recorded("POST", _OPENAI + "/responses" + _V1, {**_ASK, "stream": True}),
    Recorded("POST", _OPENAI + "/responses" + _V1, {**_ASK, "background": True}),
    Recorded("POST", _OPENAI + "/v1/responses" + _V1, {"input": "hi", "conversation": {"id": "{conversation}"}}),
    Recorded("POST", _PROJECT_OPENAI + "/responses" + _B3, {"input": "hi", "agent_reference": _REFERENCE}),
    Recorded("POST", _PROJECT_OPENAI + "/v1/responses", {"input": "hi", "agent": _REFERENCE, "stream": True}),
    Recorded("GET", _OPENAI + "/responses/{response}" + _V1 + "&stream=true&starting_after=3"),
    Recorded("POST", _OPENAI + "/responses/{response}/cancel" + _V1),
    Recorded("GET", _OPENAI + "/responses/{response}/input_items" + _V1),
    Recorded("POST", _PROJECT_OPENAI + "/v1/conversations", {"items": [_ITEM], "metadata": {"k": "v"}}),
    Recorded("POST", _PROJECT_OPENAI + "/v1/conversations/{conversation}", {"metadata": {"k": "w"}}),
    Recorded("POST", _PROJECT_OPENAI + "/v1/conversations/{conversation}/items", {"items": [_ITEM, _ITEM]}),
    Recorded("GET", _PROJECT_OPENAI + "/v1/conversations/{conversation}/items?limit=20&order=asc"),
    Recorded("POST", _ENDPOINT + "/protocols/invocations" + _V1 + "&agent_session_id=s1", {"message": "hi"}),
    Recorded("GET", _ENDPOINT + "/protocols/invocations/{invocation}" + _V1 + "&agent_session_id=s1"),
    Recorded("POST", _ENDPOINT + "/protocols/invocations/{invocation}/cancel" + _V1),
    Recorded("GET", _ENDPOINT + "/protocols/invocations/docs/openapi.json" + _V1),
    Recorded("GET", "/api/projects/{project}/connections" + _V1),
    Recorded("GET", "/cupola/status"),
)
