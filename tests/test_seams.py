"""Canvases have no seams where their windows meet; and the measure sees seams where there are some."""

import numpy as np
import pytest
import torch
from PIL import Image

import tessera
from tessera.guidance.tiling import Tiling, Windows, tiled_floats
from tessera.pictures import to_picture
from tessera.processes.gaussian import Estimate
from tessera.randomness import Draws
from tests.seams import borders, seam


def test_window_borders() -> None:
    windows = Windows((8, 16), (8, 8), Tiling(4))
    assert borders(windows, 0) == set()
    assert borders(windows, 1) == {4, 8, 12}


@pytest.mark.parametrize(("column", "seen"), [(64, True), (40, False)])
def test_the_measure_sees_a_border_of_windows_and_no_other(column: int, seen: bool) -> None:
    levels = np.full((64, 128, 3), 60, dtype=np.uint8)
    levels[:, column:] = 200
    measured = seam(Image.fromarray(levels), Windows((8, 16), (8, 8), Tiling(4)), 8)
    assert (measured > 3) == seen


def shaded(x_t: torch.Tensor, t: torch.Tensor) -> Estimate:
    """Every window is dark at its left and bright at its right."""
    ramp = torch.linspace(-0.8, 0.8, x_t.shape[-1]).expand_as(x_t)
    return Estimate(ramp, x_t)


def test_overlapping_and_tents_take_seams_away() -> None:
    def of(windows: Windows) -> float:
        x_0 = tiled_floats(shaded, windows, Draws(0, [0]))(torch.zeros(1, 3, 16, 64), torch.ones(1).double()).x_0
        return seam(to_picture(x_0[0]), windows, 1)

    apart, half, tents = (of(Windows((16, 64), (16, 16), Tiling(*options))) for options in ((16,), (8,), (8, "tent")))
    assert apart > 10
    assert apart > 1.5 * half
    assert half > 3 * tents
    assert tents < 1.5


def test_canvases_of_the_included_model_have_none() -> None:
    """On the average of four: where an outline lies in one of them is chance."""
    prompt = "a red circle above a blue square on a white background"
    windows = Windows((8, 16), (8, 8), Tiling())
    pictures = tessera.load("scenes").text_to_image(prompt, n=4, seed=7, size=(64, 128), guidance=1.0)
    measured = [seam(picture, windows, 8) for picture in pictures]
    assert sum(measured) / len(measured) < 1.5
