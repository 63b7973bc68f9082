"""Endpoint configurations: read, merged, checked as a whole, shown in the spellings of both generations."""

from __future__ import annotations

from typing import Any

import pytest

from cupola.agents import LATEST, VersionRule
from cupola.errors import BadRequest
from cupola.web.endpoint import read_rules


def selector(*rules: Any) -> dict[str, Any]:
    return {"version_selector": {"version_selection_rules": list(rules)}}


def rule(version: Any, percentage: Any, kind: str = "FixedRatio") -> dict[str, Any]:
    return {"type": kind, "agent_version": version, "traffic_percentage": percentage}


def test_rules_of_traffic() -> None:
    """Fixed ratios that add up to 100; `@latest` is a version like others."""
    assert read_rules({}) == ()
    assert read_rules(selector(rule("1", 90), rule("2", 10))) == (VersionRule("1", 90), VersionRule("2", 10))
    assert read_rules(selector(rule(LATEST, 40), rule("1", 60))) == (VersionRule(LATEST, 40), VersionRule("1", 60))


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([rule("1", 50)], "add up to 50"),
        ([rule("1", 101)], "from 0 to 100"),
        ([rule("1", "all")], "'all'"),
        ([rule("1", True)], "from 0 to 100"),
        ([rule(1, 100)], "must name a version"),
        ([rule("1", 100, "Random")], "FixedRatio"),
        (["x"], "FixedRatio"),
    ],
)
def test_rules_that_are_refused(rules: list[Any], said: str) -> None:
    """Each with the rule at fault."""
    with pytest.raises(BadRequest, match=said) as caught:
        read_rules(selector(*rules))
    assert caught.value.param is not None
    assert caught.value.param.startswith("agent_endpoint.version_selector.version_selection_rules")
