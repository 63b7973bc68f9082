"""The commands' HTTP client against a stub of the platform."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cupola.cli.up import launch
from cupola.client import Client
from cupola.errors import CupolaError, NotFound, Unauthenticated
from cupola.installation import Layout, NotRunning, read_running
from cupola.web.tls import Authority
from tests.cli.conftest import end, stub
from tests.cli.stub_platform import COUNTS


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("client") / "state"
    pid = launch(stub("serves", directory), directory).pid
    yield directory
    end(pid)


def test_it_signs_in_and_reads_json(state_dir: Path) -> None:
    """One token, fetched with the identity header, opens the platform's routes."""
    client = Client.of(state_dir)
    assert client.get("/cupola/status") == COUNTS
    client.health()


def test_a_refusal_is_an_error_of_our_tree(state_dir: Path) -> None:
    """The sentence and the code are those of the envelope."""
    with pytest.raises(NotFound, match=r"There is no /nothing\.") as refusal:
        Client.of(state_dir).post("/nothing", {"a": 1})
    assert refusal.value.code == "not_found"


def test_a_wrong_identity_header_is_refused(state_dir: Path) -> None:
    """Who cannot read the state directory cannot sign in."""
    running = read_running(state_dir)
    assert running is not None
    with pytest.raises(Unauthenticated, match="identity header"):
        Client(running, "wrong", Layout(state_dir).ca / "ca.pem").get("/cupola/status")


def test_an_impostor_is_noticed(state_dir: Path, tmp_path: Path) -> None:
    """A listener whose certificate is not of our authority gets no token."""
    running = read_running(state_dir)
    assert running is not None
    other = Authority.open(tmp_path).certificate
    with pytest.raises(CupolaError, match="is not this platform"):
        Client(running, "x", other).health()


def test_nothing_listening_is_not_running(state_dir: Path) -> None:
    """A refused connection means that the platform stops or starts just now."""
    running = read_running(state_dir)
    assert running is not None
    gone = replace(running, endpoint="https://localhost:1/api/projects/demo", port=1)
    with pytest.raises(NotRunning, match="Nothing listens"):
        Client(gone, "x", Layout(state_dir).ca / "ca.pem").health()


def test_without_a_platform_there_is_no_client(tmp_path: Path) -> None:
    """A directory that nobody has says so."""
    with pytest.raises(NotRunning):
        Client.of(tmp_path)
