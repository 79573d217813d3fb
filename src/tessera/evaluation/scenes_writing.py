"""Words that a model writes about the scenes world: captions of pictures, and rewrites of captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tessera.errors import UsageError
from tessera.evaluation.scenes_captions import CaptionVerdict, clauses_of, parse_caption, same_wording
from tessera.evaluation.shares import Shares, share, standard_error

__all__ = ["Captions", "Rewrite", "Rewrites", "compare_wording", "summarise_captions", "summarise_rewrites"]


@dataclass(frozen=True)
class Captions(Shares):
    """Shares in 0..1 over `count` captions; one that is not understood has nothing right.

    right: every thing of the scene is named, and every clause holds. things: the named things are those of the scene. relation, region and
    background: of the captions that state one, and for the first two, whose things are right. understood: captions that are sentences of
    the language. clauses: of all clauses that these state, taken one by one. `standard_error` is that of `right`.
    """

    count: int
    right: float
    standard_error: float
    things: float
    relation: float
    region: float
    background: float
    understood: float
    clauses: float


def summarise_captions(verdicts: Sequence[CaptionVerdict]) -> Captions:
    """The shares over captions."""
    right = share([one.right for one in verdicts])
    wholes = [one.verdict for one in verdicts if one.verdict is not None]
    return Captions(
        count=len(verdicts),
        right=right,
        standard_error=standard_error(right, len(verdicts)),
        things=share([one.verdict is not None and one.verdict.things for one in verdicts]),
        relation=share([whole.relation for whole in wholes]),
        region=share([whole.region for whole in wholes]),
        background=share([whole.background for whole in wholes]),
        understood=len(wholes) / len(verdicts),
        clauses=share([holds for one in verdicts for _, holds in one.clauses]),
    )


@dataclass(frozen=True)
class Rewrite:
    """What a rewrite has of its caption.

    understood: it is a sentence of the language. clauses: share of the caption's clauses that it states too. same: it states these and
    no other. differs: its wording is another.
    """

    understood: bool
    clauses: float
    same: bool
    differs: bool


@dataclass(frozen=True)
class Rewrites(Shares):
    """Shares in 0..1 over `count` rewrites, see `Rewrite`; both: same meaning in other words. `standard_error` is that of `same`."""

    count: int
    same: float
    standard_error: float
    differs: float
    both: float
    understood: float
    clauses: float


def compare_wording(caption: str, rewrite: str) -> Rewrite:
    """What a rewrite has of a caption of the world. Raises UsageError for a caption that is no sentence of its language."""
    meant, written = parse_caption(caption), parse_caption(rewrite)
    if meant is None:
        raise UsageError(f"{caption!r} is no caption of a scene, so that nobody can say what a rewrite of it keeps")
    facts = set(clauses_of(meant))
    stated = set() if written is None else set(clauses_of(written))
    return Rewrite(written is not None, len(facts & stated) / len(facts), facts == stated, not same_wording(caption, rewrite))


def summarise_rewrites(rewrites: Sequence[Rewrite]) -> Rewrites:
    """The shares over rewrites."""
    same = share([one.same for one in rewrites])
    return Rewrites(
        count=len(rewrites),
        same=same,
        standard_error=standard_error(same, len(rewrites)),
        differs=share([one.differs for one in rewrites]),
        both=share([one.same and one.differs for one in rewrites]),
        understood=share([one.understood for one in rewrites]),
        clauses=share([one.clauses for one in rewrites]),
    )
