"""The platform's log at its most talkative: whatever goes well or wrong, no secret stands in it."""

from __future__ import annotations

import base64
import json
from uuid import uuid4

import httpx
import pytest

from tests.support.processes import marked
from tests.support.served import client_token, tls_context

from .conftest import MARK, Server, Where, eventually

pytestmark = pytest.mark.e2e


def test_no_secret_is_logged(server: Server, where: Where) -> None:
    """Neither values of a definition's environment, nor tokens, nor identity headers, nor the signing secret."""
    secrets = {"environment value": f"value-{uuid4().hex}", "made-up token": f"token{uuid4().hex}"}
    variables = {"API_KEY": secrets["environment value"], "GREETING": secrets["environment value"]}
    server.start(where, CUPOLA_LOG_LEVEL="debug")
    secrets["signing secret"] = (server.state / "secret").read_text().strip()
    secrets["client's header"] = (server.state / "identity-header").read_text().strip()
    secrets["client's token"] = client_token(server.platform)

    server.deploy(where, "a1", **variables)
    secrets |= _secrets_inside(server)
    server.create(where, "a2", EXIT="3", **variables)
    assert server.settled("a2")["status"] == "failed"
    _ask_wrongly(server, secrets)
    _lose_a_sandbox(server, where)
    assert not [command for command in _command_lines(server) if secrets["environment value"] in command]
    server.kill()
    server.start(where, CUPOLA_LOG_LEVEL="debug")
    server.rest.delete("/agents/a1", params={"force": "true"}).raise_for_status()
    server.terminate()

    log = server.log.read_text()
    events = [json.loads(line)["event"] for line in log.splitlines() if line.startswith("{")]
    assert {"version active", "version failed", "recovered", "stopping"} <= set(events)
    assert '"level": "debug"' in log
    for name, secret in secrets.items():
        for spelling in (secret, base64.b64encode(secret.encode()).decode().rstrip("=")):
            assert spelling not in log, name


def _secrets_inside(server: Server) -> dict[str, str]:
    """What a sandbox knows and the log should not."""
    environment = server.invoke("a1", {"look": "environment"}, "s1")["environment"]
    header = environment["IDENTITY_HEADER"]
    url = f"{environment['IDENTITY_ENDPOINT']}?api-version=2019-08-01&resource=https://ai.azure.com"
    answer = server.invoke("a1", {"look": "http", "url": url, "headers": {"X-IDENTITY-HEADER": header}}, "s1")
    token = str(json.loads(answer["body"])["access_token"])
    endpoint = f"{environment['FOUNDRY_PROJECT_ENDPOINT']}/storage/responses/caresp_none"
    asked = {"look": "http", "url": endpoint, "headers": {"Authorization": f"Bearer {token}"}}
    assert server.invoke("a1", asked, "s1")["status"] == 400  # it says for nobody that it calls
    return {"sandbox's header": header.partition(".")[2], "sandbox's token": token}


def _ask_wrongly(server: Server, secrets: dict[str, str]) -> None:
    """Requests that are refused, with secrets in every place where clients put them by mistake."""
    wrong = {"definition": {"kind": "hosted", "environment_variables": {"NOT-A-NAME": secrets["environment value"]}}}
    assert server.rest.post("/agents/a3/versions", json=wrong).status_code == 400
    assert server.rest.post("/agents/a3/versions", content=secrets["environment value"]).status_code == 400
    platform = server.platform
    with httpx.Client(base_url=platform.endpoint, verify=tls_context(platform)) as stranger:
        for token in (secrets["made-up token"], secrets["sandbox's token"]):
            assert stranger.get("/agents", headers={"Authorization": f"Bearer {token}"}).status_code == 401
        assert stranger.get("/agents", headers={"api-key": secrets["made-up token"]}).status_code == 401
    header = {"X-IDENTITY-HEADER": secrets["made-up token"]}
    assert httpx.get(platform.environment["IDENTITY_ENDPOINT"], headers=header).status_code == 401


def _lose_a_sandbox(server: Server, where: Where) -> None:
    with server.streaming("a1", 60, "s1") as events:
        next(events)
        for sandbox in where.running(server):
            where.kill(sandbox)
        *_, last = events
    assert last["type"] == "response.failed"
    eventually(lambda: server.status()["sandboxes"] == 0, "an end of the lost sandboxes")


def _command_lines(server: Server) -> list[str]:
    """What every user of this machine can read."""
    server.invoke("a1", {}, "s1")
    found = [" ".join(process.cmdline()) for process, _ in marked(MARK, server.mark)]
    assert found
    return found
