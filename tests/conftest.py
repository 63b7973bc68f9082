"""What every test needs: no event loop lies around that nobody closes."""

from __future__ import annotations

import asyncio


def pytest_configure() -> None:
    """Says that there is no current event loop.

    Else pytest-asyncio asks for the one to restore after its first test, by which asyncio makes one that nobody
    closes, and a later garbage collection fails whichever test is running then (Python before 3.14).
    """
    asyncio.set_event_loop(None)
