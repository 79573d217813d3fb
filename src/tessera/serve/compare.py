"""The tab Compare: the same prompts and seeds under several samplers, numbers of steps or models, side by side."""

from __future__ import annotations

import asyncio
import csv
import io
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from PIL import Image, ImageDraw, ImageFont

from tessera.errors import UsageError
from tessera.registry import SAMPLERS
from tessera.serve.components import Choice
from tessera.serve.controls import METHODS, parse_seed, sampling
from tessera.serve.following import LOOK, telling, user_of
from tessera.serve.jobs import ENDED, Job
from tessera.serve.kept import Kept
from tessera.serve.requests import Draw, visible
from tessera.serve.service import Service
from tessera.serve.showing import data_url, failure, quiet, said
from tessera.text_files import lines_of

__all__ = ["Cell", "Compare", "chart", "table"]

SIX = "the six methods"
OWN_STEPS = ("fast", "guidance-fast")
"""Methods that leave out steps of the model's own number, and so take none."""
CELL, GAP, LINE = 148, 10, 15
WORLD = ("scenes",)
"""How names of models of the scenes world begin, which a judge can read."""


@dataclass(frozen=True)
class Cell:
    """A picture of the comparison. right: the judge's verdict, None where it has none."""

    column: str
    prompt: str
    seed: int
    picture: Image.Image
    seconds: float
    calls: int
    right: bool | None

    @property
    def verdict(self) -> str:
        return "" if self.right is None else "right" if self.right else "wrong"


@dataclass(frozen=True)
class Compare:
    """The tab."""

    service: Service
    kept: Kept

    @classmethod
    def make(cls, service: Service, kept: Kept) -> Compare:
        """Puts it onto the page, into the tab that is open."""
        names = list(service.shelf.offers)
        with gr.Row():
            with gr.Column(min_width=280):
                prompts = gr.Textbox(
                    "a red circle above a blue square\ntwo green stars on a white background", label="Prompts", lines=3, max_lines=8,
                    info="One per line, a row of the grid each.", elem_id="compare-prompts",
                )  # fmt: skip
                seed = gr.Textbox("0", label="Seed", max_lines=1, info="The same for every column.", elem_id="compare-seed")
            with gr.Column(min_width=280):
                models = Choice(
                    names,
                    value=[names[0]],
                    multiselect=True,
                    label="Models",
                    info="A column each.",
                    elem_id="compare-models",
                    filterable=False,
                )
                samplers = gr.Dropdown(
                    [SIX, *METHODS, *sorted(SAMPLERS.keys() - set(METHODS))], value=["base", "purity"], multiselect=True,
                    allow_custom_value=True, label="Methods and samplers", elem_id="compare-samplers",
                    info="Where a model cannot use one, its column says so.",
                )  # fmt: skip
                steps = gr.Textbox(
                    "25", label="Steps", info="Several with commas: 10, 25, 50. Empty: the method's own.", elem_id="compare-steps"
                )
        with gr.Row():
            go = gr.Button("Compare", variant="primary", elem_id="compare-go", scale=3, min_width=120)
            six = gr.Button("The six methods of VQ-Diffusion", elem_id="compare-six", scale=3, min_width=200)
            stop = gr.Button("Stop", variant="stop", elem_id="compare-stop", scale=1, min_width=90)
        message = gr.HTML(
            quiet("Each column has the same prompts and seeds, so that only what it is called differs."), elem_id="compare-status"
        )
        grid = gr.HTML(elem_id="compare-grid")
        with gr.Row():
            png = gr.File(label="As a picture (PNG)", interactive=False, elem_id="compare-png", height=80)
            sheet = gr.File(label="As a table (CSV)", interactive=False, elem_id="compare-csv", height=80)
        made = cls(service, kept)
        inputs, outputs = [prompts, seed, models, samplers, steps], [message, grid, png, sheet]
        go.click(
            made.draw, inputs, outputs, show_progress="hidden", trigger_mode="once", api_name="compare",
            api_description="The same prompts and seed under several samplers, steps and models.",
        )  # fmt: skip
        six.click(lambda: [SIX], None, samplers, queue=False, show_progress="hidden", api_visibility="private").then(
            made.draw, inputs, outputs, show_progress="hidden", api_visibility="private"
        )
        stop.click(made.stop, None, None, queue=False, show_progress="hidden", api_visibility="private")
        return made

    @telling(4)
    async def draw(
        self, prompts: str, seed: str, models: list[str], samplers: list[str], steps: str, request: gr.Request
    ) -> AsyncIterator[tuple[Any, Any, Any, Any]]:
        jobs: dict[str, Job] = {}
        try:
            rows = list(dict.fromkeys(line.strip() for line in lines_of(prompts) if line.strip()))
            if not rows:
                raise UsageError("there is no prompt to compare: write one per line")
            asked = self._columns(rows, parse_seed(seed) or 0, models, samplers, parse_steps(steps))
            user = user_of(request, "compare")
            jobs = {name: self.service.submit(one, user) for name, one in asked.items()}
            cells: list[Cell] = []
            judged: set[str] = set()
            started = time.monotonic()
            while True:
                views = {name: self.service.view(job) for name, job in jobs.items()}
                ended = {name for name, job in jobs.items() if job.state in ENDED}
                for name in ended - judged:
                    cells += await asyncio.to_thread(cells_of, name, jobs[name])
                    judged.add(name)
                done = sum(view.fraction if view.state != "failed" else 1 for view in views.values()) / len(views)
                html = table(rows, list(jobs), cells, {name: job.error for name, job in jobs.items() if job.error})
                if len(judged) == len(jobs):
                    break
                seconds = time.monotonic() - started
                left = f", about {max(1, round(seconds * (1 - done) / done))} s left" if done > 0.02 else ""
                yield said(f"{len(judged)} of {len(jobs)} columns{left}"), html, gr.skip(), gr.skip()
                await asyncio.sleep(4 * LOOK)
            if not cells:
                errors = [job.error for job in jobs.values() if job.error]
                yield failure(errors[0]) if errors else said("Stopped."), html, gr.skip(), gr.skip()
                return
            png = self.kept.png(chart(rows, list(dict.fromkeys(cell.column for cell in cells)), cells), "comparison")
            sheet = self.kept.text(as_csv(cells), "comparison.csv")
            stopped = any(job.state == "cancelled" for job in jobs.values())
            yield said("Stopped." if stopped else f"{len(cells)} pictures in {time.monotonic() - started:.0f} s."), html, png, sheet
        finally:
            for job in jobs.values():
                if not job.ended.is_set():
                    job.cancel()

    def _columns(self, rows: list[str], seed: int, models: list[str], samplers: list[str], steps: list[int | None]) -> dict[str, Draw]:
        """A request for each column, by its name. UsageError for more pictures than the limits allow."""
        if not models or not samplers:
            raise UsageError("there is nothing to compare: choose a model and a method or sampler")
        chosen = list(dict.fromkeys(name for given in samplers for name in (METHODS if given == SIX else (given,))))
        limits, columns = self.service.limits, {}
        limits.at_most("pictures of a comparison", len(rows) * len(models) * len(chosen) * len(steps), limits.compared)
        limits.at_most("columns", len(models) * len(chosen) * len(steps), limits.waiting_of_user)
        for model in models:
            offer = self.service.shelf.offer(model)
            for sampler in chosen:
                for count in [None] if sampler in OWN_STEPS else steps:
                    method = sampler if sampler in METHODS else None
                    settings = sampling(offer, None if method else sampler, count, None, None, None)
                    name = " ".join(filter(None, [model if len(models) > 1 else "", sampler, f"{count} steps" if count else ""]))
                    columns[name] = Draw(model, prompts=tuple(rows), seed=seed, settings=settings, method=method)
        return columns

    def stop(self, request: gr.Request) -> None:
        self.service.cancel_all(user_of(request, "compare"))


def parse_steps(text: str) -> list[int | None]:
    """Numbers with commas between them; nothing is the method's own."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() and len(word) < 7 and int(word) for word in words):
        raise UsageError(f"steps {text[:60]!r} are not whole numbers from 1 with commas between them: write 10, 25")
    return [int(word) for word in words] or [None]


def cells_of(column: str, job: Job) -> list[Cell]:
    """The finished pictures of a column, judged where they are scenes."""
    cells = []
    for number, picture in enumerate(job.results):
        assert isinstance(job.request, Draw)
        prompt = job.request.prompts[number]
        right = verdict(picture, prompt) if job.request.model.startswith(WORLD) else None
        cells.append(Cell(column, prompt, job.request.seed or 0, picture, job.seconds / len(job.results), job.calls, right))
    return cells


def verdict(picture: Image.Image, prompt: str) -> bool | None:
    """Whether a scene shows every clause of its caption; None where the caption is none of the scenes world, or no judge is installed."""
    try:
        import numpy as np

        from tessera.evaluation.scenes_captions import parse_caption
        from tessera.evaluation.scenes_judge import judge, read_picture
    except ImportError:  # scipy, an optional part
        return None
    caption = parse_caption(prompt)
    if caption is None or picture.width != picture.height:
        return None
    return judge(read_picture(np.asarray(picture.convert("RGB")).transpose(2, 0, 1)), caption, picture.width).right


def table(rows: Sequence[str], columns: Sequence[str], cells: Sequence[Cell], errors: dict[str, str]) -> str:
    """The grid as HTML."""
    found = {(cell.column, cell.prompt): cell for cell in cells}
    head = "".join(f"<th scope=col>{escape(visible(name))}</th>" for name in columns)
    body = []
    for prompt in rows:
        line = [f'<th scope=row class="prompt">{escape(visible(prompt))}</th>']
        for name in columns:
            cell = found.get((name, prompt))
            if cell is None:
                line.append(f"<td>{escape(visible(errors.get(name, '…')))}</td>")
                continue
            verdict_ = f' · <span class="tessera-{cell.verdict}">{cell.verdict}</span>' if cell.verdict else ""
            label = escape(visible(f"{prompt}, {name}"), quote=True)
            line.append(f'<td><img alt="{label}" src="{data_url(cell.picture)}">{cell.seconds:.1f} s · {cell.calls} calls{verdict_}</td>')
        body.append(f"<tr>{''.join(line)}</tr>")
    return f'<div class="tessera-grid"><table><tr><td></td>{head}</tr>{"".join(body)}</table></div>'


def chart(rows: Sequence[str], columns: Sequence[str], cells: Sequence[Cell]) -> Image.Image:
    """The grid as a picture, with what is known under each."""
    from tessera.apps.output import wrap

    font, left, top = ImageFont.load_default(size=12), 150, 40
    height = CELL + LINE + GAP
    sheet = Image.new("RGB", (left + len(columns) * (CELL + GAP), top + len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, name in enumerate(columns):
        for below, text in enumerate(wrap(visible(name), font, CELL)):
            draw.text((left + number * (CELL + GAP), 6 + below * LINE), text, fill="black", font=font)
    for row, prompt in enumerate(rows):
        words, line = visible(prompt).split(), ""
        lines: list[str] = []
        for word in words:
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > left - 2 * GAP:
                lines.append(line)
                line = word
            else:
                line = longer
        for number, text in enumerate([*lines, line][: math.floor(CELL / LINE)]):
            draw.text((GAP, top + row * height + number * LINE), text, fill="black", font=font)
    for cell in cells:
        x, y = left + columns.index(cell.column) * (CELL + GAP), top + rows.index(cell.prompt) * height
        side = CELL / max(cell.picture.size)
        size = max(1, round(cell.picture.width * side)), max(1, round(cell.picture.height * side))
        sheet.paste(cell.picture.resize(size, Image.Resampling.NEAREST if side >= 1 else Image.Resampling.LANCZOS), (x, y))
        colour = {"right": "#178a3d", "wrong": "#c0392b"}.get(cell.verdict, "black")
        said = f"{cell.seconds:.1f} s, {cell.calls} calls" + (f", {cell.verdict}" if cell.verdict else "")
        draw.text((x, y + CELL + 1), said, fill=colour, font=font)
    return sheet


def as_csv(cells: Sequence[Cell]) -> str:
    """The grid as a table. What a spreadsheet would take for a formula is made text."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["column", "prompt", "seed", "seconds", "network calls", "judge"])
    for cell in cells:
        prompt = "'" + cell.prompt if cell.prompt[:1] in "=+-@" else cell.prompt
        writer.writerow([cell.column, visible(prompt), cell.seed, f"{cell.seconds:.3f}", cell.calls, cell.verdict])
    return text.getvalue()
