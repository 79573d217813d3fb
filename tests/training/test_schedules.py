"""Learning rates."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.training.schedules import Decay, Plateau


def rates(schedule: Any, steps: int, losses: list[float] | None = None) -> list[float]:
    result = []
    for i in range(steps):
        result.append(schedule.rate)
        schedule.step(losses[i] if losses else None)
    return result


@given(st.sampled_from(["constant", "linear", "cosine"]), st.integers(0, 20), st.integers(21, 60), st.floats(0, 0.9))
def test_warm_up_rises_then_the_rate_falls_to_the_floor(shape: Any, warmup: int, total: int, hold: float) -> None:
    schedule = Decay(1.0, total, shape, warmup, floor=0.1, hold=hold)
    made = rates(schedule, total)
    rising, falling = made[:warmup], made[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == pytest.approx(1.0)
    assert all(rate == pytest.approx(1.0) for rate in falling[: int(hold * len(falling))])
    assert schedule.rate == pytest.approx(1.0 if shape == "constant" else 0.1)


def test_plateau_is_the_rule_of_the_reference_run() -> None:
    """Losses and rates that the original printed (case train_steps_small: warm-up 3, patience 0, threshold 0.3)."""
    losses = [4.68266, 81.93176, 3.68673, 70.26118, 4.99438, 4.46907, 3.89599, 3.70553]
    expected = [1e-4, 7.33333e-4, 1.366667e-3, 2e-3, 2e-3, 2e-3, 1e-3, 5e-4]
    schedule = Plateau(2e-3, warmup=3, base=1e-4, floor=1e-6, factor=0.5, patience=0, threshold=0.3)
    assert rates(schedule, 8, losses) == pytest.approx(expected, rel=1e-5)


def test_plateau_stops_at_the_floor() -> None:
    schedule = Plateau(1.0, floor=0.3, patience=0)
    assert rates(schedule, 5, [1.0] * 5) == pytest.approx([1.0, 1.0, 0.5, 0.3, 0.3])


@pytest.mark.parametrize("make", [lambda: Decay(1.0, 30, "cosine", 5), lambda: Plateau(1.0, warmup=4, patience=1)])
def test_resumed_schedule_goes_on_alike(make: Any) -> None:
    losses = [math.sin(i) + 2 for i in range(30)]
    whole = rates(make(), 30, losses)
    first, second = make(), make()
    rates(first, 13, losses)
    second.load_state_dict(first.state_dict())
    assert rates(second, 17, losses[13:]) == whole[13:]
