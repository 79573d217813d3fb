"""VQ-Diffusion: every component of its cases, a file per kind."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from tests.conformance import Component

__all__ = ["COMPONENTS"]

PARTS = ("process", "training", "networks", "codecs", "text", "sampling")

COMPONENTS: dict[str, Component] = {}
for part in PARTS:
    if find_spec(f"tests.conformance.vq_diffusion_{part}"):
        COMPONENTS |= import_module(f"tests.conformance.vq_diffusion_{part}").COMPONENTS
