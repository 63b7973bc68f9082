"""Makes docs/wire.md: every operation and field of the wire, what becomes of it, and the tests that show it.

`python -m tests.surface.page` writes the page; test_page.py says when that is due.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from cupola.routes import PROJECT
from tests.support.served import CHECKOUT

from .coverage import Operation, callbacks, clients, marks, not_served
from .fields import PLACES, Field

PAGE = CHECKOUT / "docs" / "wire.md"

_INTRODUCTION = f"""# The wire, operation by operation

What unmodified clients and containers may ask for, what Cupola does with it, and the tests that show it. This page is
made from the routes, the tables in `tests/surface/` and the marks of the tests: `python -m tests.surface.page`.
Paths are relative to a project, `{PROJECT}`; `{{openai}}` stands for `/openai` and `/openai/v1`, below
the project and below an agent's `/agents/{{agent}}/endpoint/protocols`. Which SDK generation does what stands in the
matrix at the end of `make test-wire`; where documents and packages disagree, in [wire-notes.md](wire-notes.md).
"""

_STATES = """| State | Means |
| --- | --- |
| served | it does what the wire says |
| kept | it comes back as it was sent, and does nothing here |
| ignored | it is taken and forgotten |
| passed | it reaches the agent as it came |
| shown | only the platform says it |
"""


def page() -> str:
    shown = marks()
    parts = [
        _INTRODUCTION,
        "## Operations of clients\n",
        *_served(clients(), shown.operations),
        "## Operations of containers\n",
        *_served(callbacks(served=True), shown.operations),
        "## Not served\n",
        "Each answers 501 `not_implemented` with a sentence.\n",
        *_unserved(shown.operations),
        "## Fields\n",
        _STATES,
        *_fields(shown.fields),
    ]
    return "\n".join(parts)


def _served(operations: Iterable[Operation], tests: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for title, group in groupby(operations, lambda operation: operation.name.partition(".")[0]):
        yield f"### `{title}`\n"
        rows = [
            (f"`{each.name}`", f"`{_short(each.request)}`", each.summary, _links(tests.get(each.name, ())))
            for each in group
        ]
        yield _table(("Operation", "Request", "What it does", "Shown by"), rows)


def _unserved(tests: Mapping[str, Sequence[str]]) -> Iterator[str]:
    groups = [*not_served()]
    left = callbacks(served=False)
    if left:
        groups.append(("Asked for by containers", "adapters fall back to files of their own", left))
    for title, instead, operations in groups:
        yield f"### {title}\n\n{instead[0].upper()}{instead[1:]}.\n"
        rows = [
            (f"`{each.name}`", f"`{_short(each.request)}`", "501", _links(tests.get(each.name, ())))
            for each in operations
        ]
        yield _table(("Operation", "Request", "State", "Shown by"), rows)


def _fields(tests: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for title, fields in PLACES.values():
        rows = [
            (f"`{each.name}`", _generations(each), each.state.value, each.meaning, _links(tests.get(each.name, ())))
            for each in fields
        ]
        yield f"### {title}\n"
        yield _table(("Field", "SDK", "State", "Means", "Shown by"), rows)


def _generations(field: Field) -> str:
    return f"{field.since} to {field.until}" if field.until else f"{field.since}+"


def _short(request: str) -> str:
    method, _, path = request.partition(" ")
    return f"{method} {path.removeprefix(PROJECT)}"


def _links(tests: Iterable[str]) -> str:
    """The tests, each as a link to its file."""
    links = (f"[{test.rpartition('::')[2]}](../{test.partition('::')[0]})" for test in sorted(tests))
    return ", ".join(links) or "**nothing**"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
