import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.errors import UsageError
from tessera.guidance.truncation import top_k, top_mass, truncate


def by_full_sort(log_p, mass):
    """The definition: sort the classes, keep rank 0 and every rank whose preceding cumulative probability (float32) is < mass."""
    ordered, order = log_p.sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.exp().cumsum(-1)
    preceding = torch.cat([torch.zeros_like(cumulative[..., :1]), cumulative[..., :-1]], dim=-1)
    return torch.full_like(log_p, -70.0).scatter(-1, order, ordered.where(preceding < mass, -70.0))


def posterior(seed, rows, classes, sharpness, levels):
    """Random log-probabilities; with `levels`, logits are rounded so that many classes are equal."""
    logits = torch.randn(2, rows, classes, generator=torch.Generator().manual_seed(seed)) * sharpness
    if levels:
        logits = (logits * levels).round() / levels
    return logits.log_softmax(-1).clamp(-70, 0)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 5),
    classes=st.integers(1, 300),
    sharpness=st.sampled_from([0.0, 0.3, 1.0, 5.0, 40.0]),
    levels=st.sampled_from([0, 1, 4]),
    mass=st.floats(1e-6, 1.0) | st.sampled_from([0.25, 0.5, 0.86, 1.0]),
)
def test_top_mass_keeps_what_a_full_sort_keeps(seed, rows, classes, sharpness, levels, mass):
    log_p = posterior(seed, rows, classes, sharpness, levels)
    before = log_p.clone()
    assert torch.equal(top_mass(log_p, mass), by_full_sort(log_p, mass))
    assert torch.equal(log_p, before)


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
@pytest.mark.parametrize("mass", [0.3, 0.86, 1.0])
def test_top_mass_at_the_size_of_a_large_codebook(mass, sharpness):
    log_p = posterior(0, 40, 2887, sharpness, 0)
    assert torch.equal(top_mass(log_p, mass), by_full_sort(log_p, mass))


@pytest.mark.parametrize("mass", [1e-9, 0.2])
def test_the_most_probable_class_is_always_kept(mass):
    log_p = torch.tensor([[[0.1, 0.6, 0.3], [0.25, 0.5, 0.25]]]).log()
    assert ((top_mass(log_p, mass) > -70) == torch.tensor([[[False, True, False], [False, True, False]]])).all()


def test_kept_classes_are_not_renormalised():
    log_p = torch.tensor([[[0.5, 0.3, 0.15, 0.05]]]).log()
    kept = top_mass(log_p, 0.6)
    assert torch.equal(kept[..., :2], log_p[..., :2])
    assert (kept[..., 2:] == -70).all()


def test_equal_classes_are_kept_in_their_order():
    log_p = torch.full((1, 1, 8), math.log(1 / 8))
    assert (top_mass(log_p, 0.3) > -70).squeeze().tolist() == [True] * 3 + [False] * 5
    assert (top_k(log_p, 5) > -70).squeeze().tolist() == [True] * 5 + [False] * 3


@given(seed=st.integers(0, 1000), classes=st.integers(1, 60), count=st.integers(1, 80), levels=st.sampled_from([0, 2]))
def test_top_k_keeps_the_k_largest(seed, classes, count, levels):
    log_p = posterior(seed, 3, classes, 2.0, levels)
    ordered, order = log_p.sort(dim=-1, descending=True, stable=True)
    expected = torch.full_like(log_p, -70.0).scatter(-1, order[..., :count], ordered[..., :count])
    assert torch.equal(top_k(log_p, count), expected)


@pytest.mark.parametrize("truncation", [0.0, -0.5, 1.01, 0, -3, float("nan"), float("inf")])
def test_a_truncation_out_of_range_is_refused(truncation):
    with pytest.raises(UsageError, match="truncation must be"):
        truncate(lambda x_t, t: torch.zeros(1, 1, 1), truncation)


def test_a_whole_number_counts_classes_and_a_float_is_a_mass():
    log_p = torch.tensor([[[0.5, 0.3, 0.2]]]).log()
    x_t, t = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, dtype=torch.long)

    def kept(truncation):
        return int((truncate(lambda x_t, t: log_p, truncation)(x_t, t) > -70).sum())

    assert [kept(truncation) for truncation in (1, 2, 0.6, 1.0, None)] == [1, 2, 2, 3, 3]
