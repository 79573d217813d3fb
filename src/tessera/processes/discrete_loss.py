"""The variational-bound loss of the mask-and-uniform process (Gu et al. 2022, arXiv 2111.14822, section 3.2 and eq. 14).

Per image, with t drawn with probability p_t and s = t - 1:

    bound     = KL( q(x_s | x_t, x_0) || p(x_s | x_t) )  summed over tokens,   for t > 1;      -log p(x_0 | x_1) for t = 1
    auxiliary = -log p(x_0 | x_t)                        summed over tokens
                (both sums weighted by `mask_weight` for t > 1)
                (vb_weight = 0: for t = 1 as for the others)
    loss      = (vb_weight bound + auxiliary_weight w_t auxiliary) / p_t,      w_t = 2 - (t - 1)/T if adaptive, else 1

averaged over images and tokens. With uniform times 1/p_t = T: `auxiliary_weight` = 1/T alone is the plain mean cross-entropy.
Times are drawn as the originals draw them by importance, see `token_loss`; of the bound where it counts, else of the cross-entropy.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.errors import UsageError
from tessera.processes.discrete import DiscreteProcess, log_one_hot, log_posterior
from tessera.processes.token_loss import LossOutput, TokenLoss
from tessera.randomness import Draws

__all__ = ["DiscreteLoss", "variational_terms"]


def variational_terms(
    process: DiscreteProcess, log_p: Float[Tensor, "b n k"], x_0: Int[Tensor, "b n"], x_t: Int[Tensor, "b n"], t: Int[Tensor, " b"]
) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
    """Of every token, in nats: KL of the true from the model's posterior, the term for t > 1, and -log p(x_s = x_0 | x_t), that for t = 1.

    log_p: log p(x_0 | x_t).
    """
    log_true = process.posterior(log_one_hot(x_0, process.classes), x_t, t, t - 1)
    log_model = process.posterior(log_p, x_t, t, t - 1)
    kl = (log_true.exp() * (log_true - log_model)).sum(-1)
    return kl, -log_model.gather(-1, x_0.unsqueeze(-1)).squeeze(-1)


class DiscreteLoss(TokenLoss):
    """VQ-Diffusion's training loss.

    Args:
        process: the noise.
        auxiliary_weight: weight of the cross-entropy of x_0 beside the bound.
        adaptive_auxiliary: weigh the auxiliary loss by 2 - (t - 1)/T.
        mask_weight: weights of masked and of unmasked tokens in the KL and the cross-entropy.
        vb_weight: weight of the bound; at 0 only the cross-entropy is computed, without any [B, N, K + 1] posterior.
        time_sampling: "importance", "uniform", or "mixed": half of each, so that no time is forgotten.
    """

    def __init__(
        self,
        process: DiscreteProcess,
        auxiliary_weight: float = 5e-4,
        adaptive_auxiliary: bool = True,
        mask_weight: Sequence[float] = (1.0, 1.0),
        vb_weight: float = 1.0,
        time_sampling: str = "importance",
    ) -> None:
        super().__init__(process, time_sampling)
        if vb_weight < 0 or auxiliary_weight < 0 or vb_weight == auxiliary_weight == 0:
            raise UsageError("the loss needs vb_weight and auxiliary_weight >= 0, at least one of them positive")
        if process.steps < 2 and vb_weight > 0 and time_sampling != "uniform":
            raise UsageError("importance sampling of times needs a process of at least two steps")
        if float(mask_weight[1]) == 0 and not process.absorbing:
            raise UsageError(
                "mask_weight gives unmasked tokens no loss, but this process draws them again from what is predicted there, which would "
                "never be learnt: use the absorbing process, or a weight above 0"
            )
        self.auxiliary_weight, self.adaptive_auxiliary, self.vb_weight = auxiliary_weight, adaptive_auxiliary, vb_weight
        self.mask_weight = (float(mask_weight[0]), float(mask_weight[1]))
        self.config = {
            "kind": "variational", "auxiliary_weight": auxiliary_weight, "adaptive_auxiliary": adaptive_auxiliary,
            "mask_weight": list(self.mask_weight), "vb_weight": vb_weight, "time_sampling": time_sampling,
        }  # fmt: skip

    def time_weights(self) -> Float[Tensor, " times"]:
        weight = super().time_weights()
        weight[0] = weight[1]  # the original's: the term of t = 1 is a likelihood, of another scale
        return weight

    def forward(
        self,
        predict_logits: Callable[[Tensor, Tensor], Tensor],
        x_0: Int[Tensor, "b n"],
        draws: Draws,
        t: Int[Tensor, " b"] | None = None,
        p_t: Float[Tensor, " b"] | None = None,
    ) -> LossOutput:
        t, p_t = self.times(len(x_0), draws, t, p_t)
        x_t = self.process.noise(x_0, t, draws)
        logits = predict_logits(x_t, t).float()
        masked = x_t == self.process.mask
        weight = torch.where(masked, self.mask_weight[0], self.mask_weight[1])

        kl = decoder_nll = bound = None
        if self.vb_weight > 0:
            log_p = log_posterior(logits)
            token_nll = -log_p.gather(-1, x_0.unsqueeze(-1)).squeeze(-1)
            kl, decoder_nll = variational_terms(self.process, log_p, x_0, x_t, t)
            kl, decoder_nll = (kl * weight).sum(-1), decoder_nll.sum(-1)
            bound = torch.where(t == 1, decoder_nll, kl)
        else:
            token_nll = nn.functional.cross_entropy(logits.flatten(0, 1), x_0.flatten(), reduction="none").view_as(x_0)
        cross_entropy = (token_nll * weight).sum(-1)
        # At t = 1 the original's auxiliary loss is the likelihood, without mask weights.
        auxiliary = cross_entropy if decoder_nll is None else torch.where(t == 1, decoder_nll, cross_entropy)

        scale = self.auxiliary_weight * (2.0 - (t - 1) / self.process.steps if self.adaptive_auxiliary else torch.ones_like(p_t))
        total = scale * auxiliary if bound is None else self.vb_weight * bound + scale * auxiliary
        per_image = total / p_t
        if self.training:
            self.record(t, auxiliary if bound is None else bound)
        return LossOutput(
            loss=per_image.sum() / x_0.numel(), per_image=per_image, auxiliary=auxiliary, cross_entropy=cross_entropy, bound=bound,
            kl=kl, decoder_nll=decoder_nll, t=t, p_t=p_t, x_0=x_0, x_t=x_t, masked=masked, logits=logits.detach(),
        )  # fmt: skip
