"""The boundary at which errors of the engine and of its client library become ours."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import aiohttp
from aiodocker import DockerError

from cupola.errors import DriverUnavailable

T = TypeVar("T")

NO_ENGINE = 900
"""The status that the client library makes up when it could not connect."""


@contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Whatever the engine or the way to it breaks in this block becomes `DriverUnavailable`."""
    try:
        yield
    except DockerError as error:
        if error.status == NO_ENGINE:
            raise unreachable(error) from error
        raise DriverUnavailable(f"The container engine could not {doing}: {_remedied(error.message)}") from error
    except (TimeoutError, aiohttp.ClientError) as error:
        raise unreachable(error) from error


async def unless_gone(asked: Awaitable[T]) -> T | None:
    """What the engine answers, or None when it knows no such thing."""
    try:
        return await asked
    except DockerError as error:
        if error.status != 404:
            raise
        return None


def unreachable(error: Exception) -> DriverUnavailable:
    return DriverUnavailable(
        "The container engine does not answer: check that Docker or Podman is running "
        f"({str(error) or 'it took too long'})."
    )


def _remedied(message: str) -> str:
    if "address pool" in message:
        return f"{message}; docker network prune frees the addresses of unused networks"
    return message
