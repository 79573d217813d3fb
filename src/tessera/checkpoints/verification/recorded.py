"""A recording that an original made, as a side of a verification.

A folder with `case.json`, which says what was run with what settings, and `io.safetensors`, its inputs and outputs. Recordings of whole
text-to-image runs (component "port to diffusers") hold every stage that is compared; see tests/reference for their layout.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tessera.checkpoints.recording import recorded_noise
from tessera.checkpoints.verification.trial import AfterStep, Outcome, Probe, Size, Trial, words_condition
from tessera.errors import TesseraError, UsageError
from tessera.json_files import read_json

__all__ = ["CASE", "Recording"]

CASE = "case.json"
TENSORS = "io.safetensors"
COMPONENT = "port to diffusers"
NEEDED = {
    "image", "noise", "tokens_in", "x_t", "original.cond_emb", "original.decoded", "original.encoded", "original.sample_image",
    "original.sample_x", "original.text_tokens",
}  # fmt: skip
PROBE = re.compile(r"original\.log_x0_t(\d+)")


class Recording:
    """What the original computed, read from a case folder.

    Raises UsageError for a recording of something else, TesseraError for one that is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.name, self.folder = str(folder), folder
        spec = self._read_spec()
        component = spec.get("component")
        if component != COMPONENT:
            raise UsageError(
                f"{folder} is a recording of {component!r}, which is a part or another kind of run: "
                f"verification needs one of a whole text-to-image run (component {COMPONENT!r})"
            )
        try:
            self.io = load_file(folder / TENSORS)
            config = spec["config"]
            self.prompts: list[str] = list(config["prompt"])
            self.guidance, self.truncation = float(config["guidance_scale"]), float(config["truncation"])
            self.probes = {int(found[1]) + 1: name for name in self.io if (found := PROBE.fullmatch(name))}
            missing = NEEDED - self.io.keys()
            if missing or not self.probes:
                raise KeyError(min(missing, default="original.log_x0_t<time>"))
            times, _, tokens = self.io["original.sample_x"].shape
            height, width = self.io["image"].shape[2:]
            self.size = Size(config["K"], times, tokens, (height, width), words_condition(*self.io["original.cond_emb"].shape[1:]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise TesseraError(f"the recording {folder} cannot be read ({reason}): copy the folder again") from None

    def _read_spec(self) -> dict[str, Any]:
        try:
            spec = read_json(self.folder / CASE)
        except (OSError, ValueError) as error:
            raise TesseraError(f"the recording {self.folder} cannot be read ({error}): copy the folder again") from None
        if not isinstance(spec, dict):
            raise TesseraError(f"{self.folder / CASE} is no JSON object: copy the folder again")
        return spec

    def trial(self, steps: int, nearest: bool) -> Trial:
        """What the original was asked; `steps` of its run are followed."""
        probes = [Probe(self.io["x_t"], t) for t in sorted(self.probes)]
        picture = 2.0 * (self.io["image"].float() / 255) - 1.0
        return Trial(
            prompts=self.prompts, picture=picture, tokens=self.io["tokens_in"], nearest=nearest,
            text_tokens=self.io["original.text_tokens"], probes=probes, noise=recorded_noise(self.io["noise"]), guidance=self.guidance,
            truncation=self.truncation, steps=steps,
        )  # fmt: skip

    def outcome(self, trial: Trial, after_step: AfterStep) -> Outcome:
        """What was recorded."""
        whole = trial.steps == self.size.times
        return Outcome(
            codec_tokens=self.io["original.encoded"],
            reconstruction=self._levels("original.decoded"),
            log_p=[self.io[self.probes[t]].transpose(1, 2) for t in sorted(self.probes)],
            token_ids=self.io["original.text_tokens"],
            text_embedding=self.io["original.cond_emb"],
            run=_tokens(self.io["original.sample_x"])[: trial.steps],
            final=self._levels("original.sample_image") if whole else None,
        )

    def _levels(self, name: str) -> Tensor:
        """A recorded picture, float 0..255."""
        return self.io[name].clamp(0, 255).round()


def _tokens(stored: Tensor) -> Int[Tensor, "s b n"]:
    return stored.to(torch.int64)
