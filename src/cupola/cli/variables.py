"""The variables with which unmodified clients find the platform, sign in and trust it, and how they are passed on.

Imports neither Typer nor what Typer imports: see `quick.py`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from cupola.cli.output import complain
from cupola.cli.state_dir import running_in
from cupola.installation import Layout, Running

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_LOCAL = ("localhost", "127.0.0.1")
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127  # as shells do
_BARE = re.compile(r"[A-Za-z0-9_./:@%+=,-]*")


class Format(StrEnum):
    SH = "sh"
    DOTENV = "dotenv"
    JSON = "json"
    POWERSHELL = "powershell"


def variables_of(state_dir: Path, project: str | None) -> dict[str, str]:
    """The variables for the platform that runs with `state_dir`. Raises NotRunning."""
    running, layout = running_in(state_dir), Layout(state_dir)
    return client_variables(
        running, layout.bundle, layout.identity_header.read_text().strip(), project=project, environment=os.environ
    )


def client_variables(
    running: Running, bundle: Path, identity_header: str, *, project: str | None, environment: Mapping[str, str]
) -> dict[str, str]:
    """What §5.4 of the control plane's reference asks for, and no proxy between a client and its own machine."""
    endpoint = running.endpoint if project is None else f"{running.base_url}/api/projects/{project}"
    return {
        "AZURE_AI_PROJECT_ENDPOINT": endpoint,
        "FOUNDRY_PROJECT_ENDPOINT": endpoint,
        "REQUESTS_CA_BUNDLE": str(bundle),
        "SSL_CERT_FILE": str(bundle),
        "IDENTITY_ENDPOINT": f"http://127.0.0.1:{running.identity_port}/msi/token",
        "IDENTITY_HEADER": identity_header,
        "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        **_past_proxies(environment),
    }


def _past_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """`NO_PROXY` with this machine in it, if a proxy is set: clients read either spelling, so both are given."""
    if not any(environment.get(name) or environment.get(name.upper()) for name in _PROXIES):
        return {}
    known = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host.strip() for host in known.split(",") if host.strip()]
    if "*" in hosts:
        return {}
    value = ",".join([*hosts, *(host for host in _LOCAL if host not in hosts)])
    return {"NO_PROXY": value, "no_proxy": value}


def written(variables: Mapping[str, str], format: Format) -> str:
    """The variables as `format` wants them, quoted so that every value arrives as it is."""
    if format is Format.JSON:
        return json.dumps(dict(variables), indent=2)
    line = {Format.SH: _sh, Format.DOTENV: _dotenv, Format.POWERSHELL: _powershell}[format]
    return "\n".join(line(name, value) for name, value in variables.items())


def _sh(name: str, value: str) -> str:
    return f"export {name}={shlex.quote(value)}"


def _dotenv(name: str, value: str) -> str:
    # Unquoted where possible: `docker run --env-file` takes quotes as part of the value.
    if _BARE.fullmatch(value):
        return f"{name}={value}"
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name}='{escaped}'"


def _powershell(name: str, value: str) -> str:
    # PowerShell ends a quoted string at typographic quotes as well; any of them is written twice.
    escaped = re.sub("(['\u2018\u2019\u201a\u201b])", r"\1\1", value)
    return f"$env:{name} = '{escaped}'"


def become(command: Sequence[str], environment: dict[str, str]) -> int:
    """Replaces this process by `command`; returns the exit code if that cannot be done, having said why."""
    try:
        os.execvpe(command[0], list(command), environment)  # noqa: S606 - running a command is what `run` is for
    except (FileNotFoundError, NotADirectoryError):
        complain(f"There is no command '{command[0]}': check its spelling and PATH.")
        return _NOT_FOUND
    except OSError as error:
        complain(f"The command '{command[0]}' cannot be run: {error.strerror}.")
        return _NOT_EXECUTABLE
