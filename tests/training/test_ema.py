"""The moving average: its arithmetic, and that it leaves the live state alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import TesseraError
from tessera.training.ema import EMA


@given(st.floats(0.0, 0.999), st.integers(1, 4), st.lists(st.floats(-10, 10), min_size=1, max_size=20))
def test_average_is_the_weighted_sum_of_what_it_saw(decay: float, every: int, values: list[float]) -> None:
    x = torch.tensor([1.0])
    ema = EMA({"x": x}, decay, every)
    expected = 1.0
    for step, value in enumerate(values, start=1):
        x.fill_(value)
        ema.step(step)
        if step % every == 0:
            expected = decay * expected + (1 - decay) * value
    assert ema.average["x"].item() == pytest.approx(expected, abs=1e-4)


def test_buffers_are_averaged_and_integers_copied() -> None:
    module = torch.nn.BatchNorm1d(3)
    ema = EMA(module.state_dict(), 0.5)
    module.running_mean.fill_(2.0)  # type: ignore[union-attr]
    module.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    ema.update()
    assert ema.average["running_mean"].tolist() == [1.0, 1.0, 1.0]
    assert ema.average["num_batches_tracked"].item() == 7


def test_warm_up_starts_with_a_small_decay() -> None:
    x = torch.zeros(1)
    ema = EMA({"x": x}, 0.999, warmup=True)
    x.fill_(1.0)
    ema.update()
    assert ema.average["x"].item() == pytest.approx(0.9)
    ema.update()
    assert ema.average["x"].item() == pytest.approx(0.9 * 2 / 11 + 9 / 11)


def test_applied_shows_the_average_and_gives_the_state_back_exactly() -> None:
    layer = torch.nn.Linear(4, 4)
    ema = EMA(layer.state_dict(), 0.9)
    with torch.no_grad():
        layer.weight.normal_()
    ema.update()
    before = layer.weight.clone()
    with ema.applied():
        assert torch.equal(layer.weight, ema.average["weight"])
        assert not torch.equal(layer.weight, before)
    assert torch.equal(layer.weight, before)


def test_state_round_trip_and_misfit() -> None:
    ema = EMA({"x": torch.zeros(2)}, 0.9)
    other = EMA({"x": torch.ones(2)}, 0.9)
    ema.load_state_dict(other.state_dict())
    assert ema.average["x"].tolist() == [1.0, 1.0]
    with pytest.raises(TesseraError, match=r"does not fit the model: '[xy]'"):
        ema.load_state_dict(EMA({"y": torch.zeros(2)}, 0.9).state_dict())
