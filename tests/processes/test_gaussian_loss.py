import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tessera.errors import UsageError
from tessera.processes.gaussian import PARAMETRISATIONS, GaussianProcess
from tessera.processes.gaussian_loss import OBJECTIVES, GaussianLoss, GaussianLossOutput
from tessera.processes.gaussian_schedules import Cosine
from tessera.randomness import BatchDraws, Draws
from tests.chi_square import fits
from tests.processes.gaussians import SCHEDULES, gaussian, process_of

PROCESS = GaussianProcess(Cosine())


def exact_loss(loss: GaussianLoss, x_0: Tensor, seed: int = 0, shift: float = 0.0, **given: Any) -> GaussianLossOutput:
    """The loss of the exact denoiser of `gaussian` data, its x_0 off by `shift`."""
    process, data = loss.process, gaussian(loss.process)

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        estimate = process.estimate("x_0", data.predict(x_t, t).x_0 + shift, x_t, t)
        return process.target(loss.parametrisation, *estimate, t)

    return loss(predict, x_0, BatchDraws(seed, len(x_0)), **given)


def data(count: int, *shape: int) -> Tensor:
    return 0.5 + 0.4 * BatchDraws(9, count).normal(*shape).double()


@given(
    config=st.sampled_from(SCHEDULES),
    objective=st.sampled_from(["v", "eps", "x_0", "min-snr", "root-snr"]),
    gamma=st.floats(0.5, 20),
    seed=st.integers(0, 99),
)
def test_an_objective_is_the_same_for_every_network(config, objective, gamma, seed):
    process, x_0 = process_of(config), data(5, 3)
    t = 0.02 + 0.96 * BatchDraws(seed, 5).uniform()
    losses = [
        exact_loss(GaussianLoss(process, kind, objective, gamma), x_0, seed, t=t).per_image
        for kind in PARAMETRISATIONS
        if objective in OBJECTIVES[kind]
    ]
    assert len(losses) == (1 if objective == "v" else 3 if objective == "min-snr" else 2)
    for other in losses[1:]:
        torch.testing.assert_close(losses[0], other, rtol=1e-6, atol=1e-9)


def test_an_objective_weighs_the_error_of_x_0() -> None:
    x_0, t = torch.zeros(4, 3, dtype=torch.float64), torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    snr = PROCESS.log_snr(t).exp()

    def zero(x_t: Tensor, t: Tensor) -> Tensor:  # x_0 = 1 everywhere, so that its squared error is 1
        estimate = PROCESS.estimate("x_0", torch.ones_like(x_t), x_t, t)
        return PROCESS.target("v", *estimate, t)

    weights = {"v": snr + 1, "eps": snr, "x_0": torch.ones_like(snr), "min-snr": snr.clamp(max=5), "root-snr": (snr + 0.02).sqrt()}
    for objective, weight in weights.items():
        loss = GaussianLoss(PROCESS, "v", objective)
        torch.testing.assert_close(loss(zero, x_0, BatchDraws(0, 4), t).per_image, weight)


@pytest.mark.parametrize("kind", PARAMETRISATIONS)
def test_the_exact_denoiser_has_the_least_loss(kind: str) -> None:
    loss, x_0 = GaussianLoss(PROCESS, kind, "min-snr", time_sampling="stratified"), data(4000, 2)
    least = float(exact_loss(loss, x_0).loss)
    assert 0 < least < float(exact_loss(loss, x_0, shift=0.05).loss)
    assert least < float(exact_loss(loss, x_0, shift=-0.05).loss)


def test_training_finds_the_posterior_mean() -> None:
    """E[v | x_t] of Gaussian data is linear in x_t: gradient descent on the loss at one time finds its two coefficients."""
    loss, x_0 = GaussianLoss(PROCESS), data(20_000, 1)
    t = torch.full((20_000,), 0.4, dtype=torch.float64)
    line = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(lambda x_t, t: line[0] + line[1] * x_t, x_0, BatchDraws(1, len(x_0)), t).loss
        value.backward()
        return value

    optimizer.step(closure)
    ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    v = PROCESS.target("v", *gaussian(PROCESS).predict(ends, t[:2]), t[:2])
    torch.testing.assert_close(torch.stack([line[0], line[0] + line[1]]).detach(), v.squeeze(1), atol=0.02, rtol=0)


def test_times_are_drawn_first_and_then_the_noise() -> None:
    loss, seen = GaussianLoss(PROCESS), []
    x_0 = data(6, 2, 3).float()
    out = loss(lambda x_t, t: seen.append((x_t, t)) or torch.zeros_like(x_t), x_0, BatchDraws(3, 6))
    draws = BatchDraws(3, 6)
    t = 1 - draws.uniform()
    eps = draws.normal(2, 3)
    assert torch.equal(out.t, t)
    assert out.t.dtype == torch.float64
    assert torch.equal(out.x_t, PROCESS.noise(x_0, t, eps))
    assert seen[0][0] is out.x_t
    torch.testing.assert_close(out.per_image, PROCESS.target("v", x_0, eps, t).square().mean((1, 2)))
    torch.testing.assert_close(out.loss, out.per_image.mean())
    assert out.loss.dtype == torch.float32


def test_an_image_with_its_own_stream_does_not_depend_on_its_batch() -> None:
    loss, x_0 = GaussianLoss(PROCESS), data(3, 2)
    together = loss(lambda x_t, t: x_t, x_0, Draws(0, [0, 1, 2]))
    torch.testing.assert_close(loss(lambda x_t, t: x_t, x_0[2:], Draws(0, [2])).per_image, together.per_image[2:])


@given(batch=st.integers(1, 40), seed=st.integers(0, 1000), config=st.sampled_from(SCHEDULES))
def test_stratified_times_fill_every_share_of_the_range_once(batch, seed, config):
    process = process_of(config)
    first = process.schedule.earliest
    t = GaussianLoss(process, time_sampling="stratified").draw_times(batch, BatchDraws(seed, batch))
    assert torch.equal((((t - first) / (1 - first)) * batch).ceil().long().clamp(min=1), torch.arange(1, batch + 1))


@pytest.mark.parametrize("sampling", ["uniform", "stratified"])
def test_times_are_uniform(sampling: str) -> None:
    loss = GaussianLoss(PROCESS, time_sampling=sampling)
    t = torch.cat([loss.draw_times(8, BatchDraws(seed, 8)) for seed in range(500)])
    assert fits((t * 10).ceil().long() - 1, torch.full((10,), 0.1))
    assert t.min() > 0
    assert t.max() <= 1


@pytest.mark.parametrize("config", SCHEDULES)
def test_times_are_powers_of_uniform_ones(config: dict) -> None:
    """P(t < x) = x^(1/power) between the first time that a network knows and 1."""
    process = process_of(config)
    loss, first = GaussianLoss(process, time_sampling="stratified", time_power=2.0), process.schedule.earliest
    t = torch.cat([loss.draw_times(8, BatchDraws(seed, 8)) for seed in range(500)])
    assert t.min() >= first
    share = ((t - first) / (1 - first)).sqrt()
    assert fits((share * 10).ceil().long().clamp(min=1) - 1, torch.full((10,), 0.1))
    assert loss.config["time_power"] == 2.0


def test_min_snr_weighs_as_published() -> None:
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    snr = PROCESS.log_snr(t).exp()
    clipped = snr.clamp(max=5.0)
    for kind, weight in {"x_0": clipped, "eps": clipped / snr, "v": clipped / (snr + 1)}.items():
        torch.testing.assert_close(GaussianLoss(PROCESS, kind, "min-snr").weight(t), weight)


@pytest.mark.parametrize(("kind", "objective"), [(kind, objective) for kind in OBJECTIVES for objective in OBJECTIVES[kind]])
@pytest.mark.parametrize("config", SCHEDULES)
def test_no_weight_is_infinite_at_either_end(config: dict, kind: str, objective: str) -> None:
    process = process_of(config)
    t = torch.tensor([max(process.schedule.earliest, 1e-6), 1.0], dtype=torch.float64)
    weight = GaussianLoss(process, kind, objective).weight(t)
    assert weight.isfinite().all()
    assert weight.max() <= (15 if objective == "root-snr" else 5)


def test_it_comes_back_from_its_json() -> None:
    loss = GaussianLoss(PROCESS, "eps", "min-snr", 3.0, "stratified")
    assert GaussianLoss(PROCESS, **json.loads(json.dumps(loss.config))).config == loss.config
    assert GaussianLoss(PROCESS).config["objective"] == "v"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parametrisation": "w"}, "unknown parametrisation 'w'"),
        ({"objective": "min-srn"}, "did you mean 'min-snr'"),
        ({"parametrisation": "eps", "objective": "v"}, "for a network that predicts eps"),
        ({"parametrisation": "x_0", "objective": "eps"}, "for a network that predicts x_0"),
        ({"time_sampling": "stratifed"}, "did you mean 'stratified'"),
        ({"gamma": 0.0}, "above 0"),
        ({"time_power": 0.0}, "time_power must be a number above 0"),
        ({"gamma": float("nan")}, "above 0"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        GaussianLoss(PROCESS, **options)


def test_draws_of_another_batch_are_refused() -> None:
    with pytest.raises(UsageError, match="for 3 images but the batch has 2"):
        GaussianLoss(PROCESS)(lambda x_t, t: x_t, data(2, 1), BatchDraws(0, 3))
