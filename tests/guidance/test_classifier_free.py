import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.errors import UsageError
from tessera.guidance.classifier_free import classifier_free, is_guided

X_T, T = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, dtype=torch.long)


def posteriors(seed):
    logits = torch.randn(4, 3, 7, generator=torch.Generator().manual_seed(seed)) * 4
    return logits.log_softmax(-1).clamp(-70, 0)


def guided(log_p, scale):
    return classifier_free(lambda x_t, t: log_p.clone(), scale)(X_T, T)


@settings(max_examples=40)
@given(seed=st.integers(0, 100), scale=st.floats(-20, 20).filter(lambda s: abs(s - 1) >= 1e-3))
def test_the_formula(seed, scale):
    log_p = posteriors(seed)
    conditional, unconditional = log_p.double().chunk(2)
    expected = (unconditional + scale * (conditional - unconditional)).log_softmax(-1).clamp(-70, 0)
    torch.testing.assert_close(guided(log_p, scale), expected.float(), atol=2e-5, rtol=1e-5)


def test_scale_0_ignores_the_prompt():
    log_p = posteriors(0)
    torch.testing.assert_close(guided(log_p, 0), log_p[2:])


def test_both_halves_see_the_same_tokens_and_times():
    x_t, t = torch.tensor([[1, 2], [3, 4]]), torch.tensor([5, 6])
    seen = []

    def both(x_t, t):
        seen.append((x_t, t))
        return torch.full((4, 2, 3), math.log(1 / 3))

    classifier_free(both, 2.0)(x_t, t)
    assert seen[0][0].tolist() == [[1, 2], [3, 4], [1, 2], [3, 4]]
    assert seen[0][1].tolist() == [5, 6, 5, 6]


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf"), 1e7, -1e308])
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(UsageError, match="must be a number"):
        is_guided(scale)


def test_a_scale_near_1_is_no_guidance():
    assert [is_guided(scale) for scale in (1, 1.0009, 0.9991, 1.0011, 0.9989, 0, 5)] == [False, False, False, True, True, True, True]
    with pytest.raises(UsageError, match="none"):
        classifier_free(lambda x_t, t: torch.zeros(4, 3, 7), 1.0)
