"""Training a flow over the tokens of a frozen codec, and beside it, where the recipe asks for it, the layout of its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tessera.contexts.context import Context
from tessera.errors import UsageError
from tessera.flow import TokenFlow
from tessera.processes.token_loss import LossOutput
from tessera.randomness import Draws, derive_seed
from tessera.training.flow_task import FlowTask
from tessera.training.layout import LayoutLearner
from tessera.training.loader import Batch, Batches
from tessera.training.recipe import FlowRecipe, NullPromptRecipe
from tessera.training.task import Panel, StepDraws, to_picture

__all__ = ["TokenTask"]

MASKED_SHARES = 5
TIME_BINS = 10


class TokenTask(FlowTask):
    """Minimises the flow's variational loss over tokens made by its codec."""

    flow: TokenFlow

    def __init__(self, flow: TokenFlow, recipe: FlowRecipe | NullPromptRecipe, size: int) -> None:
        super().__init__(flow, recipe, size)
        asked = self._sampling().steps
        if asked is not None and asked > flow.process.steps:
            raise UsageError(f"sampling.steps is {asked}, but the process has only {flow.process.steps}")
        self.layout = recipe.layout if isinstance(recipe, FlowRecipe) else None
        if self.layout is not None and flow.network.config.get("condition") != "text":
            raise UsageError("the recipe's `layout` is for networks of kind vq-diffusion that read words: leave it out")
        self.layout_learner: LayoutLearner | None = None

    @property
    def asks(self) -> dict[str, bool]:
        return {"layouts": self.layout is not None}

    def begin(self, batches: Batches) -> None:
        if self.layout is None:
            return
        data: Any = batches.data
        flow: Any = self.flow
        first, network, context = batches[0].layouts, flow.network.config, flow.context_encoder.config
        rows, columns = network["grid"]
        if first is None or first.shape[1] != rows * columns:
            cells = "no" if first is None else first.shape[1]
            raise UsageError(f"the data's layouts have {cells} cells, but the network has {rows}x{columns} tokens: leave `layout` out")
        made = LayoutLearner(data.layout_classes, rows * columns, network["width"], context["width"], context.get("heads", 1))
        self.layout_learner = made.to(self.device)

    def forward(self, batch: Batch, seed: int, total: int) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        rows = [position % total for position in batch.positions]
        stage = self._stage(batch.positions[0] // total)
        prompts = self.some_dropped(batch.prompts, seed, total, rows) if stage == "all" else batch.prompts
        context = self._context(prompts).to(self.device)
        if stage == "words":
            assert self.layout_learner is not None
            assert batch.layouts is not None
            of_words = self.layout_learner.words_loss(context, batch.layouts)
            return of_words, {"layout_of_words": of_words.detach()}
        tokens = self.tokens(batch)
        t = None if self.training else self._spread_times(rows, total)
        if stage == "alone":
            t = torch.full((len(tokens),), self.flow.process.steps, device=self.device)
        draws = StepDraws(seed, total, rows, tokens.device)
        features: list[Tensor] = []
        out = self.evaluate(tokens, context, draws, t, features)
        report = {"nll": out.auxiliary.detach().mean() / tokens.shape[1]}
        if out.bound is not None and out.bits_per_token is not None:
            report["bound"] = out.bound.detach().mean() / tokens.shape[1]
            report["bits_per_token"] = out.bits_per_token.detach()
        if self.layout is None or self.layout_learner is None or batch.layouts is None:
            return out.loss, report
        of_words = self.layout_learner.words_loss(context, batch.layouts)
        of_features = self.layout_learner.features_loss(features[0], batch.layouts, out.masked)
        report |= {"layout_of_words": of_words.detach(), "layout": of_features.detach()}
        layout = of_words + of_features
        return layout if stage == "alone" else out.loss + self.layout.weight * layout, report

    def _stage(self, step: int) -> str:
        """What the step after `step` steps learns: "words", "alone" (the layout alone) or "all"."""
        if not self.training or self.layout is None or step >= self.layout.words + self.layout.alone:
            return "all"
        return "words" if step < self.layout.words else "alone"

    def _spread_times(self, rows: Sequence[int], total: int) -> Int[Tensor, " b"]:
        """Times spread evenly over 1..T by the number of the picture, so that every evaluation sees the same ones."""
        return torch.tensor([1 + row * self.flow.process.steps // total for row in rows], device=self.device)

    def tokens(self, batch: Batch) -> Int[Tensor, "b n"]:
        """The batch's tokens; the codec runs in float32, because rounding could change them."""
        if batch.tokens is not None:
            return batch.tokens
        assert batch.image is not None
        with torch.no_grad(), torch.autocast(batch.image.device.type, enabled=False):
            return self.flow.codec.encode(to_picture(batch.image))

    def evaluate(
        self,
        tokens: Int[Tensor, "b n"],
        context: Context,
        draws: Draws,
        t: Int[Tensor, " b"] | None = None,
        features: list[Tensor] | None = None,
    ) -> LossOutput:
        """The loss of clean tokens; `t` fixes the times, drawn otherwise. `features` receives the network's, for the layout."""
        network = self._network[0]
        p_t = None if t is None else torch.full_like(t, 1 / self.flow.process.steps, dtype=torch.float32)

        def predict_logits(x_t: Tensor, t: Tensor) -> Tensor:
            if self.layout is None or features is None:
                return network(x_t, t - 1, context)
            logits, seen = network(x_t, t - 1, context, with_features=True)
            features.append(seen)
            return logits

        return self.flow.loss(predict_logits, tokens, draws, t, p_t)

    def share_statistics(self, gather: Callable[[Tensor], Tensor]) -> None:
        self.flow.loss.gather = gather

    @torch.no_grad()
    def panel(self, batches: Sequence[Batch], prompts: Sequence[object], seed: int) -> Panel:
        steps = self.flow.process.steps
        times: list[Tensor] = []
        losses: list[Tensor] = []
        right = torch.zeros(MASKED_SHARES, dtype=torch.float64)
        seen = torch.zeros(MASKED_SHARES, dtype=torch.float64)
        used = torch.zeros(self.flow.codec.classes)
        count = sum(len(batch.prompts) for batch in batches)
        for batch in batches:
            tokens = self.tokens(batch.to(self.device))
            t = self._spread_times(batch.positions, count)
            context, draws = self._context(batch.prompts).to(self.device), Draws(derive_seed(seed, "panel"), batch.positions, self.device)
            out = self.evaluate(tokens, context, draws, t)
            times.append(out.t.cpu())
            losses.append((out.auxiliary if out.bound is None else out.bound).float().cpu() / tokens.shape[1])
            bins = (out.masked.double().mean(1) * MASKED_SHARES).long().clamp(max=MASKED_SHARES - 1).cpu()
            right.index_add_(0, bins, (out.correct & out.masked).double().sum(1).cpu())
            seen.index_add_(0, bins, out.masked.double().sum(1).cpu())
            used += torch.bincount(tokens.flatten(), minlength=len(used)).float().cpu()
        t_all, loss_all = torch.cat(times), torch.cat(losses)
        # The term of t = 1 is a likelihood, of another scale than the divergences after it: it stands alone.
        edges = sorted({1, 2, *(2 + b * (steps - 1) // TIME_BINS for b in range(1, TIME_BINS)), steps + 1})
        spans = [(low, high) for low, high in pairwise(edges) if ((t_all >= low) & (t_all < high)).any()]
        by_time = [float(loss_all[(t_all >= low) & (t_all < high)].mean()) for low, high in spans]
        spans_named = [f"t {low}" if high == low + 1 else f"t {low}-{high - 1}" for low, high in spans]
        p = used / used.sum()
        scalars = {
            "token_accuracy": float(right.sum() / seen.sum().clamp(min=1)),
            "codes_used": float((used > 0).sum()),
            "code_perplexity": float(torch.special.entr(p).sum().exp()),
        }
        series = {
            "loss_by_time": (spans_named, by_time),
            "accuracy_by_masked_share": (
                [f"{100 * b // MASKED_SHARES}-{100 * (b + 1) // MASKED_SHARES} %" for b in range(MASKED_SHARES)],
                (right / seen).tolist(),
            ),
        }
        pictures = {"samples": self.samples(prompts, seed)} if prompts else {}
        kept = self.flow.loss.curve
        return Panel(scalars, series, pictures, {} if kept is None else {kept.name.replace(" ", "_"): kept.values.tolist()})
