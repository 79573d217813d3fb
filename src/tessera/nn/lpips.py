"""Distances of pictures by the features of a network.

LPIPS (Zhang et al. 2018, arXiv 1801.03924, eq. 1) with the features y^l of VGG16 or AlexNet,

    d(a, b) = Σ_l mean_hw Σ_c w_lc (ŷ^l_a - ŷ^l_b)²,   ŷ = y / (|y|_2 + 1e-10) over the channels of each position,

with weights w_l learnt from people's judgements. `FeatureDistance` is the same with every channel counting alike, for any network
whose features are at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tessera.errors import TesseraError, UsageError, suggest
from tessera.nn.precision import widened

__all__ = ["LPIPS", "FeatureDistance"]

Conv = tuple[int, int, int, int, int, int]
"""Number among the layers of the original's list, channels in and out, kernel, stride, padding."""

NETWORKS: dict[str, list[list[Conv]]] = {  # stages; before every stage but the first comes a maximum over 2×2 (VGG) or 3×3 (AlexNet)
    "vgg": [
        [(0, 3, 64, 3, 1, 1), (2, 64, 64, 3, 1, 1)],
        [(5, 64, 128, 3, 1, 1), (7, 128, 128, 3, 1, 1)],
        [(10, 128, 256, 3, 1, 1), (12, 256, 256, 3, 1, 1), (14, 256, 256, 3, 1, 1)],
        [(17, 256, 512, 3, 1, 1), (19, 512, 512, 3, 1, 1), (21, 512, 512, 3, 1, 1)],
        [(24, 512, 512, 3, 1, 1), (26, 512, 512, 3, 1, 1), (28, 512, 512, 3, 1, 1)],
    ],
    "alex": [
        [(0, 3, 64, 11, 4, 2)], [(3, 64, 192, 5, 1, 2)], [(6, 192, 384, 3, 1, 1)], [(8, 384, 256, 3, 1, 1)], [(10, 256, 256, 3, 1, 1)],
    ],
}  # fmt: skip
POOLS = {"vgg": {1: 2, 2: 2, 3: 2, 4: 2}, "alex": {1: 3, 2: 3}}
"""Side of the maximum before a stage, of stride 2."""
SMALLEST = {"vgg": 16, "alex": 31}
"""Side of a picture that leaves a position to the last stage."""


class LPIPS(nn.Module):
    """The learned distance. Untrained when made; `load` fills it.

    Args:
        network: "vgg" or "alex".
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, network: str = "vgg") -> None:
        super().__init__()
        if network not in NETWORKS:
            raise UsageError(suggest("LPIPS network", network, NETWORKS))
        self.network = network
        self.stages = nn.ModuleList(
            nn.ModuleDict({str(n): nn.Conv2d(a, b, kernel, stride, padding) for n, a, b, kernel, stride, padding in stage})
            for stage in NETWORKS[network]
        )
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(stage[-1][2])) for stage in NETWORKS[network])
        # The mean and deviation of ImageNet for pictures in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)

    def features(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b c h2 w2"]]:
        """Of each stage, after its last rectifier."""
        x, maps = (image - self.shift) / self.scale, []
        for number, stage in enumerate(self.stages):
            if number in POOLS[self.network]:
                x = F.max_pool2d(x, POOLS[self.network][number], 2)
            assert isinstance(stage, nn.ModuleDict)
            for conv in stage.values():
                x = F.relu(conv(x))
            maps.append(x)
        return maps

    def layers(self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "l b"]:
        """What each stage adds to the distance."""
        return self.between(self.features(a), self.features(b))

    def between(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Float[Tensor, "l n"]:
        """The same of `features` that are known already; those of one picture go with any number of others."""
        return torch.stack([
            ((_unit(of_a) - _unit(of_b)).square() * weight[:, None, None]).sum(1).mean((1, 2))
            for of_a, of_b, weight in zip(a, b, self.weights, strict=True)
        ])  # fmt: skip

    def forward(self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The distance of each pair of pictures in [-1, 1]; UsageError when they are too small for five stages."""
        if min(a.shape[2:]) < SMALLEST[self.network]:
            least = SMALLEST[self.network]
            raise UsageError(
                f"pictures of {a.shape[3]}x{a.shape[2]} are too small for LPIPS of {self.network}: it needs {least} pixels a side"
            )
        return self.layers(a, b).sum(0)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill the network from tensors under the names of the `lpips` package, or of its linear layers and torchvision's backbone.

        Raises TesseraError naming the first tensor that is missing or does not fit.
        """
        with torch.no_grad():
            for own, target in self.named_parameters():
                name = next((name for name in _names(own) if name in tensors), None)
                if name is None:
                    raise TesseraError(f"LPIPS of {self.network}: the files have no tensor {' or '.join(map(repr, _names(own)))}")
                value = tensors[name]
                if value.numel() != target.numel() or (target.ndim > 1 and value.shape != target.shape):
                    raise TesseraError(
                        f"LPIPS of {self.network}: {name!r} has shape {list(value.shape)} where {list(target.shape)} was expected, "
                        "so the file belongs to another network"
                    )
                target.copy_(value.reshape(target.shape))


class FeatureDistance(nn.Module):
    """The distance by a network's features, every channel counting alike: Σ_l mean_hw |ŷ^l_a - ŷ^l_b|².

    Args:
        network: kept so that it moves with this module; its parameters are left as they are.
        features: pictures in [-1, 1] → its maps [B, C, h, w].
    """

    def __init__(self, network: nn.Module, features: Callable[[Tensor], Iterable[Tensor]]) -> None:
        super().__init__()
        self.network, self._features = network, features

    def forward(self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The distance of each pair of pictures."""
        pairs: Iterable[tuple[Any, Any]] = zip(self._features(a), self._features(b), strict=True)
        return torch.stack([(_unit(of_a) - _unit(of_b)).square().sum(1).mean((1, 2)) for of_a, of_b in pairs]).sum(0)


def _unit(y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    y = widened(y)
    return y / (torch.linalg.vector_norm(y, dim=1, keepdim=True) + 1e-10)  # whose gradient at 0 is 0, not NaN


def _names(own: str) -> tuple[str, ...]:
    """The names in files of our parameter `own`, the one that counts first."""
    part, number, *rest = own.split(".")
    if part == "weights":
        return f"lins.{number}.model.1.weight", f"lin{number}.model.1.weight"
    return f"net.slice{int(number) + 1}.{'.'.join(rest)}", f"features.{'.'.join(rest)}"
