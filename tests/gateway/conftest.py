"""Keeps the event loops of the tests tidy."""

from __future__ import annotations

import asyncio


def pytest_configure() -> None:
    """Says once that there is no loop outside tests.

    Otherwise pytest-asyncio, asking for the loop to restore after a test, has Python 3.11 make one that
    nobody closes.
    """
    asyncio.set_event_loop(None)
