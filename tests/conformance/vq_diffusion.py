"""VQ-Diffusion: every component of its cases, a file per kind."""

from __future__ import annotations

from tests.conformance import (
    Component,
    vq_diffusion_codecs,
    vq_diffusion_networks,
    vq_diffusion_process,
    vq_diffusion_released,
    vq_diffusion_sampling,
    vq_diffusion_text,
    vq_diffusion_training,
)

__all__ = ["COMPONENTS"]

COMPONENTS: dict[str, Component] = {
    **vq_diffusion_process.COMPONENTS,
    **vq_diffusion_training.COMPONENTS,
    **vq_diffusion_networks.COMPONENTS,
    **vq_diffusion_codecs.COMPONENTS,
    **vq_diffusion_text.COMPONENTS,
    **vq_diffusion_sampling.COMPONENTS,
    **vq_diffusion_released.COMPONENTS,
}
