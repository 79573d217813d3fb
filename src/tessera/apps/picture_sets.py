"""Sets of pictures as they are named on the command line; see `evaluation.picture_sets` for the three kinds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.apps.loading_options import LoadingOptions
from tessera.apps.prompts import gather_prompts
from tessera.errors import UsageError, suggest
from tessera.model_folder import DESCRIPTION

if TYPE_CHECKING:
    from tessera.data.dataset import Dataset
    from tessera.evaluation.picture_sets import DatasetPictures, PictureSet
    from tessera.model import Model

__all__ = ["Named", "parse_named"]

DATA, MODEL = "data:", "model:"
DRAWING = ("seed", "size", "sampler", "steps", "guidance", "truncation", "temperature", "spacing", "clip_guidance", "cutouts", "cut_power")
"""What can follow a model's name."""


@dataclass(frozen=True)
class Named:
    """How sets are made: what their names do not say.

    size: side that pictures of a folder are resized and cropped to; None: none. prompts: a file or a dataset that models draw from.
    loading: what completes a released file that draws.
    """

    size: int | None = None
    prompts: str | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 50
    loading: LoadingOptions = field(default_factory=LoadingOptions)

    def pictures(self, name: str, beside: str | None = None) -> "PictureSet":
        """The set that `name` means. `beside`: the other side's name, whose captions a model draws unless prompts are given."""
        from tessera.evaluation.picture_sets import FolderPictures

        if name.startswith(DATA):
            return self.dataset(name)
        if name.startswith(MODEL) or (Path(name) / DESCRIPTION).is_file():
            return self._model(name.removeprefix(MODEL), beside)
        return FolderPictures(Path(name), self.size)

    def dataset(self, name: str) -> "DatasetPictures":
        """The set of `data:KIND,…`."""
        from tessera.evaluation.picture_sets import DatasetPictures
        from tessera.registry import DATASETS, build

        kind, arguments = parse_named(name.removeprefix(DATA))
        description = {"kind": kind, **arguments}
        data: Dataset = build("dataset", DATASETS, description)
        return DatasetPictures(data, description)

    def _model(self, name: str, beside: str | None) -> "PictureSet":
        from tessera.apps.options import chosen_settings, parse_size
        from tessera.contexts.context import Unconditional
        from tessera.evaluation.model_pictures import ModelPictures
        from tessera.flow import TokenFlow

        source, given = parse_named(name, DRAWING)
        model = self.loading.load(source, self.device)
        size, seed = given.pop("size", None), given.pop("seed", 0)
        written = self.prompts or (beside if beside is not None and beside.startswith(DATA) else None)
        if written is None and any(
            isinstance(flow, TokenFlow) and not isinstance(flow.context_encoder, Unconditional) for flow in model.flows.values()
        ):
            raise UsageError(f"the model {source} needs prompts: give them with --prompts, a file or data:KIND,…")
        settings = chosen_settings(
            model.defaults, None, sampler=given.pop("sampler", None), truncation=_text(given.pop("truncation", None)), **given
        )
        return ModelPictures(
            model, settings, None if written is None else self._prompts(written, model), written, seed, self.batch_size,
            parse_size(_text(size)), self.precision,
        )  # fmt: skip

    def _prompts(self, written: str, model: "Model") -> Callable[[int, int], Sequence[Any]]:
        """Prompts of pictures first..last - 1: captions of a dataset, or a file's lines over and over."""
        from tessera.contexts.labels import check_classes

        if written.startswith(DATA):
            data = self.dataset(written).dataset
            for flow in model.flows.values():
                check_classes(flow.context_encoder, data, written)
            return lambda first, last: [_caption(data, index) for index in range(first, last)]
        lines = gather_prompts([], Path(written))
        return lambda first, last: [lines[index % len(lines)] for index in range(first, last)]


def parse_named(text: str, known: Sequence[str] | None = None) -> tuple[str, dict[str, Any]]:
    """ "name,key=value,…" → the name and its arguments, read as YAML. UsageError for another form, or a key that is not `known`.

    A sampler's own options contain commas and equal signs too, so what follows `sampler=` and is no known key belongs to it.
    """
    from tessera.yaml_files import parse_yaml

    name, *parts = text.split(",")
    if not name.strip():
        raise UsageError(f"{text!r} names nothing: write data:KIND,key=value,… or model:NAME,key=value,…")
    given: dict[str, str] = {}
    for part in parts:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if known is not None and key not in known and next(reversed(given), None) == "sampler":
            given["sampler"] += f",{part}"
        elif not equals:
            raise UsageError(f"{part!r} in {text!r} is not key=value")
        elif known is not None and key not in known:
            raise UsageError(f"in {text!r}: {suggest('setting', key, known)}")
        else:
            given[key] = value
    as_written = () if known is None else ("sampler", "size")  # settings of models that have forms of their own
    return name.strip(), {key: value if key in as_written else parse_yaml(value) for key, value in given.items()}


def _caption(data: "Dataset", index: int) -> Any:
    """That of an example, or of the next one that can be read."""
    for step in range(len(data)):
        example = data.example((index + step) % len(data), 0)
        if example is not None:
            return example.prompt
    raise UsageError(f"none of the dataset's {len(data)} captions can be read: {next(iter(data.skipped.values()), 'no reason known')}")


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
