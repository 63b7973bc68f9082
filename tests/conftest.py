"""Fixtures that every folder may use."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support.agents import ECHO
from tests.support.platform import PlatformUnderTest, open_platform


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncGenerator[PlatformUnderTest]:
    """A platform whose agents echo."""
    async with open_platform(tmp_path, ECHO) as under_test:
        yield under_test
