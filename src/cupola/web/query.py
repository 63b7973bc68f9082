"""Query parameters that are no part of paging."""

from __future__ import annotations

from starlette.datastructures import QueryParams

from cupola.errors import BadRequest
from cupola.secrecy import brief


def flag(query: QueryParams, name: str) -> bool:
    """A parameter that is true or false; false where it is missing or empty. Raises BadRequest naming it."""
    value = query.get(name) or "false"
    if value.lower() not in ("true", "false"):
        raise BadRequest(f"'{name}' is {brief(value)}; it must be true or false.", param=name)
    return value.lower() == "true"
