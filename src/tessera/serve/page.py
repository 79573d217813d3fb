"""The page: its tabs, and what leads from one to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from tessera.serve.blends import FLOWS, Caption, Mix, Rewrite, Vary
from tessera.serve.compare import Compare
from tessera.serve.controls import Settings
from tessera.serve.edit import Edit
from tessera.serve.enlarge import Enlarge, Upscaler
from tessera.serve.kept import Kept
from tessera.serve.make import Make
from tessera.serve.rewording import Rewording
from tessera.serve.service import Service
from tessera.serve.watch import Watch

__all__ = ["build", "theme"]

PRIVATE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def theme() -> gr.themes.Base:
    """Fonts of the visitor's own system: nothing is loaded from elsewhere."""
    words = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Ubuntu", "Cantarell", "Noto Sans", "sans-serif"]
    signs = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]
    base = gr.themes.Soft(primary_hue="indigo", secondary_hue="indigo", neutral_hue="slate", font=words, font_mono=signs)
    return base.set(
        block_title_background_fill="transparent", block_title_text_color="*neutral_800", block_title_text_color_dark="*neutral_100",
        block_title_padding="0", block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300", button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700", button_primary_text_color="white", body_background_fill="*neutral_50",
        block_label_background_fill="*neutral_100", block_label_text_color="*neutral_700", input_placeholder_color="*neutral_500",
        block_label_background_fill_dark="*neutral_700", block_label_text_color_dark="*neutral_100",
    )  # fmt: skip


def build(service: Service, kept: Kept, upscaler: Upscaler | None = None) -> gr.Blocks:
    """The page over a service."""
    offers = service.shelf.offers
    first = next(iter(offers.values()))
    with gr.Blocks(title="Tessera", analytics_enabled=False) as page:
        gr.HTML("<h1>Tessera</h1><p>Pictures from words, by diffusion over tokens and floats.</p>", elem_classes=["tessera-title"])
        settings = Settings.make(service.shelf)
        with gr.Tabs(selected="make") as tabs:
            with gr.Tab("Make", id="make", visible="text_to_image" in first.flows) as make_tab:
                make = Make.make(service, kept, settings)
            has = {name: set(flows) <= set(first.flows) for name, flows in FLOWS.items()}
            with gr.Tab("Vary", id="vary", visible=has["Vary"]) as vary_tab:
                vary = Vary.make(service, kept, settings)
            with gr.Tab("Caption", id="caption", visible=has["Caption"]) as caption_tab:
                caption = Caption.make(service, kept, settings)
            with gr.Tab("Rewrite", id="rewrite", visible=has["Rewrite"]) as rewrite_tab:
                rewrite = Rewrite.make(service, kept, settings)
            with gr.Tab("Blend", id="blend", visible=has["Blend"]) as blend_tab:
                mix = Mix.make(service, kept, settings)
            with gr.Tab("Edit by words", id="reword", visible=has["Edit by words"]) as reword_tab:
                reword = Rewording.make(service, kept, settings)
            with gr.Tab("Edit", id="edit", visible="text_to_image" in first.flows) as edit_tab:
                edit = Edit.make(service, kept, settings)
            with gr.Tab("Compare", id="compare"):
                Compare.make(service, kept)
            with gr.Tab("Watch", id="watch", visible="text_to_image" in first.flows) as watch_tab:
                watch = Watch.make(service, kept, settings)
            with gr.Tab("Enlarge", id="enlarge"):
                enlarge = Enlarge.make(service.limits, kept, upscaler)

        drawing, among = [make_tab, edit_tab, watch_tab], [vary_tab, caption_tab, rewrite_tab, blend_tab, reword_tab]
        buttons = [make.actions[name] for name in ("vary", "caption", "blend", "reword")]

        def visible_tabs(name: str) -> list[Any]:
            flows = offers[name].flows if name in offers else []
            has = {tab: set(needed) <= set(flows) for tab, needed in FLOWS.items()}
            draws = [gr.update(visible="text_to_image" in flows) for _ in drawing]
            return [*draws, *[gr.update(visible=there) for there in has.values()],
                    *[gr.update(visible=has[tab]) for tab in ("Vary", "Caption", "Blend", "Edit by words")]]  # fmt: skip

        def to_edit(path: str | None, model: str) -> list[Any]:
            return [gr.Tabs(selected="edit"), *edit.take(path, model)]

        def to_blend(path: str | None) -> list[Any]:
            return [gr.Tabs(selected="blend"), None if path is None else {"background": path, "layers": [], "composite": path}]

        def to_watch(path: str | None) -> list[Any]:
            values = make.again(path)
            return [gr.Tabs(selected="watch"), values[0], values[2], *values[3:]]

        settings.model.change(visible_tabs, settings.model, [*drawing, *among, *buttons], **PRIVATE)
        page.load(visible_tabs, settings.model, [*drawing, *among, *buttons], **PRIVATE)
        for name, source in (("vary", vary.source), ("caption", caption.source), ("reword", reword.source)):
            make.actions[name].click(_to(name), make.chosen, [tabs, source], **PRIVATE)
        make.actions["blend"].click(to_blend, make.chosen, [tabs, mix.first], **PRIVATE)
        for tab in (caption, rewrite):
            tab.use.click(lambda text: [gr.Tabs(selected="make"), text], tab.texts_, [tabs, make.prompt], **PRIVATE)
        make.actions["edit"].click(to_edit, [make.chosen, settings.model], [tabs, edit.original, edit.easel, edit.message], **PRIVATE)
        make.actions["enlarge"].click(_to("enlarge"), make.chosen, [tabs, enlarge.source], **PRIVATE)
        make.actions["watch"].click(to_watch, make.chosen, [tabs, watch.prompt, watch.seed, *settings.values[1:]], **PRIVATE)
    page.state_session_capacity = service.limits.sessions
    page.queue(default_concurrency_limit=service.limits.waiting, max_size=2 * service.limits.waiting, api_open=True)
    return page


def _to(tab: str) -> Callable[[str | None], list[Any]]:
    """Opens a tab with the chosen picture."""
    return lambda path: [gr.Tabs(selected=tab), path]
