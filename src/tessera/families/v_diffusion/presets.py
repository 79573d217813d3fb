"""The sizes v-diffusion comes in. `PRESETS[name].config` describes the network: a `UNet`, for scenes a `PatchTransformer`.

name           side   widths                               blocks   attention     CLIP       parameters
scenes           64   192, patches of 8                         6   all           scenes          5.5 M   predicts x_0
cc12m_1         256   128 256 256 512 512 1024 1024             4   4 5 6         ViT-B/16      602.9 M   also cc12m_1_cfg
yfcc_1          512   128 128 256 256 512 512 1024 1024         4   5 6 7         none          481.4 M
yfcc_2          512   128 256 512 512 1024 1024 2048 2048       2   5 6 7         none          968.3 M
danbooru_128    128   256 512 512 1024 1024 2048                2   3 4 5         none          564.9 M
imagenet_128    128   128 256 256 512 512 1024                  4   3 4 5         none          290.3 M
wikiart_128     128   128 256 256 512 512 1024                  4   none          none          243.9 M
wikiart_256     256   64 128 256 256 512 512 1024               4   4 5 6         none          291.1 M
"""

from typing import Any, NamedTuple

from tessera.errors import UsageError, suggest

__all__ = ["KINDS", "PRESETS", "Preset", "preset"]


class Preset(NamedTuple):
    """config: of the network, for `tessera.registry.build`; a `UNet` unless its kind says otherwise. parameters: their number.
    data: what it is or was trained on.

    clip: the CLIP model whose embeddings it takes.
    """

    config: dict[str, Any]
    parameters: int
    data: str
    clip: str | None = None


KINDS = {
    "modulated": {
        "context_width": 512, "mapping_width": 1024, "join": "inner-first", "upsampling": "bilinear", "time": "t", "attention_norm": True,
        "frozen_frequencies": True, "initial_scale": 0.5**0.5,
    },
    "yfcc": {"join": "inner-first", "upsampling": "bilinear", "time": "t", "attention_norm": True},
    "jax": {"join": "outer-first", "upsampling": "nearest", "time": "log-snr", "attention_norm": False, "frequency_std": 0.2},
}  # fmt: skip
"""What tells the three kinds of released networks apart; the last come from v-diffusion-jax."""

PRESETS = {
    "scenes": Preset(
        {
            "kind": "v-transformer", "size": 64, "patch": 8, "width": 192, "depth": 6, "heads": 6, "context_width": 128, "context_rows": 8,
            "components": 96, "neighbours": [0], "process": {"kind": "cosine", "shift": -3.0},
        },
        5_499_168,
        "the built-in world, 64x64 pictures",
        "scenes",
    ),
    "cc12m_1": Preset(
        {
            "size": 256, "widths": [128, 256, 256, 512, 512, 1024, 1024], "blocks": 4, "attention_levels": [4, 5, 6], "head_width": 64,
            **KINDS["modulated"],
        },
        602_895_947,
        "Conceptual 12M",
        "ViT-B/16",
    ),
    "yfcc_1": Preset(
        {
            "size": 512, "widths": [128, 128, 256, 256, 512, 512, 1024, 1024], "blocks": 4, "attention_levels": [5, 6, 7],
            "head_width": 64, **KINDS["yfcc"],
        },
        481_439_243,
        "33 million pictures of Yahoo Flickr Creative Commons 100M",
    ),
    "yfcc_2": Preset(
        {
            "size": 512, "widths": [128, 256, 512, 512, 1024, 1024, 2048, 2048], "blocks": 2, "attention_levels": [5, 6, 7],
            "head_width": 64, **KINDS["yfcc"],
        },
        968_251_915,
        "33 million pictures of Yahoo Flickr Creative Commons 100M",
    ),
    "danbooru_128": Preset(
        {
            "size": 128, "widths": [256, 512, 512, 1024, 1024, 2048], "blocks": 2, "attention_levels": [3, 4, 5], "head_width": 128,
            "last_rectified": True, **KINDS["jax"],
        },
        564_880_395,
        "Danbooru, safe for work",
    ),
    "imagenet_128": Preset(
        {
            "size": 128, "widths": [128, 256, 256, 512, 512, 1024], "blocks": 4, "attention_levels": [3, 4, 5], "head_width": 128,
            **KINDS["jax"],
        },
        290_342_411,
        "ImageNet",
    ),
    "wikiart_128": Preset(
        {
            "size": 128, "widths": [128, 256, 256, 512, 512, 1024], "blocks": 4, "attention_levels": [], "last_rectified": True,
            **KINDS["jax"],
        },
        243_880_459,
        "WikiArt",
    ),
    "wikiart_256": Preset(
        {
            "size": 256, "widths": [64, 128, 256, 256, 512, 512, 1024], "blocks": 4, "attention_levels": [4, 5, 6], "head_width": 128,
            **KINDS["jax"],
        },
        291_054_347,
        "WikiArt",
    ),
}  # fmt: skip


def preset(name: str) -> dict[str, Any]:
    """The configuration of a preset, for `tessera.registry.build`. UsageError for an unknown name."""
    if name not in PRESETS:
        raise UsageError(suggest("preset", name, PRESETS))
    return {"kind": "v-diffusion", **PRESETS[name].config}
