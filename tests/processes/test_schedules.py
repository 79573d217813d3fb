import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import UsageError
from tessera.processes.schedules import DiscreteSchedule, absorbing, hybrid, make_schedule, vq_diffusion

configs = st.one_of(
    st.fixed_dictionaries({"kind": st.just("vq-diffusion")}),
    st.fixed_dictionaries({"kind": st.just("absorbing"), "shape": st.sampled_from(["linear", "cosine"])}),
    st.fixed_dictionaries(
        {"kind": st.just("hybrid"), "uniform": st.floats(0, 0.25, allow_subnormal=False), "shape": st.sampled_from(["linear", "cosine"])}
    ),
)


@given(config=configs, steps=st.integers(1, 1000))
def test_every_schedule_starts_clean_ends_masked_and_comes_back_from_its_json(config: dict, steps: int) -> None:
    schedule = make_schedule(steps=steps, **config)
    assert schedule.steps == steps
    assert schedule.alpha_bar[0] == 1
    assert schedule.gamma_bar[0] == 0
    assert schedule.gamma_bar[-1] > 0.9999
    assert bool((schedule.alpha_bar.diff() < 0).all())
    again = make_schedule(**json.loads(json.dumps(schedule.config)))
    assert torch.equal(again.alpha_bar, schedule.alpha_bar)
    assert torch.equal(again.gamma_bar, schedule.gamma_bar)


def test_vq_diffusion_has_next_to_no_uniform_mass() -> None:
    torch.testing.assert_close(vq_diffusion(100).uniform_bar[1:], torch.full((100,), 1e-6, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_absorbing_has_no_uniform_mass_at_all(shape: str) -> None:
    assert not absorbing(37, shape).uniform_bar.any()


def test_the_linear_absorbing_schedule_masks_t_of_T() -> None:
    assert torch.equal(absorbing(8).gamma_bar, torch.arange(9) / torch.tensor(8.0, dtype=torch.float64))


def test_the_cosine_schedule_stays_longer_at_many_masks() -> None:
    assert bool((absorbing(10, "cosine").gamma_bar[1:-1] > absorbing(10).gamma_bar[1:-1]).all())


@pytest.mark.parametrize("uniform", [0.05, 0.1, 0.25])
def test_the_hybrid_schedule_reaches_its_uniform_share_where_half_is_masked(uniform: float) -> None:
    schedule = hybrid(100, uniform)
    assert schedule.uniform_bar.max() == pytest.approx(uniform)
    assert schedule.uniform_bar.argmax() == 50
    assert schedule.uniform_bar[0] == schedule.uniform_bar[-1] == 0


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: make_schedule("vq_diffusion", 100), "did you mean 'vq-diffusion'"),
        (lambda: make_schedule("hybrid", 100, unifrom=0.1), "did you mean 'uniform'"),
        (lambda: make_schedule("absorbing", 100, shape="cosin"), "did you mean 'cosine'"),
        (lambda: make_schedule("absorbing", 0), "needs 1 to 100000 steps"),
        (lambda: hybrid(100, 0.3), "0..0.25"),
    ],
)
def test_wrong_settings_are_named(call: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        call()


@pytest.mark.parametrize(
    ("alpha", "gamma"),
    [
        ([1.0, 0.5, 0.6], [0.0, 0.2, 0.3]),  # original tokens come back
        ([1.0, 0.5, 0.2], [0.0, 0.3, 0.2]),  # masks are lifted
        ([1.0, 0.9, 0.2], [0.0, 0.3, 0.4]),  # more than everything
        ([0.9, 0.5, 0.2], [0.1, 0.2, 0.3]),  # no identity at time 0
    ],
)
def test_a_schedule_that_is_no_markov_process_is_refused(alpha: list[float], gamma: list[float]) -> None:
    with pytest.raises(UsageError, match=r"Markov|identity"):
        DiscreteSchedule(torch.tensor(alpha, dtype=torch.float64), torch.tensor(gamma, dtype=torch.float64))
