"""The codecs of VQ-Diffusion: Gumbel, nearest (general and FFHQ) and EMA, with and without a mapping of codes."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tessera.checkpoints.recording import RecordedDraws, gumbel
from tessera.codecs.quantizers import Gumbel
from tessera.codecs.vqgan import VQGAN
from tessera.families.vq_diffusion.codec_checkpoint import load_codec
from tests.conformance.cases import Case, original_file
from tests.conformance.settings import agree, known

__all__ = ["COMPONENTS", "codec_from", "picture_of", "to_bytes_range", "use_mapping"]

QUANTIZERS = {"gumbel": "gumbel", "vq": "nearest", "ffhq": "nearest", "ema": "ema"}


def codec_from(config: dict[str, Any]) -> VQGAN:
    """The codec of an original's configuration: `kind`, `params`, `quantize_number` (0: the whole codebook)."""
    params = config["params"]
    if config["kind"] == "ema":
        network, decoder = params["encoder_config"]["params"], params["decoder_config"]["params"]
        for name in ("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "resolution", "z_channels"):
            agree(f"{name} of encoder and decoder", [network[name], decoder[name]])
        quantizer = known("quantizer_type", params["quantizer_type"], {"EMAVQ": "ema", "VQ": "nearest"})
    else:
        network, quantizer = params["ddconfig"], known("kind", config["kind"], QUANTIZERS)
    known("double_z", network.get("double_z", False), {False: "a token codec has no variance"})
    return VQGAN(
        codebook=params["n_embed"],
        quantizer=quantizer,
        width=network["ch"],
        multipliers=network["ch_mult"],
        blocks=network["num_res_blocks"],
        attention_levels=_attention_levels(network),
        features=network["z_channels"],
        dim=params["embed_dim"],
        classes=config.get("quantize_number") or None,
    )


def _attention_levels(network: dict[str, Any]) -> list[int]:
    """The levels whose sides are named in `attn_resolutions`."""
    attended = [_sides(resolution) for resolution in network["attn_resolutions"]]
    height, width = _sides(network["resolution"])
    return [level for level in range(len(network["ch_mult"])) if (height // 2**level, width // 2**level) in attended]


def _sides(resolution: int | list[int]) -> tuple[int, int]:
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    return height, width


def use_mapping(codec: VQGAN, io: dict[str, Tensor]) -> None:
    """The case's own mapping of codes, or the published one of this number of classes."""
    if codec.remap is None:
        return
    if "full_to_quantize" in io:
        codec.remap.use(io["full_to_quantize"])
        return
    file = original_file("vq_diffusion", "mappings", f"taming_vqvae_{codec.classes}.safetensors")
    codec.remap.use(load_file(file)["full_to_quantize"])


def picture_of(image: Tensor) -> Tensor:
    """uint8 0..255 → our range, with the originals' arithmetic."""
    return 2.0 * (image.float() / 255) - 1.0


def to_bytes_range(picture: Tensor) -> Tensor:
    """Our range → float 0..255."""
    return 255.0 * ((picture + 1.0) / 2.0)


@torch.inference_mode()
def run_codec(case: Case) -> dict[str, Tensor]:
    """encoder + quant_conv, the codes, get_tokens and decode of the original."""
    config, io = case.config, case.io
    codec = codec_from(config).eval()
    load_codec(codec, case.state_dict())
    use_mapping(codec, io)
    height, width = config["token_shape"]
    every, pixel = config.get("mid_stride", 1), config.get("stride", 1)
    picture = picture_of(io["image"])
    z = codec.latents(picture)
    outputs = {"prequant": _map(z, (height, width))[:, ::every]}
    if isinstance(codec.quantizer, Gumbel):
        logits = codec.quantizer.logits(z)
        noise = _tiled(io["noise_tile"], height, width)
        outputs["argmax"], outputs["argmax_margin"] = codec.quantizer.tokens(z), _margin(logits)
        outputs["sampled_margin"] = _margin(logits + gumbel(noise).T)
        outputs["logits"] = _map(logits, (height, width))[:, :: 8 * every]
        outputs["tokens"] = codec.encode(picture, RecordedDraws(noise.expand(1, len(z), -1, -1)))
    else:
        distances = torch.cdist(z.double(), codec.quantizer.codebook.double().expand(len(z), -1, -1)).square()
        outputs["indices"], outputs["margin"] = codec.quantizer.tokens(z), _margin(-distances).float()
        outputs["tokens"] = codec.encode(picture)
    image = to_bytes_range(codec.decode(io["tokens_in"], (height, width)))
    outputs["decoded"] = image[:, :, ::pixel, ::pixel]
    outputs["decoded_patch"] = image[:, :, 100:132, 60:92]
    outputs["decoded_stats"] = torch.stack([image.mean(), image.std(), image.abs().max()])
    return outputs


def _map(rows: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, N, C] → [B, C, h, w]."""
    return rows.transpose(1, 2).unflatten(2, grid)


def _margin(scores: Tensor) -> Tensor:
    """Best minus second best."""
    best = scores.topk(2, dim=-1).values
    return best[..., 0] - best[..., 1]


def _tiled(tile: Tensor, height: int, width: int) -> Tensor:
    """[K, a, b] → [K, N]: position (i, j) has tile (i % a, j % b)."""
    rows, columns = torch.arange(height) % tile.shape[1], torch.arange(width) % tile.shape[2]
    return tile[:, rows][:, :, columns].flatten(1)


COMPONENTS = dict.fromkeys(("TamingGumbelVQVAE", "TamingVQVAE", "TamingFFHQVQVAE", "PatchVQVAE"), run_codec)
