"""The linear layer is `nn.Linear` in every mode."""

import pytest
import torch
from torch import nn

from tessera.nn.linear import Linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 5), (1, 600, 5)])
def test_equals_the_framework(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    ours, theirs, x = Linear(5, 7, bias=bias), nn.Linear(5, 7, bias=bias), torch.randn(shape)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))
        torch.testing.assert_close(ours(x.unsqueeze(0).transpose(0, -2).transpose(0, -2)), theirs(x.unsqueeze(0)))
        with torch.autocast("cpu", torch.bfloat16):
            assert ours(x).dtype == torch.bfloat16
    assert ours.double()(x.double()).dtype == torch.float64
    assert ours.bfloat16()(x).dtype == torch.bfloat16
