"""A small random model of four flows over one network: 16×16 pictures, words of a tiny vocabulary."""

from typing import Any

import torch

from tessera.codecs.kl import KLAutoencoder
from tessera.codecs.text_vae import TextVAE
from tessera.contexts.clip_tokens import CLIPTokens
from tessera.families.versatile.network import MultiFlowUNet
from tessera.families.versatile.presets import FLOWS
from tessera.float_flow import FloatFlow
from tessera.flow import SamplingSettings
from tessera.model import Model
from tessera.processes.gaussian import GaussianProcess
from tessera.processes.gaussian_loss import GaussianLoss
from tessera.processes.gaussian_schedules import LinearBeta
from tests.contexts.test_clip_joint import IMAGE, MERGES, TEXT

LATENT = 6
WORDS = ["a", "above", "blue", "circle", "green", "red", "square"]
TRANSFORMER = {"length": 12, "layers": 1, "width": 16, "heads": 2}
NETWORK = {
    "widths": [32, 64],
    "blocks": 1,
    "context_levels": [0],
    "heads": 2,
    "data": {"image": {"kind": "grid", "channels": 4}, "text": {"kind": "vector", "width": LATENT, "positions": 2}},
    "contexts": {"text": {"kind": "rows", "width": 16}, "image": {"kind": "rows", "width": 16}},
}


def noisy(module: Any, seed: int = 0) -> Any:
    """With every matrix random, so that nothing is without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter[0].numel() ** -0.5)
    return module.eval()


def tiny_network(**changes: object) -> MultiFlowUNet:
    return noisy(MultiFlowUNet(**{**NETWORK, **changes}))  # type: ignore[arg-type]


def tiny_versatile() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of what `noisy` leaves as it was made
        return _tiny_versatile()


def ending(model: Model, by: float) -> Model:
    """The same model, whose texts are words without end (`by` far below 0) or end at once (far above): the markers' logits are 10 `by`."""
    codec = model.flows["image_to_text"].codec
    words, markers = codec.decoder["transformer"], [codec.writer.end, codec.writer.pad, codec.writer.begin]
    with torch.no_grad():
        words.ln_f.bias[0] = 10.0
        words.wte.weight[:, 0] = 0.0
        words.wte.weight[markers[: 1 if by > 0 else 3]] = 0.0
        words.wte.weight[markers[: 1 if by > 0 else 3], 0] = by
    return model


def _tiny_versatile() -> Model:
    network = tiny_network()
    picture = noisy(KLAutoencoder(channels=4, width=32, multipliers=(1, 1), blocks=1, features=4), 1)
    text = noisy(TextVAE(encoder=TRANSFORMER, decoder=TRANSFORMER, latent=LATENT, words=WORDS, pieces=8), 2)
    clip = noisy(CLIPTokens(text=TEXT, image=IMAGE, width=16, merges=MERGES), 3)
    loss = GaussianLoss(GaussianProcess(LinearBeta()), "eps")
    flows = {
        name: FloatFlow(
            picture if data == "image" else text,
            clip.view("words") if context == "text" else clip.view("pictures", 0 if data == "text" else None),
            network.view(data, context),
            loss,
        )
        for name, (data, context) in FLOWS.items()
    }
    return Model("tiny-versatile", "versatile", flows, (16, 16), SamplingSettings("ddim", steps=3, guidance=2.0), {"about": "random"})
