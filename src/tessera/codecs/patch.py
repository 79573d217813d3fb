"""A codec without context: every patch of f × f pixels is one token, whatever surrounds it.

    z = W patch + b,   k = argmin_j |z - e_j|²,   patch ≈ V e_k + c

This is classical vector quantisation (Linde, Buzo & Gray 1980) in a linear basis that is learnt with the codebook and starts as the
principal components of the first batch.

A convolutional encoder with normalisation over space and zero padding gives one flat background dozens of codes (global statistics and
borders leak in), which a diffusion model must then learn as noise. Here equal patches have equal codes, so a flat cell has exactly one.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.codecs.codec import Reconstruction, TokenCodec
from tessera.codecs.quantizers import EMA
from tessera.errors import UsageError
from tessera.randomness import Draws
from tessera.schema import Positive

__all__ = ["PatchVQ", "start_linear"]


class PatchVQ(TokenCodec):
    """Patch-local vector quantisation with an EMA codebook.

    Args:
        classes: codebook size K.
        factor: patch side f in pixels.
        dim: width of a code, at most the 3 f² values of a patch; bounds the quality and sets the cost of the search for the nearest code.
        commitment: weight β of |z - sg[e]|².
        decay: γ of the codebook's running means.
        patience: updates without use after which a code restarts.
        distinct: a patch gets a code of its own only when its squared error exceeds this share of the batch's variance.
    """

    def __init__(
        self, classes: Positive = 2560, factor: Positive = 8, dim: Positive = 96, commitment: float = 0.25, decay: float = 0.99,
        patience: int = 200, distinct: float = 1e-3,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 1 <= dim <= 3 * factor * factor:
            raise UsageError(
                f"dim {dim} does not fit patches of {factor}x{factor}: expected 1 to {3 * factor * factor}, the values of a patch"
            )
        self.config = {
            "kind": "patch", "classes": classes, "factor": factor, "dim": dim, "commitment": commitment, "decay": decay,
            "patience": patience, "distinct": distinct,
        }  # fmt: skip
        self.classes, self.factor = classes, factor
        self.encoder = nn.Linear(3 * factor * factor, dim)
        self.decoder = nn.Linear(dim, 3 * factor * factor)
        self.quantizer = EMA(classes, dim, commitment=commitment, distinct=distinct, patience=patience, decay=decay)

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        return self.quantizer.tokens(self._latents(self._patches(image)))

    def decode(self, tokens: Int[Tensor, "b n"], grid: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
        return self._picture(self.quantizer.embed(tokens), grid).clamp(-1, 1)

    def codebook(self) -> Float[Tensor, "k d"]:
        return self.quantizer.codebook

    def reconstruct(self, image: Float[Tensor, "b 3 h w"], draws: Draws | None = None) -> Reconstruction:
        patches = self._patches(image)
        if self.training and int(self.quantizer.updates) == 0:
            start_linear(self.encoder, self.decoder, patches.flatten(0, 1))
        z = self._latents(patches)
        quantized = self.quantizer(z.flatten(0, 1))
        decoded = self._picture(quantized.values.view(z.shape), self.grid((image.shape[2], image.shape[3])))
        return Reconstruction(decoded, quantized.loss, self.quantizer.report(), quantized.indices)

    @property
    def last_weight(self) -> Tensor:
        return self.decoder.weight

    def _patches(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n p"]:
        self.grid((image.shape[2], image.shape[3]))
        return F.pixel_unshuffle(image, self.factor).flatten(2).transpose(1, 2)

    def _picture(self, codes: Float[Tensor, "b n d"], grid: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
        return F.pixel_shuffle(self.decoder(codes).transpose(1, 2).unflatten(2, grid), self.factor)

    def _latents(self, patches: Float[Tensor, "*m p"]) -> Float[Tensor, "*m d"]:
        with torch.autocast(patches.device.type, enabled=False):  # a token must not depend on it
            return self.encoder(patches)


@torch.no_grad()
def start_linear(encoder: nn.Linear, decoder: nn.Linear, patches: Float[Tensor, "m p"]) -> None:
    """Make both maps those of the principal components of `patches`: the linear basis of the encoder's width that loses least."""
    mean = patches.mean(0)
    centred = (patches - mean).double()
    basis = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -encoder.out_features :].flip(1).to(patches.dtype)
    encoder.weight.copy_(basis.T)
    encoder.bias.copy_(-mean @ basis)
    decoder.weight.copy_(basis)
    decoder.bias.copy_(mean)
