"""What a call over A2A asks for: its method, its id, and the version that it is written in.

JSON-RPC 2.0 for both versions; HTTP+JSON has its method in the path. Wire: control-plane.md §2.8, docs/wire-notes.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import Receive, Scope

from cupola.errors import BadRequest
from cupola.gateway.a2a_wire import V0_3, V1_0, A2AError, Code, brief
from cupola.gateway.headers import find
from cupola.web.body import read_object

_VERSION = re.compile(r"(0\.3|1\.0)(?:\.\d+)?\Z")


async def read_call(scope: Scope, receive: Receive) -> dict[str, Any]:
    """The body. Raises A2AError for what is no JSON object."""
    try:
        return await read_object(Request(scope, receive))
    except BadRequest as error:
        number = Code.PARSE if isinstance(error.__cause__, orjson.JSONDecodeError) else Code.INVALID_REQUEST
        raise A2AError(number, error.message) from error


def id_of(call: Mapping[str, Any]) -> str | int | float | None:
    """The request's id, by which the answer is known; one that may not be is left out."""
    found = call.get("id")
    return found if isinstance(found, str | int | float) and not isinstance(found, bool) else None


def method_of(call: Mapping[str, Any]) -> str:
    """What is called. Raises A2AError for what is no request of JSON-RPC 2.0."""
    if call.get("jsonrpc") != "2.0" or not isinstance(call.get("method"), str):
        raise A2AError(
            Code.INVALID_REQUEST,
            'The body must be a JSON-RPC 2.0 request: {"jsonrpc": "2.0", "id": …, "method": …, "params": …}.',
        )
    if not isinstance(call.get("id"), str | int | float | None) or isinstance(call.get("id"), bool):
        raise A2AError(Code.INVALID_REQUEST, "'id' must be a string or a number.")
    return str(call["method"])


def version_of(scope: Scope) -> str:
    """The version that the caller asks for, in the header or in the query. Raises A2AError for one not spoken here."""
    header = find(scope["headers"], b"a2a-version")
    query = {name.lower(): value for name, value in Request(scope).query_params.items()}
    asked = query.get("a2a-version", "") if header is None else header.decode("latin-1").strip()
    match = _VERSION.match(asked or V0_3)
    if match is None:
        raise unspoken(asked, "here; 1.0 and 0.3 are")
    return match[1]


def unspoken(version: str, where: str) -> A2AError:
    """The error for a version that is not spoken there."""
    return A2AError(Code.VERSION_NOT_SUPPORTED, f"A2A version '{brief(version)}' is not spoken {where}.")


_METHODS_1_0 = {
    "SendMessage": "message/send",
    "SendStreamingMessage": "message/stream",
    "GetTask": "tasks/get",
    "CancelTask": "tasks/cancel",
    "ListTasks": "tasks/list",
    "SubscribeToTask": "tasks/resubscribe",
    "CreateTaskPushNotificationConfig": "tasks/pushNotificationConfig/set",
    "GetTaskPushNotificationConfig": "tasks/pushNotificationConfig/get",
    "ListTaskPushNotificationConfigs": "tasks/pushNotificationConfig/list",
    "DeleteTaskPushNotificationConfig": "tasks/pushNotificationConfig/delete",
    "GetExtendedAgentCard": "agent/getAuthenticatedExtendedCard",
}
"""1.0's names of methods, by what 0.3 calls them; `tasks/list` is the only one that 0.3 has not over JSON-RPC."""
_METHODS = frozenset(_METHODS_1_0.values()) - {"tasks/list"}


def known_method(method: str, version: str) -> str:
    """0.3's name of a method of that version. Raises A2AError for one that the version does not have."""
    known = _METHODS_1_0.get(method) if version == V1_0 else method if method in _METHODS else None
    if known is None:
        other = V0_3 if version == V1_0 else V1_0
        raise A2AError(
            Code.METHOD_NOT_FOUND,
            f"'{brief(method)}' is not a method of A2A {version}, which this request asks for; "
            f"to speak {other}, send the header 'A2A-Version: {other}'.",
        )
    return known


def not_offered(method: str) -> A2AError:
    """The error for a method of the protocol that this platform does not have, by 0.3's name."""
    if method.startswith("tasks/pushNotificationConfig/"):
        return A2AError(
            Code.PUSH_NOTIFICATION_NOT_SUPPORTED, "Push notifications are not supported; poll the task instead."
        )
    if method == "agent/getAuthenticatedExtendedCard":
        return A2AError(Code.EXTENDED_AGENT_CARD_NOT_CONFIGURED, "There is no extended card: the card has everything.")
    if method == "tasks/list":
        return A2AError(Code.UNSUPPORTED_OPERATION, "Tasks cannot be listed; get a task by its id.")
    return A2AError(
        Code.UNSUPPORTED_OPERATION, "A stream cannot be taken up again; get the task to see what became of it."
    )
