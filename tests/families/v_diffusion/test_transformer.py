"""Laws of the transformer over patches."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tessera.codecs.pixels import Pixels
from tessera.contexts.context import Context, Unconditional
from tessera.data.scenes import Scenes
from tessera.errors import UsageError
from tessera.families.v_diffusion.presets import preset
from tessera.families.v_diffusion.transformer import PatchTransformer
from tessera.float_flow import FloatFlow
from tessera.flow import SamplingSettings
from tessera.processes.gaussian import GaussianProcess
from tessera.processes.gaussian_loss import GaussianLoss
from tessera.processes.gaussian_schedules import make_gaussian_schedule
from tessera.randomness import BatchDraws, Draws
from tessera.registry import NETWORKS, build
from tests.closeness import assert_same_but_for_rounding

SMALL: dict[str, Any] = {
    "size": 16, "patch": 4, "width": 16, "depth": 2, "heads": 2, "context_width": 6, "context_rows": 3, "condition": 8, "components": 20,
    "neighbours": [1], "process": {"kind": "cosine", "shift": -1.0},
}  # fmt: skip


def pictures(count: int = 64, side: int = 16) -> Tensor:
    scenes = Scenes("train", seed=0)
    whole = torch.stack([torch.as_tensor(scenes.example(i, seed=0)[0]) for i in range(count)]).float() / 127.5 - 1
    return torch.nn.functional.interpolate(whole, (side, side), mode="area")


def network(**changes: Any) -> PatchTransformer:
    torch.manual_seed(0)
    made = PatchTransformer(**{**SMALL, **changes})
    made.start_from(pictures(side=made.config["size"]))
    for parameter in made.parameters():  # what starts as zero would hide what it multiplies
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def inputs(count: int = 3) -> tuple[Tensor, Tensor, Context]:
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(count, 3, 16, 16, generator=generator)
    t = torch.rand(count, generator=generator, dtype=torch.float64)
    return x_t, t, Context(torch.randn(count, 1, 6, generator=generator))


@pytest.mark.parametrize("t", [0.05, 0.3, 0.6, 0.95])
def test_without_its_blocks_it_is_the_best_linear_estimate(t: float) -> None:
    """The linear estimate's error is Σ λ σ² / (α² λ + σ²); no other gain of a component has a smaller one."""
    made, x_0 = network(components=48), pictures()
    for parameter in (made.leave.weight, made.leave.bias):
        torch.nn.init.zeros_(parameter)
    process, times = GaussianProcess(made.schedule), torch.full((len(x_0),), t, dtype=torch.float64)
    errors = []
    for seed in range(8):
        x_t = process.noise(x_0, times, BatchDraws(seed, len(x_0)).normal(3, 16, 16))
        with torch.no_grad():
            errors.append((made(x_t, times, Context(torch.ones(len(x_0), 1, 6))) - x_0).square().mean())
    alpha, sigma = (each[0] for each in made.schedule.alpha_sigma(times))
    expected = (made.variance * sigma**2 / (alpha**2 * made.variance + sigma**2)).sum() / 48
    assert float(torch.stack(errors).mean()) == pytest.approx(float(expected), rel=0.03)


def test_a_clean_picture_comes_back() -> None:
    made, x_0 = network(components=48), pictures(4)
    with torch.no_grad():
        again = made(x_0, torch.full((4,), 1e-6, dtype=torch.float64), Context(torch.ones(4, 1, 6)))
    torch.testing.assert_close(again, x_0, atol=1e-4, rtol=0)


def test_it_starts_from_data_once() -> None:
    made = network()
    before = made.basis.clone()
    made.start_from(pictures(side=16).flip(0) * 0.5)
    assert torch.equal(made.basis, before)
    again = build("network", NETWORKS, made.config)
    again.load_state_dict(made.state_dict())
    again.start_from(torch.zeros(2, 3, 16, 16))
    assert torch.equal(again.basis, before)


def test_prepared_context_equals_raw_and_config_makes_the_same_network() -> None:
    made, (x_t, t, context) = network(), inputs()
    again = build("network", NETWORKS, made.config).eval()
    again.load_state_dict(made.state_dict())
    with torch.inference_mode():
        prepared = made.prepare(context)
        assert torch.equal(made(x_t, t, prepared), made(x_t, t, context))
        assert torch.equal(again(x_t, t, context), made(x_t, t, context))
        torch.testing.assert_close(made(x_t[:2], t[:2], prepared[:2]), made(x_t, t, context)[:2])


def test_every_input_matters() -> None:
    made, (x_t, t, context) = network(), inputs()
    with torch.no_grad():
        first = made(x_t, t, context)
        assert not torch.allclose(made(x_t.flip(0), t, context), first, atol=1e-3)
        assert not torch.allclose(made(x_t, t.flip(0), context), first, atol=1e-3)
        assert not torch.allclose(made(x_t, t, Context(context.embeddings.flip(0))), first, atol=1e-3)  # type: ignore[union-attr]
        assert torch.allclose(made(x_t, t, Context(3 * context.embeddings)), first, atol=1e-5)  # an embedding is a direction


def test_every_parameter_has_a_gradient() -> None:
    made, (x_t, t, context) = network().train(), inputs()
    made(x_t, t, context).square().sum().backward()
    assert {name for name, parameter in made.named_parameters() if parameter.grad is None or not parameter.grad.any()} == {
        "time_features.weight"
    }


def test_a_picture_of_the_included_size_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    made = build("network", NETWORKS, preset("scenes")).eval()
    x_t, t = torch.randn(3, 3, 64, 64), torch.full((3,), 0.6, dtype=torch.float64)
    context = Context(torch.randn(3, 1, 128))
    with torch.inference_mode():
        together = made(x_t, t, context)
        for rows in (slice(0, 1), slice(2, 3), slice(0, 2)):
            assert_same_but_for_rounding(made(x_t[rows], t[rows], context[rows]), together[rows])


@given(count=st.integers(1, 3), height=st.sampled_from([16, 20, 32]), width=st.sampled_from([16, 24]))
def test_larger_canvases_are_drawn_through_windows(count: int, height: int, width: int) -> None:
    made = network(context_width=None)
    flow = FloatFlow(Pixels(), Unconditional(), made, GaussianLoss(GaussianProcess(made.schedule), "x_0"))
    drawn = flow.sample([None] * count, flow.grid((height, width)), SamplingSettings("ddim", steps=2), Draws(0, range(count)))
    assert drawn.shape == (count, 3, height, width)
    assert drawn.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 18}, "size 18 is not a multiple of patch 4"),
        ({"patch": 0}, "patch 0"),
        ({"heads": 3}, "heads that divide the width"),
        ({"depth": 0}, "at least 1"),
        ({"components": 49}, "components 49 must be from 1 to 48"),
        ({"neighbours": [2]}, "neighbours 2 is none of the blocks 0 to 1"),
    ],
)
def test_bad_configuration(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PatchTransformer(**{**SMALL, **changes})


def test_noise_of_another_schedule() -> None:
    process = GaussianProcess(make_gaussian_schedule("cosine"))
    with pytest.raises(UsageError, match=r"made for the noise of .*'shift': -1.0.*, but the process is {'kind': 'cosine'}"):
        FloatFlow(Pixels(), Unconditional(), network(context_width=None), GaussianLoss(process, "x_0"))


def test_bad_inputs() -> None:
    made, (x_t, t, _) = network(), inputs()
    with pytest.raises(UsageError, match=r"cannot draw pictures of 18x16: .* multiples of 4 from 16, such as 16x16 or 20x16"):
        made.check_size(16, 18)
    with pytest.raises(UsageError, match="cannot draw pictures of 8x8"):
        made.check_size(8, 8)
    with pytest.raises(UsageError, match="takes pictures of 16x16, not 20x16"):
        made(torch.zeros(1, 3, 16, 20), t[:1], Context(torch.zeros(1, 1, 6)))
    with pytest.raises(UsageError, match="one embedding of width 6 per picture, not none"):
        made(x_t, t, Context())
    with pytest.raises(UsageError, match="not 2 of width 6"):
        made(x_t, t, Context(torch.zeros(3, 2, 6)))
