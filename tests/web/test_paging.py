"""Lists on the wire."""

from __future__ import annotations

import pytest
from starlette.datastructures import QueryParams

from cupola.errors import BadRequest
from cupola.store.paging import Page, PageOf
from cupola.web.paging import cursor_list, openai_list, page_from

ITEMS = [{"id": f"i{n}"} for n in range(5)]


def test_defaults() -> None:
    """20 at a time, newest first."""
    assert page_from(QueryParams("")) == Page(20, "desc", None, None)


def test_everything_can_be_chosen() -> None:
    """Limit, order and cursors are taken as they are; empty cursors are none."""
    assert page_from(QueryParams("limit=3&order=asc&after=a1%3A1&before=")) == Page(3, "asc", "a1:1", None)


def test_azd_has_another_name_for_the_cursor() -> None:
    """`pagination_token` goes on where `after` would."""
    assert page_from(QueryParams("pagination_token=a1")).after == "a1"


@pytest.mark.parametrize("limit", ["0", "101", "-1", "--5", "x", "", "1.5", "²", "9" * 5000])
def test_a_limit_out_of_range_is_named(limit: str) -> None:
    """Whatever is no number from 1 to 100 is a 400 that names the parameter."""
    with pytest.raises(BadRequest, match="from 1 to 100") as caught:
        page_from(QueryParams({"limit": limit}))
    assert caught.value.param == "limit"


def test_an_unknown_order_is_named() -> None:
    """Only asc and desc are orders."""
    with pytest.raises(BadRequest, match="asc or desc") as caught:
        page_from(QueryParams("order=up"))
    assert caught.value.param == "order"


def test_the_last_page_says_so_to_clients_that_ignore_has_more() -> None:
    """`last_id` is set while there is more, and null at the end."""
    more = cursor_list(PageOf(["a", "b"], True), lambda name: {"name": name}, lambda name: name)
    assert more["data"] == [{"name": "a"}, {"name": "b"}]
    assert (more["first_id"], more["last_id"], more["pagination_token"], more["has_more"]) == ("a", "b", "b", True)
    end = cursor_list(PageOf(["c"], False), lambda name: {"name": name}, lambda name: name)
    assert (end["first_id"], end["last_id"], end["has_more"]) == ("c", None, False)
    nothing: list[str] = []
    empty = cursor_list(PageOf(nothing, False), lambda name: {"name": name}, lambda name: name)
    assert empty["data"] == []
    assert empty["last_id"] is None


@pytest.mark.parametrize(
    ("page", "shown", "has_more"),
    [
        (Page(2, "asc"), ["i0", "i1"], True),
        (Page(2, "desc"), ["i4", "i3"], True),
        (Page(2, "asc", after="i2"), ["i3", "i4"], False),
        (Page(9, "desc", after="i3", before="i0"), ["i2", "i1"], False),
        (Page(9, "asc", after="i4"), [], False),
        (Page(9, "asc", after="gone"), [], False),
    ],
)
def test_openai_lists_page_by_cursor(page: Page, shown: list[str], has_more: bool) -> None:
    """OpenAI's clients follow `has_more`; a cursor that names nothing ends the walk."""
    body = openai_list(ITEMS, page)
    assert [item["id"] for item in body["data"]] == shown
    assert body["has_more"] is has_more
    assert body["last_id"] == (shown[-1] if shown else None)
