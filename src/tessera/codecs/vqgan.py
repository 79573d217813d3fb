"""VQGAN (Esser, Rombach & Ommer 2021, arXiv 2012.09841): a convolutional autoencoder whose bottleneck is a codebook.

image → Encoder → 1×1 → z → quantizer → e → 1×1 → Decoder → image
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.codecs.codec import TokenCodec
from tessera.codecs.convolutional import Decoder, Encoder
from tessera.codecs.quantizer import Quantized, Quantizer
from tessera.codecs.remap import Remap
from tessera.errors import UsageError
from tessera.randomness import Draws
from tessera.registry import build

__all__ = ["VQGAN", "Reconstruction"]

QUANTIZERS = {
    "nearest": "tessera.codecs.quantizers:Nearest",
    "ema": "tessera.codecs.quantizers:EMA",
    "gumbel": "tessera.codecs.quantizers:Gumbel",
}


class Reconstruction(NamedTuple):
    """image: the picture after the bottleneck, not clamped. quantized: its rows are positions, row-major, picture after picture."""

    image: Float[Tensor, "b 3 h w"]
    quantized: Quantized


class VQGAN(TokenCodec):
    """The convolutional token codec; every released VQ-Diffusion codec is one (see `codecs.presets`).

    Args:
        codebook: number of codes.
        quantizer: "nearest", "ema" or "gumbel"; or a mapping with that name as "kind" and settings of the class in `codecs.quantizers`.
        width, multipliers, blocks, attention_levels: of `convolutional.Encoder`; a token covers 2^(levels - 1) pixels a side.
        features: channels between encoder and quantizer.
        dim: width of a code.
        classes: token values when only a subset of the codebook is used (`remap` says which codes); None for all.
    """

    def __init__(
        self, codebook: int, quantizer: str | Mapping[str, Any] = "nearest", width: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4), blocks: int = 2, attention_levels: Sequence[int] = (4,), features: int = 256,
        dim: int = 256, classes: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if any(level not in range(len(multipliers)) for level in attention_levels):
            raise UsageError(f"attention_levels {list(attention_levels)} name a level outside 0..{len(multipliers) - 1}")
        if any(width * m % 32 for m in multipliers) or width % 32:
            raise UsageError(
                f"width {width} with multipliers {list(multipliers)} gives channels that are no multiples of 32, the norms' groups"
            )
        self.config = {
            "kind": "vqgan", "codebook": codebook, "quantizer": quantizer if isinstance(quantizer, str) else dict(quantizer),
            "width": width, "multipliers": list(multipliers), "blocks": blocks,
            "attention_levels": list(attention_levels), "features": features, "dim": dim, "classes": classes,
        }  # fmt: skip
        self.factor, self.classes = 2 ** (len(multipliers) - 1), codebook if classes is None else classes
        self.encoder = Encoder(width, multipliers, blocks, attention_levels, features)
        self.to_codes = nn.Conv2d(features, dim, 1)
        settings = {"kind": quantizer} if isinstance(quantizer, str) else quantizer
        self.quantizer: Quantizer = build("quantizer", QUANTIZERS, {**settings, "classes": codebook, "dim": dim})
        self.from_codes = nn.Conv2d(dim, features, 1)
        self.decoder = Decoder(width, multipliers, blocks, attention_levels, features)
        self.remap = Remap(codebook, classes) if classes is not None else None

    def latents(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """What the quantizer sees at each position, row-major."""
        self.grid((image.shape[2], image.shape[3]))
        return self.to_codes(self.encoder(image)).flatten(2).transpose(1, 2)

    def encode(self, image: Float[Tensor, "b 3 h w"], draws: Draws | None = None) -> Int[Tensor, "b n"]:
        """Pictures in [-1, 1] → tokens, row-major. A Gumbel quantizer draws them from `draws`; without, the most probable are taken."""
        codes = self.quantizer.tokens(self.latents(image), draws)
        return codes if self.remap is None else self.remap.reduce(codes)

    def decode(self, tokens: Int[Tensor, "b n"], grid: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
        codes = tokens if self.remap is None else self.remap.restore(tokens)
        return self._picture(self.quantizer.embed(codes), grid).clamp(-1, 1)

    def codebook(self) -> Float[Tensor, "k d"]:
        codes = torch.arange(self.classes)[None]
        return self.quantizer.embed(codes if self.remap is None else self.remap.restore(codes))[0]

    def reconstruct(self, image: Float[Tensor, "b 3 h w"]) -> Reconstruction:
        """The picture through the bottleneck, with gradients; while training, the codebook learns from it."""
        z = self.latents(image)
        quantized = self.quantizer(z.flatten(0, 1))
        return Reconstruction(self._picture(quantized.values.view(z.shape), self.grid((image.shape[2], image.shape[3]))), quantized)

    def training_loss(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Mean absolute error plus the quantizer's loss, and a report: l1, mse (of values in [-1, 1]), psnr in dB, quantizer, usage,
        perplexity. Losses of other kinds (perceptual, adversarial) build on `reconstruct`."""
        made = self.reconstruct(image)
        l1 = F.l1_loss(made.image, image)
        mse = F.mse_loss(made.image.detach().clamp(-1, 1), image)
        psnr = 10 * math.log10(4) - 10 * mse.log10()
        report = {"l1": l1.detach(), "mse": mse, "psnr": psnr, "quantizer": made.quantized.loss.detach(), **self.quantizer.report()}
        return l1 + made.quantized.loss, report

    def _picture(self, codes: Float[Tensor, "b n d"], grid: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
        return self.decoder(self.from_codes(codes.transpose(1, 2).unflatten(2, grid)))
