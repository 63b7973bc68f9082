"""`cupola doctor`: what is wrong with this machine, this shell and this code, and what to write instead."""

from __future__ import annotations


def doctor() -> None:
    """Check this machine, this shell and the Python files here."""
