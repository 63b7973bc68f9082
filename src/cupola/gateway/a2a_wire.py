"""What A2A looks like on the wire: parameters read, errors by number, and how each version and transport spells.

JSON-RPC of 0.3 has a JSON of its own, where `kind` tells objects apart. HTTP+JSON of 0.3, and all of 1.0, is the JSON
form of protobuf messages, where the name of a field does. Inside there is one form, that of 0.3's JSON-RPC; `Protobuf`
makes the others of it. The official SDK's types are not used: importing them costs 12 MiB (its client 25) and brings
protobuf and google-api-core, for a dozen fields; the wire tests hold these shapes against the SDK's clients instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, TypeVar

import orjson
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from cupola.errors import CupolaError

V0_3, V1_0 = "0.3", "1.0"
TEXT_MODES = frozenset({"text", "text/plain", "text/*", "*/*", "*"})
"""Output modes with which plain text is welcome."""
MAX_CONTEXT_ID = 512
"""Characters; what a conversation's metadata holds."""
M = TypeVar("M", bound=BaseModel)


class Code(IntEnum):
    """Numbers of JSON-RPC 2.0 and of A2A, under the names that 1.0 has for them."""

    PARSE = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL = -32603
    TASK_NOT_FOUND = -32001
    TASK_NOT_CANCELABLE = -32002
    PUSH_NOTIFICATION_NOT_SUPPORTED = -32003
    UNSUPPORTED_OPERATION = -32004
    CONTENT_TYPE_NOT_SUPPORTED = -32005
    INVALID_AGENT_RESPONSE = -32006
    EXTENDED_AGENT_CARD_NOT_CONFIGURED = -32007
    VERSION_NOT_SUPPORTED = -32009


_HTTP = {
    Code.PARSE: (400, "JSONParseError"),
    Code.INVALID_REQUEST: (400, "InvalidRequestError"),
    Code.METHOD_NOT_FOUND: (404, "MethodNotFoundError"),
    Code.INVALID_PARAMS: (400, "InvalidParamsError"),
    Code.INTERNAL: (500, "InternalError"),
    Code.TASK_NOT_FOUND: (404, "TaskNotFoundError"),
    Code.TASK_NOT_CANCELABLE: (409, "TaskNotCancelableError"),
    Code.PUSH_NOTIFICATION_NOT_SUPPORTED: (501, "PushNotificationNotSupportedError"),
    Code.UNSUPPORTED_OPERATION: (501, "UnsupportedOperationError"),
    Code.CONTENT_TYPE_NOT_SUPPORTED: (415, "ContentTypeNotSupportedError"),
    Code.INVALID_AGENT_RESPONSE: (502, "InvalidAgentResponseError"),
    Code.EXTENDED_AGENT_CARD_NOT_CONFIGURED: (404, "ExtendedAgentCardNotConfiguredError"),
    Code.VERSION_NOT_SUPPORTED: (400, "VersionNotSupportedError"),
}
"""Status and `type` of failures of the HTTP+JSON transport; clients of the official SDK 1.x go by the `type`."""


class A2AError(CupolaError):
    """A failure that the protocol has a number for; `data` is for the caller to look at."""

    def __init__(self, number: Code, message: str, *, data: Any = None) -> None:
        super().__init__(message, code=number.name.lower())
        self.number = number
        self.data = data

    def to_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"code": int(self.number), "message": self.message}
        return shown if self.data is None else {**shown, "data": self.data}


def brief(text: str) -> str:
    """A caller's own words in a sentence: as much as one can read."""
    return text if len(text) <= _READABLE else text[:_READABLE] + "…"


_READABLE = 120

# What callers send


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Message(_Wire):
    message_id: str = Field(min_length=1, validation_alias=AliasChoices("messageId", "message_id"))
    role: str
    parts: list[dict[str, Any]] = Field(min_length=1, validation_alias=AliasChoices("parts", "content"))
    context_id: str | None = Field(
        default=None, max_length=MAX_CONTEXT_ID, validation_alias=AliasChoices("contextId", "context_id")
    )
    task_id: str | None = Field(default=None, validation_alias=AliasChoices("taskId", "task_id"))


class _Configuration(_Wire):
    accepted: list[str] = Field(
        default=[], validation_alias=AliasChoices("acceptedOutputModes", "accepted_output_modes")
    )
    blocking: bool = True
    at_once: bool = Field(default=False, validation_alias=AliasChoices("returnImmediately", "return_immediately"))
    history_length: int | None = Field(
        default=None, ge=0, validation_alias=AliasChoices("historyLength", "history_length")
    )
    push: Any = Field(
        default=None,
        validation_alias=AliasChoices(
            "pushNotificationConfig", "pushNotification", "push_notification", "taskPushNotificationConfig"
        ),
    )


class _SendParams(_Wire):
    message: _Message = Field(validation_alias=AliasChoices("message", "request"))
    configuration: _Configuration | None = None


class _TaskParams(_Wire):
    id: str = Field(min_length=1)
    history_length: int | None = Field(
        default=None, ge=0, validation_alias=AliasChoices("historyLength", "history_length")
    )


@dataclass(frozen=True, slots=True)
class Sent:
    """A message to the agent, read and checked. `shown` is how a task's history shows it."""

    text: str
    context_id: str | None
    task_id: str | None
    background: bool
    history_length: int | None
    shown: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TaskQuery:
    id: str
    history_length: int | None


def read_send(params: object) -> Sent:
    """`MessageSendParams` in either spelling. Raises A2AError naming the field."""
    read = _validated(_SendParams, params)
    message, configuration = read.message, read.configuration or _Configuration()
    if message.role not in ("user", "ROLE_USER"):
        raise A2AError(
            Code.INVALID_PARAMS, f"'message.role' is '{brief(message.role)}'; a message to an agent is 'user''s."
        )
    if configuration.push:
        raise A2AError(
            Code.PUSH_NOTIFICATION_NOT_SUPPORTED,
            "Push notifications are not supported; stream the message, or poll its task.",
        )
    if configuration.accepted and not TEXT_MODES.intersection(configuration.accepted):
        raise A2AError(
            Code.CONTENT_TYPE_NOT_SUPPORTED,
            f"'configuration.acceptedOutputModes' is {brief(', '.join(configuration.accepted))}; "
            "agents answer with text.",
        )
    texts = [_text_of(part, index) for index, part in enumerate(message.parts)]
    return Sent(
        text="\n".join(texts),
        context_id=message.context_id or None,
        task_id=message.task_id or None,
        background=configuration.at_once or not configuration.blocking,
        history_length=configuration.history_length,
        shown=said(message.message_id, "user", texts),
    )


def read_task_query(params: object) -> TaskQuery:
    """`TaskQueryParams` or `TaskIdParams`. Raises A2AError naming the field."""
    read = _validated(_TaskParams, params)
    return TaskQuery(read.id, read.history_length)


def _text_of(part: Mapping[str, Any], index: int) -> str:
    """The text of a part; `type` is what some emitters call `kind`."""
    kind, text = part.get("kind") or part.get("type"), part.get("text")
    if kind not in (None, "text") or (kind is None and "text" not in part):
        what = kind or next((name for name in ("file", "data", "raw", "url") if name in part), "something unknown")
        raise A2AError(
            Code.CONTENT_TYPE_NOT_SUPPORTED,
            f"'message.parts.{index}' is of the kind '{brief(str(what))}'; agents take text parts only.",
        )
    if not isinstance(text, str):
        raise A2AError(Code.INVALID_PARAMS, f"'message.parts.{index}.text' must be a string.")
    return text


def _validated(model: type[M], params: object) -> M:
    try:
        return model.model_validate(params)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "params"
        raise A2AError(
            Code.INVALID_PARAMS, f"'{brief(where)}' is not as the protocol has it: {first['msg']}."
        ) from error


# What they get


def said(message_id: str, role: str, texts: Sequence[str], **ids: str) -> dict[str, Any]:
    """A message of text parts."""
    return {"kind": "message", "messageId": message_id, "role": role, "parts": [_part(text) for text in texts], **ids}


def _part(text: str) -> dict[str, Any]:
    return {"kind": "text", "text": text}


def artifact(artifact_id: str, texts: Sequence[str]) -> dict[str, Any]:
    """What the agent made, as text."""
    return {"artifactId": artifact_id, "parts": [_part(text) for text in texts]}


class Transport(Protocol):
    """How one of the two transports puts results and failures."""

    def sent(self, task: Mapping[str, Any]) -> bytes:
        """The result of sending a message."""

    def task(self, task: Mapping[str, Any]) -> bytes:
        """The result of getting or cancelling a task."""

    def event(self, event: Mapping[str, Any]) -> bytes:
        """One piece of a stream."""

    def failure(self, error: A2AError) -> tuple[int, bytes]:
        """Status and body."""

    def failed_stream(self, error: A2AError) -> bytes | None:
        """The event that ends a stream before it has begun; None where a status and a body say it."""


@dataclass(frozen=True, slots=True)
class JsonRpc:
    """JSON-RPC 2.0 in A2A 0.3: a result or an error beside the request's id, always with status 200."""

    id: str | int | float | None

    def sent(self, task: Mapping[str, Any]) -> bytes:
        return self._result(task)

    def task(self, task: Mapping[str, Any]) -> bytes:
        return self._result(task)

    def event(self, event: Mapping[str, Any]) -> bytes:
        return self._result(event)

    def failure(self, error: A2AError) -> tuple[int, bytes]:
        return 200, orjson.dumps({"jsonrpc": "2.0", "id": self.id, "error": self._error(error)})

    def failed_stream(self, error: A2AError) -> bytes | None:
        return self.failure(error)[1]

    def _result(self, result: Mapping[str, Any]) -> bytes:
        return orjson.dumps({"jsonrpc": "2.0", "id": self.id, "result": result})

    def _error(self, error: A2AError) -> dict[str, Any]:
        return error.to_json()


class JsonRpc1(JsonRpc):
    """JSON-RPC 2.0 in A2A 1.0: results are protobuf's JSON, A2A's own errors say their reason."""

    __slots__ = ()

    def sent(self, task: Mapping[str, Any]) -> bytes:
        return self._result({"task": PROTOBUF_1_0.json(task)})

    def task(self, task: Mapping[str, Any]) -> bytes:
        return self._result(PROTOBUF_1_0.json(task))

    def event(self, event: Mapping[str, Any]) -> bytes:
        return self._result({_EVENT_FIELDS[event["kind"]]: PROTOBUF_1_0.json(event)})

    def _error(self, error: A2AError) -> dict[str, Any]:
        shown = error.to_json()
        if error.number > Code.TASK_NOT_FOUND or error.number < Code.VERSION_NOT_SUPPORTED:
            return shown
        reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": error.number.name}
        return {**shown, "data": [{**reason, "domain": "a2a-protocol.org"}]}


class HttpJson:
    """HTTP+JSON of A2A 0.3: protobuf's JSON, failures as a status.

    Their body is Foundry's envelope with what A2A has to say beside it, since 0.3 prescribes none.
    """

    __slots__ = ()

    def sent(self, task: Mapping[str, Any]) -> bytes:
        return orjson.dumps({"task": PROTOBUF_0_3.json(task)})

    def task(self, task: Mapping[str, Any]) -> bytes:
        return orjson.dumps(PROTOBUF_0_3.json(task))

    def event(self, event: Mapping[str, Any]) -> bytes:
        return orjson.dumps({_EVENT_FIELDS[event["kind"]]: PROTOBUF_0_3.json(event)})

    def failure(self, error: A2AError) -> tuple[int, bytes]:
        status, kind = _HTTP[error.number]
        envelope = {"code": error.code, "message": error.message}
        return status, orjson.dumps({**error.to_json(), "type": kind, "error": envelope})

    def failed_stream(self, error: A2AError) -> bytes | None:
        return None


_EVENT_FIELDS = {"task": "task", "status-update": "statusUpdate", "artifact-update": "artifactUpdate"}


@dataclass(frozen=True, slots=True)
class Protobuf:
    """The JSON form of a version's protobuf messages: no `kind`, enums in capitals.

    `parts` is the field of a message's parts; `leaves_out` are fields that the version does not have.
    """

    parts: str
    canceled: str
    leaves_out: frozenset[str]

    def json(self, value: Any) -> Any:
        """An object of JSON-RPC's form in this one."""
        if isinstance(value, list):
            return [self.json(entry) for entry in value]
        if not isinstance(value, Mapping):
            return value
        made = {name: self.json(entry) for name, entry in value.items() if name not in self.leaves_out}
        if value.get("kind") == "message":
            made[self.parts] = made.pop("parts")
            made["role"] = f"ROLE_{value['role'].upper()}"
        if "state" in made:
            state = self.canceled if value["state"] == "canceled" else value["state"].upper().replace("-", "_")
            made["state"] = f"TASK_STATE_{state}"
        return made


PROTOBUF_0_3 = Protobuf(parts="content", canceled="CANCELLED", leaves_out=frozenset({"kind"}))
PROTOBUF_1_0 = Protobuf(parts="parts", canceled="CANCELED", leaves_out=frozenset({"kind", "final"}))
