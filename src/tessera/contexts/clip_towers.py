"""CLIP's text and image tower (Radford et al. 2021, arXiv 2103.00020): transformers whose norms come first.

    h += out(attention(norm(h)));  h += fc2(act(fc1(norm(h))))

Their tensors have the names of transformers' `CLIPModel`, whose import alone costs seconds and 150 MB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.errors import UsageError, suggest

__all__ = ["ACTIVATIONS", "CLIPTowers"]

TEMPERATURE = 0.07
"""Of the contrastive loss, where CLIP's training starts."""


def _quick_gelu(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": _quick_gelu, "gelu": F.gelu}
"""By transformers' names: OpenAI's models, and those of others."""


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        q, k, v = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.fc2(self.activation(self.fc1(x)))


class _Layer(nn.Module):
    def __init__(self, sizes: Mapping[str, int], activation: Callable[[Tensor], Tensor], causal: bool) -> None:
        super().__init__()
        width = sizes["width"]
        self.self_attn, self.layer_norm1 = _Attention(width, sizes["heads"], causal), nn.LayerNorm(width)
        self.mlp, self.layer_norm2 = _MLP(width, sizes.get("hidden", 4 * width), activation), nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Encoder(nn.Module):
    def __init__(self, sizes: Mapping[str, int], activation: Callable[[Tensor], Tensor], causal: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(sizes, activation, causal) for _ in range(sizes["layers"]))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        for layer in self.layers:
            x = layer(x)
        return x


class _TextEmbeddings(nn.Module):
    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(sizes["vocabulary"], sizes["width"])
        self.position_embedding = nn.Embedding(sizes["length"], sizes["width"])

    def forward(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class _ImageEmbeddings(nn.Module):
    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        width, patch = sizes["width"], sizes["patch"]
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding(1 + (sizes["size"] // patch) ** 2, width)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        patches = self.patch_embedding(image).flatten(2).transpose(1, 2)
        return torch.cat([self.class_embedding.expand(len(image), 1, -1), patches], 1) + self.position_embedding.weight


class _TextTower(nn.Module):
    def __init__(self, sizes: Mapping[str, int], activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embeddings, self.encoder = _TextEmbeddings(sizes), _Encoder(sizes, activation, causal=True)
        self.final_layer_norm = nn.LayerNorm(sizes["width"])

    def forward(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Every token after the final norm."""
        return self.final_layer_norm(self.encoder(self.embeddings(ids)))


class _ImageTower(nn.Module):
    def __init__(self, sizes: Mapping[str, int], activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embeddings, self.pre_layrnorm = _ImageEmbeddings(sizes), nn.LayerNorm(sizes["width"])
        self.encoder, self.post_layernorm = _Encoder(sizes, activation, causal=False), nn.LayerNorm(sizes["width"])

    def forward(self, image: Float[Tensor, "b 3 h w"], weights: Float[Tensor, "b n 1"] | None = None) -> Float[Tensor, "b n d"]:
        """The class token and the patches, before the final norm. weights: of the embeddings."""
        x = self.embeddings(image)
        return self.encoder(self.pre_layrnorm(x if weights is None else x * weights))


class CLIPTowers(nn.Module):
    """Both towers and their projections.

    Args:
        text, image, width, activation: as of `clip_joint.JointCLIP`. UsageError for an unknown activation.
    """

    def __init__(self, text: Mapping[str, int], image: Mapping[str, int], width: int, activation: str) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise UsageError(suggest("activation of CLIP", activation, ACTIVATIONS))
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(TEMPERATURE)))
        self.text_model, self.vision_model = _TextTower(text, ACTIVATIONS[activation]), _ImageTower(image, ACTIVATIONS[activation])
        self.visual_projection = nn.Linear(image["width"], width, bias=False)
        self.text_projection = nn.Linear(text["width"], width, bias=False)

    def encode_text(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b d"]:
        """The projected end marker, the first of the largest ids."""
        hidden = self.text_model(ids)
        return self.text_projection(hidden[torch.arange(len(ids), device=ids.device), ids.argmax(-1)])

    def encode_image(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The projected class token."""
        return self.visual_projection(self.vision_model.post_layernorm(self.vision_model(image)[:, 0]))
