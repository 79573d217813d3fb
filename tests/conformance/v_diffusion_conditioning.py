"""v-diffusion's prompts, pictures, cutouts and guidance."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from tessera.contexts.joint import standardise
from tessera.contexts.weighted_prompts import CFG_WEIGHT, CLIP_WEIGHT, split_weight
from tessera.errors import UsageError
from tessera.guidance.clip_guidance import spherical_distance
from tessera.guidance.cutouts import cut, draw_boxes
from tessera.pictures import as_tensor, resize_and_center_crop, to_picture
from tessera.randomness import Draws
from tests.conformance.cases import Case

__all__ = ["COMPONENTS", "Recorded", "levels_of", "picture_from"]

FAILED = -12345.0
DEFAULT_WEIGHTS = {"clip_sample": CLIP_WEIGHT, "cfg_sample": CFG_WEIGHT, "cfg_modify_image": CFG_WEIGHT}


class Recorded(Draws):
    """Stored normal numbers, one tensor per draw, and uniform ones, which all pictures of a batch share as in the originals."""

    def __init__(self, io: dict[str, Tensor], batch: int) -> None:
        super().__init__(0, [])
        self.noise, self.uniforms, self.batch = list(io.get("noise", [])), io.get("uniforms", torch.empty(0)), batch

    def normal(self, *shape: int) -> Tensor:
        return self.noise.pop(0)

    def uniform(self, *shape: int) -> Tensor:
        count = torch.Size(shape).numel()
        taken, self.uniforms = self.uniforms[:count], self.uniforms[count:]
        return taken.view(shape).double().expand(self.batch, *shape)


def prompt_parsing(case: Case) -> dict[str, Tensor]:
    """Weights; parse_ok is 1 where the words are the recorded ones too."""
    outputs: dict[str, Tensor] = {}
    right = torch.ones(len(case.config["prompts"]), dtype=torch.int64)
    for script, default in DEFAULT_WEIGHTS.items():
        weights = []
        for i, prompt in enumerate(case.config["prompts"]):
            try:
                text, weight = split_weight(prompt, default)
            except UsageError:
                text, weight = "", FAILED
            recorded = case.spec["parse"][script][i]
            if weight == FAILED or text != recorded.get("text"):
                right[i] = 0
            weights.append(weight)
        outputs[f"weight_{script}"] = torch.tensor(weights)
    return {**outputs, "parse_ok": right}


def picture_from(levels: Tensor) -> Image.Image:
    return Image.fromarray(levels.byte().numpy())


def levels_of(picture: Image.Image) -> Tensor:
    return ((as_tensor(picture) + 1) * 127.5).round().long().movedim(0, -1)


def images(case: Case) -> dict[str, Tensor]:
    io = case.io
    outputs = {}
    for i, run in enumerate(case.config["runs"]):
        width, height = run["size"]
        outputs[f"crop_{i}"] = levels_of(resize_and_center_crop(picture_from(io[run["input"]]), (height, width)))
    ramp = torch.arange(256).view(1, 256)
    return {
        **outputs,
        "tensor_rgb": as_tensor(picture_from(io["image_a"])),
        "tensor_grey": as_tensor(picture_from(io["image_grey"])),
        "pil_from_ramp_rgb": levels_of(to_picture(io["ramp_rgb"], truncate=True)),
        "pil_from_ramp_grey": levels_of(to_picture(io["ramp_grey"][0], truncate=True))[..., 0],
        "round_trip_levels": levels_of(to_picture(as_tensor(picture_from(ramp)), truncate=True))[0, :, 0],
    }


def cutouts(case: Case) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    draws = Recorded(case.io, 0)
    for i, run in enumerate(case.config["runs"]):
        image = case.io[run["input"]]
        draws.batch = len(image)
        boxes = draw_boxes(image.shape[2], image.shape[3], run["cut_size"], run["cutn"], run["cut_pow"], draws)
        outputs[f"size_offsetx_offsety_{i}"] = boxes[0]
        outputs[f"cutouts_{i}"] = cut(image, boxes, run["cut_size"])
    return outputs


def spherical(case: Case) -> dict[str, Tensor]:
    io = case.io
    x = io["x"].clone().requires_grad_()
    loss = spherical_distance(x[:, None], io["y"])
    return {
        "loss": loss.detach(),
        "grad_x": torch.autograd.grad(loss.sum(), x)[0],
        "loss_edge": spherical_distance(io["x_edge"], io["y_edge"]),
        "normalized": standardise(io["image"] * 2 - 1, case.config["mean"], case.config["std"]),
    }


COMPONENTS = {"prompt_parsing": prompt_parsing, "images": images, "cutouts": cutouts, "spherical": spherical}
