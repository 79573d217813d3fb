"""Versatile Diffusion: every component of its cases, a file per kind."""

from __future__ import annotations

from tests.conformance import (
    Component,
    versatile_applications,
    versatile_contexts,
    versatile_networks,
    versatile_pictures,
    versatile_sampling,
    versatile_words,
)

__all__ = ["COMPONENTS"]

COMPONENTS: dict[str, Component] = {
    **versatile_networks.COMPONENTS,
    **versatile_sampling.COMPONENTS,
    **versatile_words.COMPONENTS,
    **versatile_pictures.COMPONENTS,
    **versatile_contexts.COMPONENTS,
    **versatile_applications.COMPONENTS,
}
