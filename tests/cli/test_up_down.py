"""Starting, stopping and looking at a platform."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from cupola.cli.options import Output
from cupola.cli.output import Exit
from cupola.cli.up import announce, command, launch
from cupola.errors import CupolaError
from cupola.installation import Layout, lock_holder, read_running
from tests.cli.conftest import Command, clean_environment, end, stub
from tests.cli.stub_platform import COUNTS
from tests.cli.test_env import RUNNING


def test_a_launched_platform_answers(platform: int, state_dir: Path) -> None:
    """`launch` returns once the platform has announced itself and answers https."""
    running = read_running(state_dir)
    assert running is not None
    assert running.pid == platform == lock_holder(state_dir)
    assert "Cupola serves on https://localhost:" in Layout(state_dir).log.read_text()


def test_a_platform_that_refuses_is_quoted(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The child's own sentence is said, and its code is ours."""
    with pytest.raises(SystemExit) as exit:
        launch(stub("refuses", state_dir), state_dir)
    assert exit.value.code == Exit.SETUP
    assert capsys.readouterr().err == "cupola: Port 8443 is taken.\n"


def test_a_platform_that_crashes_shows_the_end_of_its_log(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a sentence of its own, the last lines have to do; those of earlier starts are left out."""
    Layout(state_dir).state_dir.mkdir()
    Layout(state_dir).log.write_text("cupola: something old\n")
    with pytest.raises(SystemExit) as exit:
        launch(stub("crashes", state_dir), state_dir)
    said = capsys.readouterr().err
    assert exit.value.code == 7
    assert "the last line of the log" in said
    assert "something old" not in said


def test_a_platform_that_never_answers_is_stopped(state_dir: Path) -> None:
    """After the time-out nothing is left behind, and the sentence names the log."""
    with pytest.raises(CupolaError, match=r"did not answer.*cupola\.log"):
        launch(stub("hangs", state_dir), state_dir, timeout=1.0)


def test_a_long_log_is_put_aside(state_dir: Path) -> None:
    """The log of background starts does not grow for ever."""
    state_dir.mkdir()
    with Layout(state_dir).log.open("wb") as file:
        file.truncate(11 * 1024 * 1024)
    end(launch(stub("serves", state_dir), state_dir).pid)
    assert Layout(state_dir).log.stat().st_size < 1024 * 1024
    assert (state_dir / "cupola.log.1").exists()


def test_the_background_platform_gets_the_same_arguments() -> None:
    """What was given is passed on, what was not is left to settings."""
    arguments = command({"port": 9443, "idle_timeout": None, "ready_timeout": 5.0}, Path("/s"))
    assert arguments[1:] == ["-m", "cupola", "up", "--state-dir=/s", "--port=9443", "--ready-timeout=5.0"]
    for given, option in ((True, "--azure-limits"), (False, "--no-azure-limits")):
        assert command({"azure_limits": given}, Path("/s"))[-1] == option


def test_up_says_where_it_serves_and_what_comes_next(capsys: pytest.CaptureFixture[str]) -> None:
    """Endpoint, driver with its reason, and the next command to type."""
    announce(RUNNING, Path("/s"), Output.TEXT)
    said = capsys.readouterr().out
    assert "https://localhost:8443/api/projects/demo" in said
    assert "docker (an engine answers)" in said
    assert 'eval "$(cupola env --state-dir /s)"' in said


def test_a_second_up_names_the_first(platform: int, state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One platform per directory: the sentence says who has it and where it serves."""
    with pytest.raises(SystemExit) as exit:
        launch(stub("serves", state_dir), state_dir)
    said = capsys.readouterr().err
    assert exit.value.code == Exit.SETUP
    assert f"(pid {platform}, https://localhost:" in said
    assert read_running(state_dir) is not None


def test_down_waits_for_the_end(cupola: Command, platform: int, state_dir: Path) -> None:
    """Afterwards the directory is free, and stopping again is no error."""
    first = cupola("down")
    assert first.returncode == 0
    assert f"Stopped (pid {platform}" in first.stdout
    assert lock_holder(state_dir) is None
    assert not Layout(state_dir).running.exists()
    assert Layout(state_dir).log.read_text().endswith("Stopped.\n")
    second = cupola("down", "--output", "json")
    assert second.returncode == 0
    assert json.loads(second.stdout)["stopped"] is False


def test_down_says_when_a_platform_takes_longer(cupola: Command, state_dir: Path) -> None:
    """After the time-out the sentence says how to go on."""
    with subprocess.Popen(
        stub("lingers", state_dir), stdout=subprocess.PIPE, text=True, env=clean_environment()
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "lingers\n"
        began = time.monotonic()
        result = cupola("down", "--timeout", "0.2")
        child.kill()
    assert result.returncode == Exit.FAILED
    assert f"kill -9 {child.pid}" in result.stderr
    assert time.monotonic() - began < 30


def test_status_shows_what_there_is(cupola: Command, platform: int, state_dir: Path) -> None:
    """The counts come from the platform, signed in with the secret of the state directory."""
    result = cupola("status")
    assert result.returncode == 0
    assert f"(pid {platform}" in result.stdout
    assert all(name in result.stdout for name in COUNTS)
    found = json.loads(cupola("status", "-o", "json").stdout)
    assert found.items() >= COUNTS.items()
    assert found["pid"] == platform
    assert found["state_dir"] == str(state_dir)


def test_a_killed_platform_does_not_run(cupola: Command, platform: int, state_dir: Path) -> None:
    """What it announced stays behind, but the lock has gone with it."""
    end(platform)
    assert Layout(state_dir).running.exists()
    assert read_running(state_dir) is None
    assert cupola("status").returncode == Exit.NOT_RUNNING
    end(launch(stub("serves", state_dir), state_dir).pid)
