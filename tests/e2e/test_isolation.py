"""What a sandbox in a container cannot reach, and which token opens which door."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.e2e.installation import agent_image, installation
from tests.wire.conftest import tls_context

pytestmark = [pytest.mark.e2e, pytest.mark.engine]


def test_sandboxes_reach_their_callbacks_and_nothing_else(tmp_path: Path) -> None:
    """Neither each other nor the clients' port; and tokens open only the door that they are for."""
    image = agent_image()
    with installation(tmp_path / "one", "image") as one, installation(tmp_path / "two", "image") as two:
        for server in (one, two):
            server.settled(server.create(image))
        host = "host.docker.internal"
        neighbour = one.tell("address", agent_session_id="neighbour")
        elsewhere = two.tell("address", agent_session_id="a")
        assert one.tell(f"connect {neighbour} 8088", agent_session_id="neighbour") == "open"
        for address in (neighbour, elsewhere):
            assert one.tell(f"connect {address} 8088", agent_session_id="a") != "open"
        gateway = neighbour.rpartition(".")[0] + ".1"
        for address in (host, gateway):
            assert one.tell(f"connect {address} {one.port}", agent_session_id="a") != "open"

        own, foreign = (server.tell("token", agent_session_id="a") for server in (one, two))
        clients = one.rest.headers["authorization"].removeprefix("Bearer ")
        asked = {token: one.tell(f"callback {token}", agent_session_id="a") for token in (own, foreign, clients)}
        assert asked[own] in (400, 404), "its own token opens the callbacks"
        assert asked[foreign] == 401
        assert asked[clients] == 401

        refused = httpx.get(
            f"{one.platform.endpoint}/agents",
            headers={"Authorization": f"Bearer {own}"},
            verify=tls_context(one.platform),
        )
        assert refused.status_code == 401
