"""Absorbing diffusion's VQGAN: encoding, decoding, likelihood, discriminator, training steps; LPIPS and differentiable augmentation."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from tessera.checkpoints.recording import GumbelDraws
from tessera.codecs.quantizer import perplexity
from tessera.codecs.quantizers import Gumbel
from tessera.codecs.vqgan import VQGAN
from tessera.families.absorbing.codec_checkpoint import codec_names, load_codec
from tessera.nn.discriminator import PatchDiscriminator
from tessera.nn.lpips import LPIPS
from tessera.training.adversary import Change
from tessera.training.augment import brightness, contrast, cutout, saturation, translate
from tessera.training.autoencoder import CodecTask
from tessera.training.ema import EMA
from tessera.training.optimizers import Optimizers
from tessera.training.recipe import Adversary, CodecLoss, CodecRecipe, Optimizer, Temperature
from tests.conformance.cases import Case
from tests.conformance.settings import known

__all__ = ["COMPONENTS", "TEMPERATURE", "codec_config"]

TEMPERATURE = Temperature(steps=160_000)
"""Of the original's Gumbel quantizer: a constant of its code."""


def codec_config(config: dict[str, Any]) -> dict[str, Any]:
    """Our description of an original's VQGAN."""
    quantizers = {
        "nearest": {"kind": "nearest", "commitment": 1.0, "codebook_weight": config["beta"]},
        "gumbel": {"kind": "gumbel", "kl_weight": config["gumbel_kl_weight"], "straight_through": config["gumbel_straight_through"]},
    }
    levels = range(len(config["ch_mult"]))
    return {
        "kind": "vqgan", "codebook": config["codebook_size"], "width": config["nf"],
        "quantizer": known("config.quantizer", config["quantizer"], quantizers),
        "multipliers": config["ch_mult"], "blocks": config["res_blocks"], "decoder_blocks": config["res_blocks"],
        "attention_levels": [level for level in levels if config["img_size"] // 2**level in config["attn_resolutions"]],
        "dim": config["emb_dim"], "projections": False, "activation_out": False, "unit_range": True, "log_sigma": True,
    }  # fmt: skip


def _codec(case: Case) -> VQGAN:
    codec = VQGAN(**{key: value for key, value in codec_config(case.config).items() if key != "kind"})
    load_codec(codec, case.weights())
    return codec


def _load_discriminator(discriminator: PatchDiscriminator, case: Case) -> PatchDiscriminator:
    """The statistics of its norms keep the values they are made with."""
    own = discriminator.state_dict()
    for name, value in case.state_dict("disc.").items():
        own[name.removeprefix("disc.")].copy_(value)
    return discriminator


def _map(rows: Tensor, grid: tuple[int, int]) -> Tensor:
    return rows.transpose(1, 2).unflatten(2, grid)


def _strided(x: Tensor, strides: list[int]) -> Tensor:
    return x[tuple(slice(None, None, stride) for stride in strides)]


def _statistics(x: Tensor) -> Tensor:
    return torch.stack([x.mean(), x.std(), x.abs().max()])


@torch.inference_mode()
def run_codec(case: Case) -> dict[str, Tensor]:
    """Encoder, quantizer, generator, its likelihood, and the discriminator of the original."""
    config, io = case.config, case.io
    codec = _codec(case).eval()
    picture = 2 * io["image"] - 1
    grid = codec.grid((picture.shape[2], picture.shape[3]))
    draws: GumbelDraws | None = None
    if "exponential" in io:
        noise = -io["exponential"].log().flatten(2).transpose(1, 2)
        draws = GumbelDraws(lambda _: noise)
    z = codec.latents(picture)
    tokens = codec.encode(picture, draws)
    quantized = codec.quantizer(z.flatten(0, 1))
    mean, log_sigma = codec.distribution(tokens, grid)
    decoded, _ = codec.distribution(io["decode_ids"], grid)
    nats = codec.nll(picture, tokens)
    counts = torch.bincount(tokens.flatten(), minlength=codec.classes).float()
    whole = {
        "z_e": (_map(z, grid), "latent_stride"),
        "reconstruction": (mean, "image_stride"),
        "logsigma": (log_sigma, "image_stride"),
        "decoded": (decoded, "image_stride"),
    }
    outputs = {name: _strided(value, config[stride]) for name, (value, stride) in whole.items()}
    outputs |= {f"{name}_stats": _statistics(value) for name, (value, _) in whole.items()}
    outputs |= {
        "ids": tokens,
        "codebook_loss": quantized.loss,
        "perplexity": perplexity(counts),
        "unique_codes": (counts > 0).sum(),
        "z_q": _strided(_map(codec.quantizer.embed(tokens), grid), config["latent_stride"]),
        "nll_raw": nats,
        "nll": nats.mean() / (math.log(2) * picture[0].numel()),
        "disc_logits": _load_discriminator(PatchDiscriminator(config["ndf"], config["disc_layers"]), case).eval()(io["image"]),
    }
    if isinstance(codec.quantizer, Gumbel):
        outputs["quantizer_logits"] = _strided(_map(codec.quantizer.logits(z), grid), config["qlogits_stride"])
    else:
        codes = codec.quantizer.codebook
        squares = z.square().sum(-1, keepdim=True) + codes.square().sum(-1) - 2 * z @ codes.T
        outputs["mean_distance"], outputs["ids_flipped"] = squares.mean(), codec.encode(picture.flip(3))
    if "randn" in io:  # the half is the original's
        outputs["x_sample"] = _strided(mean + 0.5 * log_sigma.exp() * io["randn"], config["image_stride"])
    return {name: outputs[name].reshape(case.expected[name].shape).to(case.expected[name].dtype) for name in case.expected}


class _RecordedGumbel(Gumbel):
    """With the noise of a recording."""

    recorded: Tensor

    def _noise(self, logits: Tensor) -> Tensor:
        return -self.recorded.to(logits).log().flatten(2).transpose(1, 2).flatten(0, 1)


class _MeanSquare(nn.Module):
    """The stub that stands for LPIPS in most cases."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().mean((1, 2, 3))


def _task(case: Case) -> CodecTask:
    config = case.config
    optimizer = Optimizer(rate=config["lr"], betas=(0.9, 0.999), weight_decay=0.0, clip=None)
    contest = Adversary(
        start=config["disc_start_step"], weight_max=config["disc_weight_max"], width=config["ndf"], layers=config["disc_layers"]
    )
    recipe = CodecRecipe(
        task="codec", out="", data={"kind": "scenes"}, codec=codec_config(config), steps=1, batch_size=1, optimizer=optimizer,
        loss=CodecLoss(
            unit_range=True, perceptual_weight=config["perceptual_weight"], adversary=contest,
            temperature=TEMPERATURE if config["quantizer"] == "gumbel" else None,
        ),
    )  # fmt: skip
    task = CodecTask(recipe, config["img_size"])
    task.codec = codec = _codec(case)
    if isinstance(codec.quantizer, Gumbel):
        made = _RecordedGumbel(
            codec.classes, config["emb_dim"], config["gumbel_kl_weight"], straight_through=config["gumbel_straight_through"]
        )
        made.load_state_dict(codec.quantizer.state_dict())
        codec.quantizer = made
    assert task.adversary is not None
    _load_discriminator(task.adversary.discriminator, case)
    task.perceptual = _MeanSquare()
    if known("config.perceptual", config["perceptual"], {"stub": False, "lpips": True}):
        task.perceptual = lpips = LPIPS("vgg").eval().requires_grad_(False)
        lpips.load({name.removeprefix("perceptual."): value for name, value in case.state_dict("perceptual.").items()})
    return task.double().train()


def _augmentation(case: Case, side: str, step: int) -> Change:
    if not case.config["diff_aug"]:
        return lambda image: image
    u, shift = case.io[f"aug_{side}_rand"][step].double(), case.io[f"aug_{side}_shift"][step]
    return lambda image: translate(contrast(saturation(brightness(image, u[0]), u[1]), u[2]), shift)


def _released(task: CodecTask) -> dict[str, Tensor]:
    """Parameters and buffers of codec and discriminator under their released names."""
    assert isinstance(task.codec, VQGAN)
    assert task.adversary is not None
    own = task.codec.state_dict(keep_vars=True)
    named = {f"ae.{released}": own[name] for name, released in codec_names(task.codec).items()}
    return named | {f"disc.{name}": value for name, value in task.adversary.discriminator.state_dict(keep_vars=True).items()}


def run_training(case: Case) -> dict[str, Tensor]:
    """Whole steps with both optimisers and the moving average.

    In double precision: rectifiers and maxima have gradients that jump where rounding decides, and kernels of processors round in their
    own ways.
    """
    config, io = case.config, case.io
    task = _task(case)
    adversary = task.adversary
    assert adversary is not None
    settings = Optimizer(rate=config["lr"], betas=(0.9, 0.999), weight_decay=0.0, clip=None)
    optimizers = [Optimizers(part, each) for part, each in task.optimised(settings)]
    state = _released(task)
    buffers = {name: value.clone() for name, value in state.items() if not isinstance(value, nn.Parameter)}
    ema = EMA(
        {name: value for name, value in state.items() if isinstance(value, nn.Parameter)},
        config["ema_beta"],
        config["steps_per_update_ema"],
    )
    rows: list[dict[str, Tensor]] = []
    for i, done in enumerate(config["steps"]):
        image = 2 * io["images"][i].double() - 1
        if isinstance(task.codec.quantizer, _RecordedGumbel):
            task.codec.quantizer.recorded = io["exponential"][i]
        change = _augmentation(case, "fake", i)
        out = task.losses(image, done, None, change, _augmentation(case, "real", i))
        report = out.report
        last = task.codec.last_weight
        of_nll = torch.autograd.grad(out.nll, last, retain_graph=True)[0].norm()
        g, counts = report["adversarial"], done > adversary.start
        watching = adversary if done < adversary.start else copy.deepcopy(adversary)  # its statistics see the pictures once a step
        observed = watching.codec_loss(change(out.x_hat))
        of_g = torch.autograd.grad(observed, last, retain_graph=True)[0].norm()
        if done < adversary.start:  # the original computes here, and does not use, what we leave out
            g = observed
        rows.append({
            "loss": out.total - report["discriminator"], "l1": report["l1"], "perceptual": report["perceptual"], "nll_loss": report["nll"],
            "g_loss": g, "d_weight": report["adversarial_weight"], "codebook_loss": report["bottleneck"], "d_loss": report["discriminator"],
            "d_loss_computed": torch.tensor(int(counts)), "latent_ids": out.made.indices.view(len(image), -1),  # type: ignore[union-attr]
            "gumbel_temp": torch.tensor(getattr(task.codec.quantizer, "temperature", 0.0)), "recon_grad_norm": of_nll, "g_grad_norm": of_g,
            "ema_updated": torch.tensor(int(done > 0 and done % ema.every == 0)), "x_hat_stats": _statistics(out.x_hat.detach()),
        })  # fmt: skip
        out.total.backward()
        for each in optimizers:
            each.step(1.0)
            each.zero_grad()
        if done > 0:
            ema.step(done)
    outputs = {name: torch.stack([row[name].detach() for row in rows]) for name in rows[0]}
    count = config["probe_count"]
    for name in config["probe"]:
        outputs[f"param/{name}"], outputs[f"ema/{name}"] = state[name].detach().flatten()[:count], ema.average[name].flatten()[:count]
    for name, value in buffers.items():  # the average of the original has parameters only
        outputs[f"buffer/{name}"], outputs[f"ema_buffer/{name}"] = state[name], value
    return {name: outputs[name].reshape(case.expected[name].shape).to(case.expected[name].dtype) for name in case.expected}


@torch.inference_mode()
def run_lpips(case: Case) -> dict[str, Tensor]:
    """`lpips.LPIPS`, of pictures as they are and mapped to [-1, 1] first."""
    network, a, b = LPIPS(case.config["net"]).eval(), case.io["a"], case.io["b"]
    network.load(case.weights())
    return {
        "distance": network(a, b).reshape(case.expected["distance"].shape),
        "distance_normalize_flag": network(2 * a - 1, 2 * b - 1).reshape(case.expected["distance_normalize_flag"].shape),
        "per_layer": network.layers(a, b),
    }


def run_augmentation(case: Case) -> dict[str, Tensor]:
    """`DiffAugment`: single changes, and the policies in their order."""
    image, u, shift = case.io["image"], case.io["rand"], case.io["shift"]
    policies: dict[str, Change] = {
        "color": lambda x: contrast(saturation(brightness(x, u[0]), u[1]), u[2]), "translation": lambda x: translate(x, shift),
        "cutout": lambda x: cutout(x, case.io["cutout_offset"]),
    }  # fmt: skip
    whole = image
    for name in case.config["policy"].split(","):
        whole = known("config.policy", name, policies)(whole)
    outputs = {"brightness": brightness(image, u[0]), "saturation": saturation(image, u[1]), "contrast": contrast(image, u[2])}
    return outputs | {name: policy(image) for name, policy in policies.items()} | {case.config["policy"]: whole}


COMPONENTS = {"vqgan": run_codec, "vqgan_training": run_training, "lpips": run_lpips, "diffaug": run_augmentation}
