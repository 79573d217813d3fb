"""What the names and shapes in a file say of a network: its layout, and the configuration of `MultiFlowUNet`.

Not in a file: the number of attention heads, which is that of the released networks unless somebody says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from tessera.errors import TesseraError
from tessera.families.versatile.checkpoint import LAYOUTS, Layout, nested_paths
from tessera.families.versatile.network import steps

__all__ = ["find_layout", "network_config"]

HEADS = 8
MARKS = {
    "four-flow": ("diffuser.image.data_blocks.0.0.weight",),
    "four-flow-deprecated": ("model.diffusion_model.unet_image.input_blocks.0.0.weight",),
    "two-flow": ("model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.middle_block.1.norm_0.weight"),
    "single-flow": ("model.diffusion_model.input_blocks.0.0.weight",),
    "single-flow-bare-average": ("diffusion_modelinput_blocks00weight",),
}
"""Tensors that tell a layout from those after it; an average beside the weights does not tell one."""

Shapes = Mapping[str, Sequence[int]]


def find_layout(names: Mapping[str, object]) -> str | None:
    """The name of the layout that these tensors are in; None: they are no such network."""
    return next((layout for layout, marks in MARKS.items() if all(mark in names for mark in marks)), None)


def network_config(shapes: Shapes, name: str) -> dict[str, Any]:
    """The `MultiFlowUNet` in this layout with these shapes. TesseraError where they are of none."""
    layout = LAYOUTS[name]
    image = layout.types.format("image")

    def shape(path: str, axes: int, root: str = image) -> Sequence[int]:
        return _shape(shapes, layout.final(f"{root}.{path}.weight"), axes)

    def has(path: str) -> bool:
        return layout.final(f"{image}.{path}.weight") in shapes

    first = "input_blocks.{}.0" if layout.nested else "data_blocks.{}.0"
    width, channels, *_ = shape(first.format(0), 4)
    levels: list[list[int]] = [[]]
    place = 1
    while True:
        path = first.format(place)
        if has(f"{path}.in_layers.2"):
            levels[-1].append(shape(f"{path}.in_layers.2", 4)[0])
        elif has(f"{path}.op"):
            levels.append([])
        else:
            break
        place += 1
    counts = [len(level) for level in levels]
    if not layout.nested:  # numbered through, the deepest level goes on with the middle, which has two blocks, and the way up, one more
        counts[-1] = (counts[-1] - 3) // 2
    if min(counts) < 1:
        raise TesseraError(f"the file has {[len(level) for level in levels]} blocks at its levels: it is incomplete or of another network")
    widths = [level[0] for level in levels]
    blocks = counts[0] if len(set(counts)) == 1 else counts
    data: dict[str, Any] = {"image": {"kind": "grid", "channels": channels}}
    text = layout.final(f"{layout.types.format('text')}.{first.format(0)}.weight")
    if layout.types != layout.types.format("") and text in shapes:
        features, latent = _shape(shapes, text, 2)
        data["text"] = {"kind": "vector", "width": latent, "positions": features // width}
    types = {"two-flow": ["image", "text"], "single-flow": ["text"], "single-flow-bare-average": ["image"]}.get(name, list(data))
    found = {each: _context_levels(shapes, layout, each, widths, blocks) for each in types}
    if len({tuple(levels) for levels, _ in found.values()}) > 1:
        raise TesseraError(f"the file's context types {', '.join(found)} are at different levels: it is of another kind of network")
    return {
        "kind": "versatile", "widths": widths, "blocks": blocks, "context_levels": next(iter(found.values()))[0], "heads": HEADS,
        "data": data, "contexts": {each: {"kind": "rows", "width": rows} for each, (_, rows) in found.items()}, "timesteps": 1000,
        "parametrisation": "eps",
    }  # fmt: skip


def _context_levels(
    shapes: Shapes, layout: Layout, context: str, widths: Sequence[int], blocks: int | Sequence[int]
) -> tuple[list[int], int]:
    """The levels where a type has context layers, and the width of its contexts."""
    root, suffix = layout.types.format(context), layout.suffix(context)
    for count in range(len(widths), -1, -1):
        for levels in combinations(range(len(widths)), count):
            table = steps(widths, blocks, levels)
            places = [step.enter for step in table if step.what == "context"]
            paths = nested_paths(table)[1] if layout.nested else [f"context_blocks.{place}.0" for place in range(len(places))]
            norms = [layout.final(f"{root}.{path}.norm{suffix}.weight") for path in paths]
            if all(norm in shapes and shapes[norm][0] == width for norm, width in zip(norms, places, strict=True)):
                keys = layout.final(f"{root}.{paths[0]}.transformer_blocks{suffix}.0.attn2.to_k.weight")
                return list(levels), _shape(shapes, keys, 2)[1]
    raise TesseraError(f"the file's context layers for {context} are incomplete: copy it again, or take another copy of it")


def _shape(shapes: Shapes, name: str, axes: int) -> Sequence[int]:
    if name not in shapes:
        raise TesseraError(f"the checkpoint is incomplete: it has no tensor {name!r}; copy it again, or take another copy of it")
    if len(shapes[name]) != axes:
        raise TesseraError(f"{name!r} has shape {list(shapes[name])}, not {axes} axes: this is no Versatile Diffusion checkpoint")
    return shapes[name]
