"""VQ-Diffusion's sampling runs, every token of every draw.

The originals' words for a run (`sample_type` "top0.86r,time2", `prior_rule`, `prior_weight`, `guidance_scale`, `filter_ratio`) become
`SamplingSettings`, and the run is `TokenFlow.sample` with recorded noise and condition embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tessera.checkpoints.recording import PosteriorProcess, RecordedDraws
from tessera.codecs.codec import TokenCodec
from tessera.contexts.context import Context, ContextEncoder, Unconditional
from tessera.contexts.labels import Labels
from tessera.families.vq_diffusion.checkpoint import load_network
from tessera.flow import SamplingSettings, TokenFlow
from tessera.processes.discrete_loss import DiscreteLoss
from tessera.samplers.ancestral import Ancestral
from tessera.samplers.loop import Progress
from tessera.samplers.purity import HighQuality, Purity
from tessera.samplers.sampler import TokenSampler
from tessera.samplers.skipping import Skipping
from tests.conformance.cases import Case
from tests.conformance.settings import UnknownSetting, known
from tests.conformance.vq_diffusion_build import network_from, schedule_from
from tests.conformance.vq_diffusion_process import with_mask

__all__ = ["COMPONENTS"]

SAMPLE_TYPE = re.compile(r"(normal|top(?P<rate>[\d.]+)r|top(?P<count>\d+)p)?(,time(?P<time>[\d.]+))?")
NULL_LABEL = 1000
"""The class of "no label" in the originals; a smaller table of classes stands for it by its mean."""


class StoredEmbeddings(ContextEncoder):
    """Prompt "i" is row i of the stored embeddings; "no prompt" is the learned embedding, or row 0 (the empty text) without one."""

    def __init__(self, table: Tensor, null: Tensor | None) -> None:
        super().__init__()
        self.table, self.null = table, table[0] if null is None else null

    def forward(self, prompts: Sequence[str]) -> Context:
        return Context(self.table[[int(prompt) for prompt in prompts]])

    def unconditional(self, batch: int) -> Context:
        return Context(self.null.expand(batch, -1, -1))


class NoCodec(TokenCodec):
    """The runs end with tokens."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes, self.factor = classes, 1


class Witness(RecordedDraws):
    """Keeps the log-probabilities that each token was drawn from."""

    def __init__(self, noise: Tensor, choose_noise: Tensor | None, classes: int) -> None:
        super().__init__(noise, choose_noise)
        self.classes = classes
        self.drawn_from: list[Tensor] = []

    def categorical(self, log_p: Tensor) -> Tensor:
        self.drawn_from.append(with_mask(log_p) if log_p.shape[-1] == self.classes else log_p.transpose(1, 2))
        return super().categorical(log_p)


def settings_from(config: dict[str, Any], n_tokens: int) -> SamplingSettings:
    """The originals' words for a run → ours."""
    described = config.get("sample_type", "")
    found = SAMPLE_TYPE.fullmatch(described)
    if found is None:
        raise UnknownSetting(f"unknown config.sample_type {described!r} (known: top0.86r, top4p, normal, each with ,time2)")
    rate, count, time = found.group("rate", "count", "time")
    truncation = float(rate) if rate else int(count) if count else None
    return SamplingSettings(
        sampler=sampler_from(config, float(time) if time else 1.0, n_tokens),
        guidance=config.get("guidance_scale", 1.0),
        truncation=truncation,
        start=config.get("filter_ratio") or 1.0,
    )


def sampler_from(config: dict[str, Any], speed: float, n_tokens: int) -> TokenSampler:
    """`prior_rule` 0 (none), 1 (equal scores), 2 (purity) and the speed: skipping from 2 on, fewer tokens per pass below 1."""
    rule = known("config.prior_rule", config.get("prior_rule", 0), {0: 0, 1: 1, 2: 2})
    steps = config["diffusion_config"]["params"]["diffusion_step"]
    if speed >= 2:
        return Skipping(speed)
    if speed >= 1 and rule == 0:
        return Ancestral()
    per_pass = HighQuality(speed).limit(steps, n_tokens) if speed < 1 else n_tokens
    return Purity(config["prior_weight"], per_pass) if rule == 2 else HighQuality(per_pass=per_pass)


def context_encoder_from(case: Case, weights: dict[str, Tensor], params: dict[str, Any]) -> ContextEncoder:
    if "cond_table" in case.io:
        learned = case.config.get("learnable_cf", params.get("learnable_cf", False))
        return StoredEmbeddings(case.io["cond_table"], weights["transformer.empty_text_embed"].double().float() if learned else None)
    if "label" in case.config:
        classes = params["transformer_config"]["params"]["class_number"]
        return Labels(NULL_LABEL, "learned") if classes > NULL_LABEL else Labels(classes, "mean")
    return Unconditional()


def sampling(case: Case) -> dict[str, Tensor]:
    """A whole run, and the distributions at the recorded draws."""
    config, io, params = case.config, case.io, case.config["diffusion_config"]["params"]
    weights = case.state_dict()
    network = network_from(params)
    load_network(network, weights)
    process = PosteriorProcess(schedule_from(params["diffusion_step"], params["alpha_init_type"]), network.classes)
    flow = TokenFlow(NoCodec(network.classes), context_encoder_from(case, weights, params), network, DiscreteLoss(process)).eval()
    height, width = params["transformer_config"]["params"]["content_spatial_size"]

    draws = Witness(io["noise"], io.get("choose_noise"), process.classes)
    seen: list[Progress] = []
    inputs: list[tuple[Tensor, Tensor]] = []
    network.register_forward_pre_hook(lambda _, args: inputs.append(args[:2]))
    prompts = config.get("text") or config.get("label") or [None] * config["batch"]
    flow.sample(prompts, (height, width), settings_from(config, height * width), draws, callback=seen.append, init=io.get("content_token"))

    batch = len(prompts)
    before = torch.stack([x_t[:batch] for x_t, _ in inputs])
    after = torch.stack([progress.x for progress in seen])
    t_model = torch.stack([t_index[0] for _, t_index in inputs])
    # Our times are the originals' + 1, and a posterior that ends at s is theirs at index s. A pass that stays at t ends at their t.
    t_posterior = torch.minimum(torch.tensor([progress.t for progress in seen]), t_model)

    recorded, stride = [range(len(seen))[i] for i in config["record_draws"]], config.get("token_stride", 1)
    first = len(draws.drawn_from) - len(seen)  # a partial start draws its noise before
    ends = [t_posterior[i].expand(batch) for i in recorded]
    posteriors = [process.posterior(seen[i].posterior, before[i], s + 1, s) for i, s in zip(recorded, ends, strict=True)]
    return {
        "x_first": before[0],
        "x": after,
        "t_model": t_model,
        "t_posterior": t_posterior,
        "log_x0": torch.stack([with_mask(seen[i].posterior) for i in recorded])[..., ::stride],
        "log_posterior": torch.stack([log_p.transpose(1, 2) for log_p in posteriors])[..., ::stride],
        "draw_logits": torch.stack([draws.drawn_from[first + i] for i in recorded])[..., ::stride],
        "n_selected": ((before == process.mask).sum(-1) - (after == process.mask).sum(-1))[:-1].T,
    }


COMPONENTS = {"sampling": sampling}
