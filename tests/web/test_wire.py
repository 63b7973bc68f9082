"""The wire's spellings of agents and their versions, and the body of a create."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cupola.agents import Agent, AgentVersion, Failure, Phase, Probe, VersionStatus
from cupola.errors import BadRequest
from cupola.web.body import read_model
from cupola.web.definitions import read_definition
from cupola.web.wire import NewVersion, show_agent, show_version

DEFINITION: Mapping[str, Any] = {"kind": "hosted", "container_configuration": {"image": "agent:1"}}
AGENT = Agent("demo", "a1", "00000000-0000-0000-0000-000000000001", 1.0)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "definition"),
        ({"definition": "x"}, "definition"),
        ({"definition": {}, "description": 5}, "description"),
        ({"definition": {}, "draft": "perhaps"}, "draft"),
        ({"definition": {}, "metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"definition": {}, "metadata": {f"k{n}": "v" for n in range(17)}}, "metadata"),
    ],
)
def test_the_body_of_a_create_is_checked(body: dict[str, Any], param: str) -> None:
    """16 pairs of metadata, 64 and 512 characters; the rest by its type."""
    with pytest.raises(BadRequest) as caught:
        read_model(NewVersion, body)
    assert caught.value.param is not None
    assert caught.value.param.startswith(param)


def make_version(**fields: Any) -> AgentVersion:
    return AgentVersion("demo", "a1", "1", read_definition(DEFINITION), 1795371427.9, **fields)


def test_a_version_as_it_is_shown() -> None:
    """With `state` beside `status` for readers of the old guide, and the steps while it is made."""
    shown = show_version(make_version(phase=Phase.CREATE), AGENT)
    assert shown["object"] == "agent.version"
    assert (shown["id"], shown["name"], shown["version"]) == ("a1:1", "a1", "1")
    assert shown["created_at"] == 1795371427
    assert shown["status"] == shown["state"] == "creating"
    assert shown["provisioning"] == {"phase": "create", "done": ["validate", "pull", "build"]}
    assert shown["error"] is None
    assert shown["instance_identity"] == show_version(make_version(), AGENT)["instance_identity"]
    active = show_version(make_version(status=VersionStatus.ACTIVE, phase=None), AGENT)
    assert "provisioning" not in active


def test_a_failed_version_shows_the_evidence() -> None:
    """Code, sentence, phase, exit code, probes and log."""
    failure = Failure(Phase.PROBE, "UserError", "It ended.", 3, (Probe(0.12345, "refused"),), ("a", "b"))
    shown = show_version(make_version().to_failed(failure), AGENT)
    assert shown["error"] == {
        "code": "UserError",
        "message": "It ended.",
        "details": [],
        "phase": "probe",
        "exit_code": 3,
        "probes": [{"at": 0.123, "outcome": "refused"}],
        "log": ["a", "b"],
    }


def test_an_agent_without_versions() -> None:
    """Nothing is made up."""
    shown = show_agent(AGENT, None)
    assert shown["versions"] == {}
    assert shown["state"] == "enabled"
    rules = shown["agent_endpoint"]["version_selector"]["version_selection_rules"]
    assert rules == [{"type": "FixedRatio", "agent_version": "@latest", "traffic_percentage": 100}]
