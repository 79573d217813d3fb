"""Laws of the samplers of continuous models, on data whose answer is known."""

from contextlib import suppress
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.errors import UsageError
from tessera.processes.gaussian import PARAMETRISATIONS, GaussianProcess
from tessera.processes.gaussian_schedules import Cosine, Spliced, make_gaussian_schedule
from tessera.randomness import Draws
from tessera.registry import FLOAT_SAMPLERS
from tessera.samplers.loop import drive, invert, run_floats
from tessera.samplers.registry import float_sampler
from tessera.samplers.sampler import FloatStep
from tests.closeness import assert_same_but_for_rounding
from tests.processes.gaussians import SCHEDULES, both, gaussian, process_of, run, slope, two_humps

PROCESS = GaussianProcess(Cosine())
POINTS = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64).unsqueeze(1).expand(-1, 2)
DETERMINISTIC = [name for name in FLOAT_SAMPLERS if float_sampler(name).order is not None] + ["unipc:p=3"]
STOCHASTIC = ["ddim:eta=0.5", *(name for name in FLOAT_SAMPLERS if float_sampler(name).order is None)]


def orders(name, t, s, steps):
    """Measured on a Gaussian and on a mixture of two."""
    data, errors = both(PROCESS), []
    for n in steps:
        times = torch.linspace(t, s, n + 1, dtype=torch.float64).tolist()
        errors.append((run(float_sampler(name), PROCESS, data.predict, POINTS, times) - data.flow(POINTS, t, s)).abs().amax(0).tolist())
    return [slope(column, steps) for column in zip(*errors, strict=True)]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_deterministic_sampler_converges_with_its_order(name):
    """From data to noise every sampler shows its order; from noise to data it may be better for a while (here, p = 3 of UniPC)."""
    order = float_sampler(name).order
    inverted = orders(name, 0.1, 0.9, (128, 256))
    assert inverted[0] == pytest.approx(order, abs=0.1)
    assert inverted[1] == pytest.approx(order, abs=0.25)
    assert orders(name, 0.9, 0.1, (128, 256))[0] > order - 0.15


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_whole_run_reaches_the_data(name):
    """On the spliced times down to 0, where the last step takes x_0 whole."""
    data, steps = both(PROCESS), (50, 200)
    found = []
    for n in steps:
        times = PROCESS.times(Spliced(), n)
        x = run(float_sampler(name), PROCESS, data.predict, POINTS, times)
        found.append(float((x - data.flow(POINTS, times[0], 0.0)).abs().mean()))
    assert found[-1] < (2e-2 if name == "ddim" else 5e-3)
    assert found[-1] < found[0] / 3


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_picture_encoded_as_noise_comes_back(name):
    data = both(PROCESS)

    def lost(name, steps):
        times = PROCESS.inversion_times(Spliced(), steps, end=0.95)
        noise = run(float_sampler(name), PROCESS, data.predict, POINTS, times)
        assert (noise - data.flow(POINTS, 0.0, times[-1])).abs().mean() < 0.3
        return float((run(float_sampler(name), PROCESS, data.predict, noise, times[::-1]) - POINTS).abs().mean())

    many = lost(name, 160)
    assert many < (5e-2 if name == "ddim" else 1e-2)
    assert many < lost(name, 40) / 2
    if name != "ddim":
        assert many < lost("ddim", 160) / 2


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("data", [gaussian, two_humps])
def test_a_stochastic_sampler_reaches_the_mean_and_the_variance(name, data):
    data, draws = data(PROCESS), Draws(1, [0])
    x = run(float_sampler(name), PROCESS, data.predict, draws.normal(20_000), PROCESS.times(Cosine(), 250), draws).double()
    mean = float((data.w * data.m).sum())
    variance = float((data.w * (data.c**2 + data.m**2)).sum()) - mean**2
    assert x.mean() == pytest.approx(mean, abs=4 * (variance / x.numel()) ** 0.5 + 0.005)
    assert x.var() == pytest.approx(variance, rel=0.06)


def test_the_two_step_solver_of_the_stochastic_equation_needs_fewer_steps_than_ddpm():
    """The variance after a few steps, against that of the data."""
    data, draws = gaussian(PROCESS), Draws(3, [0])
    noise, times = draws.normal(40_000), PROCESS.times(make_gaussian_schedule("log-snr", most=8.0, least=-8.0), 25)
    variance = {name: float(run(float_sampler(name), PROCESS, data.predict, noise, times, draws).var()) for name in STOCHASTIC}
    assert abs(variance["dpm-solver++-sde"] - 0.16) < abs(variance["ddpm"] - 0.16) / 2


def test_eta_0_draws_nothing_and_eta_1_is_ddpm():
    data, x, times = gaussian(PROCESS), POINTS.float(), PROCESS.times(Spliced(), 10)

    def sample(name, seed=0):
        return run(float_sampler(name), PROCESS, data.predict, x, times, Draws(seed, range(len(x))))

    assert torch.equal(sample("ddim:eta=0", seed=1), sample("ddim", seed=2))
    assert torch.equal(sample("ddim:eta=1"), sample("ddpm"))
    assert not torch.equal(sample("ddim:eta=0.5"), sample("ddim"))
    assert not torch.equal(sample("ddpm", seed=1), sample("ddpm", seed=2))


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_stochastic_sampler_does_not_encode_pictures(name):
    data = gaussian(PROCESS)
    with pytest.raises(UsageError, match="use a deterministic sampler"):
        run(float_sampler(name), PROCESS, data.predict, POINTS, [0.0, 0.2, 0.4])


@pytest.mark.parametrize("name", [*DETERMINISTIC, *STOCHASTIC])
def test_the_last_step_ends_in_x_0_without_a_call_at_0(name):
    """But for PRK and PIE, which call there as the original does."""
    data, seen = gaussian(PROCESS), []

    def predict(x_t, t):
        seen.append((float(t[0]), data.predict(x_t, t)))
        return seen[-1][1]

    times = PROCESS.times(Spliced(), 6)
    x = run(float_sampler(name), PROCESS, predict, POINTS, times)
    if name in ("prk", "pie"):
        assert seen[-1][0] == 0
    else:
        assert seen[-1][0] == times[-2]
        if name not in ("plms", "plms2", "iplms"):  # these take the x_0 of a mean of eps
            assert torch.equal(x, seen[-1][1].x_0)


CALLS = {"prk": 4, "pie": 2, "heun": 2}


@pytest.mark.parametrize("name", [*DETERMINISTIC, *STOCHASTIC])
def test_how_often_a_step_calls_the_network(name):
    data, seen = gaussian(PROCESS), []

    def predict(x_t, t):
        assert t.dtype == torch.float64
        seen.append(float(t[0]))
        return data.predict(x_t, t)

    run(float_sampler(name), PROCESS, predict, POINTS, PROCESS.times(Spliced(), 20))
    assert len(seen) == 20 * CALLS.get(name, 1) + {"plms": 9, "plms2": 1, "heun": -1}.get(name, 0)


@settings(max_examples=60)
@given(
    name=st.sampled_from([*DETERMINISTIC, *STOCHASTIC]),
    schedule=st.sampled_from(SCHEDULES),
    spacing=st.sampled_from(SCHEDULES),
    steps=st.integers(1, 40),
)
def test_every_sampler_runs_every_process_with_every_spacing(name, schedule, spacing, steps):
    """From pure noise too (cosine's t = 1, where nothing of x_0 is left), and in float32."""
    process = process_of(schedule)
    data, times = gaussian(process), process.times(make_gaussian_schedule(**spacing), steps)
    x = run(float_sampler(name), process, data.predict, Draws(0, [0, 1]).normal(3, 2), times)
    assert x.dtype == torch.float32
    assert x.shape == (2, 3, 2)
    assert x.isfinite().all()
    if len(times) > 30:
        assert (x - 0.5).abs().max() < 4 * 0.4


@pytest.mark.parametrize("name", [*DETERMINISTIC, *STOCHASTIC])
def test_a_picture_does_not_depend_on_its_batch(name):
    data, times = gaussian(PROCESS), PROCESS.times(Spliced(), 7)

    def sample(indices):
        draws = Draws(5, indices)
        return run(float_sampler(name), PROCESS, data.predict, draws.normal(2, 3), times, draws)

    together = sample([0, 1, 2])
    assert_same_but_for_rounding(sample([2]), together[2:])
    assert not torch.equal(together[0], together[1])


def test_from_pure_noise_the_pseudo_numerical_methods_take_one_step_of_ddim():
    data, draws = gaussian(PROCESS), Draws(0, range(7))
    expected = float_sampler("ddim").step(data.predict, PROCESS, POINTS, FloatStep(1.0, 0.9), None, draws)[0]
    for name in ("prk", "pie", "plms", "plms2", "iplms"):
        sampler = float_sampler(name)
        x_s, state = sampler.step(data.predict, PROCESS, POINTS, FloatStep(1.0, 0.9), sampler.init(POINTS), draws)
        torch.testing.assert_close(x_s, expected)
        assert len(state) == 1


@pytest.mark.parametrize("name", ["prk", "pie", "plms", "plms2"])
def test_large_steps_go_by_what_the_network_predicts(name):
    """Out of almost pure noise in 3 steps: a network of v-diffusion is asked as its authors ask it, another would spoil the picture."""
    asked = {}
    for parametrisation in PARAMETRISATIONS:
        process = GaussianProcess(Cosine(), parametrisation)
        t, s, *_ = PROCESS.times(Spliced(), 3)
        data, calls = gaussian(process), []

        def predict(x_t, time, data=data, calls=calls):
            calls.append(time)
            return data.predict(x_t, time)

        float_sampler(name).step(predict, process, POINTS, FloatStep(t, s), (), Draws(0, range(7)))
        asked[parametrisation] = len(calls)
    assert asked == {"v": CALLS.get(name, 1) + {"plms": 3, "plms2": 1}.get(name, 0), "eps": 1, "x_0": 1}


def predictor(process, network):
    """The denoiser of a network that answers in the process's parametrisation; like any network, it was never shown an infinity."""

    def predict(x_t, t):
        assert x_t.isfinite().all()
        return process.estimate(process.parametrisation, network(x_t, t), x_t, t)

    return predict


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize(("kind", "numbers"), [("cosine", range(1, 11)), ("linear-beta", (1, 3, 10)), ("log-snr", (2,))])
@pytest.mark.parametrize("name", [*FLOAT_SAMPLERS, "ddim:eta=0.5", "unipc:p=3"])
def test_every_sampler_runs_every_network_at_every_number_of_steps(name, kind, numbers, parametrisation):
    """From noise, from a picture, and, without new noise, from a picture's own noise: finite, and not constant."""
    process = GaussianProcess(make_gaussian_schedule(kind), parametrisation)
    mixing = torch.randn(12, 12, generator=torch.Generator().manual_seed(0)) / 12**0.5
    predict = predictor(process, lambda x_t, t: torch.tanh(x_t @ mixing + t[:, None].float()))
    sampler, picture = float_sampler(name), torch.linspace(-1, 1, 24).view(2, 12)
    for steps in numbers:
        common = {"spacing": process.schedule, "steps": steps, "draws": Draws(3, [0, 1])}
        made = [run_floats(predict, process, sampler, batch=2, shape=(12,), **common)]
        with suppress(UsageError):  # of one step, none lies below the start
            made.append(run_floats(predict, process, sampler, batch=2, shape=(12,), init=picture, start=0.6, **common))
        if sampler.order is not None and steps > 1:
            noise, times = invert(predict, process, sampler, picture, **common)
            plan = [FloatStep(t, s) for t, s in pairwise([*times[:0:-1], 0.0])]
            made += [noise, drive(predict, process, sampler, noise, plan, Draws(3, [0, 1]))]
        for x in made:
            assert x.isfinite().all()
            assert (x.std(1) > 0).all()
