"""`cupola tokens`: tokens for others than the owner of the platform.

It needs nothing but the installation's secret, so it works while the platform runs, and on a machine that has the
state directory only. A token cannot be taken back by itself: it expires.
"""

from __future__ import annotations

import secrets
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from cupola.cli.options import Output, OutputOption, StateDir
from cupola.cli.output import say, say_json
from cupola.cli.state_dir import chosen_state_dir
from cupola.durations import seconds_of
from cupola.errors import BadRequest, SetupError
from cupola.identity import Role, check_name
from cupola.installation import Layout, read_secret

LONGEST = 366 * 86_400


def app() -> typer.Typer:
    app = typer.Typer(help="Make tokens for colleagues, apps and machines.", no_args_is_help=True)
    app.callback()(_group)
    app.command()(create)
    return app


def _group() -> None:
    """Make tokens for colleagues, apps and machines."""


def create(
    role: Annotated[Role, typer.Option("--role", help="What its bearer may do.")],
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="PRINCIPAL", help="Who the bearer is: the same name sees the same sessions."),
    ] = None,
    expires: Annotated[
        str, typer.Option("--expires", metavar="DURATION", help="How long it is good: 90m, 12h, 30d; at most 366d.")
    ] = "30d",
    delegate: Annotated[
        bool, typer.Option("--delegate", help="Its bearer may act for users of its own (x-ms-user-identity).")
    ] = False,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print a new token; whoever has it is its principal. Without a name that is one nobody has had before."""
    from cupola import settings
    from cupola.web.auth import Tokens

    directory = chosen_state_dir(state_dir)
    principal = _checked_name(name) if name is not None else f"token-{secrets.token_hex(4)}"
    lifetime = _seconds(expires)
    if delegate and not role.covers(Role.USER):
        raise BadRequest("A reader talks to no agent, so it cannot act for users: give --delegate the role user.")
    secret = read_secret(Layout(directory))
    if not settings.load(state_dir=directory).local_tokens:
        raise SetupError("This platform takes no such tokens: its setting local_tokens is false.")
    token, until = Tokens(secret).mint_client(principal, role, delegate=delegate, lifetime=lifetime)
    expires_at = datetime.fromtimestamp(until, UTC).isoformat()
    if output is Output.JSON:
        say_json({"token": token, "principal": principal, "role": role, "delegate": delegate, "expires_at": expires_at})
        return
    say(token)
    if sys.stdout.isatty():
        print(f"For {principal}, as {role}, until {expires_at}. Who has it is {principal}.", file=sys.stderr)


def _checked_name(name: str) -> str:
    from cupola.web.auth import LOCAL_PRINCIPAL

    if name == LOCAL_PRINCIPAL:
        raise BadRequest(f"'{LOCAL_PRINCIPAL}' is the owner of the platform, who signs in with `cupola env`.")
    return check_name(name, "--name")


def _seconds(duration: str) -> int:
    seconds = seconds_of(duration)
    if seconds is None or seconds > LONGEST:
        raise BadRequest(f"--expires is {duration!r}; it must be a duration such as 90m, 12h or 30d, at most 366d.")
    return seconds
