"""The document of the platform's own wire."""

from __future__ import annotations

import pytest
from starlette.routing import Route

from cupola.api.openapi import operation_of
from cupola.api.operations import OPERATIONS
from cupola.routes import OPEN
from tests.support.platform import Caller, PlatformUnderTest


def http_routes(platform: PlatformUnderTest) -> list[tuple[str, str]]:
    return [
        (method, route.path)
        for route in platform.platform.routes
        if isinstance(route, Route)
        for method in sorted(set(route.methods or ()) - {"HEAD"})
    ]


async def test_every_route_is_described_once(platform: PlatformUnderTest) -> None:
    """No route without an entry, no entry without a route."""
    found = {route: operation_of(*route) for route in http_routes(platform)}
    assert [route for route, operation in found.items() if operation is None] == []
    assert {operation.id for operation in found.values() if operation} == {each.id for each in OPERATIONS.values()}


@pytest.mark.operation("cupola.openapi")
async def test_the_document_is_open_and_whole(platform: PlatformUnderTest) -> None:
    """It needs no token, and each operation has an id of its own."""
    answer = await Caller(platform.platform.clients, None)("GET", "/openapi.json")
    document = answer.json()
    assert answer.status == 200
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids)) == len(http_routes(platform))
    assert "/openapi.json" in OPEN
    create = document["paths"]["/api/projects/{project}/agents/{agent}/versions"]["post"]
    definition = create["requestBody"]["content"]["application/json"]["schema"]["properties"]["definition"]
    assert definition == {"$ref": "#/components/schemas/Definition"}
    assert document["components"]["schemas"]["Definition"]["properties"]["cpu"]
