"""Absorbing diffusion's token transformer, its process and losses, whole training steps, the likelihood, names on disk, schedules."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tessera.codecs.vqgan import VQGAN
from tessera.contexts.context import Context
from tessera.data.folder import train_count
from tessera.evaluation.likelihood import bits_per_dimension, bound_terms
from tessera.families.absorbing.checkpoint import export_network, load_network, network_names
from tessera.families.absorbing.codec_checkpoint import codec_names
from tessera.families.absorbing.network import Transformer
from tessera.nn.initialisation import without_initialisation
from tessera.processes.discrete import DiscreteProcess, log_posterior
from tessera.processes.masked_loss import AutoregressiveLoss, MaskedLoss
from tessera.processes.schedules import absorbing
from tessera.processes.token_loss import TokenLoss
from tessera.randomness import Draws
from tessera.samplers.masked_language_model import MaskedLanguageModel
from tessera.training.adversary import Adversary, adaptive_weight
from tessera.training.ema import EMA
from tessera.training.schedules import Decay
from tests.conformance.absorbing_codec import TEMPERATURE, codec_config
from tests.conformance.cases import Case
from tests.conformance.settings import Settings, known

__all__ = ["COMPONENTS", "network_of"]


class GivenUniforms(Draws):
    """Uniform numbers one after the other as recorded."""

    def __init__(self, *uniforms: Tensor) -> None:
        super().__init__(0, [])
        self.uniforms = [u.double() for u in uniforms]

    def uniform(self, *shape: int) -> Tensor:
        return self.uniforms.pop(0)


def network_of(case: Case) -> Transformer:
    """The network of a case with its weights."""
    config = case.config
    with without_initialisation():
        network = Transformer(
            config["codebook_size"], config["latent_shape"][1:], config["bert_n_emb"], config["bert_n_layers"], config["bert_n_head"],
            causal=known("config.sampler", config["sampler"], {"absorbing": False, "autoregressive": True}),
            positions=config.get("block_size"),
        )  # fmt: skip
    load_network(network, case.weights())
    return network.eval()


OBJECTIVES = {"elbo": "elbo", "mlm": "mlm", "reweighted_elbo": "reweighted-elbo"}
"""The originals' words for a loss."""


def masked_loss(process: DiscreteProcess, config: Settings) -> MaskedLoss:
    mask = known("config.mask_schedule", config["mask_schedule"], {"random": "random", "fixed": "fixed"})
    return MaskedLoss(process, known("config.loss_type", config["loss_type"], OBJECTIVES), mask)


def process_of(config: dict[str, Any]) -> DiscreteProcess:
    return DiscreteProcess(absorbing(config.get("total_steps", 1)), config["codebook_size"])


def logits_of(network: Transformer) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x_t, t: network(x_t, t - 1, Context())


def with_zero(values: Tensor) -> Tensor:
    """The originals' statistics begin with a time 0 that nothing ever reaches."""
    return torch.cat([torch.zeros_like(values[:1]), values])


def transformer(case: Case) -> dict[str, Tensor]:
    io, network = case.io, network_of(case)
    causal = network.causal
    tokens = io["x"] if causal else io["tokens"]
    with torch.inference_mode():
        logits = network(tokens, torch.zeros(len(tokens), dtype=torch.int64), Context())
        b, n, k = case.config["logits_stride"]
        outputs = {
            "logits_slice": logits[::b, ::n, ::k],
            "logits_logsumexp": logits.logsumexp(-1),
            "logits_argmax": logits.argmax(-1),
            "logits_stats": torch.stack([logits.mean(), logits.std(), logits.abs().max()]),
        }
        if causal:
            outputs["train_loss"] = AutoregressiveLoss(process_of(case.config))(logits_of(network), tokens, Draws(0, [])).loss[None]
    return outputs


def noise_of(mask: str, uniform: Tensor, order: Tensor) -> GivenUniforms:
    """The draws with which the mask schedule masks as recorded: a position's number in the random order is its rank."""
    return GivenUniforms(uniform if mask == "random" else order.argsort(-1) / order.shape[-1])


def absorbing_process(case: Case) -> dict[str, Tensor]:
    """Noised tokens, every loss with both mask schedules, the statistics that it leaves, and importance sampling."""
    io, config = case.io, case.config
    network, process = network_of(case), process_of(config)
    outputs: dict[str, Tensor] = {}
    for name, mask in (("q_sample", "random"), ("q_sample_mlm", "fixed")):
        x_t = MaskedLoss(process, mask=mask).noise(io["x_0"], io["q_t"], noise_of(mask, io["q_uniform"], io["q_perm"]))
        masked = x_t == process.mask
        outputs |= {f"{name}/x_t": x_t, f"{name}/mask": masked, f"{name}/target": torch.where(masked, io["x_0"], -1)}
        outputs[f"{name}/n_masked"] = masked.sum(1)
    for mask in ("random", "fixed"):
        for theirs, objective in OBJECTIVES.items():
            loss = MaskedLoss(process, objective, mask)
            made = [
                loss(logits_of(network), io["x_0"], noise_of(mask, io["uniform"][i], io["perm"][i]), t) for i, t in enumerate(io["t"])
            ]  # fmt: skip
            bits = torch.stack([out.bits_per_token for out in made if out.bits_per_token is not None])
            place = f"{theirs}/{mask}"
            outputs |= {f"{place}/loss": torch.stack([out.loss for out in made]), f"{place}/vb_loss": bits}
            outputs |= {f"{place}/loss_per_sample": torch.stack([out.per_image for out in made])}
            outputs |= {f"{place}/loss_history": with_zero(loss.loss_history)}
            if objective == "elbo":
                outputs[f"{mask}/vb_loss_per_sample"] = torch.stack([out.per_image for out in made])
                outputs[f"{mask}/cross_entropy_per_sample"] = torch.stack([out.cross_entropy for out in made])
                outputs |= {f"{mask}/Lt_history": with_zero(loss.history), f"{mask}/Lt_count": with_zero(loss.count)}
            if theirs == "reweighted_elbo" and mask == "random":
                made[0].loss.backward()
                outputs["grad_norms"] = gradient_norms(network, case)
    return outputs | importance(case)


def importance(case: Case) -> dict[str, Tensor]:
    """Of 0..T in the original, whose time 0 takes the weight of time 1: a process of a time more has these weights."""
    io, steps = case.io, case.config["total_steps"]
    loss = MaskedLoss(DiscreteProcess(absorbing(steps + 1), case.config["codebook_size"]), time_sampling="importance")
    loss.history.copy_(torch.cat([io["Lt_history"][1:2], io["Lt_history"][1:]]))
    loss.count.fill_(11)
    t, p_t = loss.draw_times(len(io["time_uniform"]), GivenUniforms(io["time_uniform"]))
    outputs = {"importance/t": t - 1, "importance/pt": p_t, "importance/pt_all": loss.time_distribution()}
    early = MaskedLoss(process_of(case.config), time_sampling="importance")
    early.count.fill_(11)
    early.count[0] = 10
    drawn = io["t"][0]
    t, p_t = early.draw_times(len(drawn), GivenUniforms((drawn - 0.5) / steps))
    return outputs | {"importance_fallback/t": t, "importance_fallback/pt": p_t}


def gradient_norms(network: Transformer, case: Case) -> Tensor:
    """Of every parameter of the original, names sorted; 0 for the start token, which it does not use."""
    names = network_names(network)
    norms: dict[str, Tensor] = {}
    for own, parameter in network.named_parameters():
        assert parameter.grad is not None
        for target, part in zip(names[own], parameter.grad.chunk(len(names[own])), strict=True):
            norms[target] = part.norm()
    parameters = [name for name in case.manifest if name not in case.spec["weights"]["skipped"]]
    return torch.stack([norms.get(name, torch.zeros(())) for name in sorted(parameters)])


def elbo(case: Case) -> dict[str, Tensor]:
    """The bound from every time, with the recorded masks, and the bits per dimension with a decoder's likelihood."""
    io, config = case.io, case.config
    network, process = network_of(case), process_of(config)
    times = torch.arange(process.steps, 0, -1)
    with torch.inference_mode():
        predict = logits_of(network)
        terms = bound_terms(lambda x_t, t: log_posterior(predict(x_t, t)), process, io["x_0"], times, GivenUniforms(*io["uniform"]))
    bound = terms.sum(0)
    return {
        "terms": terms,
        "elbo": bound,
        "elbo_bits_per_token": bound / (io["x_0"].shape[1] * torch.log(torch.tensor(2.0))),
        "bpd": bits_per_dimension(bound + io["nll_raw"], config["pixels"], bits=5),
    }


def draws_of(case: Case, i: int) -> GivenUniforms:
    """Those of training step number `i`."""
    mask = case.config["mask_schedule"]
    return noise_of(mask, case.io["uniform"][i], case.io["perm"][i] if mask == "fixed" else torch.empty(0))


def sampler_training(case: Case) -> dict[str, Tensor]:
    """Steps of the original's training, from the recorded batches: Adam, its warm-up, its moving average of the parameters."""
    io, config = case.io, case.config
    for dropout in ("attn_pdrop", "embd_pdrop", "resid_pdrop"):
        known(f"config.{dropout}", config[dropout], {0.0: "none"})  # its random numbers are not recorded
    known("config.ema", config["ema"], {True: "kept"})
    network, process = network_of(case).train(), process_of(config)
    loss: TokenLoss = AutoregressiveLoss(process) if network.causal else masked_loss(process, config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config["lr"], betas=(0.9, 0.999), weight_decay=0.0)
    rate = warm_up(config["lr"], config["warmup_iters"])
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    ema = EMA(parameters, config["ema_beta"], config["steps_per_update_ema"])
    record: dict[str, list[Tensor]] = {"loss": [], "vb_loss": [], "lr": []}
    for i, step in enumerate(config["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        t = None if network.causal else io["t"][i]
        out = loss(logits_of(network), io["x"][i], GivenUniforms() if network.causal else draws_of(case, i), t)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        bits = out.bits_per_token
        assert bits is not None
        values = (out.loss.detach(), torch.zeros(()) if network.causal else bits.detach(), torch.tensor(rate(step), dtype=torch.float64))
        for name, value in zip(record, values, strict=True):
            record[name].append(value)
        if step > 0:
            ema.step(step)
    outputs = {name: torch.stack(values) for name, values in record.items()}
    kept = {name: case.weights()[name] for name in case.weights()}  # the start token that the bidirectional network does not use stays
    outputs |= probes("param", kept | export_network(network), config)
    if isinstance(loss, MaskedLoss):
        outputs |= {"loss_history": with_zero(loss.loss_history), "ema_loss_history": torch.zeros(process.steps + 1)}  # parameters only
    with ema.applied():
        return outputs | probes("ema", kept | export_network(network), config)


def probes(prefix: str, values: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": values[name].detach().flatten()[: config["probe_count"]].clone() for name in config["probe"]}


def checkpoint_mapping(case: Case) -> dict[str, Tensor]:
    """Every key of a VQGAN's file that the original hands out is read under that name, or belongs to a convolution that it never uses."""
    with torch.device("meta"):
        codec = VQGAN(**{key: value for key, value in codec_config(case.config).items() if key != "kind"})
    ours = {f"ae.{name}" for name in codec_names(codec).values()}
    spec: dict[str, dict[str, str]] = case.spec["expected_mapping"]
    taken = []
    for handed in spec.values():
        unused = {name for name in handed if name not in ours}
        wrong = sorted(name for name in unused if re.search(r"\.conv_out\.(weight|bias)$", name) is None)
        assert not wrong, f"the codec reads no {wrong[0]!r}"
        halves = {handed_name.split(".")[0] for handed_name in handed.values()} & {"encoder", "quantize", "generator"}
        read = ours if "encoder" in halves else {name for name in ours if not name.startswith("ae.encoder.")}
        assert read <= set(handed), f"the original hands out no {sorted(read - set(handed))[0]!r}"
        taken.append(len(unused) + len(read))
    return {"count": torch.tensor(taken)}


def schedules(case: Case) -> dict[str, Tensor]:
    """Rates, times, shares and weights that depend on counts alone."""
    io, config = case.io, case.config
    steps = io["steps"].tolist()
    outputs = {"warmup_steps": io["warmup_steps"], "gumbel_temp": of_each(TEMPERATURE.at, steps)}
    outputs["vqgan_lr"] = io["batch_sizes"] * config["base_lr"]  # a recipe says the rate itself
    outputs["warmup_lr"] = torch.stack([of_each(warm_up(rate, count), io["warmup_steps"].tolist()) for rate, count in config["warmup"]])
    outputs["split_train_count"] = torch.tensor([train_count(int(n), 0.95) for n in io["dataset_sizes"]])
    for times, count in config["mlm_steps"]:
        x = torch.zeros(1, 1, dtype=torch.int64)
        plan = MaskedLanguageModel().plan(DiscreteProcess(absorbing(times), 2), x, (1, 1), times, count, Draws(0, [0]))
        visited = [step.t for step in reversed(plan)]
        # One step draws everything from masks alone: ours is told the time T, the original's 1, and its network reads neither.
        outputs[f"mlm_steps/{times}_{count}"] = torch.tensor(visited if count > 1 else [1])
    value = io["ema_values"][0].clone()
    ema, averages = EMA({"value": value}, config["ema_beta"]), []
    for new in io["ema_values"]:
        value.copy_(new)
        ema.update()
        averages.append(ema.average["value"].clone())
    return outputs | {"ema": torch.stack(averages)} | contest(case)


def contest(case: Case) -> dict[str, Tensor]:
    """When the discriminator counts and learns, its loss of given logits, and its weight from given gradients."""
    io, config = case.io, case.config
    rival = Adversary(config["disc_start_step"], 1.0, width=8, layers=1)
    last = torch.ones(3, 1, 1, requires_grad=True)
    counts, learns = [], []
    for step in io["steps"].tolist():
        made = last * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        found = rival(step, made.detach(), made, made.square().mean(), last, lambda x: x, lambda x: x)
        counts.append(bool(found.weight > 0))
        learns.append(bool(found.discriminator > 0))
    rival.discriminator = nn.Identity()  # type: ignore[assignment]
    hinge = [
        rival.own_loss(*(side.expand(-1, 3, -1, -1) for side in pair)) for pair in zip(io["hinge_real"], io["hinge_fake"], strict=True)
    ]
    weight = torch.ones(3, 5, requires_grad=True)
    weights = [
        [adaptive_weight((weight * of_nll).sum(), (weight * of_g).sum(), weight, most) for most in config["disc_weight_max"]]
        for of_nll, of_g in zip(io["adaptive_recon_grad"], io["adaptive_g_grad"], strict=True)
    ]
    return {
        "disc_factor": torch.tensor(counts).double(), "disc_trained": torch.tensor(learns), "hinge_d_loss": torch.stack(hinge),
        "adaptive_weight": torch.tensor(weights),
    }  # fmt: skip


def of_each(function: Callable[[int], float], steps: Sequence[int]) -> Tensor:
    return torch.tensor([function(step) for step in steps], dtype=torch.float64)


def warm_up(peak: float, warmup: int) -> Callable[[int], float]:
    """The rate of step number `step`, from 0, of a constant rate with a warm-up."""

    def rate(step: int) -> float:
        schedule = Decay(peak, 10**9, "constant", warmup, base_first=True)
        schedule.load_state_dict({"done": step})
        return schedule.rate

    return rate


COMPONENTS = {
    "transformer": transformer,
    "absorbing_process": absorbing_process,
    "elbo": elbo,
    "sampler_training": sampler_training,
    "checkpoint_mapping": checkpoint_mapping,
    "schedules": schedules,
}
