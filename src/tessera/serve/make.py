"""The tab Make: pictures of prompts."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from tessera.errors import TesseraError
from tessera.record import Record
from tessera.serve.components import Pictures, Range, pictures
from tessera.serve.controls import Settings, parse_seed, parse_size, sampling
from tessera.serve.following import follow, telling, user_of
from tessera.serve.kept import Kept
from tessera.serve.requests import Draw
from tessera.serve.service import Service
from tessera.serve.showing import details, failure, quiet, status
from tessera.text_files import lines_of

__all__ = ["Make"]

EXAMPLES = ["a red circle above a blue square", "two green stars on a white background", "a small yellow ring left of a purple cross"]
ACTIONS = {
    "again": "Same settings", "prompt": "Take its prompt", "vary": "Vary", "caption": "Caption", "blend": "Send as prompt",
    "reword": "Edit by words", "edit": "Edit", "watch": "Watch", "enlarge": "Enlarge",
}  # fmt: skip
"""What can be done with a picture; some of it by models of several flows only."""


@dataclass(frozen=True)
class Make:
    """The tab. chosen: the path of the picture that the buttons under the gallery mean."""

    service: Service
    kept: Kept
    settings: Settings
    prompt: gr.Textbox
    number: Range
    seed: gr.Textbox
    message: gr.HTML
    gallery: Pictures
    paths: gr.State
    chosen: gr.State
    about: gr.HTML
    actions: dict[str, gr.Button]

    @classmethod
    def make(cls, service: Service, kept: Kept, settings: Settings) -> Make:
        """Puts it onto the page, into the tab that is open."""
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                prompt = gr.Textbox(
                    EXAMPLES[0], label="What to draw", lines=2, max_lines=8, autofocus=True, elem_id="prompt",
                    info="One picture per line. Models of floats take weights and parts: a fox:2 | in snow:0.5",
                )  # fmt: skip
                gr.Examples([[text] for text in EXAMPLES], [prompt], label="Examples")
                with gr.Row():
                    number = Range(
                        1,
                        service.limits.pictures,
                        value=4,
                        step=1,
                        label="Pictures of each",
                        info="Of each line.",
                        elem_id="number",
                        min_width=140,
                    )
                    seed = gr.Textbox(
                        "", label="Seed", placeholder="a new one each time", info="The same seed gives the same pictures.", max_lines=1,
                        elem_id="seed", min_width=140,
                    )  # fmt: skip
                with gr.Row():
                    dice = gr.Button("Random seed", size="sm", elem_id="dice")
                    no_seed = gr.Button("No fixed seed", size="sm")
                with gr.Row():
                    go = gr.Button("Generate", variant="primary", elem_id="generate", scale=3)
                    stop = gr.Button("Stop", variant="stop", elem_id="stop", scale=1, min_width=90)
            with gr.Column(scale=6, min_width=300):
                message = gr.HTML(quiet("Say what to draw, then Generate (or Shift+Enter in the text)."), elem_id="status")
                gallery = pictures(label="Pictures", columns=4, elem_id="gallery")
                with gr.Row():
                    actions = {
                        name: gr.Button(label, size="sm", interactive=False, elem_id=f"do-{name}", min_width=110)
                        for name, label in ACTIONS.items()
                    }  # fmt: skip
                with gr.Accordion("About the chosen picture", open=False):
                    about = gr.HTML(quiet("Choose a picture to see how it was made."), elem_id="about")
        paths, chosen = gr.State([]), gr.State(None)
        made = cls(service, kept, settings, prompt, number, seed, message, gallery, paths, chosen, about, actions)
        results = [message, gallery, paths]
        inputs = [prompt, number, seed, *settings.values]
        drawing = {"fn": made.draw, "inputs": inputs, "outputs": results, "show_progress": "hidden", "trigger_mode": "once"}
        go.click(**drawing, api_name="make", api_description="Pictures of prompts, one per line.")
        prompt.submit(**drawing, api_visibility="private")
        stop.click(made.stop, None, None, queue=False, show_progress="hidden", api_visibility="private")
        dice.click(lambda: str(secrets.randbelow(2**32)), None, seed, queue=False, show_progress="hidden", api_visibility="private")
        no_seed.click(lambda: "", None, seed, queue=False, show_progress="hidden", api_visibility="private")
        gallery.select(
            made.choose, paths, [chosen, about, *actions.values()], queue=False, show_progress="hidden", api_visibility="private"
        )
        actions["again"].click(
            made.again, chosen, [prompt, number, seed, *settings.values[1:]], queue=False, show_progress="hidden", api_visibility="private"
        )
        actions["prompt"].click(made.its_prompt, chosen, prompt, queue=False, show_progress="hidden", api_visibility="private")
        return made

    @telling(3)
    async def draw(
        self, prompt: str, number: float, seed: str, model: str, sampler: str, steps: float, guidance: float, truncation: str,
        temperature: float, size: str, request: gr.Request,
    ) -> AsyncIterator[tuple[Any, Any, Any]]:  # fmt: skip
        offer = self.service.shelf.offer(model)
        prompts = tuple(line.strip() for line in lines_of(prompt) if line.strip()) if len(prompt) < 10**5 else (prompt,)
        asked = Draw(
            model, prompts=prompts, n=int(number), seed=parse_seed(seed), size=parse_size(size),
            settings=sampling(offer, sampler, steps, guidance, truncation, temperature),
        )  # fmt: skip
        shown = 0
        paths: list[str] = []
        async for job, view in follow(self.service, asked, user_of(request, "make")):
            for picture in job.results[shown:]:
                record = Record.of(picture)
                paths.append(self.kept.png(picture, str(record.prompt) if record and record.prompt else model))
            new, shown = len(paths) > shown, len(paths)
            yield status(job, view), list(paths) if new else gr.skip(), list(paths) if new else gr.skip()

    def stop(self, request: gr.Request) -> None:
        self.service.cancel_all(user_of(request, "make"))

    def choose(self, paths: list[str], event: gr.SelectData) -> list[Any]:
        """A picture of the gallery was clicked."""
        if not isinstance(event.index, int) or not 0 <= event.index < len(paths):
            return [gr.skip()] * (2 + len(self.actions))
        path = paths[event.index]
        try:
            record = Record.of(self.kept.opened(path))
        except TesseraError as error:
            return [None, failure(str(error)), *[gr.update(interactive=False)] * len(self.actions)]
        return [path, details(record), *[gr.update(interactive=True)] * len(self.actions)]

    def again(self, path: str | None) -> list[Any]:
        """The controls as they were for the chosen picture, so that Generate draws it again."""
        record = self._record(path)
        if record is None:
            return [gr.skip()] * 9
        height, width = record.size
        truncation = "" if record.truncation is None else str(record.truncation)
        return [
            record.prompt or "", record.index + 1, str(record.seed), record.sampler, record.steps or 0, record.guidance, truncation,
            record.temperature, f"{width}x{height}",
        ]  # fmt: skip

    def its_prompt(self, path: str | None) -> Any:
        record = self._record(path)
        return gr.skip() if record is None or record.prompt is None else str(record.prompt)

    def _record(self, path: str | None) -> Record | None:
        try:
            return Record.of(self.kept.opened(path))
        except TesseraError:
            return None
