"""Prompt fidelity: the share of held-out prompts for which every clause is right in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tessera.evaluation.scenes_judge import Verdict
from tessera.evaluation.shares import Shares, share, standard_error

__all__ = ["Fidelity", "summarise_fidelity"]


@dataclass(frozen=True)
class Fidelity(Shares):
    """Shares in 0..1 over `count` prompts. A clause's share counts only the prompts that state it; NaN when none does.

    right: every clause holds. things: exactly the mentioned things. clean: no damage and nothing else. relation and region
    count only the pictures whose things are right (they have no meaning otherwise). `standard_error` is that of `right`.
    """

    count: int
    right: float
    standard_error: float
    things: float
    clean: float
    relation: float
    region: float
    background: float


def summarise_fidelity(verdicts: Sequence[Verdict]) -> Fidelity:
    """The shares over verdicts."""
    right = share([verdict.right for verdict in verdicts])
    return Fidelity(
        count=len(verdicts),
        right=right,
        standard_error=standard_error(right, len(verdicts)),
        things=share([verdict.things for verdict in verdicts]),
        clean=share([verdict.clean for verdict in verdicts]),
        relation=share([verdict.relation for verdict in verdicts]),
        region=share([verdict.region for verdict in verdicts]),
        background=share([verdict.background for verdict in verdicts]),
    )
