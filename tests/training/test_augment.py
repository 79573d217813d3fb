import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.randomness import Draws
from tessera.training.augment import augment, brightness, contrast, cutout, saturation, translate
from tests.closeness import assert_same_but_for_rounding

POLICIES = [["color"], ["translation"], ["cutout"], ["color", "translation", "cutout"]]


@pytest.mark.parametrize("policy", POLICIES)
def test_gradients_pass_and_a_picture_does_not_depend_on_its_batch(policy: list[str]) -> None:
    image = torch.rand(3, 3, 16, 24, requires_grad=True)
    changed = augment(image, policy, Draws(0, [0, 1, 2]))
    assert changed.shape == image.shape
    assert not torch.equal(changed, image)
    assert_same_but_for_rounding(changed[1:2], augment(image[1:2], policy, Draws(0, [1])))
    changed.sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().max()) > 0


def test_the_middle_of_each_range_changes_nothing() -> None:
    image = torch.rand(2, 3, 8, 8)
    half = torch.full((2,), 0.5)
    torch.testing.assert_close(brightness(image, half), image)
    torch.testing.assert_close(saturation(image, half), image)
    torch.testing.assert_close(contrast(image, half), image)
    assert torch.equal(translate(image, torch.zeros(2, 2, dtype=torch.int64)), image)


@given(st.integers(-3, 3), st.integers(-3, 3))
def test_translation_moves_and_fills_with_zeros(rows: int, columns: int) -> None:
    image = torch.rand(1, 3, 9, 7) + 1
    moved = translate(image, torch.tensor([[rows], [columns]]))
    inside = image.roll((-rows, -columns), (2, 3))[:, :, max(0, -rows) : 9 - max(0, rows), max(0, -columns) : 7 - max(0, columns)]
    assert torch.equal(moved[moved > 0], inside.flatten())


def test_shifts_reach_an_eighth_of_the_side_and_no_further() -> None:
    image = torch.ones(2000, 3, 16, 16)
    lost = 16 - augment(image, ["translation"], Draws(0, range(2000)))[:, 0].amax(2).sum(1)
    assert set(lost.tolist()) == {0, 1, 2}


def test_cutout_takes_a_box_of_half_the_sides() -> None:
    image = torch.ones(1, 3, 8, 8)
    assert float(cutout(image, torch.tensor([[4], [4]])).sum()) == 3 * (64 - 16)
    assert float(cutout(image, torch.tensor([[0], [0]])).sum()) == 3 * (64 - 4)  # the rest of the box lies outside
