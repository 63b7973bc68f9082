"""What a sandbox can reach, and what its credentials open: looked at from inside real ones."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.served import client_token

from .conftest import Server, Where

pytestmark = pytest.mark.e2e

IDENTITY_QUERY = "?api-version=2019-08-01&resource=https://ai.azure.com"
UNANSWERED = 1.0


@dataclass(frozen=True, slots=True)
class Inside:
    """A look out of the sandbox of one session."""

    server: Server
    session: str

    def look(self, what: str, **fields: Any) -> dict[str, Any]:
        return self.server.invoke("a1", {"look": what, **fields}, self.session)

    def environment(self) -> dict[str, str]:
        found: dict[str, str] = self.look("environment")["environment"]
        return found

    def address(self) -> str:
        return str(self.look("address")["address"])

    def connects(self, host: str, port: int) -> bool:
        return bool(self.look("connect", host=host, port=port, timeout=UNANSWERED)["connected"])

    def get(self, url: str, **headers: str) -> dict[str, Any]:
        return self.look("http", url=url, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def token(self) -> str:
        environment = self.environment()
        answer = self.get(
            environment["IDENTITY_ENDPOINT"] + IDENTITY_QUERY, X_IDENTITY_HEADER=environment["IDENTITY_HEADER"]
        )
        assert answer["status"] == 200, answer
        return str(json.loads(answer["body"])["access_token"])

    def call_back(self, token: str, *, project: str | None = None) -> dict[str, Any]:
        """Asks the platform for a response that there is not."""
        endpoint = self.environment()["FOUNDRY_PROJECT_ENDPOINT"]
        base, _, own = endpoint.rpartition("/")
        return self.get(f"{base}/{project or own}/storage/responses/caresp_none", Authorization=f"Bearer {token}")


@pytest.fixture
def inside(server: Server, where: Where) -> Inside:
    server.start(where)
    server.deploy(where, "a1")
    return Inside(server, "s1")


def test_a_container_reaches_nothing_but_its_callbacks(server: Server, as_image: Where) -> None:
    """Neither another sandbox nor the clients' port answers; itself and the callbacks do."""
    server.start(as_image)
    server.deploy(as_image, "a1")
    one, other = Inside(server, "s1"), Inside(server, "s2")
    callbacks = urlsplit(one.environment()["FOUNDRY_PROJECT_ENDPOINT"])
    assert callbacks.hostname is not None
    assert callbacks.port is not None
    assert one.connects(one.address(), 8088)
    assert one.connects(callbacks.hostname, callbacks.port)

    assert one.address() != other.address()
    assert not one.connects(other.address(), 8088)
    assert not other.connects(one.address(), 8088)
    assert not one.connects(callbacks.hostname, server.port)
    assert not one.connects("127.0.0.1", server.port)


def test_credentials_open_their_own_doors_only(inside: Inside, server: Server) -> None:
    """A sandbox's token opens the callbacks of its project; a client's token and other projects are refused."""
    token = inside.token()
    own = inside.call_back(token)
    # The door is open; what is missing behind it is a word for whom this call is.
    assert (own["status"], "x-agent-foundry-call-id" in own["body"]) == (400, True)
    assert inside.call_back(token, project="other")["status"] == 403
    assert inside.call_back(client_token(server.platform))["status"] == 401
    assert inside.call_back(_tampered(token))["status"] == 401

    refused = server.rest.get("/agents", headers={"Authorization": f"Bearer {token}"})
    assert refused.status_code == 401
    assert refused.json()["error"]["message"]


def test_an_identity_header_is_its_sandbox_s_own(inside: Inside, server: Server) -> None:
    """It cannot make another's from it, nor get a client's token with it."""
    environment = inside.environment()
    other = Inside(server, "s2").environment()["IDENTITY_HEADER"]
    own = environment["IDENTITY_HEADER"]
    endpoint = environment["IDENTITY_ENDPOINT"] + IDENTITY_QUERY
    mixed = f"{other.partition('.')[0]}.{own.partition('.')[2]}"
    made_up = (mixed, other.partition(".")[0], f"{other.partition('.')[0]}.", uuid.uuid4().hex, "", "é")
    for header in made_up:
        assert inside.get(endpoint, X_IDENTITY_HEADER=header)["status"] == 401, header
    assert inside.get(endpoint)["status"] == 401
    assert inside.get(endpoint, X_IDENTITY_HEADER=other)["status"] == 200, "a stolen one is what they all guard"

    variables = server.platform.environment
    assert variables["IDENTITY_HEADER"] not in json.dumps(environment)
    sign_in = variables["IDENTITY_ENDPOINT"] + IDENTITY_QUERY
    assert httpx.get(sign_in, headers={"X-IDENTITY-HEADER": own}).status_code == 401


def _tampered(token: str) -> str:
    """The token with another agent in its claims and the old signature."""
    head, claims, signature = token.split(".")
    changed = {**json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))), "agent": "other"}
    return f"{head}.{base64.urlsafe_b64encode(json.dumps(changed).encode()).decode().rstrip('=')}.{signature}"
