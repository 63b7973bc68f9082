"""The matrix of operations and SDK generations that stands at the end of a run of the wire tests.

The catalogue's entries are read from its source: it cannot be imported here, since it belongs to the clients.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CATALOGUE = Path(__file__).parent / "clients" / "catalogue.py"
CELL = "catalogue"
"""The property of a test's report: title, generation, mode, state, ways."""

_LEGEND = (
    "✓ by the SDK's own method   ◦ through the SDK's raw pipeline, for want of one   "
    "– n/a: the SDK cannot   ✗ failed\n"
    "The first of two is the sync client, the second the async one."
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the catalogue, and the operations and fields of the wire that it shows."""

    title: str
    shows: tuple[str, ...]
    fields: tuple[str, ...] = ()


@cache
def entries() -> tuple[Entry, ...]:
    """The catalogue, in its order."""
    found = []
    for node in ast.parse(CATALOGUE.read_text()).body:
        for mark in getattr(node, "decorator_list", ()):
            if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "operation":
                title, *also = (ast.literal_eval(argument) for argument in mark.args)
                named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in mark.keywords}
                shows = (title.partition(":")[0], *also)
                found.append(Entry(title, shows, tuple(named.get("fields", "").split())))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Cell:
    """What one client found of one operation."""

    title: str
    generation: str
    mode: str
    state: str
    ways: tuple[str, ...]

    @property
    def sign(self) -> str:
        if self.state == "ok":
            return "◦" if "pipeline" in self.ways else "✓"
        return "–" if self.state == "n/a" else "✗"


def drawn(cells: Iterable[Cell], generations: Iterable[str], modes: Iterable[str]) -> str:
    """Operations below each other, generations beside each other, at most 120 columns wide."""
    generations, modes = tuple(generations), tuple(modes)
    signs = {(cell.title, cell.generation, cell.mode): cell.sign for cell in cells}
    titles = [entry.title for entry in entries() if any(title == entry.title for title, _, _ in signs)]
    width = max((len(title) for title in titles), default=0)
    heading = " " * width + "".join(f"{generation:>8}" for generation in generations)
    lines = [heading]
    for title in titles:
        row = ("".join(signs.get((title, generation, mode), " ") for mode in modes) for generation in generations)
        lines.append(f"{title:<{width}}" + "".join(f"{pair:>8}" for pair in row))
    return "\n".join([*lines, "", _LEGEND])
