"""Training a text autoencoder on the captions of a dataset (Optimus, Li et al. 2020, arXiv 2004.04092, sections 3 and 4).

    loss = cross-entropy of the text + β Σ of the divergences of its vector's numbers

β can rise again and again from 0, which keeps the vector from being ignored (Fu et al. 2019, arXiv 1903.10145): in each cycle it is 0 for
one half, rises for a quarter and stays for a quarter. Numbers whose divergence is below the free bits cost nothing (Kingma et al. 2016,
arXiv 1606.04934). With a given deviation the vector's noise is the same for all texts and its divergence only bounds its mean: β can be 0
where the codec normalises that (Ghosh et al. 2020, arXiv 1903.12436: regularised autoencoders of this kind).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tessera.codecs.text_vae import TextVAE
from tessera.contexts.prompt_warnings import PromptTruncated, UnknownWords
from tessera.errors import UsageError
from tessera.part_folder import load_part, save_part
from tessera.registry import CODECS, build
from tessera.training.loader import Batch
from tessera.training.recipe import TextCodecRecipe
from tessera.training.task import Panel, StepDraws, Task

__all__ = ["TextCodecTask", "cyclic"]

USED = 0.05
"""Mean divergence in nats above which a number of the vector says something."""


def cyclic(step: int, cycle: int | None) -> float:
    """The share of β at a step: 0 for half a cycle, rising for a quarter, 1 for a quarter; always 1 without a cycle."""
    return 1.0 if cycle is None else min(max((step % cycle) / cycle * 4 - 2, 0.0), 1.0)


class TextCodecTask(Task):
    """Minimises the loss above; reports its two parts and how many numbers of the vector are used."""

    def __init__(self, recipe: TextCodecRecipe) -> None:
        super().__init__()
        codec: Any = build("codec", CODECS, recipe.codec)
        if not isinstance(codec, TextVAE):
            raise UsageError(f"the codec {recipe.codec['kind']!r} is not for texts: use text-vae, or the task codec")
        if recipe.init is not None:
            started = load_part("codec", CODECS, Path(recipe.init))
            if started.config != codec.config:
                raise UsageError(
                    f"the codec in {recipe.init} has another configuration than the recipe: make them equal or leave out `init`"
                )
            assert isinstance(started, TextVAE)
            codec = started
        self.codec = codec.train()
        self.beta, self.cycle, self.free = recipe.beta, recipe.beta_cycle, recipe.free_bits
        self.deviation = recipe.deviation
        self._warned = False

    def forward(self, batch: Batch, seed: int, total: int) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        draws = StepDraws(seed, total, [position % total for position in batch.positions], self.device)
        beta = self.beta * (cyclic(batch.positions[0] // total, self.cycle) if self.training else 1.0)
        with warnings.catch_warnings():
            self._once()
            loss = self.codec.losses(_texts(batch), draws, self.deviation)
        return loss.total(beta, self.free), {
            "reconstruction": loss.reconstruction.detach().mean(),
            "divergence": loss.divergence.detach().sum(-1).mean(),
            "numbers_used": (loss.divergence.detach().mean(0) > USED).sum().float(),
        }

    def _once(self) -> None:
        """What is cut from captions, or not known of them, is said for the first batch only."""
        if self._warned:
            warnings.simplefilter("ignore", PromptTruncated)
            warnings.simplefilter("ignore", UnknownWords)
        self._warned = True

    @torch.no_grad()
    def panel(self, batches: Sequence[Batch], prompts: Sequence[object], seed: int) -> Panel:
        """Shares of the validation captions, and of their words, that come back as they were: by the mean, most probable words first."""
        right = count = words_right = words = 0
        for batch in batches:
            texts = _texts(batch)
            with warnings.catch_warnings():
                self._once()
                latents = self.codec.distribution(self.codec.tokenize(texts)).mean
            for text, written in zip(texts, self.codec.decode(latents), strict=True):
                ours, theirs = written.split(), self.codec.respelt(text).split()
                right, count = right + (ours == theirs), count + 1
                words_right += sum(a == b for a, b in zip(ours, theirs, strict=False))
                words += max(len(ours), len(theirs))
        return Panel({"captions_right": right / max(count, 1), "words_right": words_right / max(words, 1)})

    def export(self, folder: Path, card: Mapping[str, Any]) -> None:
        save_part(self.codec, folder, card)


def _texts(batch: Batch) -> list[str]:
    if wrong := [prompt for prompt in batch.prompts if not isinstance(prompt, str)]:
        raise UsageError(f"a text autoencoder learns captions, but the dataset gives {wrong[0]!r}: use one with captions")
    return list(batch.prompts)
