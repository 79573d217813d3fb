"""The network of VQ-Diffusion (Gu et al. 2022, arXiv 2111.14822, section 4 and figure 2): x_0 logits from x_t, t and a context.

    h = token + position embedding of x_t
    every block:   h += SelfAttention(AdaLN(h, t))
        text:      h += CrossAttention(AdaLN(h, t), words);   h += MLP(LN(h))
        class:     h += MLP(AdaLN(h, label))
        none:      h += MLP(LN(h))
    logits = Linear(LN(h))

AdaLN(h, e) = LN(h) · (1 + scale) + shift with (scale, shift) = Linear(SiLU(Embedding(e))).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tessera.contexts.context import Context
from tessera.errors import UsageError, suggest
from tessera.nn.attention import CrossAttention, KeysValues, SelfAttention
from tessera.nn.embeddings import ClassEmbedding, GridEmbedding, SinusoidalEmbedding, start_from_codebook
from tessera.nn.linear import Linear
from tessera.nn.mlp import ACTIVATIONS, ConvMLP, LinearMLP
from tessera.nn.neighbours import Neighbours
from tessera.nn.norms import AdaptiveInstanceNorm, AdaptiveLayerNorm, LayerNorm, Modulation
from tessera.nn.precision import widened
from tessera.nn.residual import add
from tessera.schema import Depth, Positive

__all__ = ["Prepared", "TokenTransformer"]

# Tokens that go through the network at a time without gradients on a CPU. Matrix products gain nothing from more.
_TOKENS = 1024

TIME_EMBEDDINGS = {"learned": nn.Embedding, "sinusoidal": SinusoidalEmbedding}
CLASS_NORMS = {"layer": AdaptiveLayerNorm, "instance": AdaptiveInstanceNorm}


@dataclass(frozen=True)
class Prepared:
    """What a context contributes, for every block: keys and values of the words, the modulation of the class, or None."""

    blocks: list[KeysValues | Modulation | None]
    mask: Bool[Tensor, "b 1 1 l"] | None = None

    def __getitem__(self, rows: slice | Int[Tensor, " rows"]) -> Prepared:
        """The part of some images of the batch."""
        blocks = [None if block is None else type(block)(*(value[rows] for value in block)) for block in self.blocks]
        return Prepared(blocks, None if self.mask is None else self.mask[rows])


class Block(nn.Module):
    """Self-attention under the time step, then an MLP: the unconditional block, and what the others share.

    Args:
        width: features per token.
        heads: attention heads.
        time: embedding of the time step.
        mlp: the per-token network.
        dropout: probability of dropping a feature of a branch.
    """

    def __init__(self, width: int, heads: int, time: nn.Module, mlp: nn.Module, dropout: float) -> None:
        super().__init__()
        self.norm_self = AdaptiveLayerNorm(time, width)
        self.self_attention = SelfAttention(width, heads)
        self.norm_mlp: Any = LayerNorm(width)
        self.mlp = mlp
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def prepare(self, condition: Any) -> Any:
        """The part of the block's work that depends on the condition (embeddings, labels or nothing) alone."""
        return None

    def forward(self, h: Float[Tensor, "b n d"], t_index: Int[Tensor, " c"], prepared: Any, mask: Tensor | None) -> Float[Tensor, "b n d"]:
        h = self.attend_self(h, t_index)
        return add(h, self.dropout(self.mlp(self.norm_mlp(h))))

    def attend_self(self, h: Float[Tensor, "b n d"], t_index: Int[Tensor, " c"]) -> Float[Tensor, "b n d"]:
        return add(h, self.dropout(self.self_attention(self.norm_self(h, self.norm_self.modulation(t_index)))))


class TextBlock(Block):
    """Attends to the words between self-attention and MLP."""

    def __init__(
        self, width: int, heads: int, time: nn.Module, mlp: nn.Module, dropout: float, context_width: int, time_cross: nn.Module
    ) -> None:
        super().__init__(width, heads, time, mlp, dropout)
        self.norm_cross = AdaptiveLayerNorm(time_cross, width)
        self.cross_attention = CrossAttention(width, heads, context_width)

    def prepare(self, condition: Float[Tensor, "b l c"]) -> Any:
        return self.cross_attention.keys_values(condition)

    def forward(self, h: Float[Tensor, "b n d"], t_index: Int[Tensor, " c"], prepared: Any, mask: Tensor | None) -> Float[Tensor, "b n d"]:
        h = self.attend_self(h, t_index)
        normed = self.norm_cross(h, self.norm_cross.modulation(t_index))
        h = add(h, self.dropout(self.cross_attention(normed, prepared, mask)))
        return add(h, self.dropout(self.mlp(self.norm_mlp(h))))


class ClassBlock(Block):
    """The class modulates the norm before the MLP."""

    def __init__(self, width: int, heads: int, time: nn.Module, mlp: nn.Module, dropout: float, norm: AdaptiveLayerNorm) -> None:
        super().__init__(width, heads, time, mlp, dropout)
        self.norm_mlp = norm

    def prepare(self, condition: Int[Tensor, " b"]) -> Any:
        return self.norm_mlp.modulation(condition)

    def forward(self, h: Float[Tensor, "b n d"], t_index: Int[Tensor, " c"], prepared: Any, mask: Tensor | None) -> Float[Tensor, "b n d"]:
        h = self.attend_self(h, t_index)
        return add(h, self.dropout(self.mlp(self.norm_mlp(h, prepared))))


class TokenTransformer(nn.Module):
    """Logits of x_0 for every token of x_t.

    Args:
        classes: K, the number of token values; value K is the mask.
        grid: (h, w) of the tokens the network is made for.
        width: features per token.
        depth: number of blocks.
        heads: attention heads; divide `width`.
        timesteps: T of the process.
        condition: "text" (context embeddings, by cross-attention), "class" (labels, by adaptive norm) or "none".
        context_width: features of a context row; for "text".
        class_count: number of labels; for "class". A label ≥ class_count stands for the mean of all classes.
        mlp: "linear", or "conv" (3×3 convolutions over the grid).
        mlp_ratio: hidden features of the MLP per feature.
        dropout: probability of dropping a feature of a branch while training.
        activation: "sigmoid-gelu" (x σ(1.702 x)) or "gelu".
        time_embedding: "learned" or "sinusoidal".
        class_norm: norm under the class: "layer", or "instance".
        position_table: (H, W) of the position table when it is not `grid`; see `GridEmbedding`.
        neighbours: mix adjacent tokens in the embedding and at the start of every block; see `Neighbours`. The originals do not.
        initialisation: "released" (every weight of standard deviation 0.02, as in the originals, whose width is 1024) or "scaled" (linear
            maps by their number of inputs, positions of standard deviation 0.5), for small widths. At width 160 the first starts
            attention five times too flat: trained to predict layouts, the network had learnt no relation after 16,000 pictures.
    """

    def __init__(
        self,
        classes: Positive,
        grid: Sequence[int],
        width: Positive,
        depth: Depth,
        heads: Positive,
        timesteps: Positive = 100,
        condition: str = "text",
        context_width: int | None = None,
        class_count: int | None = None,
        mlp: str = "linear",
        mlp_ratio: Positive = 4,
        dropout: float = 0.0,
        activation: str = "sigmoid-gelu",
        time_embedding: str = "learned",
        class_norm: str = "layer",
        position_table: Sequence[int] | None = None,
        neighbours: bool = False,
        initialisation: str = "released",
    ) -> None:
        super().__init__()
        table = list(position_table or grid)
        self.config: dict[str, Any] = {
            "kind": "vq-diffusion", "classes": classes, "grid": list(grid), "width": width, "depth": depth, "heads": heads,
            "timesteps": timesteps, "condition": condition, "context_width": context_width, "class_count": class_count, "mlp": mlp,
            "mlp_ratio": mlp_ratio, "dropout": dropout, "activation": activation, "time_embedding": time_embedding,
            "class_norm": class_norm, "position_table": table, "neighbours": neighbours, "initialisation": initialisation,
        }  # fmt: skip
        _check(self.config)
        self.classes, self.condition, self.grid = classes, condition, (grid[0], grid[1])

        def time() -> nn.Module:
            return TIME_EMBEDDINGS[time_embedding](timesteps, width)

        def block() -> Block:
            act = ACTIVATIONS[activation]()
            made = LinearMLP(width, mlp_ratio * width, act) if mlp == "linear" else ConvMLP(width, mlp_ratio * width, act, grid)
            if condition == "text":
                return TextBlock(width, heads, time(), made, dropout, int(context_width or 0), time())
            if condition == "class":
                norm = CLASS_NORMS[class_norm](ClassEmbedding(int(class_count or 0), width), width)
                return ClassBlock(width, heads, time(), made, dropout, norm)
            return Block(width, heads, time(), made, dropout)

        def mixing() -> nn.Module:
            return Neighbours(width, grid, groups=width) if neighbours else nn.Identity()

        self.embedding = GridEmbedding(classes + 1, table, width, neighbours)
        self.blocks: Any = nn.ModuleList(block() for _ in range(depth))
        self.mixing: Any = nn.ModuleList(mixing() for _ in range(depth))
        self.norm_out = LayerNorm(width)
        self.head = Linear(width, classes)
        self.apply(_initialise)
        if initialisation == "scaled":
            self._scale_initial_weights()

    @torch.no_grad()
    def _scale_initial_weights(self) -> None:
        """Linear maps by their number of inputs, 1/√(3 d); modulations of norms stay small, so that blocks begin alike at all times."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and ".norm_" not in name:
                module.reset_parameters()
        for table in (self.embedding.row, self.embedding.column):
            nn.init.normal_(table.weight, std=0.5)

    def start_from_codebook(self, codes: Float[Tensor, "k d"], scale: float) -> None:
        """See `nn.embeddings.start_from_codebook`."""
        start_from_codebook([self.embedding.token.weight, self.head.weight], codes, scale)

    def prepare(self, context: Context) -> Prepared:
        """What depends on the context alone, computed once per request instead of once per step."""
        condition: Any = {"text": context.embeddings, "class": context.labels, "none": True}[self.condition]
        if condition is None:
            what = "embeddings" if self.condition == "text" else "labels"
            raise UsageError(f"a network conditioned on {self.condition} needs a context with {what}: use its own context encoder")
        if self.condition == "text":
            condition = condition.to(self.head.weight.dtype)  # encoders give float32, also to a network in half precision
        mask = None if context.mask is None else context.mask[:, None, None]
        return Prepared([block.prepare(condition) for block in self.blocks], mask)

    def forward(self, x_t: Int[Tensor, "b n"], t_index: Int[Tensor, " b"], context: Context | Prepared, with_features: bool = False) -> Any:
        """Logits of x_0 [B, N, K]; `with_features`: and the features [B, N, D] that they are a linear map of.

        x_t: tokens, mask token K. t_index: t - 1, in 0..T-1. context: a `Context`, or what `prepare` made of it.
        """
        height, width = self.embedding.table
        if x_t.shape[1] > height * width:
            raise UsageError(
                f"{x_t.shape[1]} tokens are too many for a network with {height}x{width} positions: choose a smaller picture size"
            )
        prepared = context if isinstance(context, Prepared) else self.prepare(context)
        # One modulation serves all rows of one time. (Off the CPU the test would wait for the device.)
        if x_t.device.type == "cpu" and not torch.is_grad_enabled() and not with_features:
            images, one_time = max(1, _TOKENS // x_t.shape[1]), bool((t_index == t_index[0]).all())
            if len(x_t) > images or not one_time:
                return self._in_parts(x_t, t_index, prepared, images, one_time)
            t_index = t_index[:1]
        h = self.embedding(x_t)
        h = widened(h)  # of a bfloat16 network too: its sums would lose as much as all its products
        for mix, block, of_context in zip(self.mixing, self.blocks, prepared.blocks, strict=True):
            h = block(mix(h), t_index, of_context, prepared.mask)
        h = self.norm_out(h)
        return (self.head(h), h) if with_features else self.head(h)

    def _in_parts(
        self, x_t: Int[Tensor, "b n"], t_index: Int[Tensor, " b"], prepared: Prepared, images: int, one_time: bool
    ) -> Float[Tensor, "b n k"]:
        """The same, some images of one time at a time, which takes a CPU no longer and bounds the memory.

        The modulation of several times rounds otherwise than that of one, and an image must not depend on the times of others.
        """
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.head.weight.dtype
        logits = torch.empty(*x_t.shape, self.classes, dtype=dtype)
        parts: list[slice | Tensor] = [slice(start, start + images) for start in range(0, len(x_t), images)]
        if not one_time:
            parts = [rows for time in t_index.unique() for rows in (t_index == time).nonzero()[:, 0].split(images)]
        for rows in parts:
            logits[rows] = self.forward(x_t[rows], t_index[rows], prepared[rows])
        return logits


def _check(config: dict[str, Any]) -> None:
    for name, known in {
        "condition": ("text", "class", "none"), "mlp": ("linear", "conv"), "activation": ACTIVATIONS, "time_embedding": TIME_EMBEDDINGS,
        "class_norm": CLASS_NORMS, "initialisation": ("released", "scaled"),
    }.items():  # fmt: skip
        if config[name] not in known:
            raise UsageError(suggest(name, config[name], known))
    if config["width"] % config["heads"]:
        raise UsageError(f"width {config['width']} is not a multiple of heads {config['heads']}: choose heads that divide it")
    needed = {"text": "context_width", "class": "class_count"}.get(config["condition"])
    if needed and not config[needed]:
        raise UsageError(f"a network with condition {config['condition']!r} needs {needed}, a positive number")


def _initialise(module: nn.Module) -> None:
    """Normal weights of standard deviation 0.02 and zero biases; norms and convolutions keep the framework's, as in the originals."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
