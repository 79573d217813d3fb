"""The controls that several tabs share: the model and how it samples. Their values follow the model that is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from tessera.errors import UsageError
from tessera.registry import FLOAT_SAMPLERS, TOKEN_SAMPLERS
from tessera.serve.components import Choice, Range, Typed
from tessera.serve.limits import LIMITS
from tessera.serve.shelf import Offer, Shelf

__all__ = ["Settings", "parse_seed", "parse_size", "sampling", "usual"]

METHODS = ("base", "guidance", "high-quality", "fast", "purity", "guidance-fast")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """ "64x48", width first, → (height, width); None of nothing."""
    if not text or not text.strip():
        return None
    width, cross, height = text.strip().lower().partition("x")
    if not (cross and width.strip().isdecimal() and height.strip().isdecimal()) or len(text) > 20:
        raise UsageError(f"the size {text[:40]!r} is not WIDTHxHEIGHT in pixels: write it as 64x64")
    return int(height), int(width)


def parse_seed(text: str | None) -> int | None:
    """The seed as typed; None of nothing."""
    if not text or not text.strip():
        return None
    if not text.strip().isdecimal() or len(text) > 30:
        raise UsageError(f"the seed {text[:40]!r} is not a whole number from 0: leave it empty for a new one")
    return int(text)


def sampling(
    offer: Offer, sampler: str | None, steps: float | None, guidance: float | None, truncation: str | None, temperature: float | None
) -> dict[str, Any]:
    """Fields of the settings from the values of the controls; what does not exist for this kind of model is left out."""
    chosen: dict[str, Any] = {"sampler": sampler or None, "guidance": guidance}
    if steps is not None:
        chosen["steps"] = int(steps) or None
    if offer.kind != "floats":
        chosen["temperature"] = temperature
        text = (truncation or "").strip()
        try:
            chosen["truncation"] = (int(text) if text.isdecimal() else float(text)) if text else None
        except ValueError:
            raise UsageError(
                f"the truncation {text[:40]!r} is neither a share such as 0.86 nor a number of tokens such as 100: leave it empty for all"
            ) from None
    return chosen


def usual(offer: Offer) -> Mapping[str, Any]:
    """The model's own settings, or what released files are drawn with where nobody says."""
    return {"sampler": "", "steps": 0, "guidance": 1.0, "truncation": None, "temperature": 1.0} | offer.defaults


@dataclass(frozen=True)
class Settings:
    """The components, in the order in which `sampling` takes their values, after the model."""

    model: Choice
    method: gr.Dropdown
    sampler: gr.Dropdown
    steps: Typed
    guidance: Range
    truncation: gr.Textbox
    temperature: Range
    size: gr.Dropdown
    shelf: Shelf

    @classmethod
    def make(cls, shelf: Shelf) -> Settings:
        """Puts them onto the page."""
        first = next(iter(shelf.offers.values()))
        own = usual(first)
        tokens = first.kind != "floats"
        with gr.Row(equal_height=True):
            model = Choice(
                list(shelf.offers), value=first.name, label="Model", info="What draws. Other models have other tabs.", elem_id="model",
                filterable=False,
            )  # fmt: skip
        with gr.Accordion("Sampling settings", open=False, elem_id="settings"):
            gr.Markdown("These start as what suits the model. More steps are slower and usually better.")
            with gr.Row():
                method = gr.Dropdown(
                    list(METHODS), value=None, label="Published method", visible=tokens, elem_id="method",
                    info="Sets the fields below as the papers on VQ-Diffusion do.",
                )  # fmt: skip
                sampler = gr.Dropdown(
                    _samplers(first), value=own["sampler"], label="Sampler", allow_custom_value=True, elem_id="sampler",
                    info="The order of the steps. Options follow a colon: purity:weight=2.",
                )  # fmt: skip
                steps = Typed(
                    own["steps"] or 0, minimum=0, maximum=LIMITS.steps, step=1, label="Steps", info="0 is all of the model's.",
                    elem_id="steps",
                )  # fmt: skip
            with gr.Row():
                guidance = Range(
                    0, 15, value=own["guidance"], step=0.1, label="Guidance", info="More follows the prompt more closely; 1 is none.",
                    elem_id="guidance",
                )  # fmt: skip
                truncation = gr.Textbox(
                    _text(own["truncation"]), label="Truncation", info="A share such as 0.86, or a number of tokens; empty is all.",
                    visible=tokens, elem_id="truncation", max_lines=1,
                )  # fmt: skip
                temperature = Range(
                    0.1, 2.0, value=own["temperature"], step=0.05, label="Temperature", visible=tokens, elem_id="temperature",
                    info="Below 1 prefers what is probable.",
                )  # fmt: skip
                size = gr.Dropdown(
                    _sizes(first), value=_own_size(first), label="Size", allow_custom_value=True, elem_id="size",
                    info="WIDTHxHEIGHT in pixels. The first is the one it was trained for.",
                )  # fmt: skip
        made = cls(model, method, sampler, steps, guidance, truncation, temperature, size, shelf)
        model.change(made.follow, model, made.changing, show_progress="hidden", api_visibility="private")
        method.input(
            made.compose, method, [sampler, steps, guidance, truncation, temperature], show_progress="hidden", api_visibility="private"
        )
        return made

    @property
    def values(self) -> list[Any]:
        """What `sampling` takes, the model first and the size last."""
        return [self.model, self.sampler, self.steps, self.guidance, self.truncation, self.temperature, self.size]

    @property
    def changing(self) -> list[Any]:
        return [self.method, self.sampler, self.steps, self.guidance, self.truncation, self.temperature, self.size]

    def follow(self, name: str) -> list[Any]:
        """What another model changes."""
        offer = self.shelf.offers.get(name)
        if offer is None:
            return [gr.skip()] * len(self.changing)
        own, tokens = usual(offer), offer.kind != "floats"
        return [
            gr.update(value=None, visible=tokens), gr.update(choices=_samplers(offer), value=own["sampler"]), own["steps"] or 0,
            own["guidance"], gr.update(value=_text(own["truncation"]), visible=tokens), gr.update(value=own["temperature"], visible=tokens),
            gr.update(choices=_sizes(offer), value=_own_size(offer)),
        ]  # fmt: skip

    def compose(self, name: str | None) -> list[Any]:
        """The settings of a published method."""
        from tessera.methods import VQ_DIFFUSION as known

        if name is None or name not in known:
            return [gr.skip()] * 5
        method = known[name]
        return [method.sampler, method.steps or 0, method.guidance, _text(method.truncation), method.temperature]


def _samplers(offer: Offer) -> list[str]:
    table = FLOAT_SAMPLERS if offer.kind == "floats" else TOKEN_SAMPLERS if offer.kind == "tokens" else FLOAT_SAMPLERS | TOKEN_SAMPLERS
    own = usual(offer)["sampler"]
    return list(dict.fromkeys([own, *table]))


def _sizes(offer: Offer) -> list[str]:
    if offer.size is None:
        return [""]
    height, width = offer.size
    return [f"{width * across}x{height * down}" for down, across in ((1, 1), (1, 2), (2, 1), (2, 2))]


def _own_size(offer: Offer) -> str:
    return _sizes(offer)[0]


def _text(value: float | int | None) -> str:
    return "" if value is None else str(value)
