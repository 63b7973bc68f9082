"""`cupola debug-bundle` and `cupola replay` against the stub platform."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.cli.stub_platform import BUNDLE
from tests.support.bundles import recorded, write


@pytest.mark.usefixtures("platform")
def test_a_bundle_is_written_whole(cupola: Command, tmp_path: Path) -> None:
    """To the file that was asked for, and nothing else is left beside it."""
    path = tmp_path / "out" / "b.zip"
    path.parent.mkdir()
    written = cupola("debug-bundle", "greeter", "s1", "--out", str(path))
    assert written.returncode == 0, written.stderr
    assert path.read_bytes() == BUNDLE.encode()
    assert f"cupola replay {path}" in written.stdout
    assert list(path.parent.iterdir()) == [path]
    shown = json.loads(cupola("debug-bundle", "greeter", "s1", "--out", str(path), "--output", "json").stdout)
    assert shown == {"path": str(path), "bytes": len(BUNDLE)}


@pytest.mark.usefixtures("platform")
def test_what_cannot_be_written_leaves_nothing(cupola: Command, tmp_path: Path) -> None:
    """Neither a session that is not there nor a directory that is not there."""
    refused = cupola("debug-bundle", "greeter", "s2", "--out", str(tmp_path / "b.zip"))
    assert (refused.returncode, list(tmp_path.glob("*.zip*"))) == (5, [])
    nowhere = cupola("debug-bundle", "greeter", "s1", "--out", str(tmp_path / "no" / "b.zip"))
    assert nowhere.returncode == 3
    assert "cannot be written: No such file or directory" in nowhere.stderr


@pytest.mark.usefixtures("platform")
def test_a_replay_shows_old_against_new(cupola: Command, tmp_path: Path) -> None:
    """Exit code 0: all ended as before, though one says something else."""
    turns = [recorded(1, "one", "hello"), recorded(2, "two", "hello\nyou")]
    path = write(tmp_path / "b.zip", turns, agent="echo", protocols=["invocations", "invocations"])
    replayed = cupola("replay", str(path))
    assert replayed.returncode == 0, replayed.stderr
    assert replayed.stdout == (
        "Session s1 of echo:3 again, as session new of echo:3.\n\n"
        "  1  completed → completed  same text  10 ms → 12 ms (warm)\n"
        "  2  completed → completed  other text  20 ms → 12 ms (warm)\n"
        "     - you\n"
        "\nAll 2 ended as before.\n"
        "2 requests left out: nobody has kept the input (2 of invocations).\n"
    )


@pytest.mark.usefixtures("platform")
def test_another_status_is_exit_code_1(cupola: Command, tmp_path: Path) -> None:
    """For scripts, which read the rest as JSON."""
    path = write(tmp_path / "b.zip", [recorded(1, "one", "hello", status="failed")], agent="echo")
    replayed = cupola("replay", str(path), "--output", "json")
    assert replayed.returncode == 1, replayed.stderr
    shown = json.loads(replayed.stdout)
    assert (shown["same"], shown["turns"][0]["was"]["status"], shown["turns"][0]["now"]["status"]) == (
        False, "failed", "completed",
    )  # fmt: skip
    assert "1 of 1 ended otherwise." in cupola("replay", str(path)).stdout


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--env", "A=b"], "add --deploy"),
        (["--deploy", "--env", "A"], "NAME=VALUE"),
        (["--deploy", "--version", "2"], "leave --version out"),
        (["--agent", "nobody"], "Agent 'nobody' does not exist"),
    ],
)
def test_what_makes_no_sense_gets_a_sentence(
    cupola: Command, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    """Before anything is sent."""
    refused = cupola("replay", str(write(tmp_path / "b.zip", [recorded(1, "x", "y")])), *arguments)
    assert refused.returncode == 5
    assert sentence in refused.stderr


@pytest.mark.usefixtures("platform")
def test_a_bundle_without_input_cannot_be_replayed(cupola: Command, tmp_path: Path) -> None:
    """The platform never keeps what invocations were sent."""
    refused = cupola("replay", str(write(tmp_path / "b.zip", [], protocols=["invocations"])))
    assert refused.returncode == 5
    assert "no input to send again. 1 request left out" in refused.stderr
