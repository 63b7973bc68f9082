"""`cupola stats AGENT`: how long its requests took, and where that time went.

The platform works the numbers out; here they are only put into a table that fits 100 columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from cupola.cli.options import Output, OutputOption, ProjectOption, StateDir
from cupola.cli.output import colored, say, say_json
from cupola.cli.state_dir import chosen_state_dir, running_in

_PARTS = {
    "platform_preprocessing": "platform",
    "infra_setup": "sandbox",
    "container_readiness": "readiness",
    "container_response": "response",
}
"""What Foundry calls the parts, and the word for each that fits a column."""

_LEGEND = (
    "P50, P90, P99: time until the reply begins, by nearest rank. Then the shares in it, over all,",
    "of the PLATFORM itself, making a SANDBOX, its way to READINESS, and the container's RESPONSE.",
)


def stats(
    agent: Annotated[str, typer.Argument(help="Name of the agent.")],
    since: Annotated[str, typer.Option("--since", metavar="DURATION", help="How far back: 15m, 24h, 7d.")] = "24h",
    version: Annotated[str | None, typer.Option("--version", help="One version only.")] = None,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show how long an agent's requests took, by version and kind of start, and where the time went."""
    from cupola.client import Client

    directory = chosen_state_dir(state_dir)
    running_in(directory)
    client = Client.of(directory)
    query = {"since": since, **({} if version is None else {"version": version})}
    found = client.get(f"{client.own(agent, project)}/stats?{urlencode(query, quote_via=quote)}")
    if output is Output.JSON:
        say_json(found)
        return
    of = agent if version is None else f"{agent} version {version}"
    if not found["requests"]:
        say(f"{of}: no requests in the last {since}.")
        return
    say(f"{of}, the last {since}: {_counted(found['requests'], 'request')}, {_counted(found['errors'], 'error')}.\n")
    _say_columns(
        ("VERSION", "START", "COUNT", "ERRORS", "P50", "P90", "P99", *(part.upper() for part in _PARTS.values())),
        [(start["version"] or "-", start["start_type"], *_figures(start), *_parts(start)) for start in found["starts"]],
        right=range(2, 11),
    )
    if len(found["protocols"]) > 1:
        say("")
        _say_columns(
            ("PROTOCOL", "COUNT", "ERRORS", "P50", "P90", "P99"),
            [(one["protocol"], *_figures(one)) for one in found["protocols"]],
            right=range(1, 6),
        )
    say("")
    for line in _LEGEND:
        say(colored(line, "2"))


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _figures(of: Mapping[str, Any]) -> tuple[str, ...]:
    taken = of["response_begin_ms"]
    return (f"{of['count']:,}", f"{of['errors']:,}", *(_spoken(taken[name]) for name in ("p50", "p90", "p99")))


def _spoken(milliseconds: float) -> str:
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f} s"


def _parts(of: Mapping[str, Any]) -> tuple[str, ...]:
    """The share of each part; nothing at all is no share."""
    shares = (of["shares"][name] for name in _PARTS)
    return tuple(f"{share * 100:.0f} %" if share else "-" for share in shares)


def _say_columns(head: Sequence[str], rows: Sequence[Sequence[str]], right: range) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        say(colored(line, "1") if row is head else line)
