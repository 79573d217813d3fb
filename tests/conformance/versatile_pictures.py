"""Versatile Diffusion's picture autoencoder, kl-f8."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tessera.codecs.kl import LOG_VARIANCE, KLAutoencoder, kl_from_normal
from tessera.families.versatile.kl_checkpoint import kl_config, load_kl
from tessera.randomness import Draws
from tests.conformance.cases import Case
from tests.conformance.settings import Settings, agree

__all__ = ["COMPONENTS", "Recorded", "autoencoder_config"]


class Recorded(Draws):
    """Normal values of a recording."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(0, [])
        self.values = values

    def normal(self, *shape: int) -> Tensor:
        return self.values


def autoencoder_config(case: Case, described: Settings, prefix: str = "") -> dict[str, Any]:
    """The arguments that the shapes say and the original's words must say too."""
    arguments, network = kl_config(case.manifest, prefix), described["ddconfig"]
    attended = [level for level in range(len(network["ch_mult"])) if network["resolution"] // 2**level in network["attn_resolutions"]]
    words = {
        "channels": described["embed_dim"], "width": network["ch"], "multipliers": network["ch_mult"], "blocks": network["num_res_blocks"],
        "features": network["z_channels"], "attention_levels": attended,
    }  # fmt: skip
    for name, value in words.items():
        agree(f"{name} of the weights and of ddconfig", [arguments[name], value])
    return arguments


@torch.inference_mode()
def run_autoencoder(case: Case) -> dict[str, Tensor]:
    """`AutoencoderKL`: its posterior, a latent drawn from it, and decoding."""
    config, io = case.config, case.io
    weights = case.weights()
    codec = KLAutoencoder(**autoencoder_config(case, config), scale=config["latent_scale_factor"]).eval()
    load_kl(codec, weights)
    image = 2 * io["image"] - 1
    mean, raw = codec.moments(image)
    log_variance = raw.clamp(*LOG_VARIANCE)
    decoded = (codec.decode(io["z"]) + 1) / 2
    nll = (math.log(2 * math.pi) + log_variance + (io["nll_sample"] - mean).square() / log_variance.exp()).flatten(1).sum(1) / 2
    return {
        "moments": torch.cat([mean, raw], 1), "mean": mean, "std": (log_variance / 2).exp(),
        "latent": codec.encode(image, Recorded(io["noise"])), "decoded": decoded.clamp(0, 1), "decoded_raw": decoded,
        "kl": kl_from_normal(mean, log_variance), "nll": nll,
    }  # fmt: skip


COMPONENTS = {"autoencoder_kl": run_autoencoder}
