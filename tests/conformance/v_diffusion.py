"""v-diffusion: every component of its cases, a file per kind."""

from __future__ import annotations

from tests.conformance import Component, v_diffusion_conditioning, v_diffusion_networks, v_diffusion_samplers, v_diffusion_scripts

__all__ = ["COMPONENTS"]

COMPONENTS: dict[str, Component] = {
    **v_diffusion_networks.COMPONENTS,
    **v_diffusion_samplers.COMPONENTS,
    **v_diffusion_conditioning.COMPONENTS,
    **v_diffusion_scripts.COMPONENTS,
}
