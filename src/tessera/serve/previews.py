"""Pictures of the way: previews of what is being drawn, and the frames of an animation."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from tessera.drawing import Drawing
from tessera.flow import Flow
from tessera.pictures import to_picture
from tessera.samplers.loop import Progress
from tessera.serve.jobs import Frame, Job
from tessera.serve.limits import Limits

__all__ = ["Watcher"]

SHARE = 0.1
"""Of the time that may go into previews."""
EVERY = 0.4
"""Seconds between previews at least."""


class Watcher:
    """Looks at the steps of one batch.

    Args:
        jobs: whose each of its pictures is. drawing: of the first.
    """

    def __init__(self, jobs: Sequence[Job], drawing: Drawing, limits: Limits) -> None:
        self.jobs, self.limits = jobs, limits
        self.flow: Flow = drawing.flow
        self.grid = drawing.grid
        self.due = 0.0

    def see(self, progress: Progress) -> None:
        """Keeps a frame if one is wanted, and makes previews if it is time for them. There are none of words."""
        if getattr(self.flow, "writes", False):
            return
        if self.jobs[0].request.frames:
            self._frame(progress)
        started = time.monotonic()
        if started < self.due or progress.index == progress.total:
            return
        previews: dict[Job, list[Image.Image]] = {}
        x_0 = progress.x_0()
        for row, job in enumerate(self.jobs):
            if not job.ended.is_set():
                previews.setdefault(job, []).append(self._picture(x_0[row : row + 1]))
        for job, pictures in previews.items():
            job.previews = pictures
            job.version += 1
        now = time.monotonic()
        self.due = now + max(EVERY, (now - started) / SHARE)

    def _frame(self, progress: Progress) -> None:
        job = self.jobs[0]
        wanted = job.request.frames
        if progress.index * wanted // progress.total == (progress.index - 1) * wanted // progress.total and progress.index > 1:
            return
        decided = None
        if self.flow.kind == "tokens" and isinstance(progress.posterior, Tensor):
            decided = (progress.x[0] != progress.posterior.shape[-1]).view(self.grid).cpu().numpy()
        job.frames.append(Frame(self._picture(progress.x_0()[:1]), decided, progress.index, progress.total))

    def _picture(self, latents: Tensor) -> Image.Image:
        with torch.inference_mode():
            picture = to_picture(self.flow.decode(latents, self.grid)[0])
        side = self.limits.preview_side
        if max(picture.size) > side:
            picture.thumbnail((side, side), Image.Resampling.BILINEAR)
        return picture
