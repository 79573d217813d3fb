"""The text part of released VQ-Diffusion checkpoints: their keys ⇄ those of `CLIPText`.

A released text checkpoint holds CLIP's tower under `transformer.condition_emb.` (query, key and value of a layer in one
tensor, its matrices in float16) and, when it was tuned for guidance, `transformer.empty_text_embed` (float64).
`text_projection` is there too but nothing reads it, so it is left out.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tessera.errors import TesseraError

__all__ = ["text_config", "text_from_released", "text_to_released"]

TOWER = "transformer.condition_emb."
NULL = "transformer.empty_text_embed"
HEAD_WIDTH = 64

OUTER = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
INNER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
THIRDS = ("q_proj", "k_proj", "v_proj")


def _layer_keys(layer: int) -> dict[str, str]:
    there, here = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
    return {f"{there}{a}.{kind}": f"{here}{b}.{kind}" for a, b in INNER.items() for kind in ("weight", "bias")}


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key.split(".")[2] for key in _below(state, prefix) if key.startswith("transformer.resblocks.")})


def _below(state: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [key.removeprefix(prefix) for key in state if key.startswith(prefix)]


def _take(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise TesseraError(f"the checkpoint's text encoder is incomplete: {key!r} is missing")
    return state[key].float()


def text_config(state: Mapping[str, Tensor], tower: str = TOWER, null: str = NULL) -> dict[str, int | str | bool]:
    """The configuration of the `CLIPText` whose weights `state` holds, read from its shapes (heads are 64 wide)."""
    vocabulary, width = _take(state, tower + "token_embedding.weight").shape
    return {
        "kind": "clip-text",
        "length": len(_take(state, tower + "positional_embedding")),
        "layers": _layers(state, tower),
        "width": width,
        "heads": width // HEAD_WIDTH,
        "vocabulary": vocabulary,
        "null": null in state,
    }


def text_from_released(state: Mapping[str, Tensor], tower: str = TOWER, null: str = NULL) -> dict[str, Tensor]:
    """A released state dict (other keys are ignored) → the state dict of `CLIPText`, float32.

    `tower`, `null`: the prefix of the tower's keys and the key of the null embedding.
    """
    layers = _layers(state, tower)
    keys = OUTER | {a: b for layer in range(layers) for a, b in _layer_keys(layer).items()}
    ours = {f"tower.{here}": _take(state, tower + there) for there, here in keys.items()}
    for layer in range(layers):
        for kind in ("weight", "bias"):
            joined = _take(state, f"{tower}transformer.resblocks.{layer}.attn.in_proj_{kind}")
            for name, third in zip(THIRDS, joined.chunk(3), strict=True):
                ours[f"tower.encoder.layers.{layer}.self_attn.{name}.{kind}"] = third.clone()
    if null in state:
        ours["null_embedding"] = _take(state, null)
    return ours


def text_to_released(state: Mapping[str, Tensor], tower: str = TOWER, null: str = NULL) -> dict[str, Tensor]:
    """The state dict of `CLIPText` → the released layout, in float32 and without `text_projection`."""
    layers = len({key.split(".")[3] for key in _below(state, "") if key.startswith("tower.encoder.layers.")})
    keys = OUTER | {a: b for layer in range(layers) for a, b in _layer_keys(layer).items()}
    theirs = {tower + there: _take(state, f"tower.{here}") for there, here in keys.items()}
    for layer in range(layers):
        for kind in ("weight", "bias"):
            thirds = [_take(state, f"tower.encoder.layers.{layer}.self_attn.{name}.{kind}") for name in THIRDS]
            theirs[f"{tower}transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(thirds)
    if "null_embedding" in state:
        theirs[null] = _take(state, "null_embedding")
    return theirs
