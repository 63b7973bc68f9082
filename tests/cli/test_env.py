"""The variables, and how each format carries them."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupola.cli.output import Exit
from cupola.cli.variables import Format, client_variables, written
from cupola.installation import Layout, Running
from tests.cli.conftest import Command

RUNNING = Running(
    pid=1,
    endpoint="https://localhost:8443/api/projects/demo",
    port=8443,
    identity_port=8444,
    driver="docker",
    driver_reason="an engine answers",
    started_at=datetime(2030, 1, 1, tzinfo=UTC),
)


def variables(project: str | None = None, **environment: str) -> dict[str, str]:
    return client_variables(RUNNING, Path("/s/ca/bundle.pem"), "header", project=project, environment=environment)


def test_the_variables_are_those_that_official_clients_read() -> None:
    """Endpoint in both spellings, roots for both HTTP stacks, sign-in without a detour."""
    assert variables() == {
        "AZURE_AI_PROJECT_ENDPOINT": "https://localhost:8443/api/projects/demo",
        "FOUNDRY_PROJECT_ENDPOINT": "https://localhost:8443/api/projects/demo",
        "REQUESTS_CA_BUNDLE": "/s/ca/bundle.pem",
        "SSL_CERT_FILE": "/s/ca/bundle.pem",
        "IDENTITY_ENDPOINT": "http://127.0.0.1:8444/msi/token",
        "IDENTITY_HEADER": "header",
        "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
    }


def test_a_project_can_be_named() -> None:
    """`--project` changes the end of the endpoint."""
    assert variables("other")["AZURE_AI_PROJECT_ENDPOINT"] == "https://localhost:8443/api/projects/other"


def test_a_proxy_is_kept_out_of_the_way() -> None:
    """Where a proxy is set, this machine is reached past it, whatever was excepted before."""
    assert variables(HTTPS_PROXY="http://proxy:1", no_proxy="corp")["NO_PROXY"] == "corp,localhost,127.0.0.1"
    assert "no_proxy" not in variables(https_proxy="http://proxy:1", NO_PROXY="*")
    assert "NO_PROXY" not in variables(NO_PROXY="corp")


@given(value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_shell_reads_back_what_was_written(value: str) -> None:
    """Quoting for sh loses nothing, checked by the words a shell would see."""
    import shlex

    assert shlex.split(written({"A": value}, Format.SH)) == ["export", f"A={value}"]


def test_a_real_shell_reads_back_what_was_written() -> None:
    """`eval` in sh gives the value, whatever stands in it."""
    value = 'it\'s $HOME `x` "q" \\ é'
    script = written({"A": value}, Format.SH) + '; printf %s "$A"'
    assert subprocess.check_output(["sh", "-c", script], text=True) == value


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("https://localhost:8443/x", "A=https://localhost:8443/x"),
        ("with space", "A='with space'"),
        ("it's\\", "A='it\\'s\\\\'"),
        ("", "A="),
    ],
)
def test_dotenv_quotes_only_what_needs_it(value: str, line: str) -> None:
    """`docker run --env-file` takes quotes literally, so plain values have none."""
    assert written({"A": value}, Format.DOTENV) == line


def test_powershell_quotes_are_doubled() -> None:
    """PowerShell ends a string at typographic quotes as well."""
    assert written({"A": "it's ’"}, Format.POWERSHELL) == "$env:A = 'it''s ’’'"


def test_json_is_an_object() -> None:
    """Programs get names and values as they are."""
    assert json.loads(written({"A": "é '"}, Format.JSON)) == {"A": "é '"}


def test_env_prints_the_variables_of_the_platform_that_runs(cupola: Command, platform: int, state_dir: Path) -> None:
    """The secret of the local sign-in and the bundle come from its state directory."""
    result = cupola("env", "--format=json", "--project", "p1")
    found = json.loads(result.stdout)
    assert result.returncode == 0
    assert found["AZURE_AI_PROJECT_ENDPOINT"].endswith("/api/projects/p1")
    assert found["IDENTITY_HEADER"] == Layout(state_dir).identity_header.read_text()
    assert found["SSL_CERT_FILE"] == str(Layout(state_dir).bundle)


def test_quick_and_typer_print_the_same(cupola: Command, platform: int) -> None:
    """The short way around Typer changes nothing: `--debug` before the command goes the long way."""
    assert cupola("env", "-f", "dotenv").stdout == cupola("--debug", "env", "-f", "dotenv").stdout != ""


def test_env_without_a_platform_prints_nothing_to_evaluate(cupola: Command, state_dir: Path) -> None:
    """`eval "$(cupola env)"` must not run a sentence."""
    result = cupola("env", "--state-dir", str(state_dir / "other place"))
    assert (result.returncode, result.stdout) == (Exit.NOT_RUNNING, "")
    assert f"`cupola up --state-dir '{state_dir}/other place'`" in result.stderr


def test_run_gives_a_command_the_variables(cupola: Command, platform: int) -> None:
    """The command replaces us: its output and its exit code are ours."""
    program = "import os, sys; print(os.environ['AZURE_AI_PROJECT_ENDPOINT']); sys.exit(5)"
    for separator in (["--"], []):
        result = cupola("run", *separator, sys.executable, "-c", program)
        assert result.returncode == 5
        assert result.stdout.startswith("https://localhost:")
    assert cupola("--debug", "run", "--", sys.executable, "-c", program).returncode == 5


def test_run_says_that_a_command_does_not_exist(cupola: Command, platform: int, tmp_path: Path) -> None:
    """Codes as shells have them: 127 for not found, 126 for not executable."""
    result = cupola("run", "--", "no-such-command")
    assert result.returncode == 127
    assert "no-such-command" in result.stderr
    assert cupola("run", "--", str(tmp_path)).returncode == 126
