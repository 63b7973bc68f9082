"""What the wire has and Cupola does not serve (not_served.py) is refused by a sentence, and nothing is forgotten."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from starlette.routing import BaseRoute, Router

from cupola.routes import unknown
from cupola.web.errors import ErrorEdge
from tests.support.platform import Answer, Caller

from .coverage import Operation, all_operations, callback_routes, callbacks, client_routes, not_served


def each(operations: list[Operation]) -> pytest.MarkDecorator:
    params = [pytest.param(each, id=each.name, marks=pytest.mark.operation(each.name)) for each in operations]
    return pytest.mark.parametrize("operation", params)


@each([operation for _, _, operations in not_served() for operation in operations])
async def test_a_client_is_told(operation: Operation) -> None:
    """Each such operation answers 501 with the envelope, on every base that it might have."""
    await refused_by(client_routes(), operation)


@each(callbacks(served=False))
async def test_a_sandbox_is_told(operation: Operation) -> None:
    """So does what a container may ask for elsewhere."""
    await refused_by(callback_routes(), operation)


async def refused_by(known: Sequence[BaseRoute], operation: Operation) -> None:
    """Asks the routing and the errors of a listener, without what is behind its routes."""
    app = ErrorEdge(Router(known, redirect_slashes=False, default=unknown))
    method = "GET" if operation.method == "WS" else operation.method
    for path in operation.samples():
        refused(await Caller(app, None)(method, path), method, path)


def refused(answer: Answer, method: str, path: str) -> None:
    assert answer.status == 501, answer.body
    assert answer.error["code"] == "not_implemented"
    assert f"{method} {path}" in answer.error["message"]


def test_every_operation_of_the_newest_sdk_has_a_row() -> None:
    """An operation that the installed SDK has and no table names is found by its address."""
    known = {shape(operation.request) for operation in all_operations()}
    asked = {shape(request) for request in requests_of_the_sdk()}
    assert len(asked) > 100
    assert sorted(asked - known) == []


def requests_of_the_sdk() -> list[str]:
    """`<method> <path>` of each request that the SDK builds, read from its source."""
    spec = find_spec("azure.ai.projects.operations")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "_operations.py").read_text()
    found = []
    for builder in re.split(r"\ndef build_", source)[1:]:
        path, method = re.search(r'_url = "([^"]+)"', builder), re.search(r'method="(\w+)"', builder)
        if path and method:
            found.append(f"{method[1]} {path[1]}")
    return found


def shape(request: str) -> str:
    """A request without its project, and without the names of its parameters."""
    return re.sub(r"\{[^}]+\}", "{}", request.replace("/api/projects/{project}", ""))
