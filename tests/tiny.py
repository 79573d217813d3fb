"""A small random model of the kind that is bundled: 32×32 pictures of 4×4 tokens, drawn in milliseconds."""

import torch

from tessera.codecs.patch import PatchVQ
from tessera.contexts.words import Words
from tessera.families.vq_diffusion.network import TokenTransformer
from tessera.flow import SamplingSettings, TokenFlow
from tessera.model import Model
from tessera.processes.discrete import DiscreteProcess
from tessera.processes.discrete_loss import DiscreteLoss
from tessera.processes.schedules import make_schedule

WORDS = ["a", "above", "blue", "circle", "green", "red", "square"]


def tiny_model(classes: int = 24, steps: int = 20, seed: int = 0) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = TokenFlow(
            PatchVQ(classes=classes, factor=8, dim=8),
            Words(WORDS, length=8, width=16, depth=1, heads=2, null=True),
            TokenTransformer(classes, (4, 4), width=16, depth=2, heads=2, timesteps=steps, context_width=16),
            DiscreteLoss(DiscreteProcess(make_schedule("vq-diffusion", steps), classes)),
        )
        # Random codes, and logits large enough that prompts and steps matter.
        flow.codec.quantizer.codebook.copy_(torch.randn(classes, 8) * 3)
        for name, parameter in flow.named_parameters():
            if "network" in name and parameter.ndim >= 2:
                torch.nn.init.normal_(parameter, std=0.3)
    return Model("tiny", "vq-diffusion", {"text_to_image": flow}, (32, 32), SamplingSettings(steps=5), {"about": "random weights"})
