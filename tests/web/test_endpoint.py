"""Endpoint configurations: read, merged, checked as a whole, shown in the spellings of both generations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupola.agents import LATEST, Agent, AgentVersion, Definition, ProtocolVersion, VersionRule, VersionStatus
from cupola.errors import BadRequest
from cupola.web.endpoint import configured, read_rules, show_endpoint, with_rules

AGENT = Agent("demo", "a1", "00000000-0000-0000-0000-000000000001", 1.0)
CARD = {"version": "1.0", "skills": [{"id": "s", "name": "Skill", "tags": ["t"]}]}


def version(
    number: str, *protocols: str, status: VersionStatus = VersionStatus.ACTIVE, draft: bool = False
) -> AgentVersion:
    declared = tuple(ProtocolVersion(name, "2.0.0") for name in protocols or ("responses",))
    return AgentVersion("demo", "a1", number, Definition("agent:1", None, declared), 1.0, status=status, draft=draft)


VERSIONS = (
    version("draft-1", draft=True),
    version("4", status=VersionStatus.DELETING),
    version("3", status=VersionStatus.FAILED),
    version("2", status=VersionStatus.CREATING),
    version("1"),
)


def endpoint(agent: Agent, versions: Sequence[AgentVersion] = (version("1"),), **fields: Any) -> Agent:
    """The agent after a PATCH of its endpoint."""
    return configured(agent, {"agent_endpoint": fields}, versions)


def enabled(agent: Agent) -> list[str]:
    """The protocols that are shown, which both spellings must agree on."""
    shown = show_endpoint(agent, version("1", "responses", "invocations"))
    assert {name.replace("activity_protocol", "activity") for name in shown["protocols"]} == set(
        shown["protocol_configuration"]
    )
    return sorted(shown["protocol_configuration"])


# Protocols


def test_the_latest_version_says_what_is_enabled_by_default() -> None:
    """In both spellings, with all traffic to the latest, for Entra identities."""
    assert enabled(AGENT) == ["invocations", "responses"]
    shown = show_endpoint(AGENT, None)
    assert shown == {
        "version_selector": {
            "version_selection_rules": [{"type": "FixedRatio", "agent_version": LATEST, "traffic_percentage": 100}]
        },
        "protocol_configuration": {"responses": {}},
        "protocols": ["responses"],
        "authorization_schemes": [{"type": "Entra"}],
    }


def test_a_patch_adds_to_what_is_shown() -> None:
    """A protocol that was there by default stays beside the one that is added."""
    versions = [version("1", "responses", "invocations")]
    added = endpoint(AGENT, versions, protocol_configuration={"a2a": {}})
    assert enabled(added) == ["a2a", "invocations", "responses"]
    assert enabled(endpoint(added, versions, protocol_configuration={"responses": None})) == ["a2a", "invocations"]


def test_a_new_agent_gets_what_its_create_says() -> None:
    """There is nothing yet that could be added to."""
    body: dict[str, Any] = {"agent_endpoint": {"protocol_configuration": {"a2a": {}}}}
    assert enabled(configured(AGENT, body, [version("1")], is_new=True)) == ["a2a"]


def test_the_older_list_sets_the_same() -> None:
    """`protocols` is the whole of it, settings of those that stay are kept, and it comes back as it was spelt."""
    agent = endpoint(AGENT, protocol_configuration={"activity": {"enable_m365_public_endpoint": True}})
    agent = endpoint(agent, protocols=["activity_protocol", "responses"])
    assert enabled(agent) == ["activity", "responses"]
    shown = show_endpoint(agent, None)
    assert shown["protocols"] == ["activity_protocol", "responses"]
    assert shown["protocol_configuration"]["activity"] == {"enable_m365_public_endpoint": True}
    assert enabled(endpoint(agent, protocol_configuration={"activity": None})) == ["responses"]
    assert enabled(endpoint(agent, protocols=None)) == ["invocations", "responses"]


def test_both_spellings_may_be_sent_while_they_agree() -> None:
    """As a client does that sends back what it got."""
    shown = show_endpoint(AGENT, version("1"))
    again = configured(AGENT, {"agent_endpoint": shown}, [version("1")])
    assert show_endpoint(again, version("1")) == shown
    with pytest.raises(BadRequest, match="different protocols"):
        endpoint(AGENT, protocols=["a2a"], protocol_configuration={"responses": {}})


def test_what_only_the_service_sets_is_ignored() -> None:
    """A status of approval and access boundaries cannot be claimed."""
    agent = endpoint(
        AGENT,
        publish_approval_status="approved",
        protocol_configuration={"activity": {"access_boundaries": ["x"], "enable_m365_public_endpoint": True}},
    )
    shown = show_endpoint(agent, None)
    assert "publish_approval_status" not in shown
    assert shown["protocol_configuration"]["activity"] == {"enable_m365_public_endpoint": True}


# Authorization, card, the rest


def test_authorization_schemes() -> None:
    """Every type of the wire, with the older isolation key; null goes back to the default."""
    schemes = [
        {"type": "Entra", "isolation_key_source": {"kind": "Header"}},
        {"type": "BotService"},
        {"type": "BotServiceRbac"},
        {"type": "BotServiceTenant", "later": 1},
    ]
    agent = endpoint(AGENT, authorization_schemes=schemes)
    assert show_endpoint(agent, None)["authorization_schemes"] == schemes
    agent = endpoint(agent, authorization_schemes=None)
    assert show_endpoint(agent, None)["authorization_schemes"] == [{"type": "Entra"}]


def test_unknown_members_are_kept() -> None:
    """What a later client knows comes back to it; null removes it."""
    agent = endpoint(AGENT, later={"a": {"b": 1}, "c": 2})
    assert show_endpoint(agent, None)["later"] == {"a": {"b": 1}, "c": 2}
    agent = endpoint(agent, later={"a": {"b": None}})
    assert show_endpoint(agent, None)["later"] == {"a": {}, "c": 2}
    assert "later" not in show_endpoint(endpoint(agent, later=None), None)


def test_a_card_is_merged_and_checked_as_a_whole() -> None:
    """A description alone is enough for a card that is there, and not for a new one."""
    agent = configured(AGENT, {"agent_card": CARD}, [])
    agent = configured(agent, {"agent_card": {"description": "d", "later": 1}}, [])
    assert agent.card == {**CARD, "description": "d", "later": 1}
    with pytest.raises(BadRequest, match="required") as caught:
        configured(agent, {"agent_card": {"version": None}}, [])
    assert caught.value.param == "agent_card.version"
    with pytest.raises(BadRequest, match="required"):
        configured(AGENT, {"agent_card": {"description": "d"}}, [])
    assert configured(agent, {"agent_card": None}, []).card is None


def test_null_goes_back_to_the_defaults() -> None:
    """The whole configuration at once."""
    agent = endpoint(AGENT, version_selector=selector(rule("1", 100))["version_selector"], later=1)
    cleared = configured(agent, {"agent_endpoint": None}, [version("1")])
    assert (cleared.rules, cleared.endpoint) == ((), {})


# Traffic


def test_versions_that_may_get_traffic() -> None:
    """Active ones, those being made, and the latest."""
    rules = [rule("1", 50), rule("2", 30), rule(LATEST, 20)]
    agent = endpoint(AGENT, VERSIONS, **selector(*rules))
    assert agent.rules == (VersionRule("1", 50), VersionRule("2", 30), VersionRule(LATEST, 20))
    assert show_endpoint(agent, None)["version_selector"]["version_selection_rules"] == rules


@pytest.mark.parametrize(
    ("number", "said"), [("3", "is failed"), ("4", "is deleting"), ("draft-1", "is a draft"), ("9", "no version '9'")]
)
def test_versions_that_may_not(number: str, said: str) -> None:
    """The rule at fault is named, also beside a good one."""
    with pytest.raises(BadRequest, match=said) as caught:
        endpoint(AGENT, VERSIONS, **selector(rule("1", 99), rule(number, 1)))
    assert caught.value.param == "agent_endpoint.version_selector.version_selection_rules.1.agent_version"


def test_other_patches_do_not_question_the_rules() -> None:
    """A version that has failed since does not keep its agent from getting a card or a scheme."""
    agent = endpoint(AGENT, VERSIONS, **selector(rule("2", 100)))
    later = [version("2", status=VersionStatus.FAILED)]
    changed = endpoint(agent, later, authorization_schemes=[{"type": "BotService"}])
    assert changed.rules == agent.rules
    assert configured(changed, {"agent_card": CARD}, later).rules == agent.rules


def test_no_rules_mean_the_latest() -> None:
    """An empty list and null both go back to the default."""
    agent = endpoint(AGENT, **selector(rule("1", 100)))
    cleared_by: list[Any] = [{"version_selection_rules": []}, {"version_selection_rules": None}, None]
    for empty in cleared_by:
        cleared = endpoint(agent, version_selector=empty)
        assert cleared.rules == ()
        shown = show_endpoint(cleared, None)["version_selector"]["version_selection_rules"]
        assert [shown_rule["agent_version"] for shown_rule in shown] == [LATEST]


def test_rules_that_the_platform_changes() -> None:
    """They are shown in place of those that were set; what else stands in the selector is kept."""
    agent = endpoint(AGENT, VERSIONS, version_selector={**selector(rule("1", 100))["version_selector"], "later": 1})
    changed = with_rules(agent, (VersionRule("2", 100),))
    shown = show_endpoint(changed, None)["version_selector"]
    assert shown == {"version_selection_rules": [rule("2", 100)], "later": 1}


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


# Whatever is sent


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)
_NAMES = st.sampled_from(["responses", "a2a", "activity", "activity_protocol", "soap"])
_RULES = st.sampled_from(
    [[], [rule("1", 100)], [rule("1", 90), rule(LATEST, 10)], [rule("2", 50)], [rule("3", 100)], [rule(1, 100)]]
)
_LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "version_selector": st.none() | st.fixed_dictionaries({"version_selection_rules": _RULES}),
    "protocol_configuration": st.none() | st.dictionaries(_NAMES, st.none() | st.just({}), max_size=3),
    "protocols": st.none() | st.lists(_NAMES, max_size=3),
    "authorization_schemes": st.none() | st.just([{"type": "BotService"}]),
    "publish_approval_status": st.just("approved"),
    "later": _JSON,
}
_UNLIKELY = st.dictionaries(st.sampled_from(sorted(_LIKELY)), _JSON, max_size=1)
_PATCHES = st.one_of(
    st.fixed_dictionaries({"agent_endpoint": st.fixed_dictionaries({}, optional=_LIKELY)}),
    st.fixed_dictionaries({"agent_endpoint": st.none() | _JSON | _UNLIKELY}),
    st.fixed_dictionaries({"agent_card": st.none() | _JSON | st.just(CARD)}),
)


@settings(max_examples=150)
@given(st.lists(_PATCHES, min_size=1, max_size=6))
def test_any_patches_are_merged_or_refused_with_a_sentence(patches: list[dict[str, Any]]) -> None:
    """The agent stays one that can be shown: both spellings agree, the weights add up, and it may be sent back."""
    agent = AGENT
    for patch in patches:
        try:
            agent = configured(agent, patch, VERSIONS)
        except BadRequest as error:
            assert error.param  # noqa: PT017 - refused or merged, either will do
    enabled(agent)
    shown = show_endpoint(agent, VERSIONS[2])
    assert "publish_approval_status" not in shown
    weights = [shown_rule["traffic_percentage"] for shown_rule in shown["version_selector"]["version_selection_rules"]]
    assert sum(weights) == 100
    again = configured(agent, {"agent_endpoint": shown}, VERSIONS)
    assert show_endpoint(again, VERSIONS[2]) == shown


def test_sessions_stay_or_follow() -> None:
    """`sessions` is merged beside the rules and shown once it was set; without it they stay."""
    assert not AGENT.sessions_follow
    follows = endpoint(AGENT, version_selector={"sessions": "follow"})
    assert follows.sessions_follow
    assert show_endpoint(follows, None)["version_selector"]["sessions"] == "follow"
    ruled = endpoint(follows, **selector(rule("1", 100)))
    assert ruled.sessions_follow
    assert [each.version for each in ruled.rules] == ["1"]
    stays = endpoint(ruled, version_selector={"sessions": "stay"})
    assert not stays.sessions_follow
    assert [each.version for each in stays.rules] == ["1"]
    assert not endpoint(follows, version_selector={"sessions": None}).sessions_follow


@pytest.mark.parametrize("wanted", ["leave", True, 1, {}])
def test_sessions_do_nothing_else(wanted: Any) -> None:
    """The sentence says what is allowed."""
    with pytest.raises(BadRequest, match="'stay' or 'follow'") as refused:
        endpoint(AGENT, version_selector={"sessions": wanted})
    assert refused.value.param == "agent_endpoint.version_selector.sessions"
