"""The codecs of the released VQ-Diffusion models, as configurations of `VQGAN`.

| name | tokens of 256×256 | codes | classes | quantizer | parameters | file |
|---|---|---|---|---|---|---|
| openimages_f8_8192 | 32×32 | 8192 | all | gumbel | 69.0 M | taming_f8_8192_openimages_last.pth |
| openimages_f8_2887 | 32×32 | 8192 | 2887 | gumbel | 69.0 M | the same, in the COCO, CC, CUB and human models |
| imagenet_f16_16384 | 16×16 | 16384 | all | nearest | 76.1 M | vqgan_imagenet_f16_16384.pth |
| imagenet_f16_974 | 16×16 | 16384 | 974 | nearest | 76.1 M | the same, in the ImageNet models |
| ffhq_f16_1024 | 16×16 | 1024 | all | nearest | 72.1 M | vqgan_ffhq_f16_1024.pth |
| ithq_4096 | 32×32 | 4096 | all | ema | 63.5 M | ithq_vqvae.pth |
"""

from typing import Any

__all__ = ["PRESETS"]

_F8: dict[str, Any] = {"kind": "vqgan", "multipliers": [1, 1, 2, 4], "attention_levels": [3]}
_F16: dict[str, Any] = {"kind": "vqgan", "multipliers": [1, 1, 2, 2, 4], "attention_levels": [4]}

PRESETS: dict[str, dict[str, Any]] = {
    "openimages_f8_8192": {**_F8, "codebook": 8192, "quantizer": "gumbel"},
    "openimages_f8_2887": {**_F8, "codebook": 8192, "quantizer": "gumbel", "classes": 2887},
    "imagenet_f16_16384": {**_F16, "codebook": 16384},
    "imagenet_f16_974": {**_F16, "codebook": 16384, "classes": 974},
    "ffhq_f16_1024": {**_F16, "codebook": 1024},
    "ithq_4096": {**_F8, "codebook": 4096, "quantizer": "ema", "width": 64, "multipliers": [1, 2, 4, 8], "dim": 128},
}
