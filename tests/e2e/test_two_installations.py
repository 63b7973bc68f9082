"""Two installations on one machine: neither sandboxes nor tokens of one get anywhere in the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.served import client_token

from .conftest import Server, Where
from .test_isolation import Inside

pytestmark = pytest.mark.e2e


@pytest.fixture
def another(tmp_path: Path) -> Iterator[Server]:
    """A second platform, with a directory and a port of its own."""
    directory = tmp_path / "another"
    directory.mkdir()
    server = Server(directory)
    yield server
    server.remove()


def test_the_other_installations_tokens_open_nothing(server: Server, another: Server, where: Where) -> None:
    """Neither a sandbox's at the callbacks nor a client's at the clients' port."""
    for one in (server, another):
        one.start(where)
        one.deploy(where, "a1")
    inside, stranger = Inside(server, "s1"), Inside(another, "s1")
    assert inside.call_back(inside.token())["status"] == 400  # let in; it says for nobody that it calls
    assert inside.call_back(stranger.token())["status"] == 401
    assert inside.call_back(client_token(another.platform))["status"] == 401
    foreign = {"Authorization": f"Bearer {client_token(another.platform)}"}
    assert server.rest.get("/agents", headers=foreign).status_code == 401


def test_the_other_installations_containers_are_out_of_reach(server: Server, another: Server, as_image: Where) -> None:
    """Their networks do not meet."""
    for one in (server, another):
        one.start(as_image)
        one.deploy(as_image, "a1")
    inside, stranger = Inside(server, "s1"), Inside(another, "s1")
    assert stranger.connects(stranger.address(), 8088)
    assert not inside.connects(stranger.address(), 8088)
    assert not inside.connects("host.docker.internal", another.port)


def test_stopping_one_leaves_the_other_alone(server: Server, another: Server, where: Where) -> None:
    """The end and the next start of one installation take nothing of another away."""
    for one in (server, another):
        one.start(where)
        one.deploy(where, "a1")
    Inside(another, "s1").environment()
    running = where.running(another)
    server.terminate()
    server.start(where)
    assert where.running(another) == running
    assert Inside(another, "s1").environment()
