"""Flags in queries."""

from __future__ import annotations

import pytest
from starlette.datastructures import QueryParams

from cupola.errors import BadRequest
from cupola.web.query import flag


@pytest.mark.parametrize(
    ("query", "set_"),
    [("", False), ("force=", False), ("force=false", False), ("force=true", True), ("force=True", True)],
)
def test_flags(query: str, set_: bool) -> None:
    """As clients in Go and Python write them; missing is false."""
    assert flag(QueryParams(query), "force") is set_


@pytest.mark.parametrize("value", ["1", "yes", "tru", "true "])
def test_other_words_are_refused(value: str) -> None:
    """A delete must not guess whether it is forced."""
    with pytest.raises(BadRequest, match="true or false") as caught:
        flag(QueryParams({"force": value}), "force")
    assert caught.value.param == "force"
