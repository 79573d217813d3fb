"""The tab Enlarge: a picture at twice or four times its size, by Lanczos resampling or by a learned upscaler."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from tessera.errors import TesseraError, UsageError
from tessera.pictures import upright_rgb
from tessera.record import KEY
from tessera.serve.components import Upload, upload
from tessera.serve.following import telling
from tessera.serve.kept import Kept
from tessera.serve.limits import Limits
from tessera.serve.showing import quiet, said

__all__ = ["Enlarge", "Upscaler", "lanczos"]

FACTORS = {"2 times": 2, "4 times": 4}
LANCZOS, LEARNED = "Lanczos", "Learned"
TILE = 256
"""Pixels of a side that a learned upscaler sees at once."""


class Upscaler:
    """A learned upscaler from a file that spandrel knows, read when it is first used.

    Raises:
        UsageError: spandrel is not installed.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UsageError(f"there is no upscaler {path}: check the path")
        try:
            import spandrel  # noqa: F401
        except ImportError:
            raise UsageError("learned upscalers are read by spandrel, which is not installed: pip install spandrel") from None
        self.path = path
        self._model: Any = None
        self._lock = threading.Lock()

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The picture at the upscaler's own scale, tile by tile with a margin. TesseraError for a file that is no upscaler of RGB."""
        import torch

        from tessera.pictures import as_tensor, to_picture

        with self._lock, torch.inference_mode():
            model = self._loaded()
            pixels, scale = (as_tensor(picture) + 1) / 2, int(model.scale)
            result = torch.zeros(3, picture.height * scale, picture.width * scale)
            margin = 16
            for top in range(0, picture.height, TILE):
                for left in range(0, picture.width, TILE):
                    above, before = min(top, margin), min(left, margin)
                    part = pixels[:, top - above : top + TILE + margin, left - before : left + TILE + margin]
                    drawn = model(part[None])[0]
                    drawn = drawn[:, above * scale : (above + TILE) * scale, before * scale : (before + TILE) * scale]
                    inside = result[:, top * scale : (top + TILE) * scale, left * scale : (left + TILE) * scale]
                    inside.copy_(drawn[:, : inside.shape[1], : inside.shape[2]])
            return to_picture(result.clamp(0, 1) * 2 - 1)

    def _loaded(self) -> Any:
        import spandrel

        if self._model is None:
            try:
                model = spandrel.ModelLoader(device="cpu").load_from_file(self.path)
            except Exception as error:
                raise TesseraError(f"{self.path.name} is not an upscaler that spandrel reads ({type(error).__name__})") from None
            if not isinstance(model, spandrel.ImageModelDescriptor) or model.input_channels != 3 or model.output_channels != 3:
                raise TesseraError(f"{self.path.name} is not an upscaler of colour pictures")
            self._model = model.eval()
        return self._model


@dataclass(frozen=True)
class Enlarge:
    """The tab."""

    limits: Limits
    kept: Kept
    upscaler: Upscaler | None
    source: Upload

    @classmethod
    def make(cls, limits: Limits, kept: Kept, upscaler: Upscaler | None) -> Enlarge:
        """Puts it onto the page, into the tab that is open."""
        ways = [LANCZOS] if upscaler is None else [LANCZOS, LEARNED]
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                source = upload(label="Picture", height=240, elem_id="enlarge-source")
                with gr.Row():
                    factor = gr.Radio(list(FACTORS), value="4 times", label="How much", info="Of both sides.", elem_id="enlarge-factor")
                    hint = "" if upscaler else "Lanczos keeps what is there. A learned upscaler comes with tessera serve --upscaler FILE."
                    way = gr.Radio(ways, value=LANCZOS, label="How", info=hint, elem_id="enlarge-way")
                go = gr.Button("Enlarge", variant="primary", elem_id="enlarge-go")
            with gr.Column(scale=5, min_width=300):
                message = gr.HTML(quiet("Choose a picture, here or under Make."), elem_id="enlarge-status")
                result = gr.Image(
                    label="Enlarged",
                    type="filepath",
                    interactive=False,
                    format="png",
                    elem_id="enlarged",
                    buttons=["download", "fullscreen"],
                )
        made = cls(limits, kept, upscaler, source)
        go.click(
            made.enlarge, [source, factor, way], [message, result], show_progress="minimal", api_name="enlarge",
            api_description="A picture at 2 or 4 times its size.",
        )  # fmt: skip
        return made

    @telling(2)
    async def enlarge(self, path: str | None, factor: str, way: str) -> AsyncIterator[tuple[Any, Any]]:
        yield await asyncio.to_thread(self._enlarged, path, FACTORS.get(factor, 2), way)

    def _enlarged(self, path: str | None, factor: int, way: str) -> tuple[str, str]:
        given = self.kept.opened(path)
        picture = upright_rgb(given)
        width, height = picture.width * factor, picture.height * factor
        self.limits.at_most("pixels of an enlarged picture", width * height, self.limits.scale_pixels)
        if way == LEARNED and self.upscaler is not None:
            picture = self.upscaler(picture)
        larger = lanczos(picture, (width, height))
        if KEY in given.info:
            larger.info[KEY] = given.info[KEY]
        return said(f"{width}x{height} pixels, {way}."), self.kept.png(larger, f"enlarged-{factor}x")


def lanczos(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at (width, height), itself where that is its size."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
