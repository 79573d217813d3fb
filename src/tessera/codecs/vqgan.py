"""VQGAN (Esser, Rombach & Ommer 2021, arXiv 2012.09841): a convolutional autoencoder whose bottleneck is a codebook.

image → Encoder → 1×1 → z → quantizer → e → 1×1 → Decoder → image

The VQGAN of absorbing diffusion (Bond-Taylor et al. 2022, arXiv 2111.12701) is the same without the 1×1 convolutions and without the
activations before the last convolutions, and sees pictures in [0, 1]. Its decoder can say how sure it is of every value,

    log p(x | z) = Σ log N(x; μ, σ²),   μ the decoded picture in [0, 1],   log σ from a head of its own
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.codecs.codec import Reconstruction, TokenCodec
from tessera.codecs.convolutional import Decoder, Encoder, Layers
from tessera.codecs.linear_path import LinearPath
from tessera.codecs.quantizer import Quantizer
from tessera.codecs.remap import Remap
from tessera.errors import UsageError
from tessera.randomness import Draws
from tessera.registry import build
from tessera.schema import Depth, Positive

__all__ = ["VQGAN"]

QUANTIZERS = {
    "nearest": "tessera.codecs.quantizers:Nearest",
    "ema": "tessera.codecs.quantizers:EMA",
    "gumbel": "tessera.codecs.quantizers:Gumbel",
}


class VQGAN(TokenCodec):
    """The convolutional token codec; every released VQ-Diffusion and absorbing codec is one (see `codecs.presets`).

    Args:
        codebook: number of codes.
        quantizer: "nearest", "ema" or "gumbel"; or a mapping with that name as "kind" and settings of the class in `codecs.quantizers`.
        width, multipliers, blocks, attention_levels, patch: of `convolutional.Encoder`; a token covers patch · 2^(levels - 1) pixels.
        features: channels between encoder and quantizer where there are 1×1 convolutions.
        dim: width of a code.
        classes: token values when only a subset of the codebook is used (`remap` says which codes); None for all.
        decoder_blocks: residual blocks per level of the decoder; None for one more than the encoder has.
        projections: whether there are 1×1 convolutions around the quantizer.
        activation_out: whether an activation stands before the last convolution of encoder and decoder.
        unit_range: the networks see and make pictures in [0, 1], not [-1, 1]; the codec's own pictures are in [-1, 1] always.
        local: what a code says of its position depends on its surroundings alone, see `convolutional`.
        encoder_kernel: side of the encoder's convolutions; 1 with one level and `local`: a code knows its own patch alone.
        linear_start: with one level, a linear map of each patch goes around both networks. It starts as the principal components of the
            first batch and the networks as nothing, so training starts from classical vector quantisation (see `codecs.patch`).
        log_sigma: whether there is the head of the likelihood.
    """

    def __init__(
        self, codebook: Positive, quantizer: str | Mapping[str, Any] = "nearest", width: Positive = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4), blocks: Depth = 2, attention_levels: Sequence[int] = (4,), features: Positive = 256,
        dim: Positive = 256, classes: int | None = None, decoder_blocks: Depth | None = None, projections: bool = True,
        activation_out: bool = True, unit_range: bool = False, patch: Positive = 1, local: bool = False, encoder_kernel: Positive = 3,
        linear_start: bool = False, log_sigma: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if any(level not in range(len(multipliers)) for level in attention_levels):
            raise UsageError(f"attention_levels {list(attention_levels)} name a level outside 0..{len(multipliers) - 1}")
        if not local and (any(width * m % 32 for m in multipliers) or width % 32):
            raise UsageError(
                f"width {width} with multipliers {list(multipliers)} gives channels that are no multiples of 32, the norms' groups"
            )
        if local and attention_levels:
            raise UsageError(f"local layers see no other positions, but attention_levels are {list(attention_levels)}: set them to []")
        if patch < 1:
            raise UsageError(f"patch must be at least 1, not {patch}")
        if encoder_kernel < 1 or encoder_kernel % 2 == 0:
            raise UsageError(f"encoder_kernel must be odd, not {encoder_kernel}")
        if linear_start and (len(multipliers) > 1 or projections):
            raise UsageError("linear_start goes from patches to codes and back: give one level (multipliers: [1]) and projections: false")
        self.config = {
            "kind": "vqgan", "codebook": codebook, "quantizer": quantizer if isinstance(quantizer, str) else dict(quantizer),
            "width": width, "multipliers": list(multipliers), "blocks": blocks,
            "attention_levels": list(attention_levels), "features": features, "dim": dim, "classes": classes,
            "decoder_blocks": decoder_blocks, "projections": projections, "activation_out": activation_out, "unit_range": unit_range,
            "patch": patch, "local": local, "encoder_kernel": encoder_kernel,
            "linear_start": linear_start, "log_sigma": log_sigma,
        }  # fmt: skip
        self.factor, self.classes = patch * 2 ** (len(multipliers) - 1), codebook if classes is None else classes
        self.unit_range = unit_range
        between, layers = features if projections else dim, Layers(local)
        narrow = Layers(local, encoder_kernel)
        self.encoder = Encoder(width, multipliers, blocks, attention_levels, between, activation_out, patch, narrow)
        self.to_codes = nn.Conv2d(features, dim, 1) if projections else nn.Identity()
        settings = {"kind": quantizer} if isinstance(quantizer, str) else quantizer
        self.quantizer: Quantizer = build("quantizer", QUANTIZERS, {**settings, "classes": codebook, "dim": dim})
        self.from_codes = nn.Conv2d(dim, features, 1) if projections else nn.Identity()
        more = blocks + 1 if decoder_blocks is None else decoder_blocks
        self.decoder = Decoder(width, multipliers, more, attention_levels, between, activation_out, patch, layers)
        self.linear = LinearPath(patch, dim) if linear_start else None
        if linear_start:
            self.encoder.vanish()
            self.decoder.vanish()
        self.remap = Remap(codebook, classes) if classes is not None else None
        self.log_sigma = _head(width * multipliers[0], patch, layers) if log_sigma else None

    def latents(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """What the quantizer sees at each position, row-major."""
        self.grid((image.shape[2], image.shape[3]))
        inside = self._inside(image)
        z = self.to_codes(self.encoder(inside))
        return (z if self.linear is None else z + self.linear.encode(inside)).flatten(2).transpose(1, 2)

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Iterator[Float[Tensor, "b c h2 w2"]]:
        """The encoder's maps, from fine to coarse."""
        return self.encoder.maps(self._inside(image))

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

    def reconstruct(self, image: Float[Tensor, "b 3 h w"], draws: Draws | None = None) -> Reconstruction:
        if self.training and self.linear is not None and int(self.quantizer.updates) == 0:
            self.linear.start_from(self._inside(image))
        z = self.latents(image)
        quantized = self.quantizer(z.flatten(0, 1))
        decoded = self._picture(quantized.values.view(z.shape), self.grid((image.shape[2], image.shape[3])))
        return Reconstruction(decoded, quantized.loss, self.quantizer.report(), quantized.indices)

    @property
    def last_weight(self) -> Tensor:
        return self.decoder.conv_out.weight

    def distribution(self, tokens: Int[Tensor, "b n"], grid: tuple[int, int]) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"]]:
        """Mean and log standard deviation of the pictures of tokens, in units where they are in [0, 1]. Only the head has gradients.

        Raises UsageError when the codec has no such head.
        """
        if self.log_sigma is None:
            raise UsageError("this codec has no head for the likelihood: make one with log_sigma=true and train it by `train: log-sigma`")
        with torch.no_grad():
            codes = tokens if self.remap is None else self.remap.restore(tokens)
            z = self._map(self.quantizer.embed(codes), grid)
            features = self.decoder.features(z)
            mean = F.pixel_shuffle(self.decoder.conv_out(features), self.decoder.patch)
            mean = mean if self.linear is None else mean + self.linear.decode(z)
        return mean if self.unit_range else (mean + 1) / 2, F.pixel_shuffle(self.log_sigma(features), self.decoder.patch)

    def nll(self, image: Float[Tensor, "b 3 h w"], tokens: Int[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """-log p(x | z) in nats of pictures in [-1, 1], whose density is meant in units where they are in [0, 1]."""
        mean, log_sigma = self.distribution(tokens, self.grid((image.shape[2], image.shape[3])))
        error = ((image + 1) / 2 - mean) * (-log_sigma).exp()
        return (error.square() / 2 + log_sigma + math.log(2 * math.pi) / 2).flatten(1).sum(1)

    def _inside(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return (image + 1) / 2 if self.unit_range else image

    def _picture(self, codes: Float[Tensor, "b n d"], grid: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
        z = self._map(codes, grid)
        image = self.decoder(z) if self.linear is None else self.decoder(z) + self.linear.decode(z)
        return 2 * image - 1 if self.unit_range else image

    def _map(self, codes: Float[Tensor, "b n d"], grid: tuple[int, int]) -> Float[Tensor, "b z h w"]:
        return self.from_codes(codes.transpose(1, 2).unflatten(2, grid))


def _head(channels: int, patch: int, layers: Layers) -> nn.Sequential:
    return nn.Sequential(layers.conv(channels, channels), nn.ReLU(), nn.Conv2d(channels, 3 * patch * patch, 1))
