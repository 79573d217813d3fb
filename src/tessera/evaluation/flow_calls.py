"""A flow of a model as one function: from pictures or words to pictures or words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tessera.contexts.joint import JointEncoder
from tessera.errors import UsageError
from tessera.float_flow import FloatFlow
from tessera.flow import SamplingSettings
from tessera.model import Model
from tessera.samplers.loop import Callback
from tessera.samplers.registry import any_sampler, sampler_name

__all__ = ["CALLS", "FlowCall"]

CALLS = {"image_to_image": "image_variation", "image_to_text": "image_to_text", "text_to_text": "text_variation"}
"""Flow → the call of `Model` that runs it; `text_to_image` is drawn by `Model.stream`."""


class FlowCall:
    """Makes one picture or text of each thing that it is given.

    Args:
        model: the model.
        flow: "text_to_image", "image_to_image", "image_to_text" or "text_to_text". Pictures as prompts of a model that mixes them with
            words count as image_to_image too.
        settings: how it samples.

    Raises:
        UsageError: the model has no such flow.
    """

    def __init__(self, model: Model, flow: str, settings: SamplingSettings, precision: str = "auto") -> None:
        self.model, self.flow, self.settings, self.precision = model, flow, settings, precision
        self.by_path = flow == "image_to_image" and flow not in model.flows and _takes_pictures(model)
        if flow not in model.flows and not self.by_path:
            raise UsageError(f"model {model.name!r} has no flow {flow}, but {', '.join(sorted(model.flows))}: give a model that has it")

    @property
    def about(self) -> dict[str, Any]:
        """What a report says of the model and its settings."""
        sampler = self.settings.sampler
        named = replace(self.settings, sampler=sampler_name(any_sampler(sampler) if isinstance(sampler, str) else sampler))
        about = {"name": f"model:{self.model.name}", "kind": "model", "model": self.model.name, "weights": self.model.weights}
        return about | {"settings": asdict(named), "precision": self.precision}

    @property
    def reads_words(self) -> bool:
        return self.flow.startswith("text")

    @property
    def writes_words(self) -> bool:
        return self.flow.endswith("text")

    def __call__(self, given: Sequence[Any], seed: int, index: int = 0, callback: Callback | None = None) -> list[Any]:
        """Pictures or texts of all that is given, words or pictures, computed together; each depends on (seed, index + its place)."""
        how: dict[str, Any] = {"batch_size": len(given), "precision": self.precision, "index": index, "callback": callback}
        if self.flow == "text_to_image":
            return list(self.model.stream(list(given), 1, seed, self.settings, **how))
        if self.by_path:
            with TemporaryDirectory() as folder:
                paths = [str(Path(folder) / f"{number}.png") for number in range(len(given))]
                for path, picture in zip(paths, given, strict=True):
                    picture.save(path)
                return list(self.model.stream(paths, 1, seed, self.settings, **how))
        names = [field.name for field in fields(SamplingSettings)]
        own = {name: getattr(self.settings, name) for name in names if getattr(self.settings, name) != getattr(self.model.defaults, name)}
        made: list[Any] = getattr(self.model, CALLS[self.flow])(list(given), 1, seed, **how, **own)
        return [str(text) for text in made] if self.writes_words else made


def _takes_pictures(model: Model) -> bool:
    """Whether pictures can be prompts of its pictures: one encoder reads both, and the network takes what it makes of them."""
    flow = model.flows.get("text_to_image")
    return isinstance(flow, FloatFlow) and flow.prompted and isinstance(flow.context_encoder, JointEncoder)
