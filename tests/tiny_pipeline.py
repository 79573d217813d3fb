"""A small model that diffusers' VQDiffusionPipeline can hold."""

from typing import Any

import torch

from tessera.codecs.vqgan import VQGAN
from tessera.contexts.clip import CLIPText
from tessera.families.vq_diffusion.network import TokenTransformer
from tessera.flow import SamplingSettings, TokenFlow
from tessera.model import Model
from tessera.processes.discrete import DiscreteProcess
from tessera.processes.discrete_loss import DiscreteLoss
from tessera.processes.schedules import make_schedule

__all__ = ["MERGES", "text_model"]

MERGES = ["r e", "re d</w>", "c a", "ca t</w>"]


def text_model(
    quantizer: str = "nearest", mapped: bool = False, null: bool = True, network: dict[str, Any] | None = None,
    codec: dict[str, Any] | None = None, text: dict[str, Any] | None = None, schedule: dict[str, Any] | None = None,
) -> Model:  # fmt: skip
    """A random model of 8×8 pictures and 4×4 tokens with a CLIP text encoder of 518 tokens."""
    classes = 9 if mapped else (network or {}).get("classes", 12)
    settings = {
        "codebook": 12,
        "width": 32,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention_levels": (1,),
        "features": 8,
        "dim": 4,
        **(codec or {}),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = VQGAN(quantizer=quantizer, classes=classes if mapped else None, **settings)
        if made.remap is not None:
            made.remap.use([0, 3, 0, 1, 2, 0, 4, 5, 8, 6, 7, 8])
        torch.nn.init.normal_(made.quantizer.codebook)
        flow = TokenFlow(
            made,
            CLIPText(MERGES, length=12, layers=2, width=32, heads=4, vocabulary=514 + len(MERGES), null=null, **(text or {})),
            TokenTransformer(
                **{"classes": classes, "grid": (4, 4), "width": 32, "depth": 2, "heads": 4, "timesteps": 10, "context_width": 32}
                | (network or {})
            ),
            DiscreteLoss(DiscreteProcess(make_schedule(**(schedule or {"kind": "vq-diffusion", "steps": 10})), classes)),
        )
        for name, parameter in flow.named_parameters():
            if "network" in name and parameter.ndim >= 2:
                torch.nn.init.normal_(parameter, std=0.3)
    return Model("tiny", "vq-diffusion", {"text_to_image": flow}, (8, 8), SamplingSettings("purity", truncation=0.9), {"about": "random"})
