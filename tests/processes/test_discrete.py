"""Laws of the mask-and-uniform process. Every distribution is checked against the product of its one-step matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tessera.errors import UsageError
from tessera.processes.discrete import LOG_FLOOR, DiscreteProcess, log_one_hot, log_posterior
from tessera.processes.schedules import absorbing, hybrid, vq_diffusion
from tessera.randomness import BatchDraws, Draws
from tests.chi_square import fits

SCHEDULES = {
    "vq-diffusion": vq_diffusion,
    "absorbing": absorbing,
    "cosine": lambda steps: absorbing(steps, "cosine"),
    "hybrid": lambda steps: hybrid(steps, 0.2),
}

processes = st.builds(
    lambda name, steps, classes: DiscreteProcess(SCHEDULES[name](steps), classes),
    st.sampled_from(sorted(SCHEDULES)), st.integers(1, 12), st.integers(1, 7),
)  # fmt: skip


def time(t: int, batch: int = 1) -> Tensor:
    return torch.full((batch,), t)


def chain(process: DiscreteProcess, t: int, s: int) -> Tensor:
    """q(x_t = j | x_s = k) as float64 [k, j], multiplied out step by step from the schedule's definition."""
    classes, alpha_bar, gamma_bar = process.classes, process.schedule.alpha_bar, process.schedule.gamma_bar
    total = torch.eye(classes + 1, dtype=torch.float64)
    for r in range(s + 1, t + 1):
        alpha = alpha_bar[r] / alpha_bar[r - 1]
        gamma = 1 - (1 - gamma_bar[r]) / (1 - gamma_bar[r - 1])
        step = torch.zeros(classes + 1, classes + 1, dtype=torch.float64)
        step[:classes, :classes] = alpha * torch.eye(classes) + (1 - alpha - gamma) / classes
        step[:classes, classes] = gamma
        step[classes, classes] = 1
        total = total @ step
    return total


def bayes(process: DiscreteProcess, p: Tensor, x_t: int, t: int, s: int) -> Tensor:
    """p(x_s | x_t) [K + 1] by Bayes' rule for every x_0, mixed with p(x_0 | x_t) [K]."""
    from_clean, onward = chain(process, s, 0), chain(process, t, s)
    joint = from_clean[:-1] * onward[:, x_t]  # [x_0, x_s]
    return p.double() @ (joint / joint.sum(1, keepdim=True))


@given(process=processes, data=st.data())
@settings(deadline=None, max_examples=40)
def test_every_stride_is_the_product_of_its_steps(process: DiscreteProcess, data: st.DataObject) -> None:
    s = data.draw(st.integers(0, process.steps))
    t = data.draw(st.integers(s, process.steps))
    everything = torch.arange(process.classes + 1)[None]
    log_q = process.log_q(everything, time(t), time(s))[0]
    torch.testing.assert_close(log_q.double().exp(), chain(process, t, s), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(log_q.exp().sum(-1), torch.ones(process.classes + 1), atol=1e-5, rtol=0)


@given(process=processes, data=st.data())
@settings(deadline=None, max_examples=60)
def test_the_posterior_is_bayes_rule_for_every_stride(process: DiscreteProcess, data: st.DataObject) -> None:
    t = data.draw(st.integers(1, process.steps))
    s = data.draw(st.integers(0, t - 1))
    reachable = chain(process, t, 0)[:-1].sum(0) > 0
    x_t = data.draw(st.sampled_from(torch.nonzero(reachable).flatten().tolist()))
    logits = torch.tensor(data.draw(st.lists(st.floats(-4, 4, width=32), min_size=process.classes, max_size=process.classes)))
    p = logits.softmax(0)
    if process.absorbing and x_t != process.mask:
        p = torch.nn.functional.one_hot(torch.tensor(x_t), process.classes).float()  # any other x_0 is impossible
        expected = torch.nn.functional.one_hot(torch.tensor(x_t), process.classes + 1).double()
    else:
        expected = bayes(process, p, x_t, t, s)
    found = process.posterior(p.clamp(min=1e-30).log()[None, None], torch.tensor([[x_t]]), time(t), time(s))[0, 0]
    torch.testing.assert_close(found.double().exp(), expected, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize(("t", "s"), [(10, 9), (10, 4), (6, 5), (6, 2), (3, 0)])
def test_the_quick_reverse_draw_has_the_distribution_of_the_posterior(schedule: str, t: int, s: int) -> None:
    process = DiscreteProcess(SCHEDULES[schedule](10), 5)
    log_p = torch.randn(1, 1, 5, generator=torch.Generator().manual_seed(t)).log_softmax(-1)
    n = 20_000
    # At t = T every token of a schedule that ends fully masked is the mask.
    values = [process.mask] if t == 10 else [0, 3, process.mask]
    for x in values:
        x_t = torch.full((1, n), x)
        x_s = process.reverse(log_p.expand(1, n, 5), x_t, time(t), time(s), Draws(x, [t]))
        probability = process.posterior(log_p, x_t[:, :1], time(t), time(s))[0, 0].double().exp()
        assert fits(x_s, probability.where(probability > 1e-12, 0.0)), (schedule, t, s, x)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize(("t", "s"), [(5, 0), (10, 0), (7, 3), (9, 8)])
def test_noise_has_the_distribution_of_q(schedule: str, t: int, s: int) -> None:
    process = DiscreteProcess(SCHEDULES[schedule](10), 5)
    for x in [2, process.mask] if s else [2]:
        x_s = torch.full((2, 20_000), x)
        x_t = process.noise(x_s, time(t, 2), Draws(x, [0, 1]), s=time(s, 2))
        probability = process.log_q(x_s[:1, :1], time(t), time(s))[0, 0].double().exp()
        assert fits(x_t, probability.where(probability > 1e-12, 0.0))


def test_each_image_has_its_own_time() -> None:
    process = DiscreteProcess(hybrid(20, 0.1), 4)
    log_p = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    x_t = torch.tensor([[0, 1, 2, 3, 4, 4]]).expand(3, -1)
    t, s = torch.tensor([20, 7, 3]), torch.tensor([11, 6, 0])
    together = process.posterior(log_p, x_t, t, s)
    alone = torch.cat([process.posterior(log_p[i : i + 1], x_t[:1], t[i : i + 1], s[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    noisy = process.noise(x_t.clamp(max=3), torch.tensor([0, 20, 0]), BatchDraws(0, 3))
    assert torch.equal(noisy[[0, 2]], x_t.clamp(max=3)[[0, 2]])
    assert bool((noisy[1] == process.mask).all())


def test_an_image_does_not_depend_on_its_batch() -> None:
    process = DiscreteProcess(hybrid(20, 0.1), 9)
    log_p = torch.randn(4, 50, 9, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    x_t = torch.randint(0, 10, (4, 50), generator=torch.Generator().manual_seed(1))
    batch = process.reverse(log_p, x_t, time(12, 4), time(8, 4), Draws(5, [0, 1, 2, 3]))
    alone = process.reverse(log_p[2:3], x_t[2:3], time(12), time(8), Draws(5, [2]))
    assert torch.equal(batch[2:3], alone)


def test_masking_alone_never_revises_a_token_and_always_ends_clean() -> None:
    process = DiscreteProcess(absorbing(10), 6)
    log_p = torch.zeros(2, 500, 6).log_softmax(-1)
    x = process.prior(2, 500)
    assert bool((x == process.mask).all())
    for t in range(10, 0, -1):
        before, x = x, process.reverse(log_p, x, time(t, 2), time(t - 1, 2), Draws(t, [0, 1]))
        kept = before != process.mask
        assert torch.equal(x[kept], before[kept])
    assert bool((x < process.mask).all())


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_a_pass_at_the_same_time_changes_nothing(schedule: str) -> None:
    process = DiscreteProcess(SCHEDULES[schedule](10), 5)
    x_t = torch.tensor([[0, 4, 5, 5, 2]])
    log_p = torch.zeros(1, 5, 5).log_softmax(-1)
    assert torch.equal(process.reverse(log_p, x_t, time(6), time(6), Draws(0, [0])), x_t)
    assert torch.equal(process.noise(x_t, time(6), Draws(0, [0]), s=time(6)), x_t)
    all_masked = process.prior(1, 5)
    assert torch.equal(process.reverse(log_p, all_masked, time(10), time(10), Draws(0, [0])), all_masked)


def test_the_reverse_draw_takes_unnormalised_probabilities() -> None:
    # Truncation drops classes without renormalising.
    process = DiscreteProcess(vq_diffusion(10), 4)
    log_p = torch.tensor([[[0.1, 0.3, 0.0, 0.0]]]).log().clamp(min=LOG_FLOOR)
    x_s = process.reverse(log_p.expand(1, 20_000, 4), process.prior(1, 20_000), time(10), time(0), Draws(0, [0]))
    assert fits(x_s, torch.tensor([0.25, 0.75, 0.0, 0.0]))


@given(scale=st.floats(0.1, 60), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_log_posterior_is_the_float64_softmax(scale: float, seed: int) -> None:
    logits = scale * torch.randn(2, 3, 700, generator=torch.Generator().manual_seed(seed))
    exact = logits.double().log_softmax(-1).clamp(LOG_FLOOR, 0)
    torch.testing.assert_close(log_posterior(logits).double(), exact, atol=2e-6, rtol=1e-6)
    assert log_posterior(logits.bfloat16()).dtype == torch.float32


def test_log_posterior_lets_gradients_through() -> None:
    logits = torch.randn(1, 2, 5, requires_grad=True)
    log_posterior(logits)[0, 0, 0].backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0, 0], torch.eye(5)[0] - logits[0, 0].softmax(-1).detach())


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_posterior_gradients_are_finite_at_every_time(schedule: str) -> None:
    process = DiscreteProcess(SCHEDULES[schedule](6), 3)
    t = torch.arange(1, 7)
    x_t = torch.tensor([[0, 1, 2, 3]]).expand(6, -1).clone()
    x_t[-1] = process.mask
    logits = torch.zeros(6, 4, 3, requires_grad=True)
    process.posterior(log_posterior(logits), x_t, t, t - 1).sum().backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_a_one_hot_is_its_logarithm() -> None:
    assert torch.allclose(log_one_hot(torch.tensor([[2]]), 4).exp(), torch.tensor([0.0, 0.0, 1.0, 0.0]))


def test_the_process_comes_back_from_its_json() -> None:
    process = DiscreteProcess(hybrid(30, 0.15, "cosine"), 11)
    again = DiscreteProcess.from_config(process.config)
    assert (again.classes, again.mask, again.steps) == (11, 11, 30)
    assert torch.equal(again.schedule.alpha_bar, process.schedule.alpha_bar)


def test_a_process_without_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one class"):
        DiscreteProcess(absorbing(3), 0)
