"""VQ-Diffusion's training loss, and whole training steps with its optimiser, learning-rate rule and moving average."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tessera.checkpoints.recording import PosteriorProcess, RecordedDraws
from tessera.contexts.context import Context
from tessera.contexts.null_prompt import fill_null
from tessera.families.vq_diffusion.checkpoint import export_network, load_network, network_names
from tessera.processes.discrete import log_one_hot
from tessera.processes.discrete_loss import DiscreteLoss
from tessera.processes.token_loss import LossOutput
from tessera.training.ema import EMA
from tessera.training.schedules import Plateau
from tests.conformance.cases import Case
from tests.conformance.vq_diffusion_build import network_from, schedule_from
from tests.conformance.vq_diffusion_process import with_mask

__all__ = ["COMPONENTS"]

NETWORK = "transformer."
"""Prefix of the network's names within the originals' diffusion model."""


class Trained(nn.Module):
    """The trainable parts of a case: the network, the learned null embedding if there is one, and the loss with its statistics."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        params = case.config["diffusion_config"]["params"]
        released = case.state_dict("transformer.")
        self.network = network_from(params)
        load_network(self.network, released)
        schedule = schedule_from(params["diffusion_step"], params["alpha_init_type"])
        self.loss = DiscreteLoss(
            PosteriorProcess(schedule, self.network.classes),
            auxiliary_weight=params["auxiliary_loss_weight"],
            adaptive_auxiliary=params["adaptive_auxiliary_loss"],
            mask_weight=tuple(params["mask_weight"]),
        )
        self.null: nn.Parameter | None = None
        if params.get("learnable_cf"):
            self.null = nn.Parameter(released["transformer.empty_text_embed"].double())  # its precision in released files

    def context(self, inputs: dict[str, Tensor]) -> Context:
        """Class labels, stored text embeddings (the learned null in place of empty texts), or nothing."""
        if "label" in inputs:
            return Context(labels=inputs["label"])
        if "cond_table" not in inputs:
            return Context()
        context = Context(inputs["cond_table"][inputs["cond_index"]])
        if self.null is None:
            return context
        empty = [None if n <= 2 else n for n in inputs["n_text_tokens"].tolist()]  # 2: only the start and the end token
        return fill_null(context, Context(self.null[None]), empty)

    def forward(self, inputs: dict[str, Tensor]) -> LossOutput:
        context = self.context(inputs)
        draws = RecordedDraws(inputs["noise"].unsqueeze(0))
        return self.loss(lambda x_t, t: self.network(x_t, t - 1, context), inputs["x_0"], draws, t=inputs["t"] + 1)

    def released(self) -> dict[str, Tensor]:
        """Present parameters and statistics under the originals' names."""
        values = export_network(self.network, NETWORK)
        if self.null is not None:
            values["empty_text_embed"] = self.null
        return values | {"Lt_history": self.loss.history, "Lt_count": self.loss.count}

    def released_parameters(self) -> list[str]:
        return sorted(set(self.released()) - {"Lt_history", "Lt_count"})

    def released_gradients(self) -> dict[str, Tensor]:
        """Gradients under the originals' names, several of which can be parts of one tensor of ours."""
        gradients: dict[str, Tensor] = {}
        parameters = dict(self.network.named_parameters())
        for name, targets in network_names(self.network).items():
            value = parameters[name]
            parts = (torch.zeros_like(value) if value.grad is None else value.grad).chunk(len(targets))
            gradients |= {NETWORK + target: part for target, part in zip(targets, parts, strict=True)}
        if self.null is not None and self.null.grad is not None:
            gradients["empty_text_embed"] = self.null.grad
        return gradients


def norms(values: dict[str, Tensor], names: list[str]) -> Tensor:
    return torch.stack([values[name].detach().double().norm() for name in names])


def training_loss(case: Case) -> dict[str, Tensor]:
    """One forward and backward pass with given tokens, times and noise."""
    io = case.io
    model = Trained(case)
    if "Lt_history" in io:
        model.loss.history.copy_(io["Lt_history"])
        model.loss.count.copy_(io["Lt_count"])
    probabilities = model.loss.time_distribution()
    out = model(io)
    out.loss.backward()
    assert out.kl is not None
    assert out.decoder_nll is not None
    process = model.loss.process
    gradients = model.released_gradients()
    gradient_norms = norms(gradients, sorted(gradients))
    return {
        "grad_norm": gradient_norms,
        "grad_total_norm": gradient_norms.norm(),
        "x_t": out.x_t,
        "log_x0_recon": with_mask(out.log_p),
        "log_model_prob": process.posterior(out.log_p, out.x_t, out.t, out.t - 1).transpose(1, 2),
        "log_true_prob": process.posterior(log_one_hot(out.x_0, process.classes), out.x_t, out.t, out.t - 1).transpose(1, 2),
        "kl": out.kl,
        "decoder_nll": out.decoder_nll,
        "kl_aux": out.cross_entropy,
        "pt": out.p_t,
        "pt_all": probabilities,
        "vb_loss": out.per_image,
        "loss": out.loss,
        "Lt_history_after": model.loss.history,
        "Lt_count_after": model.loss.count,
    }


def training_steps(case: Case) -> dict[str, Tensor]:
    """Several steps of the originals' training, from the recorded batches."""
    settings: dict[str, Any] = case.config["optimiser"]
    rule, average = settings["scheduler"], settings["ema"]
    model = Trained(case)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings["base_lr"], betas=settings["betas"], weight_decay=settings["weight_decay"]
    )
    schedule = Plateau(
        rule["warmup_lr"], rule["warmup"], settings["base_lr"], rule["min_lr"], rule["factor"], rule["patience"], rule["threshold"]
    )  # fmt: skip
    ema = EMA(model.state_dict(), average["decay"], average["update_interval"])
    record: dict[str, list[float]] = {"loss": [], "lr": [], "grad_total_norm": []}
    per_step = [name for name in case.io if name in ("x_0", "t", "noise", "cond_index", "n_text_tokens", "label")]
    for step in range(case.config["steps"]):
        inputs = {**case.io, **{name: case.io[name][step] for name in per_step}}
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate
        loss = model(inputs).loss
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), settings["clip_grad_norm"]["max_norm"])
        optimizer.step()
        for name, value in zip(record, (loss.item(), schedule.rate, norm.item()), strict=True):
            record[name].append(value)
        schedule.step(loss.item())
        ema.step(step + 1)

    outputs = {name: torch.tensor(values, dtype=torch.float64) for name, values in record.items()}
    outputs["Lt_history_after"] = model.loss.history
    names = model.released_parameters()

    def state(prefix: str) -> dict[str, Tensor]:
        values = model.released()
        watched = {name: value.numel() for name, value in case.expected.items() if name.startswith(f"{prefix}.")}
        found = {name: values[name.removeprefix(f"{prefix}.")].detach().flatten()[:first].clone() for name, first in watched.items()}
        return found | {f"{prefix}_norms": norms(values, names)}

    outputs |= state("param")
    with ema.applied():
        outputs |= state("ema")
    return outputs


COMPONENTS = {"training loss": training_loss, "training steps": training_steps}
