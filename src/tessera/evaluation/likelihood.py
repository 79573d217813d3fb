"""How probable a model of tokens finds pictures: a bound on -log p(x) in bits per dimension.

    -log p(x) ≤ -log p(x | z) + B(z),    z the picture's tokens

    B(z) = Σ_t E KL( q(z_{t-1} | z_t, z) || p(z_{t-1} | z_t) ),    the term of t = 1 is -log p(z | z_1) (see `processes.discrete_loss`);
           of an absorbing process Σ_t r_t E CE_t (see `processes.masked_loss`); of a causal network -log p(z), exactly

    bits per dimension = (-log p(x | z) + B(z) + D ln 2^bits) / (D ln 2)

over the D values of a picture. The decoder's density is over values in [0, 1], of which a picture has 2^bits: 8 bits in our files. The
original (Bond-Taylor et al. 2022, arXiv 2111.12701) counts 5, so its numbers are smaller by 3.

A process that does not end fully masked, such as VQ-Diffusion's, has one term more, of its last time: what z_T still says of z,

    L_T = KL( q(z_T | z) || p(z_T) ),    p(z_T): the mask with probability gamma_bar_T, else any code

It knows no network. The original (Gu et al. 2022, arXiv 2111.14822) leaves it out of B, and so do training and this. It is given beside B:
1e-4 bits per token of VQ-Diffusion.

One mask is drawn at every time, or at some
of them, one in each of equally many neighbours, whose terms then stand for all: an unbiased estimate with fewer calls of the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tessera.contexts.context import Unconditional
from tessera.errors import UsageError
from tessera.flow import TokenFlow
from tessera.processes.discrete import DiscreteProcess
from tessera.processes.discrete_loss import variational_terms
from tessera.processes.masked_loss import revealed
from tessera.randomness import Draws, derive_seed
from tessera.samplers.sampler import Predict

__all__ = ["Likelihood", "bits_per_dimension", "bound_terms", "evaluate_likelihood", "last_term", "spread_times", "token_bound"]


@dataclass(frozen=True)
class Likelihood:
    """Means over pictures, with the standard error of the mean.

    bits_per_token: B over the tokens of a picture. last: L_T of a token, in bits, which is not in B.
    bits_per_dimension: of the picture; None where the codec gives no likelihood.
    decoder: the decoder's part of it, with the constant of the values' bits. pictures, times: of the estimate; times 1 is exact.
    """

    bits_per_token: float
    bits_per_token_error: float
    last: float
    bits_per_dimension: float | None
    bits_per_dimension_error: float | None
    decoder: float | None
    bits: int
    pictures: int
    times: int


def bits_per_dimension(nats: Float[Tensor, " b"], dimensions: int, bits: int = 8) -> Float[Tensor, " b"]:
    """Of -log p of pictures of values in [0, 1], that many a picture, which are counted as `bits`-bit numbers."""
    return nats / (dimensions * math.log(2)) + bits


def last_term(process: DiscreteProcess) -> float:
    """L_T of a token, in nats: 0 of a process that ends fully masked."""
    kept, left = float(process.schedule.alpha_bar[-1]), float(1 - process.schedule.gamma_bar[-1])
    other = max(left - kept, 0.0) / process.classes
    shares = [(kept + other, 1), (other, process.classes - 1)]
    return sum(count * share * math.log(share * process.classes / left) for share, count in shares if share > 0)


def bound_terms(
    predict: Predict, process: DiscreteProcess, x_0: Int[Tensor, "b n"], times: Int[Tensor, " s"], draws: Draws
) -> Float[Tensor, "s b"]:
    """The term of B at each of the times, in nats, with a mask drawn for each."""
    return torch.stack([_term(predict, process, x_0, time.expand(len(x_0)), draws) for time in times.to(x_0.device)])


def _term(predict: Predict, process: DiscreteProcess, x_0: Int[Tensor, "b n"], t: Int[Tensor, " b"], draws: Draws) -> Float[Tensor, " b"]:
    x_t = process.noise(x_0, t, draws)
    log_p = predict(x_t, t)
    if process.absorbing:
        nats = -log_p.gather(-1, x_0.unsqueeze(-1)).squeeze(-1)
        return (nats * (x_t == process.mask)).sum(-1) * revealed(process, t).float()
    kl, decoder_nll = variational_terms(process, log_p, x_0, x_t, t)
    return torch.where(t == 1, decoder_nll.sum(-1), kl.sum(-1))


def spread_times(steps: int, count: int, draws: Draws) -> tuple[Int[Tensor, " s"], Float[Tensor, " s"]]:
    """`count` of the times 1..T, one drawn in each part of about T / count neighbours, falling; and for how many times each stands."""
    edges = torch.arange(count + 1) * steps // count
    width = edges.diff()
    u = draws.uniform(count)[0].cpu()
    return (edges[:-1] + 1 + (u * width).long()).flip(0), width.flip(0).float()


def token_bound(
    flow: TokenFlow, x_0: Int[Tensor, "b n"], prompts: Sequence[Any], draws: Draws, times: int | None = None
) -> Float[Tensor, " b"]:
    """B of tokens in nats, from one mask at each of `times` times, all unless told otherwise."""
    if flow.loss.causal:
        logits = flow.network(x_0, torch.zeros(len(x_0), dtype=torch.int64, device=x_0.device), flow.context_encoder(prompts))
        return -logits.float().log_softmax(-1).gather(-1, x_0.unsqueeze(-1)).sum((-2, -1))
    process = flow.process
    count = process.steps if times is None else times
    if not 1 <= count <= process.steps:
        raise UsageError(f"times must be between 1 and {process.steps} for this model, not {times}")
    visited, stands = spread_times(process.steps, count, draws)
    predict = flow.predictor(flow.context_encoder(prompts).to(flow.device))
    return stands.to(x_0.device) @ bound_terms(predict, process, x_0, visited, draws)


@torch.inference_mode()
def evaluate_likelihood(
    flow: TokenFlow,
    pictures: Iterable[tuple[Float[Tensor, "b 3 h w"], Sequence[Any]]],
    *,
    seed: int = 0,
    times: int | None = None,
    bits: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Likelihood:
    """The likelihood of batches of (pictures in [-1, 1], their prompts).

    Args:
        times: see `token_bound`.
        bits: of a value of a picture.
        progress: called with the number of pictures done.

    Raises UsageError for pictures without the prompts that the model takes, for no pictures, or for other times than the model has.
    """
    tokens_nats: list[Tensor] = []
    decoder_nats: list[Tensor] = []
    dimensions = tokens = done = 0
    codec: Any = flow.codec
    scored = getattr(codec, "log_sigma", None) is not None
    takes_prompts = not isinstance(flow.context_encoder, Unconditional)
    for image, prompts in pictures:
        if takes_prompts and None in prompts:
            raise UsageError(
                f"picture {done + 1 + list(prompts).index(None)} says nothing of what it shows, but this model's likelihood is that "
                "of pictures given their words or class: measure it on data with captions or labels"
            )
        image = image.to(flow.device)
        x_0 = codec.encode(image)
        draws = Draws(derive_seed(seed, "likelihood"), range(done, done + len(image)), flow.device)
        tokens_nats.append(token_bound(flow, x_0, prompts, draws, times).double().cpu())
        if scored:
            decoder_nats.append(codec.nll(image, x_0).double().cpu())
        dimensions, tokens = image[0].numel(), x_0.shape[1]
        done += len(image)
        if progress is not None:
            progress(done)
    if not done:
        raise UsageError("no picture to evaluate: the dataset is empty")
    bound = torch.cat(tokens_nats)
    of_tokens = bound / (tokens * math.log(2))
    whole = decoder = None
    if scored:
        nats = torch.cat(decoder_nats)
        whole, decoder = bits_per_dimension(bound + nats, dimensions, bits), bits_per_dimension(nats, dimensions, bits)
    return Likelihood(
        bits_per_token=float(of_tokens.mean()), bits_per_token_error=_error(of_tokens),
        last=0.0 if flow.loss.causal else last_term(flow.process) / math.log(2),
        bits_per_dimension=None if whole is None else float(whole.mean()),
        bits_per_dimension_error=None if whole is None else _error(whole),
        decoder=None if decoder is None else float(decoder.mean()), bits=bits, pictures=done,
        times=1 if flow.loss.causal else flow.process.steps if times is None else times,
    )  # fmt: skip


def _error(values: Float[Tensor, " b"]) -> float:
    return float(values.std() / len(values) ** 0.5) if len(values) > 1 else math.nan
