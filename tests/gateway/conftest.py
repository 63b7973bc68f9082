"""What all tests of the gateway may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cupola.gateway.upstream import Upstream


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    client = Upstream()
    yield client
    await client.aclose()
