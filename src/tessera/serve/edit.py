"""The tab Edit: part of a picture drawn anew, a larger canvas around it, or the whole of it changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from PIL import Image, ImageOps

from tessera.errors import TesseraError, UsageError
from tessera.pictures import upright_rgb
from tessera.serve.components import Easel, Painted, Range, easel, pictures
from tessera.serve.controls import Settings, parse_seed, sampling
from tessera.serve.following import follow, telling, user_of
from tessera.serve.kept import Kept
from tessera.serve.limits import Limits
from tessera.serve.requests import Draw
from tessera.serve.requests import Edit as Editing
from tessera.serve.service import Service
from tessera.serve.showing import failure, quiet, said, status

__all__ = ["Edit", "drawable"]

WAYS = {"Repaint what I paint over": "paint", "Extend the canvas": "extend", "Change the whole picture": "change"}
SIDES = ("left", "right", "top", "bottom")
EASEL = 512
"""Pixels of the longer side while painting, at least: small pictures are hard to paint on."""


@dataclass(frozen=True)
class Edit:
    """The tab. original: path of the picture as it is drawn, in its own size."""

    service: Service
    kept: Kept
    settings: Settings
    original: gr.State
    easel: Easel
    message: gr.HTML
    prompt: gr.Textbox

    @classmethod
    def make(cls, service: Service, kept: Kept, settings: Settings) -> Edit:
        """Puts it onto the page, into the tab that is open."""
        original = gr.State(None)
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                source = gr.UploadButton("Choose a picture", file_types=["image"], elem_id="edit-source", size="sm")
                way = gr.Radio(list(WAYS), value=next(iter(WAYS)), label="What to do", info="With the picture below.", elem_id="edit-way")
                board = easel(label="Paint here", sources=(), canvas_size=(EASEL, EASEL), height=400, elem_id="easel")
                with gr.Group(visible=False) as extending:
                    sides = gr.CheckboxGroup(
                        list(SIDES), value=["right"], label="Extend to the", info="One side or several.", elem_id="edit-sides"
                    )
                    by = Range(
                        8,
                        256,
                        value=64,
                        step=8,
                        label="Pixels on each side",
                        info="What is drawn there goes with the picture.",
                        elem_id="edit-by",
                    )
                strength = Range(
                    0.05, 1.0, value=0.6, step=0.05, label="Strength", visible=False, elem_id="edit-strength",
                    info="How much changes: little keeps much of the picture.",
                )  # fmt: skip
            with gr.Column(scale=5, min_width=300):
                prompt = gr.Textbox(
                    "a red circle on a white background",
                    label="What the result shows",
                    lines=2,
                    info="All of it, not only what is new.",
                    elem_id="edit-prompt",
                )
                with gr.Row():
                    number = Range(1, 4, value=1, step=1, label="Versions", info="Of the result.", elem_id="edit-number", min_width=170)
                    feather = Range(0, 16, value=0, step=1, label="Soft edge", info="Pixels.", elem_id="edit-feather", min_width=170)
                    seed = gr.Textbox(
                        "", label="Seed", placeholder="a new one", info="Fixes it.", max_lines=1, elem_id="edit-seed", min_width=110
                    )
                with gr.Row():
                    go = gr.Button("Draw", variant="primary", elem_id="edit-go", scale=3)
                    stop = gr.Button("Stop", variant="stop", elem_id="edit-stop", scale=1, min_width=90)
                message = gr.HTML(
                    quiet("Choose a picture, here or under Make, and paint over what is to be drawn anew."), elem_id="edit-status"
                )
                gallery = pictures(label="Results", fit_columns=False, columns=2, elem_id="edit-gallery")
                further = gr.Button("Go on with the first result", size="sm", elem_id="edit-further")
        made = cls(service, kept, settings, original, board, message, prompt)
        results = gr.State([])
        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        source.upload(made.take, [source, settings.model], [original, board, message], **quick)
        way.change(made.choose, way, [extending, strength], **quick)
        go.click(
            made.draw,
            [original, board, way, sides, by, strength, prompt, number, feather, seed, *settings.values[:-1]],
            [message, gallery, results], show_progress="hidden", trigger_mode="once", api_visibility="private",
        )  # fmt: skip
        stop.click(made.stop, None, None, queue=False, **quick)
        further.click(made.further, [results, settings.model], [original, board, message], **quick)
        return made

    def take(self, path: str | None, model: str) -> list[Any]:
        """A picture onto the easel, in a size that the model can draw."""
        if path is None:
            return [None, None, quiet("Choose a picture.")]
        try:
            offer = self.service.shelf.offer(model)
            given = self.kept.opened(path)
            picture = drawable(given, offer.size, self.service.limits)
        except TesseraError as error:
            return [None, None, failure(str(error))]
        scale = max(1, round(EASEL / max(picture.size)))
        shown = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
        sides = f"{picture.width}x{picture.height}"
        fitted = "" if picture.size == given.size else " It was scaled and cropped to a size that the model draws."
        place, easel = self.kept.png(picture, "edited"), self.kept.png(shown, "easel")
        return [place, {"background": easel, "layers": [], "composite": easel}, said(f"The picture is {sides}.{fitted}")]

    def further(self, results: list[str], model: str) -> list[Any]:
        """The first result as the picture to edit."""
        if not results:
            return [gr.skip(), gr.skip(), failure("there is no result yet: draw one first")]
        return self.take(results[0], model)

    def choose(self, way: str) -> list[Any]:
        chosen = WAYS.get(way, "paint")
        return [gr.update(visible=chosen == "extend"), gr.update(visible=chosen == "change")]

    @telling(3)
    async def draw(
        self, original: str | None, painted: Painted, way: str, sides: list[str], by: float, strength: float, prompt: str,
        number: float, feather: float, seed: str, model: str, sampler: str, steps: float, guidance: float, truncation: str,
        temperature: float, request: gr.Request,
    ) -> AsyncIterator[tuple[Any, Any, Any]]:  # fmt: skip
        offer = self.service.shelf.offer(model)
        settings = sampling(offer, sampler, steps, guidance, truncation, temperature)
        picture = self.kept.opened(original)
        prompts = (prompt,) if prompt.strip() else ()
        asked = Draw(model, prompts=prompts, n=int(number), seed=parse_seed(seed), settings=settings)
        asked = self._asked(asked, WAYS.get(way, "paint"), picture, painted, sides, int(by), strength, int(feather))
        paths: list[str] = []
        async for job, view in follow(self.service, asked, user_of(request, "edit")):
            new = job.results[len(paths) :]
            paths += [self.kept.png(made, prompt or model) for made in new]
            yield status(job, view), list(paths) if new else gr.skip(), list(paths) if new else gr.skip()

    def _asked(
        self, asked: Draw, way: str, picture: Image.Image, painted: Painted, sides: list[str], by: int, strength: float,
        feather: int,
    ) -> Draw:  # fmt: skip
        if way == "change":
            size = picture.height, picture.width
            return replace(asked, init=picture, size=size, settings={**asked.settings, "start": float(strength)})
        if way == "extend":
            chosen = [side for side in sides if side in SIDES]
            if not chosen:
                raise UsageError("no side is chosen to extend the picture to: choose one or more")
            across, down = ("left" in chosen) + ("right" in chosen), ("top" in chosen) + ("bottom" in chosen)
            size = picture.height + by * down, picture.width + by * across
            return replace(asked, edit=Editing(picture, size=size, anchor=anchor(chosen), feather=feather))
        return replace(asked, edit=Editing(picture, self._mask(painted, picture.size), feather=feather))

    def _mask(self, painted: Painted, size: tuple[int, int]) -> Image.Image:
        """White where something was painted, in the picture's size. UsageError where nothing was."""
        mask = self.kept.painted(painted.layers, size)
        if mask is None:
            raise UsageError("nothing is painted over: paint with the brush over what is to be drawn anew")
        return mask

    def stop(self, request: gr.Request) -> None:
        self.service.cancel_all(user_of(request, "edit"))


def anchor(sides: list[str]) -> str:
    """Where the picture is on a canvas that grows to these sides: opposite to them, or between them."""
    rows = {(True, False): "bottom", (False, True): "top"}.get(("top" in sides, "bottom" in sides), "")
    columns = {(True, False): "right", (False, True): "left"}.get(("left" in sides, "right" in sides), "")
    return "-".join(filter(None, (rows, columns))) or "center"


def drawable(picture: Image.Image, own: tuple[int, int] | None, limits: Limits) -> Image.Image:
    """The picture in a size that a model with pictures of its `own` (height, width) can draw: itself, if its sides are multiples of 8 and
    no smaller than the model's, or else scaled and cropped to them."""
    picture = upright_rgb(picture)
    height, width = own or (picture.height // 8 * 8, picture.width // 8 * 8)
    fits = picture.width % 8 == 0 and picture.height % 8 == 0 and picture.width >= width and picture.height >= height
    if fits and picture.width * picture.height <= min(limits.pixels, 16 * height * width):
        return picture
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
