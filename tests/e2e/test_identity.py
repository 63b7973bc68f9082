"""Who may do what, with a real OpenID Connect server beside the platform, and with tokens of the command line."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.support.pinned import pinned_python
from tests.support.served import finish, free_port, tls_context

from .conftest import AsCode, Server, eventually, responses_of

pytestmark = pytest.mark.e2e

AUDIENCE = "https://ai.azure.com"
USERS: dict[str, dict[str, Any]] = {
    "rita": {"roles": ["Cupola.Reader"]},
    "ann": {"roles": ["Cupola.User"]},
    "bob": {"roles": ["Cupola.User"]},
    "olga": {"roles": ["Cupola.Operator"]},
    "nina": {},
}


class Provider:
    """`oidc-provider-mock`: a server of the protocol with a key of its own, made anew at every start."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        claims = [f"--user-claims={json.dumps({'sub': name, **claims})}" for name, claims in USERS.items()]
        command = [str(pinned_python("oidc-server")), "-m", "oidc_provider_mock", "--port", str(self.port), *claims]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        eventually(self._answers, "an issuer that answers")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.address}/.well-known/openid-configuration").status_code == 200
        return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def token(self, user: str) -> str:
        """What `user` gets who signs in: the authorization code flow, as a browser and an app go through it."""
        back = "http://127.0.0.1/back"
        asked = {"client_id": AUDIENCE, "redirect_uri": back, "response_type": "code", "scope": "openid"}
        signed_in = httpx.post(f"{self.address}/oauth2/authorize", params=asked, data={"sub": user})
        assert signed_in.status_code == 302, signed_in.text
        code = parse_qs(urlsplit(signed_in.headers["location"]).query)["code"][0]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": back}
        given = httpx.post(
            f"{self.address}/oauth2/token", data={**form, "client_id": AUDIENCE, "client_secret": "secret"}
        )
        token: str = given.raise_for_status().json()["id_token"]
        return token


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    provider = Provider(tmp_path / "provider.log")
    provider.start()
    yield provider
    provider.stop()


class Person:
    """Somebody with a token."""

    def __init__(self, server: Server, token: str) -> None:
        self._server = server
        self._headers = {"authorization": f"Bearer {token}"}

    def __call__(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        platform = self._server.platform
        with httpx.Client(base_url=platform.endpoint, verify=tls_context(platform), timeout=60) as client:
            return client.request(method, path, headers=self._headers, params={"api-version": "v1"}, **arguments)

    def ask(self, text: str = "hello", **fields: Any) -> httpx.Response:
        return self("POST", responses_of("a1"), json={"input": text, **fields})


def test_people_of_an_issuer(server: Server, provider: Provider) -> None:
    """Each may do what the issuer's roles say; users do not see each other; keys change without a restart."""
    where = AsCode()
    server.start(where, CUPOLA_OIDC_ISSUER=provider.address)
    server.deploy(where, "a1")
    rita, ann, bob, olga, nina = (Person(server, provider.token(user)) for user in USERS)

    assert nina("GET", "/agents").status_code == 403
    assert "oidc_default_role" in nina("GET", "/agents").json()["error"]["message"]
    assert [agent["name"] for agent in rita("GET", "/agents").json()["data"]] == ["a1"]
    assert "Cupola.User" in rita.ask().json()["error"]["message"]
    assert rita.ask().status_code == 403
    assert ann("POST", "/agents/a1:disable").status_code == 403
    assert olga("POST", "/agents/a1:enable").status_code == 204

    said = ann.ask("0")
    assert said.status_code == 200, said.text
    response = f"{responses_of('a1')}/{said.json()['id']}"
    assert ann("GET", response).status_code == 200
    assert bob("GET", response).status_code == 404
    foreign = bob.ask("0", agent_session_id=said.json()["agent_session_id"])
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "session_not_accessible")

    unseen = provider.token("ann")
    provider.stop()
    assert ann("GET", response).status_code == 200  # the issuer is away: known keys and people are still known
    provider.start()
    signed_anew = Person(server, provider.token("ann"))
    eventually(lambda: signed_anew("GET", response).status_code == 200, "the issuer's new key")
    assert Person(server, unseen)("GET", response).status_code == 401

    provider.stop()
    server.terminate()
    server.start(where, CUPOLA_OIDC_ISSUER=provider.address)
    away = signed_anew("GET", response)
    assert (away.status_code, away.json()["error"]["code"]) == (503, "issuer_unavailable")
    assert provider.address in away.json()["error"]["message"]
    assert server.rest.get("/agents").status_code == 200
    provider.start()
    again = Person(server, provider.token("ann"))
    eventually(lambda: again("GET", response).status_code == 200, "an issuer that came back")
    log = server.log.read_text()
    assert "issuer away" in log
    assert not any(part in log for part in unseen.split("."))


def test_an_issuer_that_is_none_stops_the_start(server: Server, provider: Provider) -> None:
    """One sentence that names the setting, whether the address is malformed or somebody else answers there."""
    command = [sys.executable, "-m", "cupola", "up", "--driver", "process", "--port", str(server.port)]
    for issuer in ("http://id.example", "https://login.microsoftonline.com/common/v2.0", f"{provider.address}/nowhere"):
        refused = subprocess.run(
            [*command, "--state-dir", str(server.state)],
            env={**_environment(), "CUPOLA_OIDC_ISSUER": issuer},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert refused.returncode == 3, refused.stderr
        assert "oidc_issuer" in refused.stderr.splitlines()[-1]


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def test_a_colleague_with_a_token_and_an_app_for_its_users(server: Server) -> None:
    """Tokens are made while the platform runs, and do what their role says."""
    where = AsCode()
    server.start(where)
    server.deploy(where, "a1")

    def token(*arguments: str) -> str:
        create = [sys.executable, "-m", "cupola", "tokens", "create", "--state-dir", str(server.state)]
        return finish([*create, *arguments]).strip()

    colleague = Person(server, token("--role", "user", "--name", "ann@example.com"))
    said = colleague.ask("0")
    assert said.status_code == 200, said.text
    response = f"{responses_of('a1')}/{said.json()['id']}"
    later = Person(server, token("--role", "user", "--name", "ann@example.com", "--expires", "1h"))
    assert later("GET", response).status_code == 200
    assert Person(server, token("--role", "user"))("GET", response).status_code == 404
    assert colleague("DELETE", "/agents/a1").status_code == 403
    assert Person(server, token("--role", "operator"))("POST", "/agents/a1:enable").status_code == 204

    app = token("--role", "user", "--name", "app", "--delegate")
    with httpx.Client(base_url=server.platform.endpoint, verify=tls_context(server.platform), timeout=60) as client:
        headers = {"authorization": f"Bearer {app}", "x-ms-user-identity": "carl"}
        acted = client.post(responses_of("a1"), json={"input": "0"}, headers=headers)
        assert acted.status_code == 200, acted.text
        path = f"{responses_of('a1')}/{acted.json()['id']}"
        assert client.get(path, headers=headers).status_code == 200
        assert client.get(path, headers={**headers, "x-ms-user-identity": "dora"}).status_code == 404
        assert client.get(path, headers={"authorization": headers["authorization"]}).status_code == 404
