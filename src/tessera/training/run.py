"""From a recipe to a trained model: what `tessera train` does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml

from tessera.atomic import write_file
from tessera.contexts.labels import Labels, check_classes
from tessera.data.dataset import Dataset
from tessera.errors import TesseraError, UsageError
from tessera.randomness import derive_seed
from tessera.registry import DATASETS, build
from tessera.training.checkpointing import claim
from tessera.training.recipe import (
    ClipRecipe,
    CodecRecipe,
    FlowRecipe,
    JointRecipe,
    NullPromptRecipe,
    ReaderRecipe,
    Recipe,
    TextCodecRecipe,
)
from tessera.training.recipe_files import load_recipe
from tessera.training.task import Task
from tessera.training.trainer import Trainer, make_accelerator

__all__ = ["make_task", "train"]


def train(recipe_path: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Run a recipe, or go on with it where it stopped. Returns the run folder: the trained model is in its `model/`.

    Raises:
        UsageError: an error in the recipe, or a run folder in use or with other things in it.
        Stopped: Ctrl-C; the state is saved.
        TesseraError: training diverged, or a file could not be read or written.
    """
    recipe = load_recipe(recipe_path, overrides)
    folder = Path(recipe.out)
    main = int(os.environ.get("RANK", "0")) == 0  # set by torchrun and accelerate launch
    if main:
        _check_folder(folder)
    with claim(folder) if main else nullcontext():
        data: Dataset = build("dataset", DATASETS, recipe.data)
        if len(data) == 0:
            raise UsageError(f"the dataset {recipe.data} is empty: no picture was found")
        recipe = recipe.of_length(len(data))
        validation: Dataset | None = None if recipe.validation.data is None else build("dataset", DATASETS, recipe.validation.data)
        if validation is not None and len(validation) == 0:
            raise UsageError(
                f"the validation data {recipe.validation.data} is empty: give another split or more pictures, or set it to null"
            )
        torch.manual_seed(derive_seed(recipe.seed, "weights"))
        task = make_task(recipe, recipe.size or picture_size(data))
        settle_classes(task, data, validation)
        if main:
            _remove_leftovers(folder)
            _write_recipe(folder, recipe)
        accelerator = make_accelerator(recipe, folder)
        if isinstance(recipe, FlowRecipe | NullPromptRecipe) and recipe.token_cache is not None:
            data = cached_tokens(task, data, recipe, accelerator.device, main)
        Trainer(task, data, recipe, folder, accelerator, validation).run()
    return folder


def make_task(recipe: Recipe, size: int) -> Task:
    """The task of a recipe for square pictures of `size` pixels, with weights drawn from the global generator."""
    if isinstance(recipe, CodecRecipe):
        if recipe.train == "log-sigma":
            from tessera.training.likelihood_head import LikelihoodHeadTask

            return LikelihoodHeadTask(recipe, size)
        from tessera.training.autoencoder import CodecTask

        return CodecTask(recipe, size)
    if isinstance(recipe, ClipRecipe):
        from tessera.training.clip import ClipTask

        return ClipTask(recipe, size)
    if isinstance(recipe, ReaderRecipe):
        from tessera.training.scenes_reader import ScenesReaderTask

        return ScenesReaderTask(recipe, size)
    if isinstance(recipe, TextCodecRecipe):
        from tessera.training.text_codec import TextCodecTask

        return TextCodecTask(recipe)
    if isinstance(recipe, JointRecipe):
        from tessera.training import joint_making

        return joint_making.make(recipe, size)
    from tessera.training import flow_making

    assert isinstance(recipe, FlowRecipe | NullPromptRecipe)
    return flow_making.make(recipe, size)


def settle_classes(task: Any, data: Dataset, validation: Dataset | None) -> None:
    """The model keeps the training data's list of classes, if there are labels. UsageError unless all other data have the same list."""
    encoder = getattr(getattr(task, "flow", None), "context_encoder", None)
    classes = getattr(data, "classes", None)
    if isinstance(encoder, Labels) and classes is not None:
        encoder.learn_classes(classes)
        check_classes(encoder, validation, "the validation data")


def cached_tokens(task: Any, data: Dataset, recipe: FlowRecipe | NullPromptRecipe, device: torch.device, main: bool) -> Any:
    """The dataset with tokens in place of pictures, made by the task's codec now where they are not on disk yet."""
    from rich.console import Console
    from rich.progress import Progress

    from tessera.data.token_cache import token_cache

    assert recipe.token_cache is not None
    codec = task.flow.codec.to(device)
    with Progress(console=Console(stderr=True), disable=not main) as bar:
        line = bar.add_task("tokens", total=len(data))
        return token_cache(
            recipe.token_cache, data, codec, recipe.token_views, recipe.batch_size, recipe.workers,
            lambda done, total: bar.update(line, completed=done, total=total),
        )  # fmt: skip


def picture_size(data: Dataset) -> int:
    """The side of the dataset's pictures, read off its first readable example."""
    for index in range(min(len(data), 100)):
        example = data.example(index, 0)
        if example is not None:
            height, width = example.image.shape[1:]
            if height != width:
                raise UsageError(
                    f"training pictures must be square, but the data gives {width}x{height}: give the dataset a size to crop to"
                )
            return height
    raise TesseraError(f"none of the first pictures can be read: {next(iter(data.skipped.values()), 'no reason known')}")


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"the run folder {folder} is a file: set another `out`")
    if folder.is_dir():
        others = {path.name for path in folder.iterdir()}
        if others and "run.lock" not in others and "recipe.yaml" not in others:
            raise UsageError(f"the folder {folder} holds other things than a run ({sorted(others)[0]}): set another `out`")


def _remove_leftovers(folder: Path) -> None:
    """Half-written files of a run that was killed."""
    for path in [*folder.glob(".*.part"), *folder.glob("panel/.*.part")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _write_recipe(folder: Path, recipe: Recipe) -> None:
    values: Mapping[str, Any] = recipe.model_dump(mode="json")
    with write_file(folder / "recipe.yaml") as part:
        part.write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")
