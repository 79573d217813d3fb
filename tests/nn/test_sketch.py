"""Modules without memory: how many a description may ask for depends on the weights that are there."""

import pytest
import torch
from torch import nn

from tessera.nn.sketch import FREE, MODULES_A_TENSOR, TooLarge, sketching


def test_what_is_sketched_has_shapes_and_no_memory() -> None:
    with sketching(2, 10**12):
        layer = nn.Linear(10**6, 10**6)
    assert layer.weight.shape == (10**6, 10**6)
    assert layer.weight.is_meta
    assert not nn.Linear(2, 2).weight.is_meta


def test_what_is_made_afterwards_is_not_counted() -> None:
    with sketching(0, 0):
        nn.Linear(2, 2)
    nn.ModuleList(nn.Identity() for _ in range(2 * FREE))


def test_too_many_elements_tensors_or_modules_stop_at_once() -> None:
    made = 0

    def endless(layer: type[nn.Module], *arguments: int) -> None:
        nonlocal made
        layers = nn.ModuleList()
        while True:
            layers.append(layer(*arguments))
            made += 1

    for layer, arguments, most in [
        (nn.Linear, (10**9, 10**9), 1),
        (nn.LayerNorm, (1,), FREE),
        (nn.Identity, (), FREE + MODULES_A_TENSOR * 4),
    ]:
        made = 0
        with pytest.raises(TooLarge, match="the 4 tensors of its weights"), sketching(4, 100):
            endless(layer, *arguments)
        assert made <= most


def test_a_description_that_fits_is_never_refused() -> None:
    def network() -> nn.Module:
        return nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8)) for _ in range(3000)))

    parameters = list(network().parameters())
    with sketching(len(parameters), sum(parameter.numel() for parameter in parameters)):
        network()


def test_a_refusal_leaves_no_count_behind() -> None:
    with pytest.raises(TooLarge), sketching(0, 0):
        nn.Linear(10**5, 10**5)
    with torch.device("meta"):
        nn.Linear(10**5, 10**5)
