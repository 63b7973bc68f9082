"""Moving a session to another version of its agent: whether it may, and what has to happen first.

By default a session stays with the version that it began on. Its home goes along when it moves, so both versions must
run in the same kind of place: the home of a container is no directory of a child process.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from cupola.agents import LATEST, Agent, AgentVersion, VersionStatus, choose_version
from cupola.sessions import Session


class Step(StrEnum):
    """What moving a session takes: nothing, a new row, a stop before that; or it may not move."""

    NOTHING = "nothing"
    REBIND = "rebind"
    STOP_FIRST = "stop_first"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Decision:
    """`reason` is a sentence for whoever asked."""

    step: Step
    reason: str


def decide(
    session: Session, source: AgentVersion | None, target: AgentVersion, *, runs: bool, busy: str | None, force: bool
) -> Decision:
    """Whether a session moves from the version `source` to `target`.

    `runs` says that it has a sandbox, `busy` what is open there (`sessions.what_is_open`), None for nothing.
    """
    if session.version == target.version:
        return Decision(Step.NOTHING, f"It is on version {target.version} already.")
    if target.status is not VersionStatus.ACTIVE:
        return Decision(Step.REFUSE, f"Version {target.version} is {target.status}; a session needs an active one.")
    if source is None or (source.definition.image is None) != (target.definition.image is None):
        return Decision(
            Step.REFUSE,
            f"Version {session.version} runs {_what_runs(source)} and version {target.version} "
            f"{_what_runs(target)}: one cannot take over the home of the other.",
        )
    if busy is not None and not force:
        return Decision(Step.REFUSE, f"It has {busy}; wait for its end, or move it with force, which breaks it off.")
    if runs:
        return Decision(Step.STOP_FIRST, f"Its sandbox is stopped; the next request starts version {target.version}.")
    return Decision(Step.REBIND, f"The next request starts version {target.version}.")


def _what_runs(version: AgentVersion | None) -> str:
    if version is None:
        return "nothing any more"
    return "code" if version.definition.image is None else "an image"


def gets_traffic(agent: Agent, version: str, versions: Sequence[AgentVersion]) -> bool:
    """Whether new sessions may begin on a version by the agent's rules; `versions` are the agent's, newest first."""
    latest = next((v for v in versions if v.status is VersionStatus.ACTIVE and not v.draft), None)
    named = {rule.version for rule in agent.rules if rule.percentage > 0} if agent.rules else {LATEST}
    return version in named or (LATEST in named and latest is not None and latest.version == version)


def followed_version(
    agent: Agent, session: Session, versions: Sequence[AgentVersion], dice: random.Random
) -> AgentVersion | None:
    """Where a session that rests goes when its next request comes; None when it stays.

    It goes where its endpoint says that sessions follow the traffic, and its version gets none any more. What was begun
    on a draft stays there: drafts never get traffic, so it was meant.
    """
    mine = next((version for version in versions if version.version == session.version), None)
    if not agent.sessions_follow or mine is None or mine.draft or gets_traffic(agent, session.version, versions):
        return None
    chosen = choose_version(agent, versions, dice)
    return None if chosen is None or chosen.version == session.version else chosen
