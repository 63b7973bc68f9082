"""What becomes of errors, whatever the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cupola.cli.output import Exit, exit_code
from cupola.errors import BadRequest, CupolaError, DriverUnavailable, NotFound, SetupError
from cupola.installation import NotRunning
from tests.cli.conftest import Command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SetupError("x"), Exit.SETUP),
        (DriverUnavailable("x"), Exit.SETUP),
        (NotRunning("x"), Exit.NOT_RUNNING),
        (BadRequest("x"), Exit.REFUSED),
        (NotFound("x"), Exit.REFUSED),
        (CupolaError("x"), Exit.FAILED),
    ],
)
def test_exit_codes_tell_classes_of_errors_apart(error: CupolaError, code: Exit) -> None:
    """Scripts can tell a platform that is not there from one that says no."""
    assert exit_code(error) == code


def test_an_error_is_one_sentence(cupola: Command) -> None:
    """Without a platform, `status` says what to do, and shows no traceback."""
    result = cupola("status")
    assert result.returncode == Exit.NOT_RUNNING
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("cupola: No platform runs")
    assert "`cupola up`" in result.stderr


def test_debug_shows_where_an_error_comes_from(cupola: Command) -> None:
    """`--debug` before the command adds the traceback."""
    assert "Traceback" in cupola("--debug", "status").stderr


def test_a_wrong_option_is_a_usage_error(cupola: Command) -> None:
    """Wrong usage has a code of its own, also where `quick` looks first."""
    assert cupola("env", "--format", "yaml").returncode == Exit.USAGE
    assert cupola("env", "--frmat=sh").returncode == Exit.USAGE
    assert cupola("run").returncode == Exit.USAGE


def test_a_bad_setting_is_a_setup_error(cupola: Command) -> None:
    """A variable that cannot be stops `up` with a sentence that names it."""
    result = cupola("up", CUPOLA_PORT="many")
    assert result.returncode == Exit.SETUP
    assert "CUPOLA_PORT" in result.stderr
    assert "Traceback" not in result.stderr


def test_every_command_has_help(cupola: Command) -> None:
    """`--help` works everywhere and names the state directory."""
    for name in ("up", "down", "status", "env", "run", "doctor"):
        result = cupola(name, "--help", COLUMNS="200")
        assert result.returncode == 0
        assert "--state-dir" in result.stdout


def test_a_reader_that_leaves_is_no_error(cupola: Command, platform: int, state_dir: Path) -> None:
    """`cupola env | head -0` prints nothing on stderr."""
    line = f'"{sys.executable}" -m cupola env --state-dir "{state_dir}" | head -c 0'
    result = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert result.stderr == ""


def test_env_and_run_load_neither_typer_nor_pydantic() -> None:
    """What stands in shell start files stays quick because the slow imports are not made."""
    program = "import sys, cupola.cli; print({'typer', 'pydantic', 'cryptography', 'ssl'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "set()"
