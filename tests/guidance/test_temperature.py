import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import UsageError
from tessera.guidance.temperature import temper

X_T, T = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, dtype=torch.long)
LOG_P = torch.tensor([[[0.5, 0.3, 0.15, 0.05]]]).log()


def tempered(temperature):
    return temper(lambda x_t, t: LOG_P.clone(), temperature)(X_T, T)


@given(temperature=st.floats(0.05, 20))
def test_probabilities_to_the_inverse_temperature(temperature):
    power = LOG_P.double().exp() ** (1 / temperature)
    torch.testing.assert_close(tempered(temperature).exp(), (power / power.sum()).float())


def test_the_limits():
    assert torch.equal(tempered(1), LOG_P)
    assert tempered(1e-4).exp()[0, 0, 0] > 0.999
    torch.testing.assert_close(tempered(1e6).exp(), torch.full((1, 1, 4), 0.25), atol=1e-4, rtol=0)
    assert tempered(1e-4).min() == -70


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_a_temperature_out_of_range_is_refused(temperature):
    with pytest.raises(UsageError, match="temperature must be"):
        temper(lambda x_t, t: LOG_P, temperature)
