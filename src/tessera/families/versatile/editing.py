"""Picture to words to picture, with words removed and added on the way (the first release's application i2t2i).

    z' = z - (z · n) n + p,   n the unit vector of the latent of the words to remove, p the latent of the words to add

The new picture is drawn from a blend: of the first picture's tokens how it looks, and the new words followed by the added ones.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tessera.contexts.blend import LEVELS, Blend, MaskedPicture, Seen
from tessera.errors import UsageError

__all__ = ["WORDS_SHARE", "edit_blend", "edited"]

WORDS_SHARE = 0.67
"""Of the words beside the picture."""


def edited(
    latents: Float[Tensor, "b z"], remove: Float[Tensor, "1 n"] | None = None, add: Float[Tensor, "1 p"] | None = None
) -> Float[Tensor, "b z"]:
    """Latents of texts without their part along the latent `remove`, plus the latent `add`.

    A latent `remove` of length 0 removes nothing. Raises UsageError for latents of different sizes.
    """
    for given in (remove, add):
        if given is not None and given.shape[-1] != latents.shape[-1]:
            raise UsageError(f"latents of {given.shape[-1]} numbers cannot edit latents of {latents.shape[-1]}: use one text autoencoder")
    if remove is not None:
        n = F.normalize(remove, dim=-1)
        latents = latents - (latents * n).sum(-1, keepdim=True) * n
    return latents if add is None else latents + add


def edit_blend(
    picture: Image.Image | MaskedPicture, text: str, add: str | None = None, words: float | None = None, colour: str = "none"
) -> Blend:
    """What the new picture is made of: how the picture looks, and its new `text`. words: their share, `WORDS_SHARE` unless given."""
    words = WORDS_SHARE if words is None else words
    look = Seen(picture, directions=LEVELS[1], class_token=False)
    return Blend((look,), (text,) if add is None else (text, add), (words, 1 - words), colour=colour)
