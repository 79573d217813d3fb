"""The codec's contract: pictures ⇄ latents."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.errors import UsageError

__all__ = ["TokenCodec"]


class TokenCodec(nn.Module):
    """Pictures ⇄ tokens of a codebook.

    factor: picture pixels per token along each side.
    classes: K, the number of token values (after a code remap, if the model uses a subset of the codebook).
    """

    factor: int
    classes: int

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Picture (height, width) → token grid (h, w). Raises UsageError when the factor does not divide the size."""
        height, width = size
        if height <= 0 or width <= 0 or height % self.factor or width % self.factor:
            raise UsageError(f"size {width}x{height} does not fit the codec: both sides must be positive multiples of {self.factor}")
        return height // self.factor, width // self.factor

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """Pictures in [-1, 1] → tokens, row-major."""
        raise NotImplementedError

    def decode(self, tokens: Int[Tensor, "b n"], grid: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
        """Tokens, row-major over `grid` → pictures in [-1, 1] (clamped)."""
        raise NotImplementedError

    def codebook(self) -> Float[Tensor, "k d"]:
        """The code of every class."""
        raise NotImplementedError
