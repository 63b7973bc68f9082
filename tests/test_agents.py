"""The rules of agents and versions."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupola.agents import (
    Agent,
    AgentVersion,
    CodeConfiguration,
    Definition,
    Failure,
    Phase,
    Probe,
    ProtocolVersion,
    VersionRule,
    VersionStatus,
    check_agent_name,
    choices_of,
    choose_version,
    declared_pool,
    draft_name,
    latest_of,
    without_version,
)
from cupola.errors import BadRequest, Conflict

DEFINITION = Definition(image="agent:1", code=None, protocols=(ProtocolVersion("responses", "2.0.0"),))
FAILURE = Failure(
    Phase.PROBE,
    "ContainerProbesFailed",
    "It did not answer.",
    exit_code=1,
    probes=(Probe(0.5, "connection refused"),),
    log=("last words",),
    details=({"code": "ImagePullBackOff", "message": "m"},),
)


def version(number: str, status: VersionStatus = VersionStatus.ACTIVE, *, draft: bool = False) -> AgentVersion:
    return AgentVersion("demo", "a1", number, DEFINITION, 1.0, status=status, draft=draft)


def agent(*rules: VersionRule) -> Agent:
    return Agent("demo", "a1", "00000000-0000-0000-0000-000000000001", 1.0, rules=rules)


@pytest.mark.parametrize("name", ["a", "A1", "my-agent", "0-0", "a" * 63])
def test_names_that_are_allowed(name: str) -> None:
    """Letters, digits and inner hyphens, up to 63 characters."""
    check_agent_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "a_b", "a b", "a/b", "a" * 64, "ä", "a\n"])
def test_names_that_are_not(name: str) -> None:
    """Everything else is refused, and the sentence says what is allowed."""
    with pytest.raises(BadRequest, match="1 to 63 letters, digits and hyphens") as caught:
        check_agent_name(name)
    assert caught.value.param == "agent_name"


@given(st.text(max_size=70))
def test_any_name_is_allowed_or_refused_with_a_sentence(name: str) -> None:
    """What is allowed may stand in an address, a host name or a file name as it is."""
    if re.fullmatch("[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", name):
        check_agent_name(name)
        assert quote(name, safe="") == name
    else:
        with pytest.raises(BadRequest):
            check_agent_name(name)


def test_new_sessions_begin_on_the_newest_active_version() -> None:
    """Without rules, what is being made, has failed or is a draft gets no traffic."""
    versions = [
        version("5", VersionStatus.CREATING),
        version("draft-1", draft=True),
        version("4", VersionStatus.FAILED),
        version("3"),
        version("2"),
    ]
    chosen = choose_version(agent(), versions, random.Random(1))
    assert chosen is not None
    assert chosen.version == "3"


def test_no_version_is_no_choice() -> None:
    """An agent whose versions all failed has nothing to choose."""
    assert choose_version(agent(), [version("1", VersionStatus.FAILED)], random.Random(1)) is None


def test_rules_part_the_traffic() -> None:
    """Weights hold over many sessions; a rule of 0 % gets none."""
    rules = (VersionRule("1", 90), VersionRule("2", 10), VersionRule("3", 0))
    dice = random.Random(7)
    versions = [version("3"), version("2"), version("1")]
    counted: Counter[str] = Counter()
    for _ in range(2000):
        chosen = choose_version(agent(*rules), versions, dice)
        assert chosen is not None
        counted[chosen.version] += 1
    assert counted["3"] == 0
    assert 0.07 < counted["2"] / 2000 < 0.13


def test_a_rule_for_the_latest_version() -> None:
    """`@latest` means the newest active version that is no draft, also beside other rules."""
    versions = [version("draft-1", draft=True), version("2"), version("1")]
    chosen = choose_version(agent(VersionRule("@latest", 100)), versions, random.Random(1))
    assert chosen is not None
    assert chosen.version == "2"
    mixed = agent(VersionRule("@latest", 50), VersionRule("1", 50))
    dice = random.Random(3)
    picked = {chosen.version for _ in range(50) if (chosen := choose_version(mixed, versions, dice))}
    assert picked == {"1", "2"}


def test_a_rule_whose_version_is_not_active_gets_nothing() -> None:
    """Traffic goes to the rules that can serve; with none of them there is no choice."""
    rules = agent(VersionRule("1", 50), VersionRule("2", 50))
    versions = [version("2", VersionStatus.FAILED), version("1")]
    assert all(choose_version(rules, versions, random.Random(n)) == versions[1] for n in range(10))
    assert choose_version(agent(VersionRule("2", 100)), versions, random.Random(1)) is None


def test_the_digest_is_of_the_meaning_not_of_the_spelling() -> None:
    """The two generations' names for one image are one content; a variable makes another."""
    older = replace(DEFINITION, spelling={"kind": "hosted", "image": "agent:1", "cpu": "1"})
    newer = replace(DEFINITION, spelling={"kind": "hosted", "container_configuration": {"image": "agent:1"}})
    assert older.digest() == newer.digest()
    assert replace(DEFINITION, environment={"A": "1"}).digest() != DEFINITION.digest()
    assert replace(DEFINITION, memory=2 * DEFINITION.memory).digest() != DEFINITION.digest()


def test_the_digest_counts_fields_that_are_only_echoed() -> None:
    """A changed `rai_config` is a change, although nothing here acts on it."""
    with_policy = replace(DEFINITION, spelling={"rai_config": {"rai_policy_name": "p"}})
    assert with_policy.digest() != DEFINITION.digest()


def test_another_zip_is_another_digest() -> None:
    """Code counts by its content."""
    code = CodeConfiguration("python_3_13", ("main.py",), "bundled", "aa" * 32)
    one = replace(DEFINITION, image=None, code=code)
    assert one.digest() != replace(one, code=replace(code, sha256="bb" * 32)).digest()


def test_definitions_and_failures_survive_the_store() -> None:
    """What is written as JSON is read back equal."""
    code = CodeConfiguration("python_3_13", ("python", "main.py"), "remote_build", "aa" * 32)
    definition = replace(DEFINITION, image=None, code=code, environment={"A": "1"}, idle_timeout=300)
    assert Definition.from_json(definition.to_json()) == definition
    assert Definition.from_json(DEFINITION.to_json()) == DEFINITION
    assert Failure.from_json(FAILURE.to_json()) == FAILURE


def test_the_legal_moves_of_a_version() -> None:
    """From creating to active or failed, and never back."""
    made = version("1", VersionStatus.CREATING)
    assert made.to_phase(Phase.PULL).phase is Phase.PULL
    assert made.to_active().phase is None
    failed = made.to_failed(FAILURE)
    assert (failed.status, failed.phase, failed.failure) == (VersionStatus.FAILED, Phase.PROBE, FAILURE)
    with pytest.raises(Conflict, match="a1:1 is failed, not creating"):
        failed.to_active()
    assert failed.to_deleting().status is VersionStatus.DELETING


def test_the_latest_version_is_no_draft() -> None:
    """In whatever status, but not when it is gone."""
    listed = [version("draft-1", draft=True), version("3", VersionStatus.DELETED), version("2", VersionStatus.FAILED)]
    assert latest_of(listed) == listed[2]
    assert latest_of(listed[:2]) is None


def test_drafts_of_one_millisecond_have_names_of_their_own() -> None:
    """The next one takes the next millisecond."""
    taken = {"draft-1500", "draft-1501"}
    assert draft_name(1.5, taken.__contains__) == "draft-1502"
    assert draft_name(2.0, taken.__contains__) == "draft-2000"


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ([("1", 90), ("2", 10)], [("2", 100)]),
        ([("1", 50), ("2", 30), ("3", 20)], [("2", 60), ("3", 40)]),
        ([("1", 1), ("2", 33), ("3", 33), ("4", 33)], [("2", 34), ("3", 33), ("4", 33)]),
        ([("1", 100)], []),
        ([("1", 100), ("2", 0)], []),
        ([("1", 60), ("1", 20), ("@latest", 20)], [("@latest", 100)]),
        ([("2", 70), ("3", 30)], [("2", 70), ("3", 30)]),
    ],
)
def test_traffic_of_a_version_that_goes(rules: list[tuple[str, int]], left: list[tuple[str, int]]) -> None:
    """The others take it in proportion; with none left the latest takes all."""
    before = [VersionRule(name, percentage) for name, percentage in rules]
    assert [(rule.version, rule.percentage) for rule in without_version(before, "1")] == left


@given(st.lists(st.integers(0, 100), min_size=1, max_size=12))
def test_what_is_left_always_adds_up(weights: list[int]) -> None:
    """To 100, or to nothing."""
    rules = [VersionRule(str(number), weight) for number, weight in enumerate(weights)]
    assert sum(rule.percentage for rule in without_version(rules, "0")) in (0, 100)


def test_every_version_that_can_be_chosen_is_a_choice() -> None:
    """Those with a weight, else the latest; none of them where no rule can serve."""
    versions = [version("draft-1", draft=True), version("3", VersionStatus.CREATING), version("2"), version("1")]

    def choices(*rules: VersionRule) -> list[str]:
        return [chosen.version for chosen, _ in choices_of(agent(*rules), versions)]

    assert choices() == ["2"]
    assert choices(VersionRule("1", 90), VersionRule("2", 0), VersionRule("3", 10)) == ["1"]
    assert choices(VersionRule("1", 50), VersionRule("@latest", 50)) == ["1", "2"]
    assert choices(VersionRule("3", 100)) == []
    assert choices_of(agent(), []) == []


def test_a_pool_is_declared_in_metadata() -> None:
    """As a whole number from 0 to 100; what is not said is not decided."""
    assert declared_pool({}) is None
    assert [declared_pool({"warm_pool": text}) for text in ("0", "7", "100", "007")] == [0, 7, 100, 7]
    for text in ("", "-1", "101", "1.0", "1e1", " 1", "\u0661"):
        with pytest.raises(BadRequest, match="whole number from 0 to 100"):
            declared_pool({"warm_pool": text})


def test_only_another_declaration_changes_the_pool() -> None:
    """What was said otherwise since then stays, until then."""
    resized = replace(version("1"), metadata={"warm_pool": "3", "a": "b"}, warm_pool=9)
    assert resized.with_pool_of({"warm_pool": "3", "a": "b"}) is resized
    assert resized.with_pool_of({"warm_pool": "4", "a": "b"}).warm_pool == 4
    assert resized.with_pool_of({"a": "b"}).warm_pool is None
