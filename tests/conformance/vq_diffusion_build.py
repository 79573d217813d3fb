"""Our parts from the originals' configuration words, for every VQ-Diffusion case."""

from __future__ import annotations

import math
from typing import Any

from tessera.families.vq_diffusion.network import TokenTransformer
from tessera.processes.schedules import DiscreteSchedule, vq_diffusion
from tests.conformance.settings import agree, known

__all__ = ["class_of", "network_from", "schedule_from"]

CONDITIONS = {"Text2ImageTransformer": "text", "Condition2ImageTransformer": "class", "UnCondition2ImageTransformer": "none"}
ATTENTION = {"text": "selfcross", "class": "selfcondition", "none": "self"}
"""What a block attends to, of each condition."""
ACTIVATIONS = {"GELU2": "sigmoid-gelu", "GELU": "gelu"}
TIME_EMBEDDINGS = {"adalayernorm": "learned", "adalayernorm_abs": "sinusoidal"}
CLASS_NORMS = {"adalayernorm": "layer", "adainsnorm": "instance"}
MLPS = {"fc": "linear", "conv_mlp": "conv"}


def class_of(config: dict[str, Any]) -> str:
    """The class name at the end of a dotted `target`."""
    return config["target"].rsplit(".", 1)[-1]


def network_from(params: dict[str, Any]) -> TokenTransformer:
    """The network described by `transformer_config`, `content_emb_config` and `diffusion_step`."""
    network, content = params["transformer_config"]["params"], params["content_emb_config"]["params"]
    condition = known("transformer_config.target", class_of(params["transformer_config"]), CONDITIONS)
    known("transformer_config.params.attn_type", network["attn_type"], {ATTENTION[condition]: True})
    agree("numbers of tokens", [network["content_seq_len"], math.prod(network["content_spatial_size"])])
    return TokenTransformer(
        classes=content["num_embed"],
        grid=network["content_spatial_size"],
        width=network["n_embd"],
        depth=network["n_layer"],
        heads=network["n_head"],
        timesteps=params["diffusion_step"],
        condition=condition,
        context_width=network["condition_dim"] if condition == "text" else None,
        class_count=network["class_number"] if condition == "class" else None,
        mlp=known("mlp_type", network.get("mlp_type", "fc"), MLPS),
        mlp_ratio=network["mlp_hidden_times"],
        dropout=network.get("resid_pdrop", 0.0),
        activation=known("block_activate", network["block_activate"], ACTIVATIONS),
        time_embedding=known("timestep_type", network["timestep_type"], TIME_EMBEDDINGS),
        class_norm=known("class_type", network.get("class_type", "adalayernorm"), CLASS_NORMS),
        position_table=content["spatial_size"],
    )


def schedule_from(steps: int, alpha_init_type: str = "alpha1", constants: dict[str, float] | None = None) -> DiscreteSchedule:
    """The originals' only schedule, "alpha1"; `constants` are its end points where a case gives them."""
    known("alpha_init_type", alpha_init_type, {"alpha1": True})
    if constants is None:
        return vq_diffusion(steps)
    return vq_diffusion(steps, (constants["att_1"], constants["att_T"]), (constants["ctt_1"], constants["ctt_T"]))
