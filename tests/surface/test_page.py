"""docs/wire.md tells the truth: made from what is there, with a test for each row."""

from __future__ import annotations

from starlette.routing import BaseRoute

from .coverage import (
    CALLBACKS,
    Operation,
    all_operations,
    callback_routes,
    callbacks,
    client_routes,
    clients,
    marks,
    matched,
)
from .fields import FIELDS
from .page import PAGE, page


def test_the_page_is_as_it_would_be_made() -> None:
    """`python -m tests.surface.page` would change nothing."""
    assert PAGE.read_text() == page()


def test_every_row_has_a_test() -> None:
    """What no test shows is not said."""
    shown = marks()
    assert [each.name for each in all_operations() if each.name not in shown.operations] == []
    assert [each.name for each in FIELDS if each.name not in shown.fields] == []


def test_every_mark_names_a_row() -> None:
    """A test that names an operation or a field which is in no table has mistyped it, or a row is missing."""
    shown = marks()
    assert set(shown.operations) - {each.name for each in all_operations()} == set()
    assert set(shown.fields) - {each.name for each in FIELDS} == set()


def test_no_operation_has_two_rows() -> None:
    names = [each.name for each in all_operations()]
    assert sorted(names) == sorted(set(names))


def test_every_route_has_a_row() -> None:
    """What is served is told: no route of clients or sandboxes without an operation that leads to it."""
    assert without_row(client_routes(), clients()) == []
    assert without_row(callback_routes(), callbacks(served=True)) == []


def without_row(known: tuple[BaseRoute, ...], operations: list[Operation]) -> list[BaseRoute]:
    told = [route for operation in operations for route in matched(operation, known)]
    return [route for route in known if route not in told]


def test_callbacks_are_named_apart() -> None:
    """A callback and an operation of clients never share a name."""
    assert {each.name for each in CALLBACKS} & {each.name for each in clients()} == set()
