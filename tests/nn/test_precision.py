"""Only half precision is widened."""

import pytest
import torch

from tessera.nn.precision import widened


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_widened(given: torch.dtype, made: torch.dtype) -> None:
    x = torch.tensor([1.5, -2.0], dtype=given)
    assert widened(x).dtype == made
    assert widened(x).tolist() == [1.5, -2.0]
