"""The sizes VQ-Diffusion comes in. `PRESETS[name].config` are the constructor arguments of `TokenTransformer`.

name          condition   blocks x width   heads   tokens   classes   network parameters
scenes        words            6 x  160       5      8x8      2560        4.3 M    adjacent tokens mixed
ffhq          none            20 x  512      16    16x16      1024      411.2 M    convolutional MLP
imagenet      class           24 x  512      16    16x16       974      518.0 M    convolutional MLP
coco          CLIP text       19 x 1024      16    32x32      2887      388.8 M    also CC, CUB and human
ithq          CLIP text       36 x 1408      16    32x32      4096     1359.3 M
"""

from typing import Any, NamedTuple

from tessera.errors import UsageError, suggest

__all__ = ["PRESETS", "Preset", "preset"]


class Preset(NamedTuple):
    """config: constructor arguments of the network. parameters: its number of parameters. data: what it is or was trained on."""

    config: dict[str, Any]
    parameters: int
    data: str


_CLIP = {"condition": "text", "context_width": 512}
_CONV = {"mlp": "conv", "position_table": [32, 32]}  # the released 16×16 models keep the position table of 32×32 tokens

PRESETS = {
    "scenes": Preset(
        {
            "classes": 2560,
            "grid": [8, 8],
            "width": 160,
            "depth": 6,
            "heads": 5,
            "condition": "text",
            "context_width": 128,
            "neighbours": True,
            "initialisation": "scaled",
        },
        4_285_760,
        "the built-in world, 64x64 pictures",
    ),
    "ffhq": Preset(
        {"classes": 1024, "grid": [16, 16], "width": 512, "depth": 20, "heads": 16, "condition": "none", **_CONV},
        411_185_664,
        "Flickr-Faces-HQ, 256x256 pictures",
    ),
    "imagenet": Preset(
        {"classes": 974, "grid": [16, 16], "width": 512, "depth": 24, "heads": 16, "condition": "class", "class_count": 1001, **_CONV},
        518_037_966,
        "ImageNet, 256x256 pictures; label 1000 is the learned null label",
    ),
    "coco": Preset(
        {"classes": 2887, "grid": [32, 32], "width": 1024, "depth": 19, "heads": 16, **_CLIP},
        388_780_871,
        "COCO, Conceptual Captions, CUB-200 or human pictures, 256x256",
    ),
    "ithq": Preset(
        {"classes": 4096, "grid": [32, 32], "width": 1408, "depth": 36, "heads": 16, **_CLIP},
        1_359_274_624,
        "ITHQ-200M, 256x256 pictures from the web",
    ),
}


def preset(name: str) -> dict[str, Any]:
    """The configuration of a preset, for `tessera.registry.build`. UsageError for an unknown name."""
    if name not in PRESETS:
        raise UsageError(suggest("preset", name, PRESETS))
    return {"kind": "vq-diffusion", **PRESETS[name].config}
