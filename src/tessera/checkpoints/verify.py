"""Proof that a model computes what another implementation computes: both get the same inputs and the same noise, and every stage of them
is compared, from the codec's tokens to each token of a whole run.

The other side is a recording that an original made, a folder of diffusers (computed by diffusers' own code), or another model of ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from tessera.checkpoints.verification.comparison import Row, StepDifference, accepted_for, compare, run_differences
from tessera.checkpoints.verification.own import OwnModel
from tessera.checkpoints.verification.port import INDEX, DiffusersPipeline
from tessera.checkpoints.verification.recorded import CASE, Recording
from tessera.checkpoints.verification.trial import Outcome, Side, Trial, colour_field, make_probes, same_size, shared_noise
from tessera.errors import UsageError
from tessera.loading import load
from tessera.model import Model, torch_device, whole_number
from tessera.pictures import open_picture, to_tensor

__all__ = ["Inputs", "Pair", "Verification", "verify"]

TRUNCATION = 0.86  # of the published run of the port


@dataclass(frozen=True)
class Inputs:
    """What to run where there is no recording, which has its own: words or a label, a picture file, the seed of the noise."""

    prompt: str | None = None
    picture: Path | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Pair:
    """A picture as both sides made it, levels 0..255."""

    title: str
    ours: Float[Tensor, "3 h w"]
    theirs: Float[Tensor, "3 h w"]


@dataclass(frozen=True)
class Verification:
    """The result. rows: the table. steps: of the run. pairs: pictures. settings: what was run."""

    model: str
    against: str
    rows: list[Row]
    steps: list[StepDifference]
    pairs: list[Pair]
    settings: Mapping[str, Any]

    @property
    def holds(self) -> bool:
        """Whether something was compared and no row fails."""
        verdicts = {row.verdict for row in self.rows}
        return "holds" in verdicts and "FAILS" not in verdicts

    def as_json(self) -> dict[str, Any]:
        """Everything but the pictures, JSON values. What is not finite is written as null, with the verdict FAILS."""
        rows = [{**asdict(row), "verdict": row.verdict} for row in self.rows]
        for row in rows:
            row["measured"] = row["measured"] if row["measured"] is not None and math.isfinite(row["measured"]) else None
        steps = [asdict(step) for step in self.steps]
        return {
            "model": self.model,
            "against": self.against,
            "holds": self.holds,
            "settings": dict(self.settings),
            "rows": rows,
            "steps": steps,
        }


def verify(
    source: str | Path,
    against: str | Path,
    inputs: Inputs | None = None,
    *,
    steps: int | None = None,
    accept: Mapping[str, float] | None = None,
    device: str = "auto",
    after_step: Callable[[int, int], None] | None = None,
    **extras: Any,
) -> Verification:
    """Compares the model `source` (whatever `tessera.load` takes) with `against`.

    Args:
        against: a recording's folder, a diffusers folder, or anything that `tessera.load` takes.
        inputs: see `Inputs`; not with a recording.
        steps: follow only the first steps of the run; None follows all T.
        accept: row name → accepted value, in place of the default; see `ROWS`.
        after_step: called with (steps done, steps in all) while the runs go on.
        extras: what completes a released file, `source` or `against`, see `tessera.load`.

    Raises:
        UsageError: something that cannot be compared, an unknown row, or an argument out of range.
        TesseraError: files that are damaged, or diffusers is needed and not installed.
    """
    inputs = inputs or Inputs()
    accepted_for(1, accept or {})  # before minutes of work
    if steps is not None:
        whole_number("steps", steps, 1)
    if inputs.seed is not None:
        whole_number("seed", inputs.seed, 0)
    picture = None if inputs.picture is None else open_picture(inputs.picture)
    target = torch_device(device)
    # Recordings first: they are small, and a wrong path is found before a large model is read.
    theirs = _other_side(against, target, extras)
    ours = OwnModel(str(source), _load(source, target, extras))
    same_size(ours.size, theirs.size, theirs.name)
    trial = _trial(ours, theirs, inputs, picture, steps or ours.size.times)
    done, total = count(1), trial.steps * (1 if isinstance(theirs, Recording) else 2)

    def advance() -> None:
        if after_step is not None:
            after_step(next(done), total)

    # Convolutions on a GPU would round to 10 bits unless told otherwise.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        one, other = ours.outcome(trial, advance), theirs.outcome(trial, advance)
    settings = {
        "prompts": trial.prompts, "guidance": trial.guidance, "truncation": trial.truncation, "steps": trial.steps,
        "seed": None if isinstance(theirs, Recording) else inputs.seed or 0, "device": str(target),
    }  # fmt: skip
    size = ours.size
    rows = compare(trial, one, other, accepted_for(size.classes, accept or {}), size.times, size.classes)
    return Verification(str(source), str(against), rows, run_differences(one, other, size.times), list(_pairs(one, other)), settings)


def _trial(ours: OwnModel, theirs: Side, inputs: Inputs, picture: Image | None, steps: int) -> Trial:
    """The recording's inputs, or some made from the seed."""
    if steps > ours.size.times:
        raise UsageError(f"steps must be at most {ours.size.times} for this model, not {steps}")
    if isinstance(theirs, Recording):
        if inputs != Inputs():
            raise UsageError(
                f"the recording {theirs.name} has its own prompts, picture and noise: leave out --prompt, --picture and --seed"
            )
        return theirs.trial(steps, ours.nearest)
    size, seed = ours.size, inputs.seed or 0
    image = colour_field(size.picture, seed) if picture is None else to_tensor(picture, size.picture)[None]
    return Trial(
        prompts=ours.prompts(inputs.prompt), picture=image, tokens=ours.encode(image), nearest=ours.nearest, text_tokens=None,
        probes=make_probes(size, ours.flow.process, 1, seed), noise=shared_noise(size, 1, seed), guidance=ours.guidance(),
        truncation=TRUNCATION, steps=steps,
    )  # fmt: skip


def _other_side(against: str | Path, device: torch.device, extras: Mapping[str, Any]) -> Side:
    folder = Path(against)
    if (folder / CASE).is_file():
        return Recording(folder)
    if (folder / INDEX).is_file():
        return DiffusersPipeline(folder, device)
    return OwnModel(str(against), _load(against, device, extras))


def _load(source: str | Path, device: torch.device, extras: Mapping[str, Any]) -> Model:
    """Of a folder, whose model is whole, without what completes files: it may be meant for the other side."""
    return load(source, device, **({} if Path(source).is_dir() else extras))


def _pairs(ours: Outcome, theirs: Outcome) -> Iterator[Pair]:
    for title, a, b in (
        ("Reconstruction", ours.reconstruction, theirs.reconstruction),
        ("Final picture", ours.final, theirs.final),
    ):
        if a is not None and b is not None:
            for i, (one, other) in enumerate(zip(a, b, strict=True), start=1):
                yield Pair(title if len(a) == 1 else f"{title} {i}", one, other)
