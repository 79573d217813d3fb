"""The published compositions of settings: what they cost, and that they run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tessera.errors import UsageError
from tessera.methods import V_DIFFUSION, VQ_DIFFUSION, method
from tessera.randomness import Draws
from tests.tiny_floats import tiny_float_flow
from tests.toy_flow import toy_flow

EVALUATIONS = {"base": 100, "guidance": 100, "high-quality": 199, "fast": 51, "purity": 100, "guidance-fast": 51}


@pytest.mark.parametrize("name", VQ_DIFFUSION)
def test_a_method_takes_the_evaluations_of_its_table_and_leaves_no_mask(name):
    flow = toy_flow(steps=100)
    tokens = flow.sample([1, 2], (32, 32), method(name), Draws(0, [0, 1]))
    assert len(flow.network.calls) == EVALUATIONS[name]
    assert {len(x_t) for x_t, _ in flow.network.calls} == {4 if "guidance" in name else 2}
    assert tokens.max() < flow.process.mask
    assert [row.bincount().argmax().item() for row in tokens] == [1, 2]


@pytest.mark.parametrize("name", VQ_DIFFUSION)
@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (16, 24)])
def test_a_method_runs_on_any_grid_and_any_number_of_times(name, grid):
    tokens = toy_flow(steps=7).sample([1], grid, method(name), Draws(0, [0]))
    assert tokens.shape == (1, grid[0] * grid[1])
    assert tokens.max() < 5


def test_an_unknown_method():
    with pytest.raises(UsageError, match="did you mean 'purity'"):
        method("purty")


@pytest.mark.parametrize(("name", "steps", "calls"), [("clip-sample", 1000, None), ("cfg-sample", 50, 59)])
def test_the_programs_of_v_diffusion(name: str, steps: int, calls: int | None) -> None:
    settings = method(name)
    assert settings.steps == steps
    assert set(V_DIFFUSION) == {"clip-sample", "cfg-sample"}
    if name == "clip-sample":
        assert (settings.sampler, settings.clip_guidance, settings.cutouts, settings.cut_power) == ("ddpm", 500.0, 16, 1.0)
        settings = replace(settings, steps=3, cutouts=2)
    flow, seen = tiny_float_flow(), []
    flow.network.register_forward_hook(lambda *_: seen.append(1))
    picture = flow.sample(["a red circle:2 | a blue square"], (16, 16), settings, Draws(0, [0]))
    assert picture.isfinite().all()
    assert calls is None or len(seen) == calls
