"""v-diffusion's schedules and sampler runs.

The originals' words for a run (`sampler`, `eta`, `max_timestep`, `starting_timestep`, `guided_by`) become our sampler, times and guidance.
Their `pred` is the estimate of x_0 that a step goes with: of the network where it is called once in the step, of the mean eps otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import torch
from torch import Tensor

from tessera.errors import UsageError
from tessera.guidance.descent import Descent
from tessera.processes.gaussian import Estimate, GaussianProcess
from tessera.processes.gaussian_schedules import DDPM, Cosine, LogSNR, Spliced
from tessera.randomness import Draws
from tessera.samplers.registry import float_sampler
from tessera.samplers.sampler import FloatSampler, FloatStep, PredictFloat
from tests.conformance.cases import Case
from tests.conformance.settings import Settings, known

__all__ = ["COMPONENTS"]

PROCESS = GaussianProcess(Cosine())
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh, "sin": torch.sin, "cos": torch.cos, "sigmoid": torch.sigmoid, "atan": torch.atan, "erf": torch.erf,
}  # fmt: skip
"""What stands for a network."""
SAMPLERS = {
    "sample": "ddim", "cond_sample": "ddim", "reverse_sample": "ddim",
    **{f"{name}_sample": name for name in ("prk", "plms", "pie", "plms2", "iplms")},
}  # fmt: skip


GUIDED = {None: False, "make_cond_model_fn": False, "cond_sample": True}
"""Whether the reported calls of the model are those without guidance."""
SPACINGS = {"spliced": Spliced(), "ddpm": DDPM(), "log": LogSNR(), "explicit": None}
"""By the originals' names; explicit steps follow no rule."""


class StoredNormal(Draws):
    """The normal draws of a recording, one slab per draw."""

    def __init__(self, noise: Tensor | None) -> None:
        super().__init__(0, [])
        self.slabs = iter(() if noise is None else noise.unbind())

    def normal(self, *shape: int) -> Tensor:
        return next(self.slabs)


class Witness:
    """Keeps what a denoiser was asked and what it answered."""

    def __init__(self, predict: PredictFloat) -> None:
        self.predict = predict
        self.t: list[Tensor] = []
        self.estimates: list[Estimate] = []

    def __call__(self, x_t: Tensor, t: Tensor) -> Estimate:
        self.t.append(t[0])
        self.estimates.append(self.predict(x_t, t))
        return self.estimates[-1]


class WitnessedDescent(Descent):
    """Keeps the gradients."""

    gradients: list[Tensor]

    def gradient(self, x_t: Tensor, t: Tensor) -> tuple[Estimate, Tensor]:
        estimate, g = super().gradient(x_t, t)
        self.gradients.append(g)
        return estimate, g


def analytic(case: Case) -> PredictFloat:
    """v = g f(a x + b t + cond)."""
    words, cond = case.config["model"], case.io["cond"][..., None, None]
    function = known("config.model.f", words["f"], FUNCTIONS)

    def predict(x_t: Tensor, t: Tensor) -> Estimate:
        time = t.to(x_t)[:, None, None, None]
        v = words["g"] * function(words["a"] * x_t + words["b"] * time + cond)
        return PROCESS.estimate("v", v, x_t, t)

    return predict


def sampler_of(config: Settings) -> FloatSampler:
    name = known("config.sampler", config["sampler"], SAMPLERS)
    return float_sampler(name, eta=config.get("eta", 0.0)) if name == "ddim" else float_sampler(name)


def times_of(case: Case) -> list[float]:
    """The recorded steps of a run, as far as it goes: sampling starts below one time and ends at 0, inversion ends at another."""
    config, steps = case.config, case.io["steps"]
    if config.get("is_reverse", config["sampler"] == "reverse_sample"):
        return steps[steps <= config.get("max_timestep", 1.0)].tolist()
    start = config.get("starting_timestep", 1.0)
    return [*steps[(steps < start) | (start == 1)].tolist(), 0.0]


def check_spacing(case: Case, times: list[float]) -> None:
    """The recorded times, rounded to float32, are ours for the named schedule at some number of steps; it and a cut are not recorded.

    Not of guided runs, which take other times than those of the schedule that they name.
    """
    config = case.config
    spacing = known("config.schedule", config["schedule"], SPACINGS)
    if spacing is None or "target" in case.io:
        return
    rising = config.get("is_reverse", config["sampler"] == "reverse_sample")
    end = config.get("max_timestep" if rising else "starting_timestep", 1.0)
    found = math.inf
    for count in range(len(times) - 1, 20 * len(times)):
        with suppress(UsageError):  # too few steps for the cut
            ours = PROCESS.inversion_times(spacing, count, end) if rising else PROCESS.times(spacing, count, end)
            if len(ours) == len(times):
                found = min(found, max(abs(mine - theirs) for mine, theirs in zip(ours, times, strict=True)))
    assert found < 1e-6, (
        f"no number of steps of our {config['schedule']!r} times gives the recorded ones: the nearest is off by {found:.2g}"
    )


def sampler(case: Case) -> dict[str, Tensor]:
    """A whole run, every step of it."""
    config, io = case.config, case.io
    sampler, times = sampler_of(config), times_of(case)
    check_spacing(case, times)
    x, outputs = io["x_start"], {}
    if "init" in io:
        x = PROCESS.noise(io["init"].expand_as(x), torch.full((len(x),), times[0], dtype=torch.float64), x)
        outputs = {"steps_used": torch.tensor(times[:-1]), "x_noised": x}

    unguided = witness = Witness(analytic(case))
    if "target" in io:
        descent = WitnessedDescent(witness, PROCESS, lambda pred: config["guidance_scale"] * (pred - io["target"]))
        descent.gradients = []
        witness = Witness(descent)
    reported = unguided if known("config.guided_by", config.get("guided_by"), GUIDED) else witness

    draws, state = StoredNormal(io.get("noise")), sampler.init(x)
    before, after, preds = [], [], []
    for t, s in pairwise(times):
        before.append(x)
        calls = len(reported.t)
        x, state = sampler.step(witness, PROCESS, x, FloatStep(t, s), state, draws)
        after.append(x)
        once = len(reported.t) == calls + 1
        preds.append(reported.estimates[calls].x_0 if once else _estimate_between(before[-1], x, t, s))

    single = config["sampler"] in ("sample", "cond_sample", "reverse_sample")
    outputs |= {"out": x, "x_steps": torch.stack(before if single else after), "pred_steps": torch.stack(preds)}
    outputs["model_t"] = torch.stack(reported.t)
    if single:
        pairs = zip(reported.estimates, reported.t, strict=True)
        outputs["v_steps"] = torch.stack([PROCESS.target("v", *estimate, t.expand(len(x))) for estimate, t in pairs])
    if "target" in io:
        outputs["cond_grad_steps"] = torch.stack(descent.gradients)
    return {name: value.detach() for name, value in outputs.items()}


def _estimate_between(x_t: Tensor, x_s: Tensor, t: float, s: float) -> Tensor:
    """The x_0 of x_t = alpha_t x_0 + sigma_t eps and x_s = alpha_s x_0 + sigma_s eps."""
    here, there = PROCESS.level(t), PROCESS.level(s)
    difference = here.sigma * x_s.double() - there.sigma * x_t.double()
    return (difference / (here.sigma * there.alpha - there.sigma * here.alpha)).float()


def schedules(case: Case) -> dict[str, Tensor]:
    """The process's own schedule, and the others as times of equal noise."""
    io, cosine = case.io, Cosine()
    custom = case.config["log_custom"]
    others = {"ddpm": DDPM(), "spliced": Spliced(), "log": LogSNR()}
    others["log_custom"] = LogSNR(custom["max_log_snr"], custom["min_log_snr"])
    outputs: dict[str, Tensor] = {}
    for n in sorted(int(name.removeprefix("t_")) for name in io if re.fullmatch(r"t_\d+", name)):
        t = io[f"t_{n}"]
        alpha, sigma = cosine.alpha_sigma(t)
        outputs |= {f"alpha_{n}": alpha, f"sigma_{n}": sigma, f"t_back_{n}": cosine.time(cosine.log_snr(t))}
        outputs[f"log_snr_inner_{n}"] = cosine.log_snr(t[1:-1])
        outputs |= {f"{name}_{n}": cosine.time(other.log_snr(t)) for name, other in others.items()}
    line = LogSNR(1.0, 0.0)  # its λ at time u is 1 - u: any λ by its alpha and sigma
    outputs["alpha_from_log_snr"], outputs["sigma_from_log_snr"] = line.alpha_sigma(1 - io["log_snr"].double())
    return outputs | {"t_from_log_snr": cosine.time(io["log_snr"])}


COMPONENTS = {"sampler": sampler, "schedules": schedules}
