import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import UsageError
from tessera.processes.gaussian_schedules import DDPM, Cosine, LinearBeta, LogSNR, Spliced, make_gaussian_schedule, make_spacing
from tests.processes.gaussians import SCHEDULES

schedules = st.sampled_from(SCHEDULES).map(lambda config: make_gaussian_schedule(**config))


@given(schedule=schedules, share=st.floats(1e-3, 1 - 1e-3))
def test_time_and_log_snr_are_inverse(schedule, share):
    t = torch.tensor(schedule.earliest + share * (1 - schedule.earliest), dtype=torch.float64)
    assert float(schedule.time(schedule.log_snr(t))) == pytest.approx(float(t), abs=1e-7)
    log_snr = schedule.log_snr(t)
    assert float(schedule.log_snr(schedule.time(log_snr))) == pytest.approx(float(log_snr), abs=1e-6)


@pytest.mark.parametrize("config", SCHEDULES)
def test_the_log_snr_falls_and_gives_alpha_and_sigma(config):
    schedule = make_gaussian_schedule(**config)
    t = torch.linspace(schedule.earliest, 1, 5001, dtype=torch.float64)
    log_snr = schedule.log_snr(t)
    assert log_snr.dtype == torch.float64
    assert (log_snr.diff() < 0).all()
    alpha, sigma = schedule.alpha_sigma(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    torch.testing.assert_close((alpha[1:-1] / sigma[1:-1]).log() * 2, log_snr[1:-1])
    assert schedule.log_snr(t.view(-1, 3)).shape == (1667, 3)


@pytest.mark.parametrize("config", SCHEDULES)
def test_a_schedule_comes_back_from_its_json(config):
    schedule = make_gaussian_schedule(**config)
    again = make_gaussian_schedule(**json.loads(json.dumps(schedule.config)))
    t = torch.linspace(schedule.earliest, 1, 50, dtype=torch.float64)
    assert type(again) is type(schedule)
    assert torch.equal(again.log_snr(t), schedule.log_snr(t))


def test_the_ends_of_ddpms_schedule_as_times_of_the_cosine():
    """The least and the largest time of the originals' kind B."""
    ends = Cosine().time(DDPM().log_snr(torch.tensor([0.0, 1.0])))
    assert ends.tolist() == pytest.approx([0.006366145797073841, 0.9957106709480286], abs=1e-7)


def test_the_spliced_schedule_is_cosine_then_ddpm_and_has_no_jump():
    spliced, cosine, ddpm = Spliced(), Cosine(), DDPM()
    whole = 1 + Spliced.JOIN - Spliced.DDPM_JOIN
    join = Spliced.JOIN / whole
    around = spliced.log_snr(torch.tensor([join - 1e-9, join + 1e-9], dtype=torch.float64))
    assert float(around[0] - around[1]) == pytest.approx(0, abs=1e-5)
    early, late = torch.tensor([0.2, 0.5, 0.6], dtype=torch.float64), torch.tensor([0.62, 0.8, 1.0], dtype=torch.float64)
    torch.testing.assert_close(spliced.log_snr(early), cosine.log_snr(early * whole))
    torch.testing.assert_close(spliced.log_snr(late), ddpm.log_snr(late * whole - Spliced.JOIN + Spliced.DDPM_JOIN))


def test_ddpm_is_the_limit_of_its_1000_betas():
    discrete, t = LinearBeta(1000, 1e-4, 0.02, root=False), torch.linspace(0.1, 1, 10, dtype=torch.float64)
    torch.testing.assert_close(DDPM().log_snr(t), discrete.log_snr(t), atol=0.12, rtol=0)


@pytest.mark.parametrize("root", [True, False])
def test_linear_beta_is_the_running_product_at_the_discrete_times(root):
    schedule = LinearBeta(50, 1e-3, 0.1, root)
    power = 2 if root else 1
    kept = 1.0
    for index in range(50):
        kept *= 1 - (1e-3 ** (1 / power) + (0.1 ** (1 / power) - 1e-3 ** (1 / power)) * index / 49) ** power
        t = torch.tensor([(index + 1) / 50], dtype=torch.float64)
        assert float(schedule.index(t)) == pytest.approx(index)
        assert float(schedule.alpha_sigma(t)[0]) ** 2 == pytest.approx(kept)


def test_log_snr_is_a_line():
    assert LogSNR(12, -8).log_snr(torch.tensor([0.0, 0.5, 1.0])).tolist() == [12, 2, -8]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kind": "cosin"}, "did you mean 'cosine'"),
        ({"kind": "log-snr", "mots": 3}, "did you mean 'most'"),
        ({"kind": "cosine", "steps": 3}, "schedule 'cosine': unknown argument 'steps': it takes none"),
        ({"kind": "log-snr", "most": -10.0}, "must be above"),
        ({"kind": "log-snr", "most": float("nan")}, "give a finite number"),
        ({"kind": "linear-beta", "steps": 1}, "at least 2 steps"),
        ({"kind": "linear-beta", "first": 0.5, "last": 0.1}, "first <= last"),
        ({"kind": "linear-beta", "last": 1.5}, "last < 1"),
    ],
)
def test_a_bad_schedule_is_one_sentence(config, words):
    with pytest.raises(UsageError, match=words):
        make_gaussian_schedule(**config)


@given(t=st.floats(0.01, 0.99), shift=st.floats(-8, 8).filter(bool), kind=st.sampled_from(["cosine", "ddpm", "spliced", "log-snr"]))
def test_a_shift_is_added_to_every_log_snr(t, shift, kind):
    plain, moved = make_gaussian_schedule(kind), make_gaussian_schedule(kind, shift)
    time = torch.tensor(t, dtype=torch.float64)
    assert float(moved.log_snr(time)) == pytest.approx(float(plain.log_snr(time)) + shift)


def test_a_shift_is_a_finite_number():
    with pytest.raises(UsageError, match="finite"):
        make_gaussian_schedule("cosine", float("nan"))


def test_a_spacing_has_the_betas_and_the_shift_of_the_process() -> None:
    own = make_gaussian_schedule("linear-beta", steps=100, first=0.001, last=0.05, shift=-1.5)
    for kind in ("leading", "quadratic", "linear-beta"):
        assert make_spacing(kind, own).config == {**own.config, "kind": kind}
    assert make_spacing("ddpm", own).config == {"kind": "ddpm", "shift": -1.5}
    assert make_spacing("leading", make_gaussian_schedule("cosine")).config == make_gaussian_schedule("leading").config
    with pytest.raises(UsageError, match="unknown schedule 'trailing'"):
        make_spacing("trailing", own)
