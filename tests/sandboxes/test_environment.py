"""What a sandbox is told in its environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from cupola.agents import AgentVersion, Definition
from cupola.sandboxes.environment import PERSONAL, CallbackEndpoint, sandbox_environment, session_variables
from cupola.sessions import Sandbox

CALLBACKS = CallbackEndpoint("host.example", 9443, 9080)
SANDBOX = Sandbox("sbx-1", "demo", "a1", "3", "fake", "s" * 63, "g" * 32, "home", 1.0)
VERSION = AgentVersion("demo", "a1", "3", Definition(image="agent:1", code=None, protocols=()), 1.0)
ENDPOINT = "https://host.example:9443/api/projects/demo"


def environment(
    variables: Mapping[str, str] | None = None, callbacks: CallbackEndpoint = CALLBACKS, sandbox: Sandbox = SANDBOX
) -> Mapping[str, str]:
    return sandbox_environment(
        replace(VERSION, definition=replace(VERSION.definition, environment=variables or {})),
        sandbox,
        callbacks,
        identity_header=f"{sandbox.id}.secret",
        agent_guid="guid",
        client_ids={"instance": "i", "blueprint": "b"},
    )


def test_what_the_adapters_read() -> None:
    """Names, ids, and where to call back."""
    found = environment()
    assert found["FOUNDRY_HOSTING_ENVIRONMENT"]
    assert found["FOUNDRY_PROJECT_ENDPOINT"] == found["AZURE_AI_PROJECT_ENDPOINT"] == ENDPOINT
    assert found["FOUNDRY_AGENT_NAME"] == found["AGENT_NAME"] == "a1"
    assert found["FOUNDRY_AGENT_VERSION"] == "3"
    assert found["FOUNDRY_AGENT_SESSION_ID"] == "s" * 63
    assert found["FOUNDRY_AGENT_SESSION_GUID"] == "g" * 32
    assert found["IDENTITY_ENDPOINT"] == "http://host.example:9080/msi/token"
    assert found["IDENTITY_HEADER"] == "sbx-1.secret"
    assert found["AGENTSERVER_TASKS_BACKEND"] == "local"


def test_one_that_is_bound_late_is_told_nothing_of_a_session() -> None:
    """All else is there already."""
    late = environment(sandbox=replace(SANDBOX, session_id=""))
    assert late == {name: value for name, value in environment().items() if "_SESSION_" not in name}
    assert session_variables("s", "g") == {"FOUNDRY_AGENT_SESSION_ID": "s", "FOUNDRY_AGENT_SESSION_GUID": "g"}


def test_the_definitions_own_variables() -> None:
    """They are there, but what the platform says wins."""
    found = environment(
        {"MODEL_NAME": "m", "IDENTITY_HEADER": "forged", "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential"}
    )
    assert found["MODEL_NAME"] == "m"
    assert found["IDENTITY_HEADER"] == "sbx-1.secret"
    assert found["AZURE_TOKEN_CREDENTIALS"] == "ManagedIdentityCredential"


@pytest.mark.parametrize("name", ["AZURE_AI_PROJECT_ENDPOINT", "PROJECT_ENDPOINT", "AZURE_AI_PROJECTS_ENDPOINT"])
def test_the_clients_view_of_this_platform(name: str) -> None:
    """A script that hands on its own endpoint gives the container an address on localhost: ours goes in instead."""
    found = environment({name: "https://localhost:8443/api/projects/demo"})
    assert found[name] == found["AZURE_AI_PROJECT_ENDPOINT"] == ENDPOINT


def test_another_projects_endpoint_stays() -> None:
    """An agent may well talk to the cloud."""
    real = "https://acme.services.ai.azure.com/api/projects/p"
    assert environment({"AZURE_AI_PROJECT_ENDPOINT": real})["AZURE_AI_PROJECT_ENDPOINT"] == real


def test_ipv6_hosts_are_bracketed() -> None:
    """As URLs want them."""
    found = environment(callbacks=CallbackEndpoint("fd00::1", 1, 2))
    assert found["FOUNDRY_PROJECT_ENDPOINT"] == "https://[fd00::1]:1/api/projects/demo"
    assert found["IDENTITY_ENDPOINT"] == "http://[fd00::1]:2/msi/token"


def test_what_is_personal() -> None:
    """Two sandboxes of a version differ in these variables and in no other: a parent of both may see the rest."""
    other = replace(SANDBOX, id="sbx-2", session_id="t" * 63, session_guid="h" * 32, home="other", created_at=2.0)
    mine, theirs = environment(), environment(sandbox=other)
    assert {name for name in mine if mine[name] != theirs[name]} == PERSONAL
