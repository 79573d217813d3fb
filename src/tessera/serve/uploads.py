"""Pictures that come from the page. Gradio would decode them before anybody looked at their size; here only their path is taken."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image, ImageOps

from tessera.pictures import upright_rgb
from tessera.serve.limits import Limits

__all__ = ["drawable", "painting", "upload"]


def upload(**arguments: Any) -> gr.Image:
    """A component for a picture, which handlers get as the path of its file."""
    # For a class of its own gradio would look for a browser's side of its own.
    made = gr.Image(sources=["upload", "clipboard"], type="filepath", image_mode=None, **arguments)
    made.preprocess = _path
    return made


def painting(**arguments: Any) -> gr.ImageEditor:
    """A component for a picture that is painted on, which handlers get as the paths of its layers' files."""
    made = gr.ImageEditor(sources=(), type="filepath", image_mode="RGBA", **arguments)
    made.preprocess = _layers
    return made


def _path(payload: Any) -> str | None:
    return None if payload is None else str(payload.path or "")


def _layers(payload: Any) -> list[str] | None:
    return None if payload is None else [str(layer.path or "") for layer in payload.layers]


def drawable(picture: Image.Image, own: tuple[int, int] | None, limits: Limits) -> Image.Image:
    """The picture in a size that a model with pictures of its `own` (height, width) can draw: itself, if its sides are multiples of 8 and
    no smaller than the model's, or else scaled and cropped to them."""
    picture = upright_rgb(picture)
    height, width = own or (picture.height // 8 * 8, picture.width // 8 * 8)
    fits = picture.width % 8 == 0 and picture.height % 8 == 0 and picture.width >= width and picture.height >= height
    if fits and picture.width * picture.height <= min(limits.pixels, 16 * height * width):
        return picture
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
