"""Fixtures that every folder may use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support.agents import ECHO
from tests.support.platform import PlatformUnderTest, open_platform


def pytest_configure() -> None:
    """Says that there is no current event loop.

    Else pytest-asyncio asks for the one to restore after its first test, by which asyncio makes one that nobody
    closes, and a later garbage collection fails whichever test is running then (Python before 3.14).
    """
    asyncio.set_event_loop(None)


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncGenerator[PlatformUnderTest]:
    """A platform whose agents echo."""
    async with open_platform(tmp_path, ECHO) as under_test:
        yield under_test
