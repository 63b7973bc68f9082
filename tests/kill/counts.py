"""What a run of kills has seen, and how it is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counts:
    """`losses`, `orphans` and `dishonest` hold a sentence each: what was promised and is not there, what nobody owns,
    and answers that no client could make sense of."""

    rounds: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    dishonest: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        return [*self.losses, *self.orphans, *self.dishonest]

    def report(self) -> str:
        return "\n".join(
            [
                f"rounds     {_listed(self.rounds)}",
                f"kills      {_listed(self.kills)}",
                f"refused    {_listed(self.answers)}",
                f"looked at  {_listed(self.kept)}",
                *(f"left out   {reason}" for reason in self.left_out),
                f"losses     {len(self.losses)}",
                f"orphans    {len(self.orphans)}",
                f"dishonest  {len(self.dishonest)}",
            ]
        )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
