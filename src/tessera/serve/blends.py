"""The tabs of models of several flows: pictures like a picture, what a picture shows in words, words in other words, and pictures and
words together. Each is there for models that have its flows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from tessera.contexts.blend import COLOURS, Blend, MaskedPicture, Seen
from tessera.pictures import upright_rgb
from tessera.serve.components import Choice, Easel, Painted, Pictures, Range, Upload, easel, pictures, upload
from tessera.serve.controls import Settings, parse_seed
from tessera.serve.following import follow, telling, user_of
from tessera.serve.kept import Kept
from tessera.serve.requests import Draw, Request, visible
from tessera.serve.service import Service
from tessera.serve.showing import quiet, status

__all__ = ["FLOWS", "Application", "Caption", "Mix", "Rewrite", "Vary", "results", "running"]

FLOWS = {
    "Vary": ("image_to_image",), "Caption": ("image_to_text",), "Rewrite": ("text_to_text",), "Blend": ("image_to_image", "text_to_image"),
    "Edit by words": ("image_to_text", "text_to_image", "image_to_image"),
}  # fmt: skip
"""Tab → the flows that a model must have for it."""
PLACES = ("first", "second", "third", "fourth")
"""Of the pictures of a blend."""


@dataclass(frozen=True)
class Application:
    """What these tabs have in common. name: in the interface and for the queue."""

    service: Service
    kept: Kept
    settings: Settings
    name: str

    @property
    def sampling(self) -> list[Any]:
        """Of the shared controls those that every flow of floats has: model, sampler, steps, guidance."""
        return self.settings.values[:4]

    def asked(
        self, blend: Blend, to: str, n: float, seed: str, model: str, sampler: str, steps: float, guidance: float, **more: Any
    ) -> Draw:
        chosen = {"sampler": sampler or None, "steps": int(steps) or None, "guidance": guidance, **more}
        return Draw(model, blends=(blend,), to=to, n=int(n), seed=parse_seed(seed), settings=chosen)

    async def pictures(self, asked: Request, request: gr.Request, name: str) -> AsyncIterator[tuple[Any, Any]]:
        paths: list[str] = []
        async for job, view in follow(self.service, asked, user_of(request, self.name)):
            new = job.results[len(paths) :]
            paths += [self.kept.png(picture, name) for picture in new]
            yield status(job, view), list(paths) if new else gr.skip()

    async def texts(self, asked: Draw, request: gr.Request) -> AsyncIterator[tuple[Any, Any]]:
        async for job, view in follow(self.service, asked, user_of(request, self.name)):
            found = "\n".join(visible(str(text)) or "(no words)" for text in job.results)
            yield status(job, view, "text"), found if view.state == "done" else gr.skip()

    def stop(self, request: gr.Request) -> None:
        self.service.cancel_all(user_of(request, self.name))

    def wire(self, go: gr.Button, stop: gr.Button, draw: Any, inputs: list[Any], outputs: list[Any], description: str) -> None:
        go.click(
            draw, [*inputs, *self.sampling], outputs, show_progress="hidden", trigger_mode="once", api_name=self.name,
            api_description=description,
        )  # fmt: skip
        stop.click(self.stop, None, None, queue=False, show_progress="hidden", api_visibility="private")


@dataclass(frozen=True)
class Vary(Application):
    """Pictures like a picture."""

    source: Upload

    @classmethod
    def make(cls, service: Service, kept: Kept, settings: Settings) -> Vary:
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                source = upload(label="Picture", height=240, elem_id="vary-source")
                focus = Range(0, 1, value=0.5, step=0.05, label="Focus", info="0: what it shows; 1: how it looks.", elem_id="vary-focus")
                fidelity = Range(
                    0, 0.95, value=0, step=0.05, label="Fidelity", info="Above 0 the picture itself is the start.", elem_id="vary-fidelity"
                )  # fmt: skip
                colour = Choice(
                    list(COLOURS),
                    value="none",
                    label="Colours of the picture",
                    info="How the result takes them.",
                    elem_id="vary-colour",
                    filterable=False,
                )
                number, seed, go, stop = running("vary", "Vary")
            with gr.Column(scale=5, min_width=300):
                message, gallery = results("vary")
        made = cls(service, kept, settings, "vary", source)
        inputs = [source, focus, fidelity, colour, number, seed]
        made.wire(go, stop, made.draw, inputs, [message, gallery], "Pictures like a picture.")
        return made

    @telling(2)
    async def draw(
        self, path: str | None, focus: float, fidelity: float, colour: str, number: float, seed: str, model: str, sampler: str,
        steps: float, guidance: float, request: gr.Request,
    ) -> AsyncIterator[tuple[Any, Any]]:  # fmt: skip
        picture = self.kept.opened(path)
        blend = Blend((Seen(picture, focus),), colour=colour)
        asked = self.asked(blend, "image", number, seed, model, sampler, steps, guidance)
        if fidelity:
            asked = asked.starting(picture, 1 - fidelity)
        async for shown in self.pictures(asked, request, "variation"):
            yield shown


@dataclass(frozen=True)
class Caption(Application):
    """What a picture shows, in words."""

    source: Upload
    texts_: gr.Textbox
    use: gr.Button

    @classmethod
    def make(cls, service: Service, kept: Kept, settings: Settings) -> Caption:
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                source = upload(label="Picture", height=240, elem_id="caption-source")
                number, seed, go, stop = running("caption", "Say what it shows")
            with gr.Column(scale=5, min_width=300):
                message = gr.HTML(quiet("Choose a picture, here or under Make."), elem_id="caption-status")
                texts = gr.Textbox("", label="In words", lines=4, interactive=False, elem_id="caption-texts", buttons=["copy"])
                use = gr.Button("Draw these words", size="sm", elem_id="caption-use")
        made = cls(service, kept, settings, "caption", source, texts, use)
        made.wire(go, stop, made.write, [source, number, seed], [message, texts], "What a picture shows, in words.")
        return made

    @telling(2)
    async def write(
        self, path: str | None, number: float, seed: str, model: str, sampler: str, steps: float, guidance: float, request: gr.Request
    ) -> AsyncIterator[tuple[Any, Any]]:
        blend = Blend((Seen(self.kept.opened(path)),))
        async for shown in self.texts(self.asked(blend, "text", number, seed, model, sampler, steps, guidance), request):
            yield shown


@dataclass(frozen=True)
class Rewrite(Application):
    """Words in other words."""

    texts_: gr.Textbox
    use: gr.Button

    @classmethod
    def make(cls, service: Service, kept: Kept, settings: Settings) -> Rewrite:
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                words = gr.Textbox(
                    "a red circle above a blue square", label="Words", lines=2, info="What to say otherwise.", elem_id="rewrite-words"
                )
                number, seed, go, stop = running("rewrite", "Rewrite")
            with gr.Column(scale=5, min_width=300):
                message = gr.HTML(quiet("The same in other words."), elem_id="rewrite-status")
                texts = gr.Textbox("", label="In other words", lines=4, interactive=False, elem_id="rewrite-texts", buttons=["copy"])
                use = gr.Button("Draw these words", size="sm", elem_id="rewrite-use")
        made = cls(service, kept, settings, "rewrite", texts, use)
        made.wire(go, stop, made.write, [words, number, seed], [message, texts], "Words in other words.")
        return made

    @telling(2)
    async def write(
        self, words: str, number: float, seed: str, model: str, sampler: str, steps: float, guidance: float, request: gr.Request
    ) -> AsyncIterator[tuple[Any, Any]]:
        blend = Blend(texts=(visible(words),))
        async for shown in self.texts(self.asked(blend, "text", number, seed, model, sampler, steps, guidance), request):
            yield shown


@dataclass(frozen=True)
class Mix(Application):
    """Pictures and words together."""

    first: Easel

    @classmethod
    def make(cls, service: Service, kept: Kept, settings: Settings) -> Mix:
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                given = place("first")
                for name in PLACES[1:]:
                    with gr.Accordion(f"A {name} picture", open=False, elem_id=f"blend-{name}-more"):
                        given += place(name)
                words = gr.Textbox("", label="Words", lines=2, info="What else it shows; optional.", elem_id="blend-words")
                share = Range(
                    0, 1, value=0.7, step=0.05, label="Share of the words", info="The rest is the pictures'.", elem_id="blend-mix"
                )
                number, seed, go, stop = running("blend", "Blend")
            with gr.Column(scale=5, min_width=300):
                message, gallery = results("blend")
        made = cls(service, kept, settings, "blend", given[0])
        inputs = [*given, words, share, number, seed]
        made.wire(go, stop, made.draw, inputs, [message, gallery], "Pictures of pictures and words together.")
        return made

    @telling(2)
    async def draw(
        self, first: Painted, first_counts: float, first_focus: float, second: Painted, second_counts: float, second_focus: float,
        third: Painted, third_counts: float, third_focus: float, fourth: Painted, fourth_counts: float, fourth_focus: float,
        words: str, share: float, number: float, seed: str, model: str, sampler: str, steps: float, guidance: float, request: gr.Request,
    ) -> AsyncIterator[tuple[Any, Any]]:  # fmt: skip
        given = (first, first_counts, first_focus), (second, second_counts, second_focus), (third, third_counts, third_focus), \
            (fourth, fourth_counts, fourth_focus)  # fmt: skip
        seen = tuple(self._seen(*one) for one in given if one[0].background)
        texts = (visible(words),) if words.strip() else ()
        blend = Blend(seen, texts, (share, 1 - share))
        asked = self.asked(blend, "image", number, seed, model, sampler, steps, guidance)
        async for shown in self.pictures(asked, request, words or "blend"):
            yield shown

    def _seen(self, given: Painted, counts: float, focus: float) -> Seen:
        """What counts of a picture, how much: all but what is painted over."""
        picture = upright_rgb(self.kept.opened(given.background))
        hidden = self.kept.painted(given.layers, picture.size)
        return Seen(picture if hidden is None else MaskedPicture(picture, hidden), focus, counts)


def place(name: str) -> list[Any]:
    """For one of the pictures of a blend: the picture with its mask, how much it counts, and its focus."""
    shown = easel(label="Picture: paint over what does not count", sources=("upload", "clipboard"), height=300, elem_id=f"blend-{name}")
    with gr.Row():
        counts = Range(
            0, 1, value=1, step=0.05, label="Strength", info="How much it counts.", elem_id=f"blend-{name}-strength", min_width=140
        )
        focus = Range(
            0,
            1,
            value=0.5,
            step=0.05,
            label="Focus",
            info="0: what it shows; 1: how it looks.",
            elem_id=f"blend-{name}-focus",
            min_width=140,
        )
    return [shown, counts, focus]


def running(name: str, label: str) -> tuple[Range, gr.Textbox, gr.Button, gr.Button]:
    """Number, seed and buttons."""
    with gr.Row():
        number = Range(1, 8, value=2, step=1, label="How many", info="Of each.", elem_id=f"{name}-number", min_width=140)
        seed = gr.Textbox(
            "",
            label="Seed",
            placeholder="a new one each time",
            info="The same seed, the same result.",
            max_lines=1,
            elem_id=f"{name}-seed",
            min_width=140,
        )
    with gr.Row():
        go = gr.Button(label, variant="primary", elem_id=f"{name}-go", scale=3)
        stop = gr.Button("Stop", variant="stop", elem_id=f"{name}-stop", scale=1, min_width=90)
    return number, seed, go, stop


def results(name: str) -> tuple[gr.HTML, Pictures]:
    message = gr.HTML(quiet("Choose a picture, here or under Make."), elem_id=f"{name}-status")
    return message, pictures(label="Results", fit_columns=False, columns=2, elem_id=f"{name}-gallery")
