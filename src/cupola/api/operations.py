"""Every operation that clients may ask for: its name, what it takes, and how it succeeds.

Names are those of the SDK (`agents.create_version`). A test holds this table to the routes, one entry for each.
`{openai}` stands for the four bases of the OpenAI client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Schema = Mapping[str, Any]

JSON = ("application/json",)
EVENTS = ("application/json", "text/event-stream")
ANYTHING = ("*/*",)


@dataclass(frozen=True, slots=True)
class Operation:
    """`bodies` are the schemas of the request by media type, `reply` the media types of what comes back."""

    id: str
    summary: str
    success: tuple[int, ...] = (200,)
    query: Mapping[str, Schema] = field(default_factory=dict)
    bodies: Mapping[str, Schema] = field(default_factory=dict)
    reply: tuple[str, ...] = JSON


def _ref(model: str) -> Schema:
    return {"$ref": f"#/components/schemas/{model}"}


def _object(*required: str, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _json(schema: Schema, *kinds: str) -> Mapping[str, Schema]:
    return dict.fromkeys(kinds or JSON, schema)


_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_FREE: Schema = {"type": "object"}
_METADATA: Schema = {
    "type": "object",
    "propertyNames": {"maxLength": 64},
    "additionalProperties": {"type": "string", "maxLength": 512},
    "maxProperties": 16,
}
_VERSION = {"api-version": _TEXT}
_LOG_STREAM = {
    **_VERSION,
    "kind": {"enum": ["console", "system"]},
    "tail": {"type": "integer", "minimum": 1, "maximum": 300},
    "follow": _FLAG,
}
_FORCE = {**_VERSION, "force": _FLAG}
_PATH = {**_VERSION, "path": _TEXT}
_PAGE = {
    **_VERSION,
    "limit": {"type": "integer", "minimum": 1, "maximum": 100},
    "order": {"enum": ["asc", "desc"]},
    "after": _TEXT,
    "before": _TEXT,
}
_SESSION = {**_VERSION, "agent_session_id": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,128}$"}}

_NEW_VERSION = _object(
    "definition",
    definition=_ref("Definition"),
    description=_TEXT,
    metadata=_METADATA,
    draft=_FLAG,
)
_CONFIGURATION = {
    "agent_endpoint": {"type": ["object", "null"]},
    "agent_card": {"type": ["object", "null"]},
}
_NEW_AGENT = _object("name", "definition", **{**_NEW_VERSION["properties"], "name": _TEXT, **_CONFIGURATION})
_UPLOAD = _object("metadata", "code", metadata=_TEXT, code={"type": "string", "format": "binary"})
_VERSION_BODIES = {"application/json": _NEW_VERSION, "multipart/form-data": _UPLOAD}

_ITEM = _object("type", type=_TEXT, role=_TEXT, content={"anyOf": [_TEXT, _list(_FREE)]})
_RESPONSE = _object(
    input={"anyOf": [_TEXT, _list(_ITEM)]},
    agent_reference=_object("name", name=_TEXT, type=_TEXT, version=_TEXT),
    agent_session_id=_SESSION["agent_session_id"],
    background=_FLAG,
    conversation={"anyOf": [_TEXT, _object("id", id=_TEXT)]},
    instructions=_TEXT,
    metadata=_METADATA,
    model=_TEXT,
    previous_response_id=_TEXT,
    store=_FLAG,
    stream=_FLAG,
)
_CONVERSATION = _object(items={"type": "array", "items": _ITEM, "maxItems": 20}, metadata=_METADATA)

_ACTIVITY = _object("type", type=_TEXT, id=_TEXT, text={"type": "string"}, deliveryMode=_TEXT)

_OWN_PROJECT = "/cupola/projects/{project}"
_OWN = _OWN_PROJECT + "/agents/{agent}"
_PROJECT = "/api/projects/{project}"
_AGENT = _PROJECT + "/agents/{agent}"
_ENDPOINT = _AGENT + "/endpoint"
_FILES = _ENDPOINT + "/sessions/{session}/files"
_SNAPSHOTS = _OWN + "/sessions/{session}/snapshots"
_PROTOCOLS = _ENDPOINT + "/protocols"
_A2A = _PROTOCOLS + "/a2a"
_A2A_QUERY = {**_SESSION, "a2a-version": {"enum": ["0.3", "1.0"]}}
_A2A_MESSAGE = _object(
    "message",
    message=_object(
        "messageId",
        "role",
        "parts",
        messageId=_TEXT,
        role={"enum": ["user", "ROLE_USER"]},
        parts={"type": "array", "minItems": 1, "items": _object("text", kind={"const": "text"}, text=_TEXT)},
        contextId={"type": "string", "maxLength": 512},
        taskId=_TEXT,
    ),
    configuration=_object(
        acceptedOutputModes=_list(_TEXT), blocking=_FLAG, historyLength={"type": "integer", "minimum": 0}
    ),
)
_JSON_RPC = _object(
    "jsonrpc",
    "method",
    jsonrpc={"const": "2.0"},
    id={"type": ["string", "number", "null"]},
    method={"enum": ["message/send", "message/stream", "tasks/get", "tasks/cancel"]},
    params={"anyOf": [_A2A_MESSAGE, _object("id", id=_TEXT)]},
)

OPERATIONS: Mapping[str, Operation] = {
    # Agents (control-plane.md §2.1, §2.3)
    f"GET {_PROJECT}/agents": Operation("agents.list", "List agents", query={**_PAGE, "kind": _TEXT}),
    f"POST {_PROJECT}/agents": Operation(
        "agents.create",
        "Create an agent with its first version",
        query=_VERSION,
        bodies={"application/json": _NEW_AGENT, "multipart/form-data": _UPLOAD},
    ),
    f"GET {_AGENT}": Operation("agents.get", "Get an agent", query=_VERSION),
    f"POST {_AGENT}": Operation(
        "agents.update", "Update an agent by a new version", query=_VERSION, bodies=_VERSION_BODIES
    ),
    f"PATCH {_AGENT}": Operation(
        "agents.update_details",
        "Change an agent's endpoint and card by merge patch",
        query=_VERSION,
        bodies=_json(_object(**_CONFIGURATION), "application/merge-patch+json", "application/json"),
    ),
    f"DELETE {_AGENT}": Operation("agents.delete", "Delete an agent", query=_FORCE),
    f"POST {_AGENT}:enable": Operation("agents.enable", "Enable an agent", success=(204,), query=_VERSION),
    f"POST {_AGENT}:disable": Operation("agents.disable", "Disable an agent", success=(204,), query=_VERSION),
    # Versions (§2.2, §2.4)
    f"GET {_AGENT}/versions": Operation(
        "agents.list_versions", "List an agent's versions", query={**_PAGE, "include_drafts": _FLAG}
    ),
    f"POST {_AGENT}/versions": Operation(
        "agents.create_version", "Create a version", query=_VERSION, bodies=_VERSION_BODIES
    ),
    f"GET {_AGENT}/versions/{{version}}": Operation("agents.get_version", "Get a version", query=_VERSION),
    f"DELETE {_AGENT}/versions/{{version}}": Operation("agents.delete_version", "Delete a version", query=_FORCE),
    f"GET {_AGENT}/code:download": Operation(
        "agents.download_code",
        "Download the code of a version",
        query={**_VERSION, "agent_version": _TEXT},
        reply=("application/zip",),
    ),
    # Sessions (§2.5)
    f"GET {_ENDPOINT}/sessions": Operation(
        "sessions.list", "List sessions", query={**_PAGE, "pagination_token": _TEXT}
    ),
    f"POST {_ENDPOINT}/sessions": Operation(
        "sessions.create", "Create a session", success=(201,), query=_VERSION, bodies=_json(_ref("NewSession"))
    ),
    f"GET {_ENDPOINT}/sessions/{{session}}": Operation("sessions.get", "Get a session", query=_VERSION),
    f"POST {_ENDPOINT}/sessions/{{session}}:stop": Operation(
        "sessions.stop", "Stop a session's sandbox, keeping its files", success=(204,), query=_VERSION
    ),
    f"DELETE {_ENDPOINT}/sessions/{{session}}": Operation(
        "sessions.delete",
        "Delete a session with its files",
        success=(204,),
        query={**_VERSION, "keep_snapshots": _FLAG},
    ),
    # Files of sessions (§2.6)
    f"PUT {_FILES}/content": Operation(
        "sessions.files.upload",
        "Upload a file to a session",
        success=(201,),
        query=_PATH,
        bodies={"application/octet-stream": {"type": "string", "format": "binary"}},
    ),
    f"GET {_FILES}/content": Operation(
        "sessions.files.download",
        "Download a file of a session, or a part of it",
        success=(200, 206),
        query=_PATH,
        reply=("application/octet-stream",),
    ),
    f"GET {_FILES}": Operation("sessions.files.list", "List a directory of a session", query={**_PAGE, "path": _TEXT}),
    f"DELETE {_FILES}": Operation(
        "sessions.files.delete",
        "Delete a file or directory of a session",
        success=(204,),
        query={**_PATH, "recursive": _FLAG},
    ),
    f"POST {_FILES}/mkdir": Operation(
        "sessions.files.make_directory",
        "Make a directory in a session",
        success=(201,),
        query=_VERSION,
        bodies=_json(_object("path", path=_TEXT)),
    ),
    f"GET {_FILES}/stat": Operation("sessions.files.stat", "Look at a file or directory of a session", query=_PATH),
    # Logs (§2.7)
    f"GET {_AGENT}/versions/{{version}}/sessions/{{session}}:logstream": Operation(
        "sessions.logs", "Follow a session's logs", query=_LOG_STREAM, reply=("text/event-stream",)
    ),
    f"GET {_AGENT}/sessions/{{session}}:logstream": Operation(
        "sessions.logs_of_session",
        "Follow a session's logs, whatever its version",
        query=_LOG_STREAM,
        reply=("text/event-stream",),
    ),
    f"GET {_AGENT}/versions/{{version}}/containers/default:logstream": Operation(
        "agents.logs_of_version",
        "Follow the logs of a version's sandboxes (retired)",
        query={**_LOG_STREAM, "replica_name": _TEXT},
        reply=("text/plain",),
    ),
    # Responses and conversations (§2.8, §2.9)
    "POST {openai}/responses": Operation(
        "responses.create", "Ask an agent", query=_VERSION, bodies=_json(_RESPONSE), reply=EVENTS
    ),
    "GET {openai}/responses/{response}": Operation(
        "responses.retrieve",
        "Get a response, or replay its stream",
        query={**_VERSION, "stream": _FLAG, "starting_after": {"type": "integer", "minimum": 0}},
        reply=EVENTS,
    ),
    "POST {openai}/responses/{response}/cancel": Operation(
        "responses.cancel", "Cancel a background response", query=_VERSION
    ),
    "DELETE {openai}/responses/{response}": Operation("responses.delete", "Delete a response", query=_VERSION),
    "GET {openai}/responses/{response}/input_items": Operation(
        "responses.input_items.list", "List what a response was given", query=_PAGE
    ),
    "POST {openai}/conversations": Operation(
        "conversations.create", "Create a conversation", query=_VERSION, bodies=_json(_CONVERSATION)
    ),
    "GET {openai}/conversations/{conversation}": Operation(
        "conversations.retrieve", "Get a conversation", query=_VERSION
    ),
    "POST {openai}/conversations/{conversation}": Operation(
        "conversations.update",
        "Change a conversation's metadata",
        query=_VERSION,
        bodies=_json(_object("metadata", metadata=_METADATA)),
    ),
    "DELETE {openai}/conversations/{conversation}": Operation(
        "conversations.delete", "Delete a conversation", query=_VERSION
    ),
    "GET {openai}/conversations/{conversation}/items": Operation(
        "conversations.items.list", "List a conversation's items", query=_PAGE
    ),
    "POST {openai}/conversations/{conversation}/items": Operation(
        "conversations.items.create",
        "Add items to a conversation",
        query=_VERSION,
        bodies=_json(_object("items", items={"type": "array", "items": _ITEM, "maxItems": 20})),
    ),
    "GET {openai}/conversations/{conversation}/items/{item}": Operation(
        "conversations.items.retrieve", "Get an item", query=_VERSION
    ),
    "DELETE {openai}/conversations/{conversation}/items/{item}": Operation(
        "conversations.items.delete", "Delete an item", query=_VERSION
    ),
    # Invocations (§2.8)
    f"POST {_PROTOCOLS}/invocations": Operation(
        "invocations.create",
        "Invoke an agent",
        success=(200, 202),
        query=_SESSION,
        bodies={"application/json": {}, "application/octet-stream": {"type": "string", "format": "binary"}},
        reply=ANYTHING,
    ),
    f"GET {_PROTOCOLS}/invocations/{{invocation}}": Operation(
        "invocations.get", "Poll an invocation", query=_SESSION, reply=ANYTHING
    ),
    f"POST {_PROTOCOLS}/invocations/{{invocation}}/cancel": Operation(
        "invocations.cancel", "Cancel an invocation", query=_SESSION, reply=ANYTHING
    ),
    f"GET {_PROTOCOLS}/invocations/docs/{{document}}": Operation(
        "invocations.docs", "Get the agent's own description of its invocations", query=_SESSION, reply=ANYTHING
    ),
    f"GET {_PROTOCOLS}/invocations_ws": Operation(
        "invocations_ws.explain",
        "Talk to an agent over a WebSocket (wss://, with an upgrade; without one this is refused)",
        success=(101,),
        query=_SESSION,
    ),
    # Activity (§2.8)
    f"POST {_PROTOCOLS}/activityprotocol": Operation(
        "activity.send",
        "Send an activity; also as `activity`, in any case of letters",
        success=(200, 202),
        query=_SESSION,
        bodies={"application/json": _ACTIVITY},
        reply=ANYTHING,
    ),
    # A2A (§2.8)
    f"POST {_A2A}": Operation(
        "a2a.rpc", "Speak A2A over JSON-RPC", query=_A2A_QUERY, bodies=_json(_JSON_RPC), reply=EVENTS
    ),
    f"GET {_A2A}/agentCard/v0.3": Operation("a2a.card", "Get an agent's card, as A2A 0.3 has it", query=_VERSION),
    f"GET {_A2A}/agentCard/v1.0": Operation("a2a.card_1_0", "Get an agent's card, as A2A 1.0 has it", query=_VERSION),
    f"GET {_A2A}/.well-known/agent-card.json": Operation(
        "a2a.card_well_known", "Get an agent's card where clients look for it by themselves", query=_VERSION
    ),
    f"POST {_A2A}/v1/message:send": Operation(
        "a2a.send", "Send a message to an agent", query=_A2A_QUERY, bodies=_json(_A2A_MESSAGE)
    ),
    f"POST {_A2A}/v1/message:stream": Operation(
        "a2a.stream",
        "Send a message to an agent and hear the answer while it is made",
        query=_A2A_QUERY,
        bodies=_json(_A2A_MESSAGE),
        reply=EVENTS,
    ),
    f"GET {_A2A}/v1/tasks/{{task}}": Operation(
        "a2a.get_task", "Get a task", query={**_A2A_QUERY, "historyLength": {"type": "integer", "minimum": 0}}
    ),
    f"POST {_A2A}/v1/tasks/{{task}}:cancel": Operation("a2a.cancel_task", "Cancel a task", query=_A2A_QUERY),
    # Cupola's own, of sessions
    f"GET {_SNAPSHOTS}": Operation("cupola.snapshots.list", "List a session's snapshots", query=_PAGE),
    f"POST {_SNAPSHOTS}": Operation(
        "cupola.snapshots.create",
        "Keep a copy of a session's home",
        success=(201,),
        bodies=_json(_object(note={"type": "string", "maxLength": 512}, stop=_FLAG, force=_FLAG)),
    ),
    f"DELETE {_SNAPSHOTS}/{{snapshot}}": Operation("cupola.snapshots.delete", "Delete a snapshot", success=(204,)),
    f"POST {_OWN}/sessions/{{session}}:restore": Operation(
        "cupola.sessions.restore",
        "Give a session the home that a snapshot has kept",
        bodies=_json(_object("snapshot", snapshot=_TEXT, force=_FLAG)),
    ),
    f"POST {_OWN}/sessions/{{session}}:fork": Operation(
        "cupola.sessions.fork",
        "Begin a session with a copy of another's home, or of a snapshot",
        success=(201,),
        bodies=_json(
            _object(snapshot=_TEXT, agent_session_id=_SESSION["agent_session_id"], owner={"enum": ["same", "me"]})
        ),
    ),
    f"POST {_OWN}/sessions/{{session}}:move": Operation(
        "cupola.sessions.move",
        "Move a session to another version of its agent",
        bodies=_json(_object("agent_version", agent_version=_TEXT, dry_run=_FLAG, force=_FLAG)),
    ),
    f"POST {_OWN}/sessions:move": Operation(
        "cupola.sessions.move_many",
        "Move an agent's sessions to another version",
        bodies=_json(_object("to", **{"from": _TEXT, "to": _TEXT, "dry_run": _FLAG, "force": _FLAG})),
    ),
    # Cupola's own
    f"POST {_OWN}/sessions/{{session}}:kill": Operation(
        "cupola.sessions.kill", "End a session's sandbox at once, keeping its files", success=(204,)
    ),
    f"POST {_OWN_PROJECT}/sessions:stop": Operation(
        "cupola.sessions.stop_all", "Stop all sessions of a project or an agent", bodies=_json(_ref("StopAll"))
    ),
    f"GET {_OWN}/sessions/{{session}}/bundle": Operation(
        "cupola.bundle", "Get all that is known of a session as one archive", reply=("application/zip",)
    ),
    f"GET {_OWN}/stats": Operation(
        "cupola.stats",
        "How long an agent's requests took, by version and start type",
        query={"since": {"type": "string", "pattern": "^[0-9]{1,9}[smhd]$"}, "version": _TEXT},
    ),
    f"GET {_OWN}/logs": Operation(
        "cupola.logs",
        "Read and follow the logs of an agent's sandboxes",
        query={
            "session": _TEXT,
            "version": _TEXT,
            "since": _TEXT,
            "phase": {"enum": ["start", "serve"]},
            "tail": {"type": "integer", "minimum": 1},
            "follow": _FLAG,
        },
        reply=("application/x-ndjson",),
    ),
    f"GET {_OWN}/warm": Operation("cupola.list_warm_pools", "List an agent's warm pools"),
    f"POST {_OWN}/versions/{{version}}:warm": Operation(
        "cupola.resize_warm_pool",
        "Change how many sandboxes of a version wait for new sessions",
        bodies=_json(_object("warm_pool", warm_pool={"type": ["integer", "null"], "minimum": 0, "maximum": 100})),
    ),
    "GET /cupola/health": Operation("cupola.health", "Whether the platform answers"),
    "GET /cupola/status": Operation("cupola.status", "What runs"),
    "GET /openapi.json": Operation("cupola.openapi", "This document"),
}
