"""MLPs: training and inference compute the same, whatever the number of tokens."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tessera.errors import UsageError
from tessera.nn.mlp import ConvMLP, LinearMLP, SigmoidGELU


def test_activation_is_the_sigmoid_gelu() -> None:
    x = torch.linspace(-6, 6, 101)
    torch.testing.assert_close(SigmoidGELU()(x), x * torch.sigmoid(1.702 * x))
    with torch.no_grad():
        torch.testing.assert_close(SigmoidGELU()(x.clone()), x * torch.sigmoid(1.702 * x))


@pytest.mark.parametrize("n", [1, 16, 700])  # more tokens than are computed at a time, and not a multiple
@pytest.mark.parametrize("activation", [SigmoidGELU, nn.GELU])
def test_inference_equals_training(n: int, activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    mlp, x = LinearMLP(6, 12, activation()), torch.randn(3, n, 6)
    trained, kept = mlp(x), x.clone()
    with torch.inference_mode():
        torch.testing.assert_close(mlp(x), trained.detach(), atol=1e-6, rtol=1e-5)
    assert torch.equal(x, kept), "the input is the caller's"


def test_convolution_runs_over_the_token_grid() -> None:
    torch.manual_seed(0)
    mlp, x = ConvMLP(4, 8, SigmoidGELU(), (2, 3)), torch.randn(2, 6, 4)
    image = x.view(2, 2, 3, 4).permute(0, 3, 1, 2)
    hidden = F.conv2d(image, mlp.up.weight, mlp.up.bias, padding=1)
    expected = F.conv2d(hidden * torch.sigmoid(1.702 * hidden), mlp.down.weight, mlp.down.bias, padding=1)
    torch.testing.assert_close(mlp(x).transpose(1, 2).reshape(2, 4, 2, 3), expected)
    with torch.inference_mode():
        torch.testing.assert_close(mlp(x).transpose(1, 2).reshape(2, 4, 2, 3), expected.detach())
    assert mlp(torch.randn(1, 16, 4)).shape == (1, 16, 4), "another number of tokens is a square"
    with pytest.raises(UsageError, match="neither"):
        mlp(torch.randn(1, 8, 4))
