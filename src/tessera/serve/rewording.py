"""The tab Edit by words: a picture is read as words, some are taken out and some put in, and it is drawn again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from tessera.contexts.blend import Blend, Seen
from tessera.errors import UsageError
from tessera.pictures import upright_rgb
from tessera.serve.blends import Application, results, running
from tessera.serve.components import Range, Upload, upload
from tessera.serve.controls import Settings
from tessera.serve.following import telling
from tessera.serve.kept import Kept
from tessera.serve.requests import Call, visible
from tessera.serve.service import Service

if TYPE_CHECKING:
    from PIL import Image

    from tessera.model import Model
    from tessera.samplers.loop import Callback

__all__ = ["Rewording"]


@dataclass(frozen=True)
class Rewording(Application):
    """The tab."""

    source: Upload

    @classmethod
    def make(cls, service: Service, kept: Kept, settings: Settings) -> Rewording:
        """Puts it onto the page, into the tab that is open."""
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                source = upload(label="Picture", height=240, elem_id="reword-source")
                remove = gr.Textbox(
                    "", label="Take out", info="Words, of what the picture shows.", max_lines=1, elem_id="reword-remove"
                )  # fmt: skip
                add = gr.Textbox("", label="Put in", info="Words, for what it is to show.", max_lines=1, elem_id="reword-add")
                share = Range(
                    0, 1, value=0.65, step=0.05, label="Share of the words", info="The rest is how the picture looks.", elem_id="reword-mix"
                )
                number, seed, go, stop = running("reword", "Draw it again")
            with gr.Column(scale=5, min_width=300):
                message, gallery = results("reword")
        made = cls(service, kept, settings, "reword", source)
        inputs = [source, remove, add, share, number, seed]
        made.wire(go, stop, made.draw, inputs, [message, gallery], "A picture with words taken out of what it shows, and words put in.")
        return made

    @telling(2)
    async def draw(
        self, path: str | None, remove: str, add: str, share: float, number: float, seed: str, model: str, sampler: str, steps: float,
        guidance: float, request: gr.Request,
    ) -> AsyncIterator[tuple[Any, Any]]:  # fmt: skip
        picture = upright_rgb(self.kept.opened(path))
        out, into = (visible(words) if words.strip() else None for words in (remove, add))
        if out is None and into is None:
            raise UsageError("there are no words to take out or to put in: give some (the tab Vary draws without)")
        blend = Blend((Seen(picture),), mix=(share, 1 - share), remove=out, add=into)
        asked = self.asked(blend, "image", number, seed, model, sampler, steps, guidance)

        def run(loaded: Model, callback: Callback) -> list[Image.Image]:
            from tessera.applications import redrawn

            return list(redrawn(loaded, picture, out, into, asked.n, asked.seed, asked.chosen(loaded), share, callback=callback))

        async for shown in self.pictures(Call(model, run=run, drawn=asked), request, into or "edited"):
            yield shown
