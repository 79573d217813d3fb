"""Gradio's components as this page needs them: what a user gives reaches the handlers unchanged, which answer with a sentence of ours.

Gradio itself would decode pictures before anybody looked at their size, and answer a number out of range with a note in a corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import gradio as gr

__all__ = ["Choice", "Easel", "Painted", "Pictures", "Range", "Typed", "Upload", "Wrong", "easel", "pictures", "upload"]

@dataclass(frozen=True)
class Wrong:
    """In place of a value: what is wrong with it."""

    sentence: str

@dataclass(frozen=True)
class Painted:
    """Paths of a picture and of the layers that were painted on it."""

    background: str | None
    layers: list[str]

from gradio.events import Dependency

class Range(gr.Slider):
    """A number of a range that can be looked over. Handlers get it, a whole one as int, or `Wrong`."""

    def get_block_name(self) -> str:
        return "slider"

    def preprocess(self, payload: Any) -> Any:
        return checked(self, payload)
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

class Typed(gr.Number):
    """A number of a wide range. Handlers get it, a whole one as int, or `Wrong`."""

    def get_block_name(self) -> str:
        return "number"

    def preprocess(self, payload: Any) -> Any:
        return checked(self, payload)
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

def checked(component: Range | Typed, payload: Any) -> int | float | Wrong:
    """The number if it is one of the component's."""
    whole = isinstance(component.step, int)
    lowest, highest = component.minimum, component.maximum
    number = isinstance(payload, int | float) and not isinstance(payload, bool)
    if number and lowest <= payload <= highest and not (whole and payload != int(payload)):
        return int(payload) if whole else float(payload)
    given = "" if payload is None or payload == "" else f", not {str(payload)[:40]}"
    return Wrong(f"{component.label} must be a {'whole ' if whole else ''}number from {lowest:g} to {highest:g}{given}")

class Choice(gr.Dropdown):
    """One or several of a list. Handlers get what was chosen, and say what is there if it is none of them."""

    def get_block_name(self) -> str:
        return "dropdown"

    def preprocess(self, payload: Any) -> Any:
        return [str(value) for value in payload] if isinstance(payload, list) else "" if payload is None else str(payload)
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

class Upload(gr.Image):
    """A picture, which handlers get as the path of its file; `upload` makes one."""

    def get_block_name(self) -> str:
        return "image"

    def preprocess(self, payload: Any) -> Any:
        return None if payload is None else str(payload.path or "")
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

class Easel(gr.ImageEditor):
    """A picture to paint on, which handlers get as `Painted`; `easel` makes one."""

    def get_block_name(self) -> str:
        return "imageeditor"

    def preprocess(self, payload: Any) -> Any:
        if payload is None:
            return Painted(None, [])
        background = None if payload.background is None else str(payload.background.path or "")
        return Painted(background, [str(layer.path or "") for layer in payload.layers])
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

class Pictures(gr.Gallery):
    """Finished pictures; `pictures` makes one. Its description for the interface is made once: gradio would make it anew whenever a
    handler leaves the pictures as they are, which took the greater part of the server's own time."""

    described: ClassVar[dict[str, Any]] = {}

    def get_block_name(self) -> str:
        return "gallery"

    def api_info(self) -> dict[str, Any]:
        if not self.described:
            self.described.update(super().api_info())
        return self.described
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

# These are functions because gradio makes a component again, from the arguments that it was made with, when a handler changes it.

def upload(**arguments: Any) -> Upload:
    """A component for a picture."""
    return Upload(sources=["upload", "clipboard"], type="filepath", image_mode=None, **arguments)

def easel(**arguments: Any) -> Easel:
    """A component to paint on a picture with one colour."""
    brush = gr.Brush(default_size=48, colors=["#ff3366"], default_color="#ff3366", color_mode="fixed")
    return Easel(
        type="filepath", image_mode="RGBA", transforms=(), layers=False, brush=brush, eraser=gr.Eraser(default_size=48), **arguments
    )

def pictures(**arguments: Any) -> Pictures:
    """A component that shows finished pictures."""
    return Pictures(
        show_label=False, height="auto", object_fit="contain", format="png", interactive=False, elem_classes=["tessera-pictures"],
        buttons=["download", "fullscreen"], **arguments,
    )  # fmt: skip
