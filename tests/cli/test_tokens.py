"""Tokens made on the command line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from cupola.cli.output import Exit
from cupola.identity import Role
from cupola.installation import Installation
from cupola.web.auth import Tokens
from tests.cli.conftest import Command


@pytest.fixture
def secret(state_dir: Path) -> bytes:
    """The secret of an installation that was made before."""
    with Installation.open(state_dir) as installation:
        return installation.secret


@pytest.mark.parametrize("role", list(Role))
def test_a_token_names_principal_and_role(cupola: Command, secret: bytes, role: Role) -> None:
    """The token, and nothing else, stands on stdout."""
    made = cupola("tokens", "create", "--role", role, "--name", "ann@example.com")
    assert made.returncode == 0, made.stderr
    caller = Tokens(secret).caller(made.stdout.removesuffix("\n"))
    assert (caller.principal, caller.role, caller.delegate, caller.issuer) == ("ann@example.com", role, False, None)


def test_everything_about_it_as_json(cupola: Command, secret: bytes) -> None:
    """Token, principal, role and end; the right to delegate is in the token."""
    made = json.loads(cupola("tokens", "create", "--role=user", "--delegate", "--expires=12h", "--output=json").stdout)
    caller, until = Tokens(secret).identify(made["token"])
    assert (caller.principal, caller.role) == (made["principal"], Role.USER)
    assert caller.delegate
    assert made["delegate"]
    assert until - time.time() == pytest.approx(12 * 3600, abs=120)


def test_nameless_tokens_are_nobody_known(cupola: Command, secret: bytes) -> None:
    """Two of them share nothing."""
    made = [
        json.loads(cupola("tokens", "create", "--role=user", "--output=json").stdout)["principal"] for _ in range(2)
    ]
    assert made[0] != made[1]


def test_it_works_while_the_platform_has_the_directory(cupola: Command, state_dir: Path) -> None:
    """It takes no lock."""
    with Installation.open(state_dir) as installation:
        made = cupola("tokens", "create", "--role", "reader")
        assert Tokens(installation.secret).caller(made.stdout.strip()).role is Role.READER


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--role=user", "--name=two words"], "--name must be"),
        (["--role=user", "--name="], "--name must be"),
        (["--role=user", "--name=local"], "owner of the platform"),
        (["--role=user", "--expires=forever"], "90m, 12h or 30d"),
        (["--role=user", "--expires=0d"], "90m, 12h or 30d"),
        (["--role=user", "--expires=367d"], "at most 366d"),
        (["--role=reader", "--delegate"], "a reader talks to no agent"),
    ],
)
def test_tokens_that_make_no_sense(cupola: Command, secret: bytes, arguments: list[str], sentence: str) -> None:
    """One sentence, no token."""
    refused = cupola("tokens", "create", *arguments)
    assert refused.returncode == Exit.REFUSED
    assert sentence.lower() in refused.stderr.lower()
    assert refused.stdout == ""


def test_a_role_must_be_named_and_known(cupola: Command, secret: bytes) -> None:
    """The roles that there are are listed."""
    assert cupola("tokens", "create").returncode == Exit.USAGE
    wrong = cupola("tokens", "create", "--role=admin")
    assert wrong.returncode == Exit.USAGE
    assert "operator" in wrong.stderr


def test_without_an_installation_there_is_no_secret(cupola: Command, state_dir: Path) -> None:
    """It says how to have one, and makes nothing."""
    refused = cupola("tokens", "create", "--role=user")
    assert refused.returncode == Exit.SETUP
    assert "cupola up" in refused.stderr
    assert not state_dir.exists()


def test_where_such_tokens_are_not_taken_none_are_made(cupola: Command, secret: bytes, state_dir: Path) -> None:
    """`local_tokens = false` is said at once, not at the first 401."""
    (state_dir / "cupola.toml").write_text("local_tokens = false\n")
    refused = cupola("tokens", "create", "--role=user")
    assert refused.returncode == Exit.SETUP
    assert "local_tokens" in refused.stderr
