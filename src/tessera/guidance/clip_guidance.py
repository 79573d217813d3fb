"""CLIP guidance: pictures are led to what a CLIP finds near the prompts (Crowson 2021, v-diffusion-pytorch), whatever model draws them.

    L = scale Σ_pictures mean_cutouts d(E(cutout of decode(x_0)), target),    target = Σ w_i e_i / |Σ w_i e_i|,  Σ |…| see `clip_target`
    d(a, b) = 2 arcsin(|a/|a| - b/|b|| / 2)²

half the squared angle between them. The denoiser needs no prompt of its own, and `encoder` may be any `JointEncoder`. The gradient is taken
in two parts: through the encoder to the picture, some cutouts at a time, then through `decode` and the denoiser. So what the encoder holds
for its part is that of a few cutouts, and is free again before the second part begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from tessera.contexts.joint import JointEncoder
from tessera.errors import UsageError
from tessera.guidance.classifier_free import LARGEST_SCALE
from tessera.guidance.cutouts import cut, draw_boxes, magnified
from tessera.guidance.descent import Descent
from tessera.pictures import as_tensor, upright_rgb
from tessera.processes.gaussian import GaussianProcess
from tessera.randomness import Draws
from tessera.samplers.sampler import PredictFloat

__all__ = ["CLIPGuidance", "ClipSlope", "clip_guided", "clip_target", "picture_embedding", "shrunk", "spherical_distance"]

LEAST_SUM = 1e-3
"""Below this sum of weights there is no direction to go in."""

Decode = Callable[[Float[Tensor, "b ..."]], Float[Tensor, "b 3 h w"]]
"""x_0 → pictures in [-1, 1], differentiable: a codec's `decode`, or nothing to do for pixels."""


def spherical_distance(a: Float[Tensor, "*n d"], b: Float[Tensor, "*m d"]) -> Float[Tensor, "*k"]:
    """d(a, b) along the last axis, in [0, π²/2]."""
    between = F.normalize(a, dim=-1) - F.normalize(b, dim=-1)
    return (between.norm(dim=-1) / 2).clamp(max=1).arcsin().square() * 2


@dataclass(frozen=True)
class CLIPGuidance:
    """How strongly, and by how many cutouts. Raises UsageError for a value out of range.

    scale: of the loss; 0 is none. cutouts: of each picture at each call of the denoiser. power: see `cutouts`. chunk: cutouts of each
    picture whose graph is in memory at a time.
    """

    scale: float = 500.0
    cutouts: int = 16
    power: float = 1.0
    chunk: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.scale <= LARGEST_SCALE:
            raise UsageError(
                f"the scale of CLIP guidance must be a number from 0 (none; 500 is usual) to {LARGEST_SCALE:g}, not {self.scale}"
            )
        if self.cutouts < 1 or self.chunk < 1:
            raise UsageError(f"CLIP guidance needs at least 1 cutout, not {min(self.cutouts, self.chunk)}")
        if not 0 < self.power < float("inf"):
            raise UsageError(f"the cut power must be a number above 0 (1 is usual), not {self.power}")


def clip_target(embeddings: Sequence[Float[Tensor, " d"]], weights: Sequence[float]) -> Float[Tensor, " d"]:
    """The unit vector to go to: the embeddings mixed by their weights over |Σ w|.

    Embeddings enter at their own length: of words that of their encoder, of pictures 1, as in the original, so that in a mixture words
    count that much more.

    Raises:
        UsageError: no prompt, or weights that sum to (nearly) zero.
    """
    if not embeddings:
        raise UsageError("CLIP guidance needs something to go to: give a prompt or a picture")
    given = torch.tensor(weights, dtype=torch.float32)
    if not given.sum().abs() >= LEAST_SUM:
        raise UsageError(f"the weights of the prompts sum to {float(given.sum()):g}, so they say nowhere to go: change one of them")
    stacked = torch.stack(list(embeddings))
    return F.normalize(((given / given.sum().abs()).to(stacked)[:, None] * stacked).sum(0), dim=-1)


def shrunk(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture whose shorter side is at most that of `size` = (height, width) of the pictures to come."""
    picture = upright_rgb(picture)
    short = min(picture.size)
    target = min(*size, short)
    sides = [target if side == short else int(target * side / short) for side in picture.size]
    return picture.resize((sides[0], sides[1]), Image.Resampling.LANCZOS)


def picture_embedding(
    picture: Image.Image, encoder: JointEncoder, size: tuple[int, int], guidance: CLIPGuidance, draws: Draws
) -> Float[Tensor, " d"]:
    """The mean of the unit embeddings of cutouts of a picture, for `clip_target`. `size`: see `shrunk`. `draws`: of one picture."""
    image = as_tensor(shrunk(picture, size))[None].to(encoder.device)
    boxes = draw_boxes(image.shape[2], image.shape[3], encoder.size, guidance.cutouts, guidance.power, draws)
    with torch.no_grad():
        return F.normalize(encoder.encode_image(cut(image, boxes, encoder.size)), dim=-1).mean(0)


@dataclass
class ClipSlope:
    """x_0 → the gradient of L there, a `Slope`. Each picture has its own cutouts from its own random numbers.

    Attributes:
        target: unit vector, the same for all pictures or one for each.
    """

    encoder: JointEncoder
    target: Float[Tensor, "#b d"]
    guidance: CLIPGuidance
    draws: Draws
    decode: Decode | None = None

    def __call__(self, x_0: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        x_0 = x_0.requires_grad_()
        image = magnified(x_0 if self.decode is None else self.decode(x_0))
        (slope,) = torch.autograd.grad(image, x_0, self.slope(image.detach(), self.boxes(image)))
        return slope

    def boxes(self, image: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n 3"]:
        """The next cutouts of decoded and magnified pictures."""
        height, width = image.shape[2:]
        return draw_boxes(height, width, self.encoder.size, self.guidance.cutouts, self.guidance.power, self.draws)

    def slope(self, image: Float[Tensor, "b 3 h w"], boxes: Int[Tensor, "b n 3"]) -> Float[Tensor, "b 3 h w"]:
        """∂L/∂(decoded and magnified picture)."""
        total = torch.zeros_like(image)
        for part in boxes.split(self.guidance.chunk, dim=1):
            pixels = image.clone().requires_grad_()
            loss = self.distances(pixels, part).sum() * (self.guidance.scale / boxes.shape[1])
            total += torch.autograd.grad(loss, pixels)[0]
        return total

    def distances(self, image: Float[Tensor, "b 3 h w"], boxes: Int[Tensor, "b n 3"]) -> Float[Tensor, "n b"]:
        """d of every cutout to the target."""
        embeddings = self.encoder.encode_image(cut(image, boxes, self.encoder.size))
        return spherical_distance(embeddings.unflatten(0, (-1, len(image))), self.target)


def clip_guided(
    predict: PredictFloat,
    process: GaussianProcess,
    encoder: JointEncoder,
    target: Float[Tensor, "#b d"],
    guidance: CLIPGuidance,
    draws: Draws,
    decode: Decode | None = None,
) -> PredictFloat:
    """The denoiser with CLIP guidance; at scale 0 the denoiser itself. See `Descent` for what `predict` must allow."""
    if guidance.scale == 0:
        return predict
    return Descent(predict, process, ClipSlope(encoder, target, guidance, draws, decode))
