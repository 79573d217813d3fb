"""Picture prompts: the share of held-out scenes that are the same scene again when their own picture is the prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tessera.data.scenes import Scene
from tessera.evaluation.scenes_judge import Reading
from tessera.evaluation.shares import Shares, share, standard_error

__all__ = ["Kept", "Variations", "compare", "summarise_variations"]


@dataclass(frozen=True)
class Kept:
    """What a variation kept of its scene.

    things: shape, colour and size of every thing, and no other. background: its colour. clean: no damage and nothing else.
    same: all of these.
    """

    things: bool
    background: bool
    clean: bool

    @property
    def same(self) -> bool:
        return self.things and self.background and self.clean


@dataclass(frozen=True)
class Variations(Shares):
    """Shares in 0..1 over `count` pictures, see `Kept`; `standard_error` is that of `same`."""

    count: int
    same: float
    standard_error: float
    things: float
    background: float
    clean: float


def compare(reading: Reading, scene: Scene) -> Kept:
    """What a picture, read back, has of a scene. Where the things lie is the variation's own affair."""
    found = Counter((thing.shape, thing.colour, thing.size) for thing in reading.things)
    wanted = Counter((thing.shape, thing.colour, thing.size) for thing in scene.things)
    return Kept(found == wanted, reading.background == scene.background, reading.clean)


def summarise_variations(kept: Sequence[Kept]) -> Variations:
    """The shares over variations."""
    same = share([one.same for one in kept])
    shares = {name: share([getattr(one, name) for one in kept]) for name in ("things", "background", "clean")}
    return Variations(len(kept), same, standard_error(same, len(kept)), **shares)
