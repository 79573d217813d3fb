"""The KL autoencoder of latent diffusion (Rombach et al. 2022, arXiv 2112.10752; kl-f8 of Stable and Versatile Diffusion).

image → Encoder → 1×1 → (μ, log σ²),   z = μ + σ ε,   latents = scale · z;   latents / scale → 1×1 → Decoder → image

The loss of the bottleneck is KL(N(μ, σ²) ‖ N(0, 1)), summed over a picture and divided by the number of its values, as the mean errors
that it is added to are.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tessera.codecs.codec import FloatCodec, Reconstruction
from tessera.codecs.convolutional import Decoder, Encoder, Layers
from tessera.codecs.linear_path import LinearPath
from tessera.errors import UsageError
from tessera.randomness import Draws
from tessera.schema import Depth, Positive

__all__ = ["KLAutoencoder"]

LOG_VARIANCE = (-30.0, 20.0)
"""log σ² is kept within these."""
START_DEVIATION = 0.1
"""Of latents at the beginning of a linear start."""


class KLAutoencoder(FloatCodec):
    """The convolutional codec of float latents; the defaults are kl-f8 (83.7 M parameters, 8 pixels per position).

    Args:
        channels: of the latents.
        width, multipliers, blocks, attention_levels: of `convolutional.Encoder`; the decoder has a block more per level.
        features: channels between the networks and the 1×1 convolutions.
        patch: side of the patches whose pixels become channels first; a latent covers patch · 2^(levels - 1) pixels.
        local: no layer knows more than a position's surroundings, see `convolutional`.
        kernel: side of the convolutions; 1 with one level and `local`: a latent is one patch, whatever surrounds it, so that an even patch
            has one latent wherever it is.
        linear_start: with one level, a linear map of each patch goes around both networks. It starts as the principal components of the
            first batch, each of unit size, and the networks as nothing, so that training starts from the best linear codec.
        least_deviation: of noise that is added to the drawn one while it trains. What differs in pictures then lies so far apart in latents
            that the decoder forgives as much noise, which is what a diffusion model leaves in them.
        scale: what latents are multiplied with, so that their standard deviation is near 1.
        kl_weight: weight of the bottleneck's loss.
    """

    to_moments: Any
    started: Tensor

    def __init__(
        self, channels: Positive = 4, width: Positive = 128, multipliers: Sequence[int] = (1, 2, 4, 4), blocks: Depth = 2,
        attention_levels: Sequence[int] = (), features: Positive = 4, scale: float = 0.18215, kl_weight: float = 1e-6,
        patch: Positive = 1, local: bool = False, kernel: Positive = 3, linear_start: bool = False,
        least_deviation: float = 0.0,
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
        if patch < 1 or kernel < 1 or kernel % 2 == 0:
            raise UsageError(f"patch must be at least 1 and kernel odd, not {patch} and {kernel}")
        if linear_start and (len(multipliers) > 1 or channels > 3 * patch**2):
            raise UsageError(
                f"linear_start goes from patches to latents and back: give one level (multipliers: [1]) and at most {3 * patch**2} channels"
            )
        if scale <= 0 or least_deviation < 0:
            raise UsageError(f"scale must be positive and least_deviation not negative, not {scale} and {least_deviation}")
        self.config = {
            "kind": "kl", "channels": channels, "width": width, "multipliers": list(multipliers), "blocks": blocks,
            "attention_levels": list(attention_levels), "features": features, "scale": scale, "kl_weight": kl_weight,
            "patch": patch, "local": local, "kernel": kernel, "linear_start": linear_start,
            "least_deviation": least_deviation,
        }  # fmt: skip
        self.factor, self.channels, self.scale, self.kl_weight = patch * 2 ** (len(multipliers) - 1), channels, scale, kl_weight
        self.least_deviation = least_deviation
        layers = Layers(local, kernel)
        self.encoder = Encoder(width, multipliers, blocks, attention_levels, 2 * features, patch=patch, layers=layers)
        self.to_moments = nn.Conv2d(2 * features, 2 * channels, 1)
        self.from_latents = nn.Conv2d(channels, features, 1)
        self.decoder = Decoder(width, multipliers, blocks + 1, attention_levels, features, patch=patch, layers=layers)
        self.linear = LinearPath(patch, channels) if linear_start else None
        if linear_start:
            self.register_buffer("started", torch.zeros((), dtype=torch.bool))
            self.encoder.vanish()
            self.decoder.vanish()
            nn.init.constant_(self.to_moments.bias.detach()[channels:], 2 * math.log(START_DEVIATION))
            nn.init.zeros_(self.to_moments.bias.detach()[:channels])

    def moments(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b c h2 w2"], Float[Tensor, "b c h2 w2"]]:
        """μ and log σ² (not limited yet) of z."""
        self.grid((image.shape[2], image.shape[3]))
        mean, log_variance = self.to_moments(self.encoder(image)).chunk(2, dim=1)
        return mean if self.linear is None else mean + self.linear.encode(image), log_variance

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Iterator[Float[Tensor, "b c h2 w2"]]:
        """The encoder's maps, from fine to coarse."""
        return self.encoder.maps(image)

    def encode(self, image: Float[Tensor, "b 3 h w"], draws: Draws | None = None) -> Float[Tensor, "b c h2 w2"]:
        """Pictures in [-1, 1] → latents, drawn with `draws`, the means without."""
        mean, log_variance = self.moments(image)
        return self.scale * self._draw(mean, log_variance.clamp(*LOG_VARIANCE), draws)

    def decode(self, latents: Float[Tensor, "b c h2 w2"]) -> Float[Tensor, "b 3 h w"]:
        return self._picture(latents / self.scale)

    def reconstruct(self, image: Float[Tensor, "b 3 h w"], draws: Draws | None = None) -> Reconstruction:
        if self.training and self.linear is not None and not self.started:
            self.linear.start_from(image, unit=True)
            self.started.fill_(True)
        mean, log_variance = self.moments(image)
        log_variance = log_variance.clamp(*LOG_VARIANCE)
        if self.least_deviation:  # added, not a bound: the gradient of σ must not end there
            log_variance = torch.logaddexp(log_variance, log_variance.new_tensor(2 * math.log(self.least_deviation)))
        z = self._draw(mean, log_variance, draws)
        kl = kl_from_normal(mean, log_variance)
        report = {"kl": kl.detach().mean(), "latent_deviation": z.detach().std()}
        return Reconstruction(self._picture(z), self.kl_weight * kl.mean() / image[0].numel(), report)

    @property
    def last_weight(self) -> Tensor:
        return self.decoder.conv_out.weight

    def _picture(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        image: Tensor = self.decoder(self.from_latents(z))
        return image if self.linear is None else image + self.linear.decode(z)

    @staticmethod
    def _draw(mean: Float[Tensor, "b c h w"], log_variance: Float[Tensor, "b c h w"], draws: Draws | None) -> Float[Tensor, "b c h w"]:
        if draws is None:
            return mean
        return mean + (log_variance / 2).exp() * draws.normal(*mean.shape[1:]).to(mean)


def kl_from_normal(mean: Float[Tensor, "b c h w"], log_variance: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """KL(N(μ, σ²) ‖ N(0, 1)) = ½ Σ (μ² + σ² - 1 - log σ²), of each picture in nats."""
    mean, log_variance = mean.float(), log_variance.float()
    return (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1) / 2
