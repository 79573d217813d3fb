"""Scenes whose prompt is everything in them, for training networks that read pictures."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tessera.data.dataset import Example
from tessera.data.scenes import Scene, Scenes, Thing, render
from tessera.json_files import parse_json

__all__ = ["SceneLabels", "parse_scene"]


class SceneLabels(Scenes):
    """The pictures of `Scenes`, with the whole scene as JSON in place of a caption. Arguments as there."""

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint}/labels"

    def example(self, index: int, seed: int) -> Example:
        images, prompts = self.batch([index], seed)
        return Example(images[0], prompts[0])

    def batch(self, indices: Sequence[int], seed: int) -> tuple[UInt8[Tensor, "b 3 h w"], list[str]]:
        scenes = [self.describe(index, seed)[0] for index in indices]
        return torch.from_numpy(np.stack([render(scene) for scene in scenes])), [json.dumps(asdict(scene)) for scene in scenes]


def parse_scene(text: str) -> Scene:
    """The scene that a prompt of `SceneLabels` is."""
    values = parse_json(text)
    return Scene(values["background"], tuple(Thing(**thing) for thing in values["things"]))
