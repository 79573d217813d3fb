"""The sanity panel as files: grids of pictures, bar charts and curves, drawn without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from tessera.atomic import write_file
from tessera.training.task import Panel

__all__ = ["bars", "curve", "grid", "save_panel"]

COLOURS = ((70, 110, 200), (230, 140, 40))


def grid(pictures: UInt8[Tensor, "b 3 h w"], columns: int | None = None, gap: int = 2) -> UInt8[Tensor, "3 h2 w2"]:
    """Pictures in rows of `columns` (by default about as many as rows) on white."""
    count, _, height, width = pictures.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = torch.full((3, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8)
    for i, picture in enumerate(pictures):
        y, x = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[:, y : y + height, x : x + width] = picture
    return sheet


def bars(labels: Sequence[str], series: Mapping[str, Sequence[float]], title: str) -> Image.Image:
    """A bar chart: one group per label, one bar per series."""
    step, height, left, top = 70, 220, 16, 40
    sheet = Image.new("RGB", (left * 2 + step * len(labels), top + height + 40), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((left, 4), title, fill="black")
    for number, name in enumerate(series):
        draw.text((left + number * 120, 20), name, fill=COLOURS[number % len(COLOURS)])
    largest = max((value for values in series.values() for value in values if math.isfinite(value)), default=0.0) or 1.0
    width = (step - 14) // len(series)
    for number, values in enumerate(series.values()):
        for i, value in enumerate(values):
            if not math.isfinite(value):
                continue
            x, y = left + i * step + number * width, top + height * (1 - max(value, 0.0) / largest)
            draw.rectangle((x, y, x + width - 2, top + height), fill=COLOURS[number % len(COLOURS)])
            draw.text((x, max(top, y) - 11), f"{value:.3g}", fill="black")
    for i, label in enumerate(labels):
        draw.text((left + i * step, top + height + 6), label, fill="black")
    return sheet


def curve(values: Sequence[float], title: str) -> Image.Image:
    """A line through the values at 1, 2, …, from 0 to the largest; what is not finite leaves a gap."""
    width, height, left, top = 640, 240, 60, 30
    sheet = Image.new("RGB", (left + width + 20, top + height + 30), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((left, 8), title, fill="black")
    largest = max((value for value in values if math.isfinite(value)), default=0.0) or 1.0
    for share in (0.0, 0.5, 1.0):
        y = top + height * (1 - share)
        draw.line((left, y, left + width, y), fill=(220, 220, 220))
        draw.text((6, y - 6), f"{share * largest:.3g}", fill="black")
    step = width / max(len(values) - 1, 1)
    for number in sorted({1, (len(values) + 1) // 2, len(values)}):
        draw.text((left + step * (number - 1) - 6, top + height + 8), str(number), fill="black")
    points = [(left + step * i, top + height * (1 - max(value, 0.0) / largest)) for i, value in enumerate(values)]
    for (a, b), pair in zip(pairwise(values), pairwise(points), strict=True):
        if math.isfinite(a) and math.isfinite(b):
            draw.line([*pair[0], *pair[1]], fill=COLOURS[0], width=2)
    return sheet


def save_panel(folder: Path, step: int, panels: Mapping[str, Panel]) -> dict[str, Image.Image]:
    """Write the PNG and text files of a panel, taken once per kind of weights ("raw", "ema"); returns the pictures by name."""
    images: dict[str, Image.Image] = {}
    first = next(iter(panels.values()))
    for name in first.pictures:
        for weights, panel in panels.items():
            images[f"{name}-{weights}"] = _image(grid(panel.pictures[name], 8 if "reconstructions" in name else None))
    for name, (labels, _) in first.series.items():
        images[name] = bars(labels, {weights: panel.series[name][1] for weights, panel in panels.items()}, f"{name} at step {step}")
    for name, values in first.curves.items():
        images[name] = curve(values, f"{name} by t, at step {step}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        with write_file(folder / f"{step:08d}-{name}.png") as part:
            image.save(part, format="PNG")
    for name in first.texts:
        for weights, panel in panels.items():
            with write_file(folder / f"{step:08d}-{name}-{weights}.txt") as part:
                part.write_text("".join(f"{line}\n" for line in panel.texts[name]), encoding="utf-8")
    return images


def _image(picture: Any) -> Image.Image:
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
