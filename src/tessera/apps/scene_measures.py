"""`tessera evaluate scenes`: how much of what a model makes of the built-in world is right."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessera.apps.console import print_json, progress_bar, show, shown_warnings
from tessera.apps.drawing_options import SamplingOptions
from tessera.apps.option_lists import takes
from tessera.atomic import write_file
from tessera.errors import TesseraError, UsageError

if TYPE_CHECKING:
    from tessera.evaluation.shares import Shares
    from tessera.flow import SamplingSettings
    from tessera.model import Model
    from tessera.samplers.loop import Progress

__all__ = ["scenes"]

MODES = {"prompts": "text_to_image", "variations": "image_to_image", "captions": "image_to_text", "rewrites": "text_to_text"}
"""What is measured → the flow that makes it."""
OF = {
    "prompts": "held-out prompts, every clause",
    "variations": "held-out scenes, things and background",
    "captions": "captions of held-out scenes, every clause and every thing",
    "rewrites": "rewrites of held-out captions, every clause and no other",
}
"""What is measured → of what its share is."""


@takes(SamplingOptions)
def scenes(
    count: Annotated[int, typer.Option("--count", "-n", help="Held-out scenes, one picture or text of each.")] = 500,
    seed: Annotated[int, typer.Option(help="Fixes what is made; the scenes are always the same.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures or texts computed together.")] = 50,
    unconditional: Annotated[
        bool, typer.Option("--unconditional", help="Of a model without prompts: the share of valid scenes, and coverage of held-out ones.")
    ] = False,
    variations: Annotated[
        bool, typer.Option("--variations", help="Of a model that takes pictures as prompts: the share that is the same scene again.")
    ] = False,
    captions: Annotated[
        bool, typer.Option("--captions", help="Of a model that writes about pictures: the share of captions that are fully right.")
    ] = False,
    rewrites: Annotated[
        bool, typer.Option("--rewrites", help="Of a model that rewrites words: the share that keeps every clause, and that differs.")
    ] = False,
    k: Annotated[int, typer.Option("-k", help="--unconditional: neighbours that make a ball, see `evaluate prdc`.")] = 5,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also keep what was made, and the verdicts, in this folder.")
    ] = None,
    *,
    options: SamplingOptions,
) -> None:
    """Prompt fidelity on the built-in world: the share of held-out prompts of which every clause is right in the picture."""
    try:
        from tessera.evaluation.scenes_flows import evaluate_flow
    except ModuleNotFoundError as error:
        raise TesseraError(f"evaluation needs the package {error.name!r}: pip install 'tessera[eval]'") from error
    from tessera.apps.drawing import included
    from tessera.apps.output import OutputFolder
    from tessera.evaluation.flow_calls import FlowCall
    from tessera.model import whole_number

    whole_number("count", count, 1)
    whole_number("seed", seed, 0)
    whole_number("batch_size", batch_size, 1)
    asked = [
        name
        for name, wanted in {"unconditional": unconditional, "variations": variations, "captions": captions, "rewrites": rewrites}.items()
        if wanted
    ]
    if len(asked) > 1:
        raise UsageError(f"--{asked[0]} and --{asked[1]} are different measures: choose one")
    mode = asked[0] if asked else "prompts"
    loaded = options.load(options.model or included((MODES.get(mode, MODES["prompts"]),)), options.device)
    settings = options.settings(loaded.defaults)
    if mode == "unconditional":
        if output is not None:
            raise UsageError("--output keeps pictures of prompts: with --unconditional leave it out, and draw them with `tessera generate`")
        report_unconditional(loaded, settings, count, seed, k, batch_size, options.precision, options.as_json)
        return
    call = FlowCall(loaded, MODES[mode], settings, options.precision)
    target = None if output is None else OutputFolder(output)
    if target is not None:
        target.check(3 * loaded.size[0] * loaded.size[1] + 4096, count)

    with shown_warnings(), progress_bar("evaluating", count, "scenes") as bar:
        done = 0

        def after_step(progress: "Progress") -> None:
            bar.set(done + len(progress.x) * progress.index / progress.total)

        def judged(now: int, _: int) -> None:
            nonlocal done
            done = now

        def make(part: Sequence[Any], seed: int) -> list[Any]:
            return call([one.caption.text if call.reads_words else one.picture for one in part], seed, callback=after_step)

        measured, results = evaluate_flow(MODES[mode], make, count, seed, batch_size, judged)

    if target is not None:
        keep(target.path, mode, results, lambda picture, about: target.save(picture, about).name)
    report(mode, loaded, settings, seed, measured, options.as_json)


def keep(folder: Path, mode: str, results: Sequence[tuple[Any, Any, Any]], save: Callable[[Any, str], str]) -> None:
    """Pictures as files by `save`, and `verdicts.json` with texts and verdicts."""
    verdicts = []
    for shown, made, verdict in results:
        about = shown.caption.text if mode in ("prompts", "rewrites") else f"{shown.index:06}"
        what = {"text": made} if isinstance(made, str) else {"picture": save(made, about)}
        told = verdict.as_dict() if mode == "captions" else asdict(verdict)
        verdicts.append({**what, "prompt": about, **told})
    with write_file(folder / "verdicts.json") as part:
        part.write_text(json.dumps(verdicts, indent=1), encoding="utf-8")


def report(mode: str, model: "Model", settings: "SamplingSettings", seed: int, measured: "Shares", as_json: bool) -> None:
    from tessera.evaluation.scenes_flows import FLOW_MEASURES

    shares = measured.as_dict()
    if as_json:
        kind = "fidelity" if mode == "prompts" else mode
        print_json({"model": model.name, "weights": model.weights, "seed": seed, "settings": asdict(settings), kind: shares})
        return
    headline = FLOW_MEASURES[MODES[mode]].headline
    show(f"{headline}: {shares[headline]:.1%} of {shares['count']} {OF[mode]} (standard error {shares['standard_error']:.1%})")
    for clause, share in shares.items():
        if clause not in ("count", headline, "standard_error"):
            show(f"{clause}: " + ("nothing to judge" if share is None else f"{share:.1%}"))


def report_unconditional(
    model: "Model", settings: "SamplingSettings", count: int, seed: int, k: int, batch_size: int, precision: str, as_json: bool
) -> None:
    """Draws without prompts, and says how many pictures are scenes and how much of the world they reach."""
    from tessera.apps.measuring import FeatureOptions
    from tessera.contexts.context import Unconditional
    from tessera.evaluation.model_pictures import ModelPictures
    from tessera.evaluation.prdc import check_neighbours
    from tessera.evaluation.scenes_validity import evaluate_unconditional
    from tessera.flow import TokenFlow

    check_neighbours(count, k, "generated")
    if any(isinstance(flow, TokenFlow) and not isinstance(flow.context_encoder, Unconditional) for flow in model.flows.values()):
        raise UsageError(f"the model {model.name!r} needs prompts: leave --unconditional out, or give a model that takes none")
    samples = ModelPictures(model, settings, seed=seed, batch_size=batch_size, precision=precision)
    measurer = FeatureOptions(device=str(model.device), batch_size=batch_size).measurer()
    with shown_warnings(), progress_bar("evaluating", count, "pictures") as bar:
        found = evaluate_unconditional(samples, measurer, count, k, bar.set)
    if as_json:
        print_json({"samples": samples.about, "extractor": measurer.about, "k": k, "unconditional": asdict(found)})
        return
    show(f"valid: {found.valid:.1%} of {count} samples are scenes of the world (standard error {found.standard_error:.1%})")
    show(f"coverage: {found.prdc.coverage:.3f} of held-out scenes (training scenes themselves: {found.ceiling:.3f}; k = {k})")
    show(f"precision {found.prdc.precision:.3f}, recall {found.prdc.recall:.3f}, density {found.prdc.density:.3f}, FID {found.fid:.4f}")
