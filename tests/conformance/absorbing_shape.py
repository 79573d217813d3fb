"""Absorbing diffusion's canvases larger than the network: mixtures of its windows, and runs in raster and in random order."""

from __future__ import annotations

import torch
from torch import Tensor

from tessera.guidance.temperature import temper
from tessera.guidance.tiling import Tiling, Windows, tiled
from tessera.processes.discrete import DiscreteProcess, log_posterior
from tessera.processes.schedules import absorbing
from tessera.samplers.ancestral import Ancestral
from tessera.samplers.loop import Progress, run_tokens
from tessera.samplers.raster import Raster
from tessera.samplers.sampler import Predict, TokenSampler
from tests.conformance.absorbing_sampler import GivenUniforms, logits_of, network_of
from tests.conformance.cases import Case

__all__ = ["COMPONENTS"]


def canvas_denoiser(case: Case, step: int) -> tuple[Predict, Windows]:
    """The mixture of the windows of one step, and where they stand."""
    network = network_of(case)
    height, width = case.config["shape"]
    windows = Windows((height, width), network.grid, Tiling(step))
    logits = logits_of(network)

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        return log_posterior(logits(x_t, t))

    return tiled(predict, windows, GivenUniforms()), windows


def run(case: Case, predict: Predict, sampler: TokenSampler, steps: int, draws: GivenUniforms) -> dict[str, Tensor]:
    """The canvas as it fills. `steps`: times of the process."""
    height, width = case.config["shape"]
    process = DiscreteProcess(absorbing(steps), case.config["codebook_size"])
    canvases = [process.prior(len(case.io["x_partial"]), height * width)]

    def keep(progress: Progress) -> None:
        canvases.append(progress.x)

    run_tokens(predict, process, sampler, batch=len(canvases[0]), grid=(height, width), steps=None, draws=draws, callback=keep)
    filled = torch.stack(canvases).unflatten(2, (height, width))
    strided = tuple(slice(None, None, stride) for stride in case.config["canvas_stride"])
    return {
        "canvas_every": filled[case.config["record_every"] :: case.config["record_every"]][strided],
        "canvas_last": filled[-1][strided[1:]],
        "changed_per_step": (filled[1:] != filled[:-1]).sum((2, 3)),
    }


@torch.inference_mode()
def sample_shape(case: Case) -> dict[str, Tensor]:
    config, io = case.config, case.io
    outputs = {}
    partial = io["x_partial"]
    for step in config["window_steps"]:
        predict, windows = canvas_denoiser(case, step)
        t = torch.ones(len(partial), dtype=torch.int64)
        for name, at in [("mixture", 1.0), ("tempered", config["temp"])]:
            probability = temper(predict, at)(partial.flatten(1), t).exp()
            outputs[f"{name}/window_step_{step}"] = probability.unflatten(1, partial.shape[1:])
        outputs[f"window_count/window_step_{step}"] = windows.covering().float()
    predict, _ = canvas_denoiser(case, config["sample_window_step"])
    predict = temper(predict, config["temp"])
    drawn, revealed = io["categorical"].flatten(2), io["uniform"].flatten(2)
    steps = config["iterations"]
    in_order = GivenUniforms(*drawn)
    at_random = GivenUniforms(*(u for pair in zip(drawn, revealed, strict=True) for u in pair))
    orders: list[tuple[str, TokenSampler, GivenUniforms]] = [("autoregressive", Raster(), in_order), ("random", Ancestral(), at_random)]
    for name, sampler, draws in orders:
        values = run(case, predict, sampler, steps[name], draws)
        outputs |= {f"{name}/{what}": value for what, value in values.items()}
    return outputs


COMPONENTS = {"sample_shape": sample_shape}
