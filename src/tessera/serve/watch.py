"""The tab Watch: how one picture comes about, as an animation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image, ImageDraw

from tessera.serve.components import Range
from tessera.serve.controls import Settings, parse_seed, parse_size, sampling
from tessera.serve.following import follow, telling, user_of
from tessera.serve.jobs import Frame
from tessera.serve.kept import Kept
from tessera.serve.requests import Draw
from tessera.serve.service import Service
from tessera.serve.showing import quiet, status

__all__ = ["Watch", "film"]

SIDE, GAP, BAR = 256, 12, 6
BACK, UNDECIDED, LINE, DONE = (24, 24, 27), (82, 82, 91), (63, 63, 70), (249, 115, 22)


@dataclass(frozen=True)
class Watch:
    """The tab."""

    service: Service
    kept: Kept
    prompt: gr.Textbox
    seed: gr.Textbox

    @classmethod
    def make(cls, service: Service, kept: Kept, settings: Settings) -> Watch:
        """Puts it onto the page, into the tab that is open."""
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                prompt = gr.Textbox(
                    "a red circle above a blue square", label="What to draw", lines=2, info="One picture.", elem_id="watch-prompt"
                )
                with gr.Row():
                    seed = gr.Textbox(
                        "",
                        label="Seed",
                        placeholder="a new one",
                        info="The same seed, the same film.",
                        max_lines=1,
                        elem_id="watch-seed",
                        min_width=120,
                    )
                    seconds = Range(
                        1,
                        12,
                        value=4,
                        step=1,
                        label="Seconds of film",
                        info="However many steps there are.",
                        elem_id="watch-seconds",
                        min_width=140,
                    )
                with gr.Row():
                    go = gr.Button("Draw and watch", variant="primary", elem_id="watch-go", scale=3)
                    stop = gr.Button("Stop", variant="stop", elem_id="watch-stop", scale=1, min_width=90)
            with gr.Column(scale=5, min_width=300):
                hint = "On the left is what is decided so far, on the right what the model expects in the end."
                message = gr.HTML(quiet(hint), elem_id="watch-status")
                film_ = gr.Image(
                    label="How it comes about", type="filepath", interactive=False, elem_id="watch-film", format="webp",
                    buttons=["download", "fullscreen"],
                )  # fmt: skip
                file = gr.File(label="The animation (WebP)", interactive=False, elem_id="watch-file", height=80)
        made = cls(service, kept, prompt, seed)
        go.click(
            made.draw, [prompt, seed, seconds, *settings.values], [message, film_, file], show_progress="hidden", trigger_mode="once",
            api_name="watch", api_description="An animation of how a picture of a prompt comes about.",
        )  # fmt: skip
        stop.click(made.stop, None, None, queue=False, show_progress="hidden", api_visibility="private")
        return made

    @telling(3)
    async def draw(
        self, prompt: str, seed: str, seconds: float, model: str, sampler: str, steps: float, guidance: float, truncation: str,
        temperature: float, size: str, request: gr.Request,
    ) -> AsyncIterator[tuple[Any, Any, Any]]:  # fmt: skip
        offer = self.service.shelf.offer(model)
        asked = Draw(
            model, frames=self.service.limits.frames, prompts=(prompt,) if prompt.strip() else (), seed=parse_seed(seed),
            size=parse_size(size), settings=sampling(offer, sampler, steps, guidance, truncation, temperature),
        )  # fmt: skip
        async for job, view in follow(self.service, asked, user_of(request, "watch")):
            if view.state == "done":
                path = self.kept.webp(film(job.frames), prompt or model, float(seconds))
                yield status(job, view), path, path
            else:
                yield status(job, view), gr.skip(), gr.skip()

    def stop(self, request: gr.Request) -> None:
        self.service.cancel_all(user_of(request, "watch"))


def film(frames: list[Frame]) -> list[Image.Image]:
    """Each frame as what is decided beside what is expected, over a bar that says how far it is. Of floats only what is expected."""
    return [_composed(frame) for frame in frames]


def _composed(frame: Frame) -> Image.Image:
    scale = SIDE / max(frame.picture.size)
    width, height = (max(1, round(side * scale)) for side in frame.picture.size)
    expected = frame.picture.resize((width, height), Image.Resampling.NEAREST)
    panels = [expected] if frame.decided is None else [_decided(expected, frame.decided), expected]
    sheet = Image.new("RGB", (len(panels) * (width + GAP) + GAP, height + 2 * GAP + BAR + GAP), BACK)
    for number, panel in enumerate(panels):
        sheet.paste(panel, (GAP + number * (width + GAP), GAP))
    draw, top = ImageDraw.Draw(sheet), height + 2 * GAP
    draw.rectangle((GAP, top, sheet.width - GAP, top + BAR), fill=LINE)
    draw.rectangle((GAP, top, GAP + round((sheet.width - 2 * GAP) * frame.index / frame.total), top + BAR), fill=DONE)
    return sheet


def _decided(expected: Image.Image, decided: Any) -> Image.Image:
    """The picture with the squares of undecided tokens blank."""
    rows, columns = decided.shape
    mask = Image.fromarray((~decided * 255).astype("uint8")).resize(expected.size, Image.Resampling.NEAREST)
    blank = Image.new("RGB", expected.size, UNDECIDED)
    draw = ImageDraw.Draw(blank)
    for row in range(rows + 1):
        draw.line((0, row * expected.height // rows, expected.width, row * expected.height // rows), fill=LINE)
    for column in range(columns + 1):
        draw.line((column * expected.width // columns, 0, column * expected.width // columns, expected.height), fill=LINE)
    return Image.composite(blank, expected, mask)
