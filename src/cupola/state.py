"""State stores: the key-value stores that agents keep with the platform (container-contract.md §4.3).

A store belongs to one agent; its items are shared by all who use the agent, or parted by user where the store says so
(`user_isolation`). Each write gives an item a new etag and a new life of the store's time-to-live.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from cupola.errors import BadRequest, PreconditionFailed

SHARED = ""
"""The user under which the items of a store without user isolation stand."""
NEVER = -1
DEFAULT_TTL = 30 * 24 * 3600
MAX_TTL = 2**31 - 1
MAX_NAME = 512
"""Characters, of keys too. Foundry documents 128; langchain-azure-ai 1.2.12 makes longer ones (docs/wire-notes.md)."""
MAX_VALUE = 1024 * 1024
"""Bytes of a value as compact JSON."""
MAX_DESCRIPTION = 1024
MAX_TAGS = 16
MAX_TAG_KEY = 64
MAX_TAG_VALUE = 256
_ANY_ETAG = "*"


@dataclass(frozen=True, slots=True)
class StateStore:
    """`item_ttl_seconds` is what each write gives to an item, -1 for ever. Times are unix seconds."""

    project: str
    agent: str
    name: str
    id: str
    created_at: float
    updated_at: float
    user_isolation: bool = False
    item_ttl_seconds: int = DEFAULT_TTL
    description: str | None = None
    tags: Mapping[str, str] | None = None

    def expiry(self, now: float) -> float | None:
        """When an item that is written now ends; None for never."""
        return None if self.item_ttl_seconds == NEVER else now + self.item_ttl_seconds

    def to_described(self, changes: Mapping[str, Any], now: float) -> StateStore:
        """With `description` and `tags` as `changes` has them; what it does not name stays. Raises BadRequest."""
        for fixed in ("name", "user_isolation", "item_ttl_seconds"):
            if fixed in changes:
                raise BadRequest(
                    f"'{fixed}' is fixed when a state store is made; only description and tags can change.", param=fixed
                )
        description = read_description(changes["description"]) if "description" in changes else self.description
        tags = read_tags(changes["tags"]) if "tags" in changes else self.tags
        return replace(self, description=description, tags=tags, updated_at=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateItemRef:
    """All of an item but its value. `etag` is quoted, as HTTP has it."""

    key: str
    id: str
    etag: str
    created_at: float
    updated_at: float
    expires_at: float | None = None
    tags: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateItem(StateItemRef):
    value: Mapping[str, Any]


def read_name(value: object, param: str) -> str:
    """The name of a store or the key of an item. Raises BadRequest."""
    if not _is_text(value, MAX_NAME) or not value:
        raise BadRequest(f"'{param}' must be a string of 1 to {MAX_NAME} characters.", param=param)
    return value


def read_ttl(value: object) -> int:
    """Seconds, the default where there are none. Raises BadRequest."""
    if value is None:
        return DEFAULT_TTL
    if isinstance(value, bool) or not isinstance(value, int) or not (value == NEVER or 1 <= value <= MAX_TTL):
        raise BadRequest(
            f"'item_ttl_seconds' must be a whole number from 1 to {MAX_TTL}, or {NEVER} for items that never expire.",
            param="item_ttl_seconds",
        )
    return value


def read_isolation(value: object) -> bool:
    if not isinstance(value, bool | None):
        raise BadRequest("'user_isolation' must be true or false.", param="user_isolation")
    return bool(value)


def read_description(value: object) -> str | None:
    if value is not None and not _is_text(value, MAX_DESCRIPTION):
        raise BadRequest(
            f"'description' must be a string of at most {MAX_DESCRIPTION} characters.", param="description"
        )
    return value


def read_tags(value: object) -> Mapping[str, str] | None:
    """None where there are none. Raises BadRequest."""
    if value is None or value == {}:
        return None
    if not isinstance(value, Mapping) or len(value) > MAX_TAGS:
        raise BadRequest(f"'tags' must be an object of at most {MAX_TAGS} tags.", param="tags")
    for key, text in value.items():
        if not key or not _is_text(key, MAX_TAG_KEY):
            raise BadRequest(f"A key in 'tags' must have 1 to {MAX_TAG_KEY} characters.", param="tags")
        if not _is_text(text, MAX_TAG_VALUE):
            raise BadRequest(
                f"'tags.{key}' must be a string of at most {MAX_TAG_VALUE} characters.", param=f"tags.{key}"
            )
    return value


def check_match(wanted: str | None, key: str, current: StateItemRef | None) -> None:
    """Raises PreconditionFailed unless the item is as `If-Match` wants it: there (`*`), or of one of these etags."""
    if wanted is None:
        return
    if current is None:
        raise PreconditionFailed(
            f"Item '{key}' does not exist (any more), so that If-Match cannot match; read it again before you write."
        )
    if wanted.strip() != _ANY_ETAG and current.etag not in _etags_of(wanted):
        raise PreconditionFailed(
            f"Item '{key}' has changed: its etag is {current.etag} now; read it again before you write.",
            etag=current.etag,
        )


def _etags_of(header: str) -> set[str]:
    """The etags of a list; a bare one counts as if it were quoted. Ours have no commas in them."""
    tags = (tag.strip() for tag in header.split(","))
    return {tag if tag.startswith('"') else f'"{tag}"' for tag in tags}


def _is_text(value: object, longest: int) -> TypeGuard[str]:
    """Databases cannot keep a NUL in a text."""
    return isinstance(value, str) and len(value) <= longest and "\0" not in value
