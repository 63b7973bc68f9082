"""The token endpoints, as managed identity has them."""

from __future__ import annotations

import pytest
from starlette.routing import Router

from cupola import routes
from cupola.callbacks.tokens import ClientTokens
from cupola.web.errors import ErrorEdge
from tests.support.platform import PROJECT, Caller, PlatformUnderTest

PATH = "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fai.azure.com"


def sign_in(platform: PlatformUnderTest) -> Caller:
    tokens = ClientTokens(platform.tokens, platform.installation.identity_header)
    return Caller(ErrorEdge(Router(routes.token_routes(tokens), redirect_slashes=False)), None)


@pytest.mark.operation("sign_in.token")
async def test_clients_sign_in_with_the_installations_header(platform: PlatformUnderTest) -> None:
    """The reply has what the sync and the async client need, and its token opens the project."""
    header = {"x-identity-header": platform.installation.identity_header}
    answer = await sign_in(platform)("GET", PATH, headers=header)
    body = answer.json()
    assert (answer.status, body["resource"], body["token_type"]) == (200, "https://ai.azure.com", "Bearer")
    assert isinstance(body["expires_on"], str)
    assert int(body["expires_on"]) > 0
    call = Caller(platform.platform.clients, body["access_token"])
    assert (await call("GET", f"{PROJECT}/agents")).status == 200


async def test_a_wrong_header_is_refused(platform: PlatformUnderTest) -> None:
    """401, saying how to get the right one; also without any."""
    for header in ("", "wrong", "ä"):
        answer = await sign_in(platform)("GET", PATH, headers={"x-identity-header": header})
        assert answer.status == 401
        assert "cupola env" in answer.error["message"]


@pytest.mark.operation("sign_in.token")
async def test_a_sandbox_signs_in_with_its_own_header(platform: PlatformUnderTest) -> None:
    """The token is the sandbox's: good for callbacks, not for the clients' routes."""
    await platform.create_version()
    secret = platform.sandbox.environment["IDENTITY_HEADER"]
    endpoint = Caller(platform.token_endpoint, None)
    answer = await endpoint("GET", PATH, headers={"x-identity-header": secret})
    assert answer.status == 200, answer.body
    token = answer.json()["access_token"]
    (sandbox_id,) = platform.running()
    assert platform.tokens.sandbox(token).sandbox == sandbox_id
    assert (await Caller(platform.platform.clients, token)("GET", f"{PROJECT}/agents")).status == 401


async def test_a_sandbox_that_is_gone_gets_no_token(platform: PlatformUnderTest) -> None:
    """Its header ends with it."""
    await platform.create_version()
    secret = platform.sandbox.environment["IDENTITY_HEADER"]
    await platform.call("DELETE", f"{PROJECT}/agents/a1")
    endpoint = Caller(platform.token_endpoint, None)
    answer = await endpoint("GET", PATH, headers={"x-identity-header": secret})
    assert answer.status == 401
    assert (await endpoint("GET", PATH, headers={"x-identity-header": "sbx-1.forged"})).status == 401


async def test_the_clients_header_does_not_open_the_sandboxes_endpoint(platform: PlatformUnderTest) -> None:
    """Nor the other way round."""
    await platform.create_version()
    endpoint = Caller(platform.token_endpoint, None)
    header = {"x-identity-header": platform.installation.identity_header}
    assert (await endpoint("GET", PATH, headers=header)).status == 401
    secret = {"x-identity-header": platform.sandbox.environment["IDENTITY_HEADER"]}
    assert (await sign_in(platform)("GET", PATH, headers=secret)).status == 401
