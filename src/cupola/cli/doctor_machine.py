"""Looks at this machine and this shell: what the platform finds here, and what clients started here would find."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cupola.cli.doctor_code import SDK, parsed_version
from cupola.cli.variables import client_variables
from cupola.errors import DriverUnavailable, SetupError
from cupola.installation import Layout, Running, read_running

IDENTITY = "azure-identity"
_FIRST_SDK = parsed_version("2.0.0b3")
_KNOWS_DEV_AND_PROD_ONLY = (parsed_version("1.23.0"), parsed_version("1.24.0"))
_ASK_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class Verdict(StrEnum):
    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. A note is good to know; a problem keeps something from working."""

    name: str
    verdict: Verdict
    text: str


def shell_python(environment: Mapping[str, str]) -> str:
    """The Python that `python` means in this shell: that is where clients' packages are."""
    virtual = environment.get("VIRTUAL_ENV")
    if virtual and (Path(virtual) / "bin" / "python").exists():
        return str(Path(virtual) / "bin" / "python")
    path = environment.get("PATH")
    return shutil.which("python", path=path) or shutil.which("python3", path=path) or sys.executable


def installed_versions(python: str) -> dict[str, str]:
    """The versions of the official packages that this Python would import."""
    command = [python, "-c", _ASK_VERSIONS, SDK, IDENTITY]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        found = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return {str(name): str(version) for name, version in found.items()}


def machine(state_dir: Path, environment: Mapping[str, str]) -> Iterator[Check]:
    """What the platform needs."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", Verdict.OK, f"Cupola runs on Python {version} ({sys.executable}).")
    yield _engine(environment)
    yield _bubblewrap()
    running = read_running(state_dir)
    yield _platform(state_dir, running)
    if running is None:
        yield _state_dir(state_dir)
        yield _port(state_dir)


def clients(state_dir: Path, environment: Mapping[str, str], python: str, versions: Mapping[str, str]) -> list[Check]:
    """What clients started in this shell would find."""
    checks = [_sdk(python, versions.get(SDK)), _identity(versions.get(IDENTITY))]
    return [check for check in checks if check is not None] + list(_variables(state_dir, environment))


def _engine(environment: Mapping[str, str]) -> Check:
    import asyncio

    from cupola.drivers.docker_connect import open_engine

    async def ask() -> str:
        client, traits = await open_engine(environment, Path.home())
        await client.close()
        return f"{traits.name} {traits.version}{' (rootless)' if traits.rootless else ''}"

    try:
        return Check("engine", Verdict.OK, f"{asyncio.run(ask())} answers: images run in containers.")
    except DriverUnavailable as error:
        return Check("engine", Verdict.NOTE, f"{error.message} Without an engine, code deployments run as processes.")


def _bubblewrap() -> Check:
    from cupola.drivers import bubblewrap

    program = shutil.which("bwrap")
    if program is None:
        return Check("bubblewrap", Verdict.NOTE, "Not installed: code deployments see this machine's files.")
    if not bubblewrap.works(Path(program), bubblewrap.system_mounts()):
        return Check("bubblewrap", Verdict.NOTE, f"{program} is not allowed here (user namespaces are forbidden).")
    return Check("bubblewrap", Verdict.OK, f"{program} works: code deployments get a file system of their own.")


def _platform(state_dir: Path, running: Running | None) -> Check:
    if running is None:
        return Check("platform", Verdict.NOTE, f"None runs with state directory {state_dir}: `cupola up` starts one.")
    return Check("platform", Verdict.OK, f"Runs at {running.endpoint} (pid {running.pid}, driver {running.driver}).")


def _state_dir(state_dir: Path) -> Check:
    place = next(path for path in (state_dir, *state_dir.parents) if path.exists())
    if not place.is_dir():
        return Check("state", Verdict.PROBLEM, f"{place} is not a directory: choose another --state-dir.")
    if not os.access(place, os.W_OK | os.X_OK):
        return Check("state", Verdict.PROBLEM, f"{place} cannot be written: choose another --state-dir.")
    return Check("state", Verdict.OK, f"State directory {state_dir} can be used.")


def _port(state_dir: Path) -> Check:
    from cupola import settings as settings_module
    from cupola.web.listen import bind

    try:
        settings = settings_module.load(state_dir=state_dir)
        bind(settings.host, settings.port).close()
    except SetupError as error:
        return Check("port", Verdict.PROBLEM, error.message)
    return Check("port", Verdict.OK, f"Port {settings.port} on {settings.host} is free.")


def _sdk(python: str, version: str | None) -> Check:
    if version is None:
        return Check(SDK, Verdict.NOTE, f'Not installed for {python}: pip install "{SDK}>=2.10" azure-identity')
    if parsed_version(version) < _FIRST_SDK:
        return Check(SDK, Verdict.PROBLEM, f'{version} knows no hosted agents: pip install "{SDK}>=2.10"')
    return Check(SDK, Verdict.OK, f"{version} ({python})")


def _identity(version: str | None) -> Check | None:
    if version is None:
        return None
    first, fixed = _KNOWS_DEV_AND_PROD_ONLY
    if first <= parsed_version(version) < fixed:
        text = f'{version} refuses AZURE_TOKEN_CREDENTIALS=ManagedIdentityCredential: pip install "{IDENTITY}>=1.24"'
        return Check(IDENTITY, Verdict.PROBLEM, text)
    return Check(IDENTITY, Verdict.OK, version)


def _variables(state_dir: Path, environment: Mapping[str, str]) -> Iterator[Check]:
    endpoint = environment.get("AZURE_AI_PROJECT_ENDPOINT", environment.get("FOUNDRY_PROJECT_ENDPOINT", ""))
    if endpoint.startswith("http://"):
        text = f"AZURE_AI_PROJECT_ENDPOINT is {endpoint}: the SDK sends no token over plain http, use https."
        yield Check("shell", Verdict.PROBLEM, text)
    elif not endpoint:
        text = 'AZURE_AI_PROJECT_ENDPOINT is not set here: eval "$(cupola env)", or `cupola run -- COMMAND`.'
        yield Check("shell", Verdict.NOTE, text)
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        value = environment.get(name)
        if value and not Path(value).exists():
            yield Check(
                "shell", Verdict.PROBLEM, f"{name} names {value}, which does not exist: every https request fails."
            )
    if environment.get("IDENTITY_SERVER_THUMBPRINT"):
        text = "IDENTITY_SERVER_THUMBPRINT makes azure-identity look for Service Fabric: unset it."
        yield Check("shell", Verdict.PROBLEM, text)
    running = read_running(state_dir)
    if running is not None and endpoint:
        yield _loaded(running, Layout(state_dir), environment)


def _loaded(running: Running, layout: Layout, environment: Mapping[str, str]) -> Check:
    """Whether this shell has the variables of the platform that runs; the project may be another."""
    header = layout.identity_header.read_text().strip()
    meant = client_variables(running, layout.bundle, header, project=None, environment=environment)
    endpoint = environment.get("AZURE_AI_PROJECT_ENDPOINT", "")
    if not endpoint.startswith(running.base_url + "/"):
        return Check("shell", Verdict.NOTE, f"AZURE_AI_PROJECT_ENDPOINT is {endpoint}: not what runs here.")
    differing = [name for name, value in meant.items() if "ENDPOINT" not in name and environment.get(name) != value]
    if environment.get("IDENTITY_ENDPOINT") != meant["IDENTITY_ENDPOINT"]:
        differing.append("IDENTITY_ENDPOINT")
    if differing:
        text = f'Not as the platform has them: {", ".join(sorted(differing))}. Again: eval "$(cupola env)"'
        return Check("shell", Verdict.PROBLEM, text)
    return Check("shell", Verdict.OK, "The variables of `cupola env` are loaded.")
