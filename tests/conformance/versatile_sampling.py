"""Versatile Diffusion's schedule, sampler runs and training losses."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tessera.contexts.context import Context
from tessera.families.versatile.composition import Ingredient, composed
from tessera.processes.gaussian import GaussianProcess
from tessera.processes.gaussian_loss import GaussianLoss
from tessera.processes.gaussian_schedules import LinearBeta, make_spacing
from tessera.samplers.ddim import DDIM, new_noise
from tessera.samplers.loop import Progress, drive
from tessera.samplers.sampler import FloatStep, PredictFloat
from tests.conformance.cases import Case
from tests.conformance.settings import known
from tests.conformance.v_diffusion_samplers import StoredNormal, Witness
from tests.conformance.versatile_networks import flow_of

__all__ = ["COMPONENTS", "process_of", "times_of"]


def process_of(case: Case) -> GaussianProcess:
    """Of the betas that a case names."""
    described = case.config["vd"]
    return GaussianProcess(LinearBeta(described["timesteps"], described["beta_linear_start"], described["beta_linear_end"]))


def steps_of(process: GaussianProcess) -> int:
    """Number of its discrete times."""
    return int(process.schedule.config["steps"])


def times_of(process: GaussianProcess, steps: int, kind: str = "leading") -> list[float]:
    return process.times(make_spacing(kind, process.schedule), steps)


def indices(process: GaussianProcess, times: list[float] | Tensor) -> Tensor:
    """The discrete times of times."""
    return (torch.as_tensor(times, dtype=torch.float64) * steps_of(process) - 1).round().long()


def every_time(process: GaussianProcess) -> Tensor:
    """The time of every index."""
    return torch.arange(1, steps_of(process) + 1, dtype=torch.float64) / steps_of(process)


def posterior(alpha_bar: Tensor) -> dict[str, Tensor]:
    """The originals' tables of betas and of q(x_{i-1} | x_i, x_0), and the weights of the variational bound, all by index. These are made
    of tables rounded to float32."""
    before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    betas = 1 - alpha_bar / before
    variance = betas * (1 - before) / (1 - alpha_bar)
    bound = betas.float() ** 2 / (2 * variance.float() * (1 - betas.float()) * (1 - alpha_bar.float()))
    return {
        "betas": betas,
        "alphas_cumprod_prev": before,
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1 - alpha_bar),
        "posterior_mean_coef2": (1 - before) * (1 - betas).sqrt() / (1 - alpha_bar),
        "lvlb_weights": torch.cat([bound[1:2], bound[1:]]),
    }


def schedule(case: Case) -> dict[str, Tensor]:
    process = process_of(case)
    alpha, sigma = process.schedule.alpha_sigma(every_time(process))
    outputs = posterior(alpha**2) | {
        "alphas_cumprod": alpha**2,
        "sqrt_alphas_cumprod": alpha,
        "sqrt_one_minus_alphas_cumprod": sigma,
        "log_one_minus_alphas_cumprod": 2 * sigma.log(),
        "sqrt_recip_alphas_cumprod": 1 / alpha,
        "sqrt_recipm1_alphas_cumprod": sigma / alpha,
    }
    for steps in case.spec["steps"]:
        rising = times_of(process, steps)[::-1]
        levels = [process.level(t) for t in rising]
        outputs |= {
            f"S{steps}.timesteps": indices(process, rising[1:]),
            f"S{steps}.alphas": torch.tensor([level.alpha**2 for level in levels[1:]]),
            f"S{steps}.alphas_prev": torch.tensor([level.alpha**2 for level in levels[:-1]]),
            f"S{steps}.sqrt_one_minus_alphas": torch.tensor([level.sigma for level in levels[1:]]),
        }
        for eta in case.spec["etas"]:
            outputs[f"S{steps}.eta{eta}.sigmas"] = torch.tensor([new_noise(process, FloatStep(t, s), eta) for s, t in pairwise(rising)])
    for steps in case.spec["quad_steps"]:
        outputs[f"quad{steps}.timesteps"] = indices(process, make_spacing("quadratic", process.schedule).stops(steps)[1:])
    return outputs


def predict_of(case: Case, run: dict[str, Any]) -> PredictFloat:
    """The denoiser of a run under its contexts, in the originals' words."""
    described = run["contexts"] if "contexts" in run else [run["context"]]
    networks = flow_of(case, run["x_type"], *(one["type"] for one in described))
    ingredients = [
        Ingredient(
            network, Context(case.io[one["conditioning"]]), Context(case.io[one["unconditional_conditioning"]]), one.get("ratio", 1.0)
        )
        for network, one in zip(networks, described, strict=True)
    ]
    return composed(process_of(case), ingredients, run["unconditional_guidance_scale"])


@torch.inference_mode()
def runs(case: Case) -> dict[str, Tensor]:
    process, outputs = process_of(case), dict[str, Tensor]()
    for run in case.spec["runs"]:
        name, (first, *noise) = run["name"], case.io[f"{run['name']}.noise"].unbind()
        times, x = times_of(process, run["steps"]), first
        if "x0" in run:  # noised to the time one step before that of the first step
            start = run["x0_forward_timesteps"]
            t = torch.full((len(x),), times[-2 - start], dtype=torch.float64)
            x, times = process.noise(case.io[run["x0"]], t, first), times[-1 - start :]
        draws = StoredNormal(run.get("temperature", 1.0) * torch.stack(noise))
        predict, seen = Witness(predict_of(case, run)), list[Progress]()
        plan = [FloatStep(t, s) for t, s in pairwise(times)]
        drive(predict, process, DDIM(run["eta"]), x, plan, draws, seen.append)
        outputs |= {
            f"{name}.timesteps": indices(process, torch.stack(predict.t)),
            f"{name}.x_prev": torch.stack([progress.x for progress in seen]),
            f"{name}.pred_x0": torch.stack([estimate.x_0 for estimate in predict.estimates]),
        }
    return outputs


@torch.inference_mode()
def losses(case: Case) -> dict[str, Tensor]:
    """The loss of each flow. Absolute errors and a learned variance, which no release uses, are made of what the loss reports."""
    io = case.io
    process = process_of(case)
    t = (io["t"].double() + 1) / steps_of(process)
    alpha, sigma = process.alpha_sigma(t, io["x_image"])
    outputs = {f"x_noisy_{data}": process.noise(io[f"x_{data}"], t, io[f"noise_{data}"]) for data in ("image", "text")}
    outputs |= {"q_mean": alpha * io["x_image"], "q_variance": sigma**2, "q_log_variance": 2 * sigma.log()}
    outputs["x0_from_noise"] = process.estimate("eps", io["noise_image"], outputs["x_noisy_image"], t).x_0
    alpha_bar = process.schedule.alpha_sigma(every_time(process))[0] ** 2
    bounds = {"eps": posterior(alpha_bar)["lvlb_weights"], "x_0": 0.5 * alpha_bar.sqrt() / (2 - alpha_bar)}
    bounds["x_0"] = torch.cat([bounds["x_0"][1:2], bounds["x_0"][1:]])
    for variant in case.spec["variants"]:
        name, data, kind = (
            variant["name"],
            variant["x_type"],
            known("variants.parameterization", variant["parameterization"], {"x0": "x_0", "eps": "eps"}),
        )
        (network,) = flow_of(case, data, variant["c_type"])
        prepared = network.prepare(Context(io[f"c_{variant['c_type']}"]))
        draws = StoredNormal(io[f"noise_{data}"][None])
        found = GaussianLoss(process, kind)(lambda x_t, t, net=network, p=prepared: net(x_t, t, p), io[f"x_{data}"], draws, t)
        absolute = known("variants.loss_type", variant["loss_type"], {"l2": False, "l1": True})
        error = (found.output - found.target).abs().flatten(1).mean(1) if absolute else found.per_image
        logvar = io[variant["logvar"]][io["t"]] if "logvar" in variant else torch.full_like(error, variant["logvar_init"])
        gamma = (error / logvar.exp() + logvar).mean()
        outputs |= {
            f"{name}.Loss": variant["l_simple_weight"] * gamma[None],
            f"{name}.loss_simple": error.mean()[None],
            f"{name}.loss_vlb": (bounds[kind][io["t"]] * error).mean()[None],
        }
        if variant["learn_logvar"]:
            outputs |= {f"{name}.loss_gamma": gamma[None], f"{name}.logvar": io[variant["logvar"]].mean()[None]}
    return outputs


COMPONENTS = {"ddim_sampler": runs, "ddim_schedule": schedule, "diffusion_losses": losses}
