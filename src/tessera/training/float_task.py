"""Training a flow over floats: of pixels, or of a frozen codec's latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tessera.contexts.context import Context
from tessera.contexts.joint import JointEncoder
from tessera.contexts.weighted_prompts import Caption
from tessera.float_flow import FloatFlow
from tessera.processes.gaussian_loss import GaussianLossOutput
from tessera.randomness import Draws, derive_seed
from tessera.training.flow_task import FlowTask
from tessera.training.loader import Batch, Batches
from tessera.training.task import Panel, StepDraws, to_picture

__all__ = ["FloatTask"]

TIME_BINS = 10
START_PICTURES = 512
"""From so many a network may start (principal components, say)."""


class FloatTask(FlowTask):
    """Minimises the flow's denoising loss."""

    flow: FloatFlow

    @torch.no_grad()
    def begin(self, batches: Batches) -> None:
        """A network's own start from data."""
        start = getattr(self.flow.network, "start_from", None)
        if start is None:
            return
        pictures: list[Tensor] = []
        step = 0
        while sum(map(len, pictures)) < START_PICTURES:
            image = batches[step].to(self.device).image
            assert image is not None
            pictures.append(self.flow.codec.encode(to_picture(image)))
            step += 1
        start(torch.cat(pictures))

    def forward(self, batch: Batch, seed: int, total: int) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        assert batch.image is not None
        image = to_picture(batch.image)
        rows = [position % total for position in batch.positions]
        draws = StepDraws(seed, total, rows, image.device)
        t = None if self.training else self._spread_times(rows, total)
        context = self._context(self.some_dropped(batch.prompts, seed, total, rows)).to(image.device)
        if self.training and self.recipe.picture_prompts > 0:
            context = self._some_pictures(context, image, StepDraws(derive_seed(seed, "pictures"), total, rows))
        out = self.evaluate(image, context, draws, t)
        return out.loss, {"squared_error": out.squared_error.detach().mean()}

    def evaluate(
        self, image: Float[Tensor, "b 3 h w"], context: Context, draws: Draws, t: Float[Tensor, " b"] | None = None
    ) -> GaussianLossOutput:
        """The loss of pictures; `t` fixes the times, drawn otherwise."""
        with torch.no_grad():
            x_0 = self.flow.codec.encode(image)
        network = self._network[0]
        out: GaussianLossOutput = self.flow.loss(lambda x_t, t: network(x_t, t, context), x_0, draws, t)
        return out

    def _some_pictures(self, context: Context, image: Float[Tensor, "b 3 h w"], draws: Draws) -> Context:
        """The context with some prompts' embeddings replaced by that of the picture itself; dropped prompts stay dropped."""
        encoder = self.flow.context_encoder
        assert isinstance(encoder, JointEncoder)
        assert context.embeddings is not None
        chosen = (draws.uniform() < self.recipe.picture_prompts).to(image.device) & context.embeddings[:, 0].any(-1)
        if not chosen.any():
            return context
        seen = image[chosen]
        if seen.shape[2:] != (encoder.size, encoder.size):
            seen = F.interpolate(seen, (encoder.size, encoder.size), mode="bilinear", antialias=True)
        embeddings = context.embeddings.clone()
        with torch.no_grad():
            embeddings[chosen, 0] = F.normalize(encoder.encode_image(seen).to(embeddings.dtype), dim=-1)
        return Context(embeddings)

    def _spread_times(self, rows: Sequence[int], total: int) -> Float[Tensor, " b"]:
        """Times spread evenly over (0, 1) by the number of the picture, so that every evaluation sees the same ones."""
        return torch.tensor([(row % total + 0.5) / total for row in rows], dtype=torch.float64, device=self.device)

    def as_prompts(self, prompts: Sequence[Any]) -> list[Any]:
        if not self.flow.prompted:
            return [None] * len(prompts)
        return [None if prompt is None else Caption(prompt) for prompt in prompts]

    @torch.no_grad()
    def panel(self, batches: Sequence[Batch], prompts: Sequence[object], seed: int) -> Panel:
        times: list[Tensor] = []
        errors: list[Tensor] = []
        count = sum(len(batch.prompts) for batch in batches)
        for batch in batches:
            pixels = batch.to(self.device).image
            assert pixels is not None
            context = self._context(batch.prompts).to(self.device)
            draws = Draws(derive_seed(seed, "panel"), batch.positions, self.device)
            out = self.evaluate(to_picture(pixels), context, draws, self._spread_times(batch.positions, count))
            times.append(out.t.cpu())
            errors.append(out.squared_error.float().cpu())
        t, error = torch.cat(times), torch.cat(errors)
        bins = (t * TIME_BINS).long().clamp(max=TIME_BINS - 1)
        seen = [b for b in range(TIME_BINS) if (bins == b).any()]
        labels = [f"t {b / TIME_BINS:.1f}-{(b + 1) / TIME_BINS:.1f}" for b in seen]
        series = {"squared_error_by_time": (labels, [float(error[bins == b].mean()) for b in seen])}
        pictures: dict[str, Any] = {"samples": self.samples(prompts, seed)} if prompts else {}
        return Panel({"squared_error": float(error.mean())}, series, pictures)
