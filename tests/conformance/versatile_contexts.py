"""Versatile Diffusion's contexts: CLIP's tokens of words and pictures, their focus, editing by words, and the colours of the result."""

from __future__ import annotations

import math
import warnings
from functools import cache

import torch
from PIL import Image
from torch import Tensor

from tessera.colours import adjust_colours, match_colours
from tessera.contexts.clip_tokens import CLIPTokens, picture_input
from tessera.contexts.focus import directions, focus, focus_weights
from tessera.contexts.joint import CLIP_MEAN, CLIP_STD, standardise
from tessera.contexts.prompt_warnings import PromptTruncated
from tessera.contexts.tokenizer import ClipTokenizer, fix, read_merges
from tessera.families.versatile.blending import counted, uncounted
from tessera.families.versatile.editing import edit_blend, edited
from tessera.families.versatile.parts_checkpoint import clip_config, load_part_state
from tessera.families.versatile.released import SETTINGS
from tessera.nn.initialisation import without_initialisation
from tests.conformance.cases import Case, original_file
from tests.conformance.settings import agree, known

__all__ = ["COMPONENTS"]


@cache
def merges_of(path: str) -> tuple[str, ...]:
    return tuple(read_merges(original_file(path)))


def clip(case: Case) -> dict[str, Tensor]:
    io, config = case.io, case.config
    heads = tuple(config[f"{tower}_config"]["num_attention_heads"] for tower in ("text", "vision"))
    with without_initialisation():
        encoder = CLIPTokens(**clip_config(case.manifest, heads=heads))
    load_part_state(encoder.clip, case.weights(), "CLIP")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    image = (io["pixel_values"] * std + mean) * 2 - 1
    tokens = {
        "text_context": encoder.read(io["input_ids"]),
        "image_context": encoder.see(image),
        "image_context_masked": encoder.see(image, io["masks"]),
    }
    outputs: dict[str, Tensor] = dict(tokens)
    for name, (rows, columns) in case.spec.get("slices", {}).items():
        z = tokens[name]
        outputs |= {f"{name}.slice": z[:, ::rows, ::columns], f"{name}.norms": z.norm(dim=-1), f"{name}.mean_std": _mean_std(z)}
    return outputs


def _mean_std(z: Tensor) -> Tensor:
    return torch.stack([z.mean(), z.std()])


def tokens(case: Case) -> dict[str, Tensor]:
    config = case.config
    tokenizer = ClipTokenizer(merges_of(config["bpe_merges"]), config["max_length"], pad=config["end_and_padding"], cleaned=fix)
    agree("config.start", [config["start"], tokenizer.start])
    agree("config.end_and_padding", [config["end_and_padding"], tokenizer.end])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptTruncated)
        return {"input_ids": tokenizer(case.spec["texts"])[0]}


def preprocess(case: Case) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    for name in case.spec["images"]:
        picture = Image.fromarray(case.io[name].movedim(0, -1).numpy())
        pixels = standardise(picture_input(picture, case.config["size"])[None], case.config["mean"], case.config["std"])
        stride = case.spec["stride"]
        outputs[f"{name}.pixels.slice"] = pixels[..., ::stride, ::stride]
        outputs[f"{name}.pixels.mean_std"] = torch.stack([pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))])
    return outputs


def focused(case: Case) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    drop, keep = case.config["max_drop_rank"]
    how = (case.config["q"], drop + 1, keep)
    for level in case.spec["levels"]:
        outputs |= {f"level_{level}": focus(case.io["tokens"], level, *how), f"weights_{level}": focus_weights(level, *how)}
    for old in case.spec["old"]:
        x = case.io["tokens_old"]
        first = known("old.kind", old["kind"], {"find_low_rank": 0, "remove_low_rank": old.get("q_remove", 0)})
        outputs[old["output"]] = directions(x, first, old["q"], old["demean"])
    return outputs


def coloured(case: Case) -> dict[str, Tensor]:
    io, outputs = {name: x * 2 - 1 if x.is_floating_point() and "." not in name else x for name, x in case.io.items()}, {}
    for pair in case.spec["pairs"]:
        image, reference = io[pair["image"]], io[pair["reference"]]
        for keep in case.spec["keep"]:
            for mode in ("simple", "regular"):
                changed = adjust_colours(image, reference, keep, histogram=mode == "regular")
                outputs[f"{pair['name']}.{mode}_{keep}"] = ((changed + 1) * 127.5).round().byte().movedim(0, -1)
        outputs[f"{pair['name']}.app_simple"] = (match_colours(image, reference) + 1) / 2
    return {**outputs, "merged": _sheet([case.io[name] for name in case.spec["merge"]])}


def _sheet(images: list[Tensor]) -> Tensor:
    """The original's contact sheet, which is not one of ours: the cases' pictures side by side, black where there are none."""
    rows = math.isqrt(len(images))
    columns = math.ceil(len(images) / rows)
    levels = [(image * 255).byte().movedim(0, -1) for image in images]
    levels += [torch.zeros_like(levels[0])] * (rows * columns - len(images))
    return torch.cat([torch.cat(levels[row * columns : (row + 1) * columns], 1) for row in range(rows)])


def edit(case: Case) -> dict[str, Tensor]:
    io = case.io
    blend = edit_blend(Image.new("RGB", (8, 8)), "new", "added")
    (seen,) = blend.pictures
    words = {"new": io["c_text_new"], "added": io["c_text_positive"].expand(len(io["c_text_new"]), -1, -1)}
    return {
        "z_edited": edited(io["z_text"], io["z_negative"], io["z_positive"]),
        "image_context": counted(io["c_image"], seen),
        "image_context_uncond": uncounted(io["u_image"], seen),
        "text_context": torch.cat([words[text] for text in blend.texts], 1),
        "text_context_uncond": torch.cat([io["u_text"] for _ in blend.texts], 1),
        "mixed_ratio": torch.tensor([blend.shares["image"]]),
        "scale": torch.tensor([SETTINGS.guidance]),
    }


COMPONENTS = {
    "clip_context_encoders": clip,
    "clip_tokenizer": tokens,
    "clip_image_preprocess": preprocess,
    "semantic_style_rank": focused,
    "color_adjustment": coloured,
    "i2t2i_edit": edit,
}
