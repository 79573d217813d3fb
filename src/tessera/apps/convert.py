"""`tessera convert`: a released file becomes a folder of ours, or one of diffusers."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessera.apps.console import say, show
from tessera.apps.loading_options import LoadingOptions
from tessera.apps.option_lists import takes
from tessera.apps.options import Debug
from tessera.errors import TesseraError, UsageError, suggest

if TYPE_CHECKING:
    from tessera.checkpoints.recognise import Finding
    from tessera.model import Model

__all__ = ["convert"]

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
FORMATS = ("tessera", "diffusers")
OURS = ("model.json", "part.json", "model_index.json", "config.json")
"""One of these is in every folder that this command writes, so that nothing else is ever replaced."""
PROMPTS = {
    "clip-text": ' "a red bus"', "states": ' "a red bus"', "clip": ' "a red bus"', "words": ' "a red circle"',
    "two-towers": ' "a red circle"', "labels": " 207",
}  # fmt: skip
"""Of each kind of context encoder, to show how a model is used."""
ROOM = 1.02  # of the weights: headers, tables and tokenizers beside them


@takes(LoadingOptions)
def convert(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="A released file or its name, a model folder, a diffusers folder, a hub id.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write.")],
    dtype: Annotated[str, typer.Option(help="Of the stored weights: float32, float16, bfloat16.")] = "float32",
    to: Annotated[str, typer.Option(help="tessera, or diffusers: a folder for its VQDiffusionPipeline.")] = "tessera",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that this command wrote.")] = False,
    debug: Debug = False,
    *,
    options: LoadingOptions,
) -> None:
    """Converts a released checkpoint, codec or CLIP to a folder of safetensors and JSON."""
    # Whatever can be known to be wrong is said before any weights are read.
    dtype = SHORT.get(dtype, dtype)
    for what, value, known in (("dtype", dtype, ITEM_BYTES), ("format", to, FORMATS)):
        if value not in known:
            raise UsageError(suggest(what, value, known))
    check_target(output, overwrite)
    from tessera.sources import locate

    place = locate(source)
    if place.resolve().is_relative_to(output.resolve()):
        raise UsageError(f"{output} is what is to be converted: write to another folder")

    from tessera.checkpoints.recognise import MODEL, Extras, build, recognise
    from tessera.checkpoints.safe_read import read_archive
    from tessera.loading import read
    from tessera.model import Model

    extras = Extras(**options.extras)
    if place.is_file():
        archive = read_archive(place)
        finding = recognise(archive)
        if to == "diffusers" and finding.kind != MODEL:
            raise UsageError(f"{place} is a {finding.kind} alone, which is no pipeline of diffusers: leave --to out")
        check_space(output, sum(finding.parameters.values()) * ITEM_BYTES[dtype])
        made: Any = build(archive, finding, extras)
        if finding.unexpected:
            say(f"warning: {len(finding.unexpected)} tensors that nothing reads are left out, such as {finding.unexpected[0]}")
        if not isinstance(made, Model):
            write_part(made, finding, output, dtype, {"file": place.name, "configuration": finding.preset})
            return
    else:
        made = read(place, extras)
        assert isinstance(made, Model)
        check_space(output, weights(made) * ITEM_BYTES[dtype])
    write_model(made, output, dtype, to, overwrite)


def check_target(output: Path, overwrite: bool) -> None:
    """Raises UsageError when `output` cannot be written to, or holds what this command did not write."""
    if output.is_file():
        raise UsageError(f"{output} is a file: give the name of a folder")
    if not output.exists():
        return
    if not overwrite:
        raise UsageError(f"{output} already exists: choose another folder, or give --overwrite")
    if any(output.iterdir()) and not any((output / name).is_file() for name in OURS):
        raise UsageError(f"{output} holds other things than a converted model, so it is not replaced: choose another folder")


def check_space(output: Path, wanted: int) -> None:
    """Raises TesseraError when the disk has no room for `wanted` bytes of weights. A replaced folder stays until the new one is whole."""
    there = next(folder for folder in (output, *output.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < wanted * ROOM:
        raise TesseraError(
            f"not enough room for {output}: {wanted * ROOM / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; make room, "
            "choose another disk, or give --dtype bfloat16"
        )


def weights(model: "Model") -> int:
    from tessera.model_parts import all_parts

    return sum(tensor.numel() for part in all_parts(model.flows) for tensor in part.state_dict().values())


def write_model(model: "Model", output: Path, dtype: str, to: str, overwrite: bool) -> None:
    from tessera.float_flow import FloatFlow

    name, flow = next(iter(model.flows.items()))
    encoder: Any = flow.context_encoder
    if to == "diffusers":
        from tessera.checkpoints.diffusers import export_diffusers

        export_diffusers(model, output, dtype, overwrite)
        use = f'diffusers.VQDiffusionPipeline.from_pretrained("{output}")'
    else:
        model.save(output, dtype, overwrite)
        prompt = PROMPTS.get(encoder.config.get("kind") or encoder.config.get("of"), "")
        if isinstance(flow, FloatFlow) and prompt and not flow.prompted:
            prompt += " --clip-guidance 500"
        use = f"tessera generate{prompt} --model {output}" if name == "text_to_image" else f"tessera.load({str(output)!r})"
    show(str(output))
    say(f"model {model.name!r}: {weights(model) / 1e6:.1f} M weights in {dtype}; use it: {use}")
    if getattr(encoder, "tokenizer", True) is None:
        say(f"warning: it cannot read words yet: convert again with --merges FILE or --clip FOLDER, or put merges.txt into {output}")


def write_part(made: Any, finding: "Finding", output: Path, dtype: str, card: Mapping[str, Any]) -> None:
    """A codec as a part folder; a text tower as a CLIP folder in transformers' layout, which `pretrained` and --clip take."""
    import torch

    from tessera.atomic import write_folder
    from tessera.checkpoints.recognise import CODEC
    from tessera.part_folder import save_part

    stored = getattr(torch, dtype)
    try:
        if finding.kind == CODEC:
            save_part(made, output, card, stored)
            use = f"codec: {output} in a recipe, or --codec {output}"
        else:
            with write_folder(output) as part:
                made.tower.to(stored).save_pretrained(part)
                for name, content in made.extra_files().items():
                    (part / name).write_bytes(content)
            use = f"context: {{kind: clip-text, pretrained: {output}}} in a recipe, or --clip {output}"
    except OSError as error:
        raise TesseraError(f"cannot write {output}: {error.strerror or error}") from None
    show(str(output))
    say(f"{finding.kind}: {sum(finding.parameters.values()) / 1e6:.1f} M parameters in {dtype}; use it: {use}")
