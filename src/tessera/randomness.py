"""The one place that draws random numbers.

Image i of a request depends only on (seed, i): every image has its own generator, so a result does not change with the
batch it was computed in. Numbers are drawn on the CPU and moved, so devices agree too.

Categorical draws invert the cumulative distribution, accumulated in float64. The float32 Gumbel-max trick cuts the tail of the
noise and so lowers the effective temperature for large codebooks (Zheng et al. 2024, arXiv 2409.02908).
"""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["BatchDraws", "Draws", "derive_seed"]

BLOCK = 64
"""Classes per block of a categorical draw."""

BELOW_ONE = 1.0 - 2.0**-53


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part, so that streams named differently are independent."""
    digest = hashlib.blake2b("/".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _invert(weights: Float[Tensor, "b n k"], u: Float[Tensor, "b n"]) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n"]]:
    """The entry in whose share of the total weight u in [0, 1) falls, and where in that share, again in [0, 1)."""
    upper = weights.double().cumsum(-1)
    target = u.unsqueeze(-1) * upper[..., -1:]
    # right: the first entry whose cumulative weight exceeds the target. The clamp keeps a NaN weight from indexing out of range.
    index = torch.searchsorted(upper, target, right=True).clamp_(max=weights.shape[-1] - 1)
    width = upper.diff(dim=-1, prepend=torch.zeros_like(upper[..., :1])).gather(-1, index)
    rest = 1.0 - (upper.gather(-1, index) - target) / width
    return index.squeeze(-1), rest.squeeze(-1).clamp_(0.0, BELOW_ONE)


class Draws:
    """Random numbers for a batch, one independent stream per image.

    Args:
        seed: the request's seed, or that of each image's request where a batch serves several.
        indices: the number of each image of this batch within its request.
        device: where results are put.
    """

    def __init__(self, seed: int | Sequence[int], indices: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        seeds = [seed] * len(indices) if isinstance(seed, int) else seed
        self.generators = [torch.Generator().manual_seed(derive_seed(*pair)) for pair in zip(seeds, indices, strict=True)]

    def rows(self, rows: Sequence[int]) -> "Draws":
        """Those of some images of the batch: their streams go on here."""
        own = Draws(0, [], self.device)
        own.generators = [self.generators[row] for row in rows]
        return own

    def uniform(self, *shape: int) -> Float[Tensor, "b ..."]:
        """float64 values in [0, 1) of shape [B, *shape]; `shape` is the shape for one image."""
        rows = [torch.rand(shape, generator=g, dtype=torch.float64) for g in self.generators]
        return torch.stack(rows).to(self.device)

    def normal(self, *shape: int) -> Float[Tensor, "b ..."]:
        """float32 standard normal values of shape [B, *shape]."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators]).to(self.device)

    def categorical(self, log_p: Float[Tensor, "b n k"]) -> Int[Tensor, "b n"]:
        """One class per position from (not necessarily normalised) log-probabilities, classes last.

        The cumulative distribution is inverted in two levels, first over blocks of classes and then within one block, so that
        no float64 tensor of the size of `log_p` is made. Classes of zero mass are never drawn.
        """
        weights = (log_p - log_p.amax(-1, keepdim=True)).exp_()
        blocks = pad(weights, (0, -weights.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
        block, rest = _invert(blocks.sum(-1), self.uniform(log_p.shape[1]))
        within, _ = _invert(blocks.gather(2, block[..., None, None].expand(-1, -1, 1, BLOCK)).squeeze(2), rest)
        return (block * BLOCK + within).clamp_(max=log_p.shape[-1] - 1)

    def choose(self, score: Float[Tensor, "b n"], count: int) -> Bool[Tensor, "b n"]:
        """`count` positions per image, drawn without replacement in proportion to `score`; score 0 is never chosen.

        Successive sampling by exponential races (Efraimidis & Spirakis 2006): the `count` largest of log(score) - log(-log u).
        """
        u = self.uniform(score.shape[1]).clamp_(min=1e-300)
        keys = score.double().log() - (-u.log()).log()
        chosen = torch.zeros_like(score, dtype=torch.bool)
        chosen.scatter_(1, keys.topk(count, dim=1).indices, True)
        return chosen & (score > 0)


class BatchDraws(Draws):
    """Random numbers for a whole batch from one stream: for training, where a batch is one unit and speed counts.

    Args:
        seed: names the stream; training derives it from the run's seed and the step.
        batch: B.
        device: where results are put.
    """

    def __init__(self, seed: int, batch: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.batch = batch
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> Float[Tensor, "b ..."]:
        return torch.rand((self.batch, *shape), generator=self.generator, dtype=torch.float64).to(self.device)

    def normal(self, *shape: int) -> Float[Tensor, "b ..."]:
        return torch.randn((self.batch, *shape), generator=self.generator).to(self.device)
