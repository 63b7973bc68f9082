"""Whether a session moves to another version: pure decisions."""

from __future__ import annotations

import random
from typing import Any

import pytest

from cupola.agents import LATEST, Agent, AgentVersion, Definition, VersionRule, VersionStatus
from cupola.moves import Step, decide, followed_version, gets_traffic
from tests.store import shapes

CODE = shapes.code("0" * 64)
IMAGE = Definition(image="agent:1", code=None, protocols=())


def version(number: str, **fields: Any) -> AgentVersion:
    return shapes.version(number, **{"status": VersionStatus.ACTIVE, **fields})


def agent(*rules: tuple[str, int], follow: bool = True) -> Agent:
    selector = {"sessions": "follow"} if follow else {}
    return shapes.agent(
        rules=tuple(VersionRule(name, share) for name, share in rules), endpoint={"version_selector": selector}
    )


def decision(**fields: Any) -> Any:
    asked: dict[str, Any] = {
        "session": shapes.session(version="1"),
        "source": version("1"),
        "target": version("2"),
        "runs": False,
        "busy": None,
        "force": False,
        **fields,
    }
    return decide(**asked)


def test_a_session_at_rest_is_just_rebound() -> None:
    """Nothing has to be stopped."""
    assert decision().step is Step.REBIND


def test_one_that_runs_is_stopped_first() -> None:
    """Nothing is open in it."""
    assert decision(runs=True).step is Step.STOP_FIRST


def test_what_is_open_is_named_and_broken_off_only_by_force() -> None:
    """The sentence says what, and how."""
    refused = decision(runs=True, busy="1 open request")
    assert refused.step is Step.REFUSE
    assert "1 open request" in refused.reason
    assert "force" in refused.reason
    assert decision(runs=True, busy="1 open request", force=True).step is Step.STOP_FIRST


def test_a_session_that_is_there_stays() -> None:
    """Whatever is open, and whatever became of the version."""
    assert decision(session=shapes.session(version="2"), busy="1 open request").step is Step.NOTHING


@pytest.mark.parametrize("status", [status for status in VersionStatus if status is not VersionStatus.ACTIVE])
def test_the_target_must_be_active(status: VersionStatus) -> None:
    """Force does not help."""
    refused = decision(target=version("2", status=status), force=True)
    assert refused.step is Step.REFUSE
    assert status in refused.reason


@pytest.mark.parametrize(("one", "other"), [(IMAGE, CODE), (CODE, IMAGE)])
def test_code_and_images_do_not_share_homes(one: Definition, other: Definition) -> None:
    """Either way, and force does not help."""
    refused = decision(source=version("1", definition=one), target=version("2", definition=other), force=True)
    assert refused.step is Step.REFUSE
    assert "an image" in refused.reason
    assert "code" in refused.reason


def test_traffic_by_rules_and_without() -> None:
    """A rule of 0 percent gives none; without rules the newest active release has all."""
    versions = [version("draft-9", draft=True), version("3", status=VersionStatus.FAILED), version("2"), version("1")]

    def receivers(*rules: tuple[str, int]) -> list[str]:
        return [v.version for v in versions if gets_traffic(agent(*rules), v.version, versions)]

    assert receivers() == ["2"]
    assert receivers(("1", 100)) == ["1"]
    assert receivers(("1", 0), ("2", 100)) == ["2"]
    assert receivers(("1", 50), (LATEST, 50)) == ["2", "1"]


def followed(agent: Agent, on: str, versions: list[AgentVersion]) -> str | None:
    found = followed_version(agent, shapes.session(version=on), versions, random.Random(1))
    return None if found is None else found.version


def test_a_session_follows_the_traffic() -> None:
    """Only where its endpoint says so, and only when its version gets none."""
    versions = [version("2"), version("1")]
    assert followed(agent(), "1", versions) == "2"
    assert followed(agent(follow=False), "1", versions) is None
    assert followed(agent(("1", 1), ("2", 99)), "1", versions) is None
    assert followed(agent(("1", 100)), "2", versions) == "1"


def test_nobody_follows_to_where_nothing_is() -> None:
    """No active version gets traffic: the session stays."""
    versions = [version("2", status=VersionStatus.CREATING), version("1")]
    assert followed(agent(("2", 100)), "1", versions) is None


def test_what_was_begun_on_a_draft_stays() -> None:
    """Drafts never get traffic, so it was meant."""
    versions = [version("2"), version("draft-1", draft=True)]
    assert followed(agent(), "draft-1", versions) is None
