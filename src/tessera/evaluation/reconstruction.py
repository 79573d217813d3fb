"""How much of pictures a codec keeps: its reconstructions as a set of pictures, for FID against the originals, and their PSNR."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf, log10
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from tessera.checkpoints.recognise import Extras
from tessera.codecs.codec import Codec, TokenCodec
from tessera.errors import UsageError
from tessera.evaluation.picture_sets import PictureSet, Shown
from tessera.loading import read
from tessera.model import Model
from tessera.part_description import CONFIG
from tessera.part_folder import load_part
from tessera.registry import CODECS
from tessera.sources import locate

__all__ = ["Reconstructed", "load_codec"]


def load_codec(source: str, **extras: Any) -> Codec:
    """The codec of a model, of a part's folder, or in a released file, which `extras` complete as in `tessera.load`.

    Raises as `load` does, and UsageError when there is none.
    """
    path = Path(source)
    if (path / CONFIG).is_file():
        found: Any = load_part("codec", CODECS, path)
    else:
        found = read(locate(source), Extras(**extras))
        if isinstance(found, Model):
            found = next(iter(found.flows.values())).codec
    if not isinstance(found, Codec):
        raise UsageError(f"{source} holds no codec: give a model, the folder of a trained codec, or a released file of one")
    return found.requires_grad_(False).eval()


@dataclass
class Reconstructed(PictureSet):
    """Pictures after encoding and decoding by `codec`. Nothing is cached. What they have lost is counted while they are gone through.

    Raises UsageError when the codec's factor does not divide a picture's size.
    """

    originals: PictureSet
    codec: Codec
    batch_size: int = 16
    squared: float = field(default=0.0, init=False)
    values: int = field(default=0, init=False)
    identity: None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.about = {
            "name": f"reconstructions of {self.originals.name}", "kind": "reconstructions", "codec": self.codec.config,
            "originals": self.originals.about,
        }  # fmt: skip
        self.count, self.skipped = self.originals.count, self.originals.skipped

    def shown(self, limit: int | None) -> Iterator[Shown]:
        self.squared, self.values = 0.0, 0
        for image, prompts in self.originals.batches(limit, self.batch_size):
            decoded = self._through(image)
            self.squared += float((decoded.double() - image.double()).square().sum())
            self.values += image.numel()
            yield from zip(decoded, prompts, strict=True)

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio in dB of 8-bit values, over all pictures gone through."""
        return 10 * log10(255**2 * self.values / self.squared) if self.squared else inf

    def _through(self, image: UInt8[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
        device = next(self.codec.parameters(), torch.empty(0)).device
        with torch.inference_mode():
            pixels = image.to(device).float() / 127.5 - 1
            grid = self.codec.grid((pixels.shape[2], pixels.shape[3]))
            if isinstance(self.codec, TokenCodec):
                decoded = self.codec.decode(self.codec.encode(pixels), grid)
            else:
                floats: Any = self.codec
                decoded = floats.decode(floats.encode(pixels))
            return ((decoded.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
