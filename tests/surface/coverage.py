"""The operations of the wire, what Cupola does with each, and the tests that show it: what docs/wire.md is made of.

Clients' operations stand in `cupola.api.operations`, which a test holds to the routes; here stand those that no HTTP
description covers (WebSockets, callbacks of sandboxes, sign-in). Whether an operation is served is asked of the
routes themselves, and which tests show it of their marks `operation` and `field`.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from starlette.routing import BaseRoute, Match

from cupola import routes
from cupola.api.operations import OPERATIONS
from tests.support.served import CHECKOUT

from .not_served import GROUPS

_PARAMETER = re.compile(r"\{[^}]+\}")


@dataclass(frozen=True, slots=True)
class Operation:
    """`request` is `<method> <path>`; `WS` stands for a WebSocket. Paths may begin with `{openai}`."""

    name: str
    request: str
    summary: str = ""

    @property
    def method(self) -> str:
        return self.request.partition(" ")[0]

    @property
    def path(self) -> str:
        return self.request.partition(" ")[2]

    def samples(self) -> Iterator[str]:
        """Addresses of this operation, one for each base of the OpenAI client where those serve it."""
        bases = routes.OPENAI_BASES if self.path.startswith("{openai}") else ("",)
        for base in bases:
            path = base + self.path.removeprefix("{openai}")
            yield _PARAMETER.sub("x", path.replace("{project}", "demo"))


_PROJECT = "/api/projects/{project}"
_STORAGE = "/api/projects/{project}/storage"
_TASKS = "/api/projects/{project}/tasks"

SOCKETS = (
    Operation("invocations_ws.connect", f"WS {routes.PROTOCOLS}/invocations_ws", "Talk to an agent over a WebSocket"),
)

CALLBACKS = (
    Operation("storage.responses.create", f"POST {_STORAGE}/responses", "Keep a response"),
    Operation("storage.responses.get", f"GET {_STORAGE}/responses/{{response}}", "Get a response"),
    Operation("storage.responses.update", f"POST {_STORAGE}/responses/{{response}}", "Keep a response's next state"),
    Operation("storage.responses.delete", f"DELETE {_STORAGE}/responses/{{response}}", "Delete a response"),
    Operation(
        "storage.input_items.list", f"GET {_STORAGE}/responses/{{response}}/input_items", "List a response's input"
    ),
    Operation("storage.history.list", f"GET {_STORAGE}/history/item_ids", "List the ids of what was said before"),
    Operation("storage.items.retrieve", f"POST {_STORAGE}/items/batch/retrieve", "Get items by their ids"),
    Operation("state_stores.create", f"POST {_STORAGE}/state_stores", "Create a state store"),
    Operation("state_stores.get", f"GET {_STORAGE}/state_stores/{{store}}", "Get a state store"),
    Operation("state_stores.update", f"PATCH {_STORAGE}/state_stores/{{store}}", "Change a state store"),
    Operation("state_stores.delete", f"DELETE {_STORAGE}/state_stores/{{store}}", "Delete a state store"),
    Operation("state_stores.create_item", f"POST {_STORAGE}/state_stores/{{store}}/items", "Create an item"),
    Operation("state_stores.put_item", f"PUT {_STORAGE}/state_stores/{{store}}/items/{{key}}", "Write an item"),
    Operation("state_stores.get_item", f"GET {_STORAGE}/state_stores/{{store}}/items/{{key}}", "Get an item"),
    Operation("state_stores.delete_item", f"DELETE {_STORAGE}/state_stores/{{store}}/items/{{key}}", "Delete an item"),
    Operation("state_stores.list_keys", f"GET {_STORAGE}/state_stores/{{store}}/items:keys", "List the keys of items"),
    Operation("tasks.create", f"POST {_TASKS}", "Create a task"),
    Operation("tasks.list", f"GET {_TASKS}", "List tasks"),
    Operation("tasks.get", f"GET {_TASKS}/{{task}}", "Get a task"),
    Operation("tasks.update", f"PATCH {_TASKS}/{{task}}", "Change a task, or keep its lease"),
    Operation("tasks.delete", f"DELETE {_TASKS}/{{task}}", "Delete a task"),
    *(
        operation
        for base, name in ((f"{_PROJECT}/openai", ""), (f"{_PROJECT}/openai/v1", ".v1"))
        for operation in (
            Operation(
                f"talk.list{name}",
                f"GET {base}/conversations/{{conversation}}/items",
                "Read what was said (old adapters)",
            ),
            Operation(
                f"talk.add{name}", f"POST {base}/conversations/{{conversation}}/items", "Add to it (old adapters)"
            ),
        )
    ),
    Operation("sign_in.token", "GET /msi/token", "Get a token, as from a managed identity (plain http)"),
)


class _Anything:
    """Stands for each handler where only the addresses matter."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self


@cache
def real_routes(function: str) -> tuple[BaseRoute, ...]:
    """The routes that `cupola.routes.<function>` makes, with nothing behind them."""
    make = getattr(routes, function)
    return tuple(make(*(_Anything() for _ in inspect.signature(make).parameters)))


def client_routes() -> tuple[BaseRoute, ...]:
    return real_routes("client_routes")


def callback_routes() -> tuple[BaseRoute, ...]:
    """What sandboxes reach, and where they and their clients sign in."""
    return (*real_routes("callback_routes"), *real_routes("token_routes"))


def matched(operation: Operation, known: Sequence[BaseRoute]) -> list[BaseRoute | None]:
    """For each address of an operation the route that takes it, None where there is none."""
    kind = "websocket" if operation.method == "WS" else "http"
    found: list[BaseRoute | None] = []
    for path in operation.samples():
        scope = {"type": kind, "method": operation.method, "path": path, "root_path": "", "headers": []}
        found.append(next((route for route in known if route.matches(scope)[0] is Match.FULL), None))
    return found


def clients() -> list[Operation]:
    """What clients may ask for and is served."""
    described = [Operation(each.id, request, each.summary) for request, each in OPERATIONS.items()]
    return described + [each for each in SOCKETS if None not in matched(each, client_routes())]


def callbacks(*, served: bool) -> list[Operation]:
    """What sandboxes may ask for."""
    known = callback_routes()
    return [each for each in CALLBACKS if (None not in matched(each, known)) is served]


def not_served() -> list[tuple[str, str, list[Operation]]]:
    """Title, what to do instead, and the operations that clients may ask for and no route takes."""
    known = client_routes()
    groups = []
    for group in GROUPS:
        named = [Operation(name, _absolute(request)) for name, request in group.operations.items()]
        left = [each for each in named if None in matched(each, known)]
        if left:
            groups.append((group.title, group.instead, left))
    sockets = [each for each in SOCKETS if None in matched(each, known)]
    return [*groups, ("WebSockets", "invocations over HTTP are served", sockets)] if sockets else groups


def _absolute(request: str) -> str:
    method, _, path = request.partition(" ")
    return request if path.startswith("{openai}") else f"{method} {routes.PROJECT}{path}"


def all_operations() -> list[Operation]:
    unserved = [operation for _, _, group in not_served() for operation in group]
    return [*clients(), *CALLBACKS, *unserved]


# Which tests show what


@dataclass(frozen=True, slots=True)
class Marks:
    """The tests (`<file>::<function>`) by the operations and fields that they are marked with."""

    operations: Mapping[str, Sequence[str]]
    fields: Mapping[str, Sequence[str]]


@cache
def marks() -> Marks:
    """What a collection of all tests finds; in a process of its own, since pytest cannot be asked twice in one."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "tests.surface.collecting"]
    told = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-p", "no:xdist", "tests"],
        cwd=CHECKOUT,
        env={**os.environ, "PYTEST_ADDOPTS": "", "PYTHONPATH": os.pathsep.join([str(CHECKOUT / "src"), str(CHECKOUT)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    line = next((line for line in told.stdout.splitlines() if line.startswith(MARKS_LINE)), None)
    if line is None:
        raise RuntimeError(f"the tests could not be collected:\n{told.stdout[-2000:]}\n{told.stderr[-2000:]}")
    found = json.loads(line.removeprefix(MARKS_LINE))
    return Marks(found["operation"], found["field"])


MARKS_LINE = "marks: "


def file_of(test: str) -> Path:
    return Path(test.partition("::")[0])
