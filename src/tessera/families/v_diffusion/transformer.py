"""A transformer over patches of the pixels, for small models: x_0 from x_t, t and a CLIP embedding.

    x_t ─ patches ─ principal components ─ linear + positions ─ blocks ─ norm, linear ─ components ─ patches ─ x_0
    e ── MLP ── rows, which every block attends to beside the patches          (e, t) ── MLP ── modulates every block

Blocks modulate, and gate, by time and embedding as DiT's do (Peebles & Xie 2023, arXiv 2212.09748); rows made of one CLIP embedding are
GLIDE's and unCLIP's (Ramesh et al. 2022, arXiv 2204.06125, section 2.1). The network sees and gives pixels, not latents; of large patches
it predicts x_0, as Li & He 2025 do (arXiv 2511.13720).

Preconditioning. A patch's principal components z_k are uncorrelated with variances λ_k, so the best linear estimate of them is known:
with x_t = alpha z + sigma eps,

    z_k ≈ alpha λ_k / V_k x_t,k,    V_k = alpha² λ_k + sigma²,    and the error has variance   λ_k sigma² / V_k.

The network is given x_t,k / √V_k, and what it gives, times the root of that last variance, is added to the linear estimate: both are of
unit size at every time and in every component, as those of Karras et al. 2022 (arXiv 2206.00364, section 5) are for data of one variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tessera.contexts.context import Context
from tessera.errors import UsageError, nearest_sizes
from tessera.families.v_diffusion.layers import FourierFeatures, embedding_of
from tessera.families.v_diffusion.network import COLOURS
from tessera.nn.attention import KeysValues, attend, merge_heads, split_heads
from tessera.nn.linear import Linear, alone
from tessera.nn.neighbours import Neighbours
from tessera.processes.gaussian_schedules import GaussianSchedule, make_gaussian_schedule
from tessera.schema import Depth, Positive

__all__ = ["PatchTransformer", "Prepared"]

_TIME_FEATURES = 128
_ROW_WIDTH = 128
_EPSILON = 1e-5


class Modulation(NamedTuple):
    """Of a half of a block, [B, 1, D] each: norm(h) (1 + scale) + shift, and (1 + gate) times what comes of it."""

    scale: Float[Tensor, "b 1 d"]
    shift: Float[Tensor, "b 1 d"]
    gate: Float[Tensor, "b 1 d"]

    def norm(self, h: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return F.layer_norm(h, h.shape[-1:], eps=_EPSILON) * (1 + self.scale) + self.shift


class Block(nn.Module):
    """h + attention over the patches and the embedding's rows; then h + W_down (SiLU(W_a h) ⊙ W_b h) (Shazeer 2020, arXiv 2002.05202).

    Args:
        width, heads: of attention.
        condition: width of the condition.
        hidden: features inside the second half.
        rows: width of the embedding's rows; None: there are none.
    """

    def __init__(self, width: int, heads: int, condition: int, hidden: int, rows: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = Linear(condition, 6 * width)
        self.query_key_value = Linear(width, 3 * width)
        self.rows = None if rows is None else Linear(rows, 2 * width)
        self.out = Linear(width, width)
        self.up = Linear(width, 2 * hidden)
        self.down = Linear(hidden, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def prepare(self, rows: Float[Tensor, "b r c"]) -> KeysValues:
        """Keys and values of the embedding's rows."""
        assert self.rows is not None
        made = self.rows(rows) if torch.is_grad_enabled() else alone(self.rows, rows)
        return KeysValues(*split_heads(made, 2, self.heads))

    def forward(self, h: Float[Tensor, "b n d"], condition: Float[Tensor, "b2 c"], rows: KeysValues | None) -> Float[Tensor, "b n d"]:
        """`condition`: a row per picture, the first ones of at least two."""
        parts = self.modulation(condition)[: len(h), None].chunk(6, dim=-1)
        first, second = Modulation(*parts[:3]), Modulation(*parts[3:])
        q, k, v = split_heads(self.query_key_value(first.norm(h)), 3, self.heads)
        if rows is not None:
            k, v = torch.cat([k, rows.keys.to(k.dtype)], dim=2), torch.cat([v, rows.values.to(v.dtype)], dim=2)
        h = h + (1 + first.gate) * self.out(merge_heads(attend(q, k, v)))
        a, b = self.up(second.norm(h)).chunk(2, dim=-1)
        return h + (1 + second.gate) * self.down(F.silu(a) * b)


@dataclass(frozen=True)
class Prepared:
    """What a context contributes: its embeddings at length √D, and their rows' keys and values in every block; or nothing."""

    embedding: Float[Tensor, "b d"] | None = None
    rows: tuple[KeysValues, ...] = ()

    def __getitem__(self, rows: slice) -> Prepared:
        """The part of some pictures of the batch."""
        if self.embedding is None:
            return self
        return Prepared(self.embedding[rows], tuple(KeysValues(each.keys[rows], each.values[rows]) for each in self.rows))


class PatchTransformer(nn.Module):
    """x_0 for every pixel of x_t.

    Args:
        size: side in pixels of the pictures it is made for; larger canvases are drawn through windows of it.
        patch: side in pixels of the squares that are one position each; divides `size`.
        width, depth, heads: features of a position, blocks, and attention heads, which divide the width.
        context_width: features of the CLIP embedding; None: unconditional.
        context_rows: rows that are made of the embedding.
        hidden: features inside the second half of a block; None: twice the width.
        condition: width of what modulates the blocks.
        components: principal components of a patch that the network sees and gives.
        neighbours: blocks before which each position sees those around it through a 3×3 convolution.
        process: description of the noise schedule it is trained with, from whose log-SNR the preconditioning follows.
    """

    parametrisation = "x_0"
    """What the output is; see `processes.gaussian`."""
    times = (0.0, 1.0)

    started: Tensor
    basis: Tensor
    variance: Tensor
    mean: Tensor

    def __init__(
        self,
        size: Positive,
        patch: Positive = 8,
        width: Positive = 192,
        depth: Depth = 6,
        heads: Positive = 6,
        context_width: int | None = None,
        context_rows: Positive = 8,
        hidden: int | None = None,
        condition: Positive = 256,
        components: Positive = 96,
        neighbours: Sequence[int] = (0,),
        process: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        values = COLOURS * patch**2
        if patch < 1 or size < patch or size % patch:
            raise UsageError(f"size {size} is not a multiple of patch {patch}")
        if min(width, depth, heads, condition, context_rows) < 1 or width % heads:
            raise UsageError(
                f"a transformer needs width, depth, heads, condition and context_rows of at least 1 and heads that divide the width, "
                f"not width {width}, depth {depth}, heads {heads}, condition {condition} and context_rows {context_rows}"
            )
        if not 1 <= components <= values:
            raise UsageError(f"components {components} must be from 1 to {values}, the values of a patch of {patch}x{patch}")
        if strange := [place for place in neighbours if not 0 <= place < depth]:
            raise UsageError(f"neighbours {strange[0]} is none of the blocks 0 to {depth - 1}")
        process = {"kind": "cosine"} if process is None else process
        hidden = 2 * width if hidden is None else hidden
        self.config: dict[str, Any] = {
            "kind": "v-transformer", "size": size, "patch": patch, "width": width, "depth": depth, "heads": heads,
            "context_width": context_width, "context_rows": context_rows, "hidden": hidden, "condition": condition,
            "components": components, "neighbours": list(neighbours), "process": process,
        }  # fmt: skip
        self.schedule: GaussianSchedule = make_gaussian_schedule(**process)
        self.patch, self.factor, self.grid = patch, patch, (size, size)
        side = size // patch
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.register_buffer("basis", torch.eye(values)[:, :components].contiguous())
        self.register_buffer("variance", torch.ones(components))
        self.register_buffer("mean", torch.zeros(values))
        self.enter = Linear(components, width)
        self.positions = nn.Parameter(torch.randn(side * side, width) * 0.1)
        self.neighbours = nn.ModuleDict({str(place): Neighbours(width, (side, side)) for place in neighbours})
        self.time_features = FourierFeatures(_TIME_FEATURES, frozen=True)
        self.condition = nn.Sequential(
            Linear(_TIME_FEATURES + (context_width or 0), condition), nn.SiLU(), Linear(condition, condition), nn.SiLU()
        )
        self.rows = (
            nn.Sequential(
                Linear(context_width, 4 * _ROW_WIDTH), nn.SiLU(), Linear(4 * _ROW_WIDTH, context_rows * _ROW_WIDTH),
                nn.Unflatten(1, (context_rows, _ROW_WIDTH)), nn.LayerNorm(_ROW_WIDTH),
            )
            if context_width
            else None
        )  # fmt: skip
        self.blocks: Any = nn.ModuleList(
            Block(width, heads, condition, hidden, _ROW_WIDTH if context_width else None) for _ in range(depth)
        )
        self.modulation = Linear(condition, 2 * width)
        self.leave = Linear(width, components)
        nn.init.normal_(self.leave.weight, std=0.02)
        nn.init.zeros_(self.leave.bias)

    @torch.no_grad()
    def start_from(self, image: Float[Tensor, "b 3 h w"]) -> None:
        """Principal components and their variances from the patches of pictures in [-1, 1]; once, afterwards they are fixed."""
        if self.started:
            return
        self.started.fill_(True)
        patches = self._patches(image).flatten(0, 1).double()
        mean = patches.mean(0)
        covariance = (patches - mean).T @ (patches - mean) / len(patches)
        variance, basis = torch.linalg.eigh(covariance)
        count = self.config["components"]
        self.mean.copy_(mean)
        self.basis.copy_(basis.flip(1)[:, :count])
        # Directions that these pictures do not have can be in others.
        self.variance.copy_(variance.flip(0)[:count].clamp(min=1e-5))

    @property
    def prompted(self) -> bool:
        """Whether it takes an embedding."""
        return self.rows is not None

    def check_size(self, height: int, width: int) -> None:
        """UsageError unless pictures of this size can be drawn."""
        side = self.config["size"]
        if height % self.patch or width % self.patch or height < side or width < side:
            raise UsageError(
                f"the network cannot draw pictures of {width}x{height}: both sides must be multiples of {self.patch} from {side}, "
                f"such as {nearest_sizes(max(height, side), max(width, side), self.patch)}"
            )

    def prepare(self, context: Context) -> Prepared:
        """What depends on the context alone: its embeddings, see `embedding_of`, and what blocks see of them."""
        if self.rows is None:
            return Prepared()
        embedding = embedding_of(context, self.config["context_width"])
        entering = embedding.to(self.leave.weight.dtype)
        # Products of one row round differently, and a picture must not depend on its batch.
        single = len(entering) == 1 and not torch.is_grad_enabled()
        rows = self.rows(entering.expand(2, -1))[:1] if single else self.rows(entering)
        return Prepared(embedding, tuple(block.prepare(rows) for block in self.blocks))

    def forward(self, x_t: Float[Tensor, "b 3 h w"], t: Float[Tensor, " b"], context: Context | Prepared) -> Float[Tensor, "b 3 h w"]:
        """x_0 in the precision of x_t.

        x_t: noisy pictures of the network's size. t: times in [0, 1]. context: a `Context`, or what `prepare` made of it.
        """
        if x_t.shape[2:] != self.grid:
            raise UsageError(f"the network takes pictures of {self.grid[1]}x{self.grid[0]}, not {x_t.shape[3]}x{x_t.shape[2]}")
        prepared = context if isinstance(context, Prepared) else self.prepare(context)
        dtype = self.leave.weight.dtype
        alpha, sigma = (each.to(x_t.device)[:, None, None] for each in self.schedule.alpha_sigma(t.double()))
        total = alpha.square() * self.variance + sigma.square()
        seen = (self._patches(x_t.float()) - (alpha * self.mean).float()) @ self.basis / total.sqrt().float()
        condition = self._condition(prepared, t, dtype)
        h = self.enter(seen.to(dtype)) + self.positions.to(dtype)
        for place, block in enumerate(self.blocks):
            if str(place) in self.neighbours:
                h = self.neighbours[str(place)](h)
            h = block(h, condition, prepared.rows[place] if prepared.rows else None)
        scale, shift = self.modulation(condition)[: len(h), None].chunk(2, dim=-1)
        given = self.leave(F.layer_norm(h, h.shape[-1:], eps=_EPSILON) * (1 + scale) + shift).float()
        linear = (alpha * self.variance / total.sqrt()).float() * seen
        spread = (sigma * (self.variance / total).sqrt()).float()
        patches = (linear + spread * given) @ self.basis.T + self.mean
        side = self.config["size"] // self.patch
        return F.pixel_shuffle(patches.unflatten(1, (side, side)).movedim(-1, 1), self.patch).to(x_t.dtype)

    def _patches(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return F.pixel_unshuffle(image, self.patch).flatten(2).transpose(1, 2)

    def _condition(self, prepared: Prepared, t: Float[Tensor, " b"], dtype: torch.dtype) -> Float[Tensor, "b2 c"]:
        """Of every block; a row per picture, the first ones of at least two."""
        entering = self.time_features(t).to(dtype)
        if prepared.embedding is not None:
            entering = torch.cat([prepared.embedding.to(dtype), entering], dim=1)
        if len(entering) == 1 and not torch.is_grad_enabled():  # as in `prepare`
            entering = entering.expand(2, -1)
        made: Tensor = self.condition(entering)
        return made
