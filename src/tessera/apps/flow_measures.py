"""`tessera evaluate versatile`: every flow of a model, on pairs of pictures and words, in as many processes as are started."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tessera
from tessera.apps.console import progress_bar, say, shown_warnings
from tessera.apps.drawing_options import SamplingOptions
from tessera.apps.measuring import DEFAULT, Output, finish
from tessera.apps.option_lists import takes
from tessera.apps.picture_sets import DATA, Named
from tessera.errors import TesseraError, UsageError, suggest

if TYPE_CHECKING:
    from tessera.evaluation.flows import Measured

__all__ = ["versatile"]

FLOWS = ("text_to_image", "image_to_image", "image_to_text", "text_to_text")


@takes(SamplingOptions)
def versatile(
    data: Annotated[
        str, typer.Option(metavar="data:…", help="Pairs of pictures and words: data:KIND,key=value,… such as data:scenes,split=held-out.")
    ],
    flows: Annotated[
        str | None, typer.Option(metavar="NAME,…", help=f"Which: {', '.join(FLOWS)}; all that the model has unless given.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", help=f"Pairs, the first; all unless given, and {DEFAULT} of data without an end.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes what is made.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pairs made together: speed and memory, not the result.")] = 16,
    extractor: Annotated[
        str, typer.Option(metavar="NAME[:WEIGHTS]", help="Whose features FID compares: scenes (included), inception:FILE, dinov2:FOLDER.")
    ] = "scenes",
    encoder: Annotated[
        str | None, typer.Option(metavar="FILE|ID", help="The encoder of CLIP scores: OpenAI's file, a folder or a hub id; none without.")
    ] = None,
    encoder_merges: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The merges of the encoder's tokenizer, where it is a file.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also keep what is made, as FOLDER/<flow>/<number>.png or .txt.")
    ] = None,
    output: Output = None,
    *,
    options: SamplingOptions,
) -> None:
    """All flows of a model: FID and CLIP score of pictures, BLEU of words, on scenes also the share that is fully right.

    Several processes share the work when they are started together, on one machine or more:
    torchrun --nproc_per_node=4 -m tessera evaluate versatile --model … --data …
    """
    try:
        from tessera.evaluation.flows import FlowsEvaluation
    except ModuleNotFoundError as error:
        raise TesseraError(f"evaluation needs the package {error.name!r}: pip install 'tessera[eval]'") from error
    from tessera.apps.drawing import included
    from tessera.evaluation.extractors import make_extractor
    from tessera.evaluation.flow_calls import FlowCall
    from tessera.evaluation.joint_features import JointFeatures
    from tessera.evaluation.process_group import joined_processes
    from tessera.evaluation.reports import Report
    from tessera.model import torch_device, whole_number

    for what, value, least in (("count", 1 if count is None else count, 1), ("seed", seed, 0), ("batch_size", batch_size, 1)):
        whole_number(what, value, least)
    if not data.startswith(DATA):
        raise UsageError(f"--data {data!r} is no dataset of pictures with words: give data:KIND,key=value,…")
    wanted = None if flows is None else [name.strip() for name in flows.split(",")]
    for name in wanted or ():
        if name not in FLOWS:
            raise UsageError(suggest("flow", name, FLOWS))
    pairs = Named().dataset(data)
    there = len(pairs.dataset)
    if count is not None and count > there:
        raise UsageError(f"{pairs.name} has {there} examples, but {count} are needed: lower -n")
    total = count or min(there, DEFAULT if pairs.count is None else there)
    with joined_processes() as processes:
        device = torch_device(processes.device(options.device))
        model = options.load(options.model or included(wanted or FLOWS), device, wanted)
        settings = options.settings(model.defaults)
        calls = [FlowCall(model, name, settings, options.precision) for name in FLOWS if name in (wanted or model.flows)]
        network = make_extractor(extractor, device)
        scorer = None if encoder is None else JointFeatures(encoder, encoder_merges)
        if scorer is not None:
            scorer.encoder.to(device)
        evaluation = FlowsEvaluation(
            calls, pairs.dataset, total, network, None if scorer is None else scorer.encoder, seed, batch_size, keep, processes
        )
        with shown_warnings(), progress_bar("evaluating", total, "pairs") as bar:
            found = evaluation.run(bar.set if processes.first else None)
        if not processes.first:
            return
        recipe: dict[str, Any] = {
            "data": pairs.about, "pairs": found.count, "pixels_sha256": found.pixels, "words_sha256": found.words,
            "extractor": network.about(), "clip": None if scorer is None else scorer.about(), "bleu": "13a, lower case, 4 orders",
        }  # fmt: skip
        samples = calls[0].about | {"flows": [call.flow for call in calls], "seed": seed}
        warn_of_skipped(found)
        report = Report("versatile", found.values, recipe, samples, tessera.__version__)
        finish(report, sentences(found, pairs.name), output, options.as_json)


def warn_of_skipped(found: "Measured") -> None:
    if found.skipped:
        say(f"warning: {len(found.skipped)} examples were skipped, the first because {next(iter(found.skipped.values()))}")


def sentences(found: "Measured", name: str) -> str:
    """A line for each flow."""
    lines = [f"{found.count} pairs of {name}"]
    for flow in dict.fromkeys(key.partition(".")[0] for key in found.values):
        numbers = {key.partition(".")[2]: value for key, value in found.values.items() if key.startswith(f"{flow}.")}
        lines.append(f"{flow}: " + ", ".join(f"{measure} {value:.4g}" for measure, value in numbers.items() if value is not None))
    return "\n".join(lines)
