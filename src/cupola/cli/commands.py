"""Which commands there are."""

from __future__ import annotations

from typing import Annotated

import typer

from cupola import __version__
from cupola.cli import debug_bundle, doctor, down, env, logs, replay, run, sessions, stats, status, tokens, up, warm

_HELP = "Azure AI Foundry hosted agents, anywhere: `cupola up`, then `cupola run -- python your_client.py`."


def app() -> typer.Typer:
    app = typer.Typer(
        name="cupola",
        help=_HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # errors are sentences: `main` says them
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    app.command()(up.up)
    app.command()(down.down)
    app.command()(status.status)
    app.command()(stats.stats)
    app.command()(logs.logs)
    app.command()(debug_bundle.debug_bundle)
    app.command()(replay.replay)
    app.command()(env.env)
    app.command(context_settings={"allow_interspersed_args": False})(run.run)
    app.command()(doctor.doctor)
    app.command()(warm.warm)
    app.add_typer(sessions.app(), name="sessions")
    app.add_typer(tokens.app(), name="tokens")
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cupola {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Takes the options that stand before the command; `main` looks for `--debug` itself, once a command failed."""
