"""Training a codec: pictures through the bottleneck and back.

    nll   = mean |x - x̂| (or its square) + perceptual_weight · mean d(x, x̂),   d a perceptual network's distance
    loss  = nll + w g + the bottleneck's own loss

w g is what a discriminator adds, which learns by its own optimiser at the same time (`adversary`). Every part may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tessera.codecs.codec import Codec, Reconstruction, TokenCodec
from tessera.codecs.quantizer import Quantizer, perplexity
from tessera.codecs.quantizers import Gumbel
from tessera.errors import UsageError
from tessera.nn.precision import widened
from tessera.part_folder import load_part, save_part
from tessera.randomness import Draws, derive_seed
from tessera.registry import CODECS, build
from tessera.training.adversary import Adversary, Change
from tessera.training.augment import augment
from tessera.training.codec_watch import CodecWatch
from tessera.training.loader import Batch, Batches
from tessera.training.perceptual import make_perceptual
from tessera.training.recipe import CodecRecipe, Optimizer
from tessera.training.task import Panel, StepDraws, Task, to_bytes, to_picture

__all__ = ["CodecLosses", "CodecTask", "make_codec"]


def make_codec(recipe: CodecRecipe, size: int) -> Codec:
    """The recipe's codec, for pictures of `size`, starting from `init` if it is given."""
    if "kind" not in recipe.codec:
        raise UsageError(f"the recipe's codec has no kind: name one of {', '.join(CODECS)} and its arguments")
    codec: Codec = build("codec", CODECS, recipe.codec)
    codec.grid((size, size))
    if recipe.init is None:
        return codec
    started = load_part("codec", CODECS, Path(recipe.init))
    if started.config != codec.config:
        raise UsageError(f"the codec in {recipe.init} has another configuration than the recipe: make them equal or leave out `init`")
    assert isinstance(started, Codec)
    return started.train()


class CodecLosses(NamedTuple):
    """total: what is minimised, the discriminator's own loss included. nll: of pictures. x_hat: the pictures made, in the losses' range."""

    total: Float[Tensor, ""]
    nll: Float[Tensor, ""]
    x_hat: Float[Tensor, "b 3 h w"]
    made: Reconstruction
    report: dict[str, Tensor]


class CodecTask(Task):
    """Minimises the loss above for square pictures of `size` pixels.

    Reports l1, mse and psnr (in dB; both of values in [-1, 1]), perceptual, nll, bottleneck, with a discriminator also adversarial (g),
    adversarial_weight (w) and discriminator (its loss), and what the bottleneck says of itself: usage and perplexity of codes.
    """

    def __init__(self, recipe: CodecRecipe, size: int) -> None:
        super().__init__()
        self.codec = make_codec(recipe, size)
        if not self.codec.trainable:
            raise UsageError(f"codec {recipe.codec['kind']!r} has nothing to train: use vqgan, patch or kl")
        self.settings = loss = recipe.loss
        self.perceptual = None if loss.perceptual is None else make_perceptual(loss.perceptual)
        self.adversary: Adversary | None = None
        self.watcher = CodecWatch()
        if loss.adversary is not None:
            contest = loss.adversary
            self.adversary = Adversary(contest.start, contest.weight_max, contest.width, contest.layers)
            self.adversary.discriminator.check((size, size))
            self.watcher = CodecWatch(contest.start, contest.weight_max)
        if loss.temperature is not None and self._gumbel is None:
            raise UsageError("loss.temperature is that of a Gumbel quantizer, which this codec does not have: leave it out")
        self.pictures = recipe.panel.pictures if recipe.panel else 0

    def forward(self, batch: Batch, seed: int, total: int) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        assert batch.image is not None
        image, rows = to_picture(batch.image), [position % total for position in batch.positions]

        def draws(purpose: str) -> StepDraws:
            return StepDraws(derive_seed(seed, purpose), total, rows, image.device)

        def change(purpose: str) -> Change:
            policy = [] if self.settings.adversary is None else self.settings.adversary.augment
            return lambda pictures: augment(pictures, policy, draws(purpose))

        losses = self.losses(
            image, batch.positions[0] // total, draws("latents") if self.training else None, change("made"), change("real")
        )
        return losses.total, losses.report

    def losses(
        self, image: Float[Tensor, "b 3 h w"], done: int, draws: Draws | None, change_made: Change, change_real: Change
    ) -> CodecLosses:
        """The losses of pictures in [-1, 1], after `done` steps; the other arguments are what is random about them."""
        settings = self.settings
        if self.training and self._gumbel is not None and settings.temperature is not None:
            self._gumbel.temperature = settings.temperature.at(done)
        made = self.codec.reconstruct(image, draws)
        mse = F.mse_loss(widened(made.image.detach()).clamp(-1, 1), image)
        x, x_hat = ((picture + 1) / 2 if settings.unit_range else picture for picture in (image, widened(made.image)))
        of_pixels = F.l1_loss(x_hat, x) if settings.pixels == "l1" else F.mse_loss(x_hat, x)
        nll, report = of_pixels, {settings.pixels: of_pixels.detach(), "mse": mse, "psnr": 10 * (4 / mse).log10()}
        if self.perceptual is not None:
            distance = widened(self.perceptual(x, x_hat)).mean()
            nll = nll + settings.perceptual_weight * distance
            report["perceptual"] = distance.detach()
        total = nll + made.loss
        report |= {"nll": nll.detach(), "bottleneck": made.loss.detach(), **made.report}
        if self.adversary is not None and self.training:
            contest = self.adversary(done, x, x_hat, nll, self.codec.last_weight, change_made, change_real)
            total = total + contest.weight * contest.codec + contest.discriminator
            report |= {
                "adversarial": contest.codec.detach(), "adversarial_weight": contest.weight, "discriminator": contest.discriminator.detach()
            }  # fmt: skip
        return CodecLosses(total, nll, x_hat, made, report)

    @property
    def _gumbel(self) -> Gumbel | None:
        quantizer = getattr(self.codec, "quantizer", None)
        return quantizer if isinstance(quantizer, Gumbel) else None

    def optimised(self, settings: Optimizer) -> list[tuple[nn.Module, Optimizer]]:
        """The codec, and apart from it the discriminator."""
        if self.adversary is None or self.settings.adversary is None:
            return [(self.codec, settings)]
        return [(self.codec, settings), (self.adversary, self.settings.adversary.optimizer or settings)]

    def live_state(self) -> dict[str, Tensor]:
        """Without the perceptual network, which does not learn."""
        return {name: value for name, value in super().live_state().items() if not name.startswith("perceptual.")}

    @torch.no_grad()
    def begin(self, batches: Batches) -> None:
        """A codec's own start from data (principal components, first codes), so that no process sees only its part of it."""
        image = batches[0].to(self.device).image
        assert image is not None
        self.codec.reconstruct(to_picture(image))

    def share_statistics(self, gather: Callable[[Tensor], Tensor]) -> None:
        for module in self.codec.modules():
            if isinstance(module, Quantizer):
                module.gather = gather

    def remarks(self) -> dict[str, str]:
        described = dict(self.settings.perceptual or {"kind": "none"})
        named = ", ".join([described.pop("kind"), *(f"{key} {value}" for key, value in sorted(described.items()))])
        return {"perceptual_network": named, "discriminator": "none" if self.adversary is None else f"after {self.adversary.start} steps"}

    def watch(self, step: int, line: Mapping[str, Any]) -> list[str]:
        return self.watcher.see(step, line)

    @torch.no_grad()
    def panel(self, batches: Sequence[Batch], prompts: Sequence[object], seed: int) -> Panel:
        squared, values = 0.0, 0
        used: Tensor | None = None
        shown: list[Tensor] = []
        for batch in batches:
            pixels = batch.to(self.device).image
            assert pixels is not None
            image = to_picture(pixels)
            decoded: Tensor
            if isinstance(self.codec, TokenCodec):
                tokens = self.codec.encode(image)
                decoded = self.codec.decode(tokens, self.codec.grid((image.shape[2], image.shape[3])))
                counts = torch.bincount(tokens.flatten(), minlength=self.codec.classes).float()
                used = counts if used is None else used + counts
            else:
                decoded = self.codec.reconstruct(image).image.clamp(-1, 1)
            squared += float((decoded - image).square().sum())
            values += image.numel()
            if len(shown) < self.pictures:
                rows = self.pictures - len(shown)
                shown.extend(torch.stack([pixels[:rows], to_bytes(decoded)[:rows]], 1))
        scalars = {"psnr": float(10 * torch.log10(torch.tensor(4 * values / max(squared, 1e-12))))}
        if used is not None:
            scalars |= {"codes_used": float((used > 0).sum()), "perplexity": float(perplexity(used))}
        return Panel(scalars, pictures={"originals_and_reconstructions": torch.cat(shown).cpu()} if shown else {})

    def export(self, folder: Path, card: Mapping[str, Any]) -> None:
        save_part(self.codec, folder, card)
