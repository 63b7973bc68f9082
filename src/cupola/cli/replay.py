"""`cupola replay BUNDLE`: a recorded session once more, and what is different now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cupola.cli.options import Output, OutputOption, ProjectOption, StateDir
from cupola.cli.output import Exit, colored, say, say_json
from cupola.cli.state_dir import chosen_state_dir, running_in
from cupola.errors import BadRequest

if TYPE_CHECKING:
    from cupola.bundles import Bundle
    from cupola.replay import Outcome

_TIMEOUT = 600.0
"""Seconds for one answer: as long as OpenAI's client waits."""


def replay(
    bundle: Annotated[Path, typer.Argument(help="What `cupola debug-bundle` wrote.")],
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="NAME", help="Another agent than the recorded one.")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", metavar="V", help="Another version than the recorded one.")
    ] = None,
    deploy: Annotated[
        bool, typer.Option("--deploy", help="Create the recorded version here first; it must have run an image.")
    ] = False,
    env: Annotated[
        list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="With --deploy: a value that was masked.")
    ] = None,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Send what a recorded session was sent to a new session, and show what is different.

    The exit code is 0 when every answer ended with the status that it had then, and 1 otherwise.
    """
    from cupola.bundles import read_bundle
    from cupola.client import Client
    from cupola.replay import Replay, all_as_before

    variables = _variables(env or [], deploy)
    if deploy and version is not None:
        raise BadRequest("--deploy makes a version of its own: leave --version out.")
    recorded = read_bundle(bundle)
    if not recorded.turns:
        raise BadRequest(f"{bundle} holds no input to send again. {_left_out(recorded)}".rstrip())
    directory = chosen_state_dir(state_dir)
    running_in(directory)
    client = Client.of(directory, timeout=_TIMEOUT)
    again = Replay(client, recorded, project or client.project, agent or recorded.agent, version or recorded.version)
    if deploy:
        again.deploy(variables)
    again.begin()
    if output is Output.TEXT:
        say(f"Session {recorded.session[:16]} of {recorded.agent}:{recorded.version} again, as session "
            f"{again.session[:16]} of {again.agent}:{again.version}.\n")  # fmt: skip
    outcomes: list[Outcome] = []
    for outcome in again.run():
        outcomes.append(outcome)
        if output is Output.TEXT:
            _say_outcome(len(outcomes), outcome)
    same = all_as_before(outcomes)
    if output is Output.JSON:
        say_json({
            "agent": again.agent, "version": again.version, "session": again.session, "same": same,
            "turns": [_shown(outcome) for outcome in outcomes], "left_out": recorded.others,
        })  # fmt: skip
    else:
        others = sum(not outcome.same_status for outcome in outcomes)
        say(f"\n{'All' if same else f'{others} of'} {len(outcomes)} ended {'as before' if same else 'otherwise'}.")
        if recorded.others:
            say(_left_out(recorded))
    raise typer.Exit(Exit.OK if same else Exit.FAILED)


def _variables(given: list[str], deploy: bool) -> dict[str, str]:
    if given and not deploy:
        raise BadRequest("--env gives variables to the version that --deploy creates: add --deploy, or leave it out.")
    found: dict[str, str] = {}
    for entry in given:
        name, equals, value = entry.partition("=")
        if not name or not equals:
            raise BadRequest("--env takes NAME=VALUE.")
        found[name] = value
    return found


def _left_out(recorded: Bundle) -> str:
    if not recorded.others:
        return ""
    count = sum(recorded.others.values())
    kinds = ", ".join(f"{number} of {protocol}" for protocol, number in sorted(recorded.others.items()))
    return f"{count} request{'' if count == 1 else 's'} left out: nobody has kept the input ({kinds})."


def _say_outcome(number: int, outcome: Outcome) -> None:
    was, now = outcome.turn.status, outcome.status
    status = colored(f"{was} → {now}", "32" if outcome.same_status else "31")
    text = "same text" if not outcome.differences else "other text"
    start = "" if outcome.start_type is None else f" ({outcome.start_type})"
    say(f"{number:>3}  {status}  {text}  {_spoken(outcome.turn.milliseconds)} → {_spoken(outcome.milliseconds)}{start}")
    if outcome.note is not None:
        say(f"       {outcome.note}")
    for line in outcome.differences:
        say(colored(f"     {line[0]} {line[1:]}", "31" if line.startswith("-") else "32"))


def _spoken(milliseconds: float | None) -> str:
    return "?" if milliseconds is None else f"{milliseconds:.0f} ms"


def _shown(outcome: Outcome) -> dict[str, Any]:
    turn = outcome.turn
    return {
        "id": turn.id,
        "was": {"status": turn.status, "text": turn.text, "response_begin_ms": turn.milliseconds},
        "now": {
            "status": outcome.status,
            "text": outcome.text,
            "response_begin_ms": outcome.milliseconds,
            "start_type": outcome.start_type,
        },
        "same_status": outcome.same_status,
        "differences": outcome.differences,
        "note": outcome.note,
    }
