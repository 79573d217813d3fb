"""Patches ⇄ codes by linear maps, z = W (x - c) and x ≈ V z + c, which start as classical vector quantisation does.

Beside networks that start as nothing, these make training start from the best linear basis of a patch instead of from noise.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tessera.codecs.patch import start_linear
from tessera.errors import UsageError

__all__ = ["LinearPath"]


class LinearPath(nn.Module):
    """Both maps for patches of `patch` pixels a side and codes of width `dim`, at most the 3 · patch² values of a patch."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        if dim > 3 * patch * patch:
            raise UsageError(
                f"dim {dim} does not fit patches of {patch}x{patch}: expected at most {3 * patch * patch}, the values of a patch"
            )
        self.patch = patch
        self.encoder = nn.Linear(3 * patch * patch, dim)
        self.decoder = nn.Linear(dim, 3 * patch * patch)

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h2 w2"]:
        return self.encoder(F.pixel_unshuffle(image, self.patch).movedim(1, -1)).movedim(-1, 1)

    def decode(self, z: Float[Tensor, "b d h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        return F.pixel_shuffle(self.decoder(z.movedim(1, -1)).movedim(-1, 1), self.patch)

    @torch.no_grad()
    def start_from(self, image: Float[Tensor, "b 3 h w"], unit: bool = False) -> None:
        """Principal components of the pictures' patches. unit: each with a standard deviation of 1."""
        start_linear(self.encoder, self.decoder, F.pixel_unshuffle(image, self.patch).movedim(1, -1).flatten(0, 2))
        if unit:
            size = self.encode(image).std((0, 2, 3)).clamp(min=1e-3)
            self.encoder.weight.div_(size[:, None])
            self.encoder.bias.div_(size)
            self.decoder.weight.mul_(size)
