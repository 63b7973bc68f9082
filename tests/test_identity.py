"""Roles, names and what an endpoint configuration says about its users."""

from __future__ import annotations

from typing import Any

import pytest

from cupola.errors import BadRequest
from cupola.identity import Caller, Isolation, Role, UserFrom, check_name, isolation_of


def test_each_role_may_do_what_the_one_before_it_may() -> None:
    """In this order, and none more."""
    covered = {role: [needed.value for needed in Role if role.covers(needed)] for role in Role}
    assert covered == {
        Role.READER: ["reader"],
        Role.USER: ["reader", "user"],
        Role.OPERATOR: ["reader", "user", "operator"],
    }


@pytest.mark.parametrize("role", list(Role))
def test_acting_for_a_user_never_gives_more(role: Role) -> None:
    """Not even the right to act for the next one."""
    caller = Caller("app", "key of the app", role, delegate=True).acting_for("key of ann", UserFrom.DELEGATION)
    assert (caller.principal, caller.user, caller.user_from) == ("app", "key of ann", UserFrom.DELEGATION)
    assert role.covers(caller.role)
    assert not caller.may_delegate


@pytest.mark.parametrize("name", ["a", "A-b_c.d:e@f", "0" * 256])
def test_names(name: str) -> None:
    """As control-plane.md §1.6 has them."""
    assert check_name(name, "x") == name


@pytest.mark.parametrize("name", ["", "0" * 257, "a b", "a/b", "ä", "a\n", "a;b"])
def test_what_names_nobody(name: str) -> None:
    """The header at fault is named."""
    with pytest.raises(BadRequest, match="x-header must be 1 to 256") as raised:
        check_name(name, "x-header")
    assert raised.value.param == "x-header"


def _schemes(*kinds: object) -> dict[str, Any]:
    return {"authorization_schemes": [{"type": "Entra", "isolation_key_source": {"kind": kind}} for kind in kinds]}


def test_an_endpoint_parts_by_header_only_where_it_says_so() -> None:
    """Any of its schemes may."""
    for endpoint in ({}, {"authorization_schemes": [{"type": "Entra"}]}, _schemes("Entra"), _schemes()):
        assert isolation_of(endpoint) is Isolation.ENTRA
    for endpoint in (_schemes("Header"), _schemes("Entra", "Header")):
        assert isolation_of(endpoint) is Isolation.HEADER


@pytest.mark.parametrize(
    "endpoint",
    [
        {"authorization_schemes": {}},
        {"authorization_schemes": ["Entra"]},
        {"authorization_schemes": [{}]},
        {"authorization_schemes": [{"type": "Entra", "isolation_key_source": "Header"}]},
        _schemes("header"),
        _schemes(None),
        _schemes([]),
    ],
)
def test_schemes_that_make_no_sense_are_the_default(endpoint: dict[str, Any]) -> None:
    """The endpoint's own rules refuse them; what is stored already stops no start."""
    assert isolation_of(endpoint) is Isolation.ENTRA
