"""NaN and infinity are found in every dtype, and named."""

import pytest
import torch

from tessera.errors import TesseraError
from tessera.finite import checked, is_finite, not_finite, require_finite

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2]
BAD = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("place", [0, 500, 999])
def test_one_value_is_enough(dtype: torch.dtype, place: int) -> None:
    values = torch.linspace(-3, 3, 1000)
    assert is_finite(values.to(dtype))
    for bad in BAD:
        changed = values.clone()
        changed[place] = bad
        assert not is_finite(changed.to(dtype))


def test_what_has_no_such_values_is_finite() -> None:
    assert is_finite(torch.tensor([2**62, -5]))
    assert is_finite(torch.tensor([True]))
    assert is_finite(torch.empty(0))
    assert is_finite(torch.empty(3, device="meta"))
    assert is_finite(torch.tensor(torch.finfo(torch.float32).max))
    assert not is_finite(torch.tensor(complex(0, float("nan"))))


def test_names_are_told() -> None:
    tensors = {"a": torch.ones(2), "b": torch.tensor([float("nan")]), "c": torch.tensor(1), "d": torch.tensor(float("inf"))}
    assert not_finite(tensors.items()) == ["b", "d"]
    assert checked("here", "a", tensors["a"]) is tensors["a"]
    with pytest.raises(TesseraError, match="the weights in here hold NaN or infinity, in b"):
        checked("here", "b", tensors["b"])
    require_finite(tensors["a"], "sampling", "advice")
    with pytest.raises(TesseraError, match="sampling gave numbers that are not finite: advice"):
        require_finite(tensors["b"], "sampling", "advice")
