"""Pieces of HTML for the page. Whatever comes from a user or a model is escaped here, and nowhere else is HTML written."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

from PIL import Image

from tessera.record import Record
from tessera.serve.jobs import Job, View
from tessera.serve.requests import visible

__all__ = ["CSS", "data_url", "details", "failure", "notes", "quiet", "said", "status"]

CSS = """
.gradio-container {max-width: 1180px !important; margin: 0 auto !important;}
.tessera-status {min-height: 3.2em; font-size: 15px;}
.tessera-status .line {display: flex; gap: .8em; justify-content: space-between; flex-wrap: wrap;}
.tessera-status .bar {height: 8px; border-radius: 4px; background: var(--border-color-primary); overflow: hidden; margin: .5em 0;}
.tessera-status .bar div {height: 100%; background: var(--color-accent); transition: width .2s;}
.tessera-status .previews {display: flex; flex-wrap: wrap; gap: 8px; margin-top: .6em;}
.tessera-status .previews img {width: min(160px, 44vw); image-rendering: pixelated; border-radius: 8px;}
.tessera-error {border-left: 4px solid #d33; padding: .6em .9em; background: color-mix(in srgb, #d33 10%, transparent); border-radius: 4px;
 overflow-wrap: anywhere; white-space: pre-wrap;}
.tessera-note {border-left: 4px solid #b8860b; padding: .4em .9em; margin-top: .5em;
 background: color-mix(in srgb, #b8860b 10%, transparent); border-radius: 4px; overflow-wrap: anywhere;}
.tessera-quiet {color: var(--body-text-color-subdued);}
.tessera-details table {width: 100%; border-collapse: collapse;}
.tessera-details td {padding: .25em .6em; border-bottom: 1px solid var(--border-color-primary); overflow-wrap: anywhere;
 vertical-align: top;}
.tessera-details td:first-child {color: var(--body-text-color-subdued); white-space: nowrap; width: 1%;}
.tessera-pictures img {image-rendering: pixelated;}
@media (max-width: 640px) {.tessera-pictures .grid-container {grid-template-columns: repeat(2, minmax(0, 1fr)) !important;}}
.tessera-title h1 {margin: .2em 0 0; font-size: 1.7em;}
.tessera-title p {margin: .2em 0 .4em;}
.tessera-grid {overflow-x: auto;}
.tessera-grid table {border-collapse: separate; border-spacing: 4px; border: none !important; width: auto !important;}
.tessera-grid :is(tr, th, td) {border: none !important; padding: .2em !important; background: none !important;}
.tessera-grid th {font-weight: 600; text-align: center; vertical-align: bottom; width: 128px; min-width: 128px;}
.tessera-grid th.prompt {text-align: left; vertical-align: top; min-width: 110px; font-weight: 400; overflow-wrap: anywhere;}
.tessera-grid td {text-align: center; vertical-align: top; font-size: 13px; overflow-wrap: anywhere;}
.tessera-grid img {width: 126px; max-width: none; image-rendering: pixelated; border-radius: 6px; display: block; margin: 0 auto .2em;}
.tessera-right {color: #178a3d;} .dark .tessera-right {color: #4cc774;}
.tessera-wrong {color: #c0392b;} .dark .tessera-wrong {color: #ff8a7a;}
"""


def status(job: Job, view: View, what: str = "picture") -> str:
    """What happens to a request for so and so many of what, with previews while it is drawn."""
    if view.state == "failed":
        return failure(job.error or "")
    if view.state == "waiting":
        before = "next" if view.position == 0 else f"{view.position} before you"
        return _box(f"<div class=line><span>Waiting in the queue: {before}</span></div>{_bar(0)}")
    if view.state == "cancelled":
        kept = f" {view.finished} finished before that." if view.finished else ""
        return _box(f"<span>Stopped.{kept}</span>")
    if view.state == "done":
        done = f"{view.finished} {what}{'s' * (view.finished != 1)}"
        return _box(f"<div class=line><span>{done} in {job.seconds:.1f} s, {_seed(job)}</span></div>") + notes(job.warnings)
    if not view.steps:
        return _box(f"<div class=line><span>Getting the model ready</span></div>{_bar(view.fraction)}")
    left = "" if view.seconds_left is None else f"about {max(1, round(view.seconds_left))} s left"
    count = f"{view.finished} of {job.total} {what}s, " if job.total > 1 else ""
    line = f"<div class=line><span>{count}step {view.step} of {view.steps}</span><span>{left}</span></div>"
    previews = "".join(f'<img alt="preview" src="{data_url(picture)}">' for picture in view.previews)
    return _box(f"{line}{_bar(view.fraction)}<div class=previews>{previews}</div>")


def failure(sentence: str) -> str:
    """What went wrong."""
    text = sentence[:1].upper() + sentence[1:]
    return f'<div class="tessera-status"><div class="tessera-error" role="alert">{escape(visible(text))}</div></div>'


def notes(sentences: Sequence[str]) -> str:
    """What the model says of a prompt."""
    return "".join(f'<div class="tessera-note">{escape(visible(sentence[:1].upper() + sentence[1:]))}</div>' for sentence in sentences)


def said(sentence: str) -> str:
    """A result in words."""
    return _box(f"<span>{escape(visible(sentence))}</span>")


def quiet(sentence: str) -> str:
    """A hint."""
    return _box(f'<span class="tessera-quiet">{escape(sentence)}</span>')


def details(record: Record | None) -> str:
    """How a picture was made."""
    if record is None:
        return quiet("Nothing is known of how this picture was made.")
    height, width = record.size
    shown: dict[str, Any] = {
        "prompt": record.prompt, "model": record.model, "seed": record.seed, "number": record.index + 1, "size": f"{width}x{height}",
        "sampler": record.sampler, "steps": record.steps or "all", "guidance": record.guidance, "truncation": record.truncation,
        "temperature": record.temperature, "weights": record.weights and f"{record.weights[:12]}…",
    }  # fmt: skip
    if record.start < 1:
        shown["strength"] = record.start
    rows = "".join(f"<tr><td>{name}</td><td>{escape(visible(str(value)))}</td></tr>" for name, value in shown.items() if value is not None)
    return f'<div class="tessera-details"><table>{rows}</table></div>'


def data_url(picture: Image.Image) -> str:
    """A picture as part of the page itself."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _seed(job: Job) -> str:
    first = job.results[0] if job.results else None
    record = Record.of(first) if isinstance(first, Image.Image) else getattr(first, "record", None)
    return "" if record is None else f"seed {record.seed}"


def _bar(fraction: float) -> str:
    share = f"{100 * fraction:.0f}"
    return f'<div class=bar role="progressbar" aria-label="progress" aria-valuenow="{share}"><div style="width:{share}%"></div></div>'


def _box(inner: str) -> str:
    return f'<div class="tessera-status" aria-live="polite">{inner}</div>'
