"""`tessera evaluate clip-score`, `neighbours` and `reconstruction`: pictures against words, training pictures, themselves."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import tessera
from tessera.apps.measuring import DEFAULT, SETS, Count, FeatureOptions, Output, Samples, SetOptions, against, finish, progress_of
from tessera.apps.option_lists import takes

__all__ = ["clip_score", "neighbours", "reconstruction"]


@takes(SetOptions)
def clip_score(
    pictures: Annotated[str, typer.Argument(help=f"Pictures with words: {SETS}. PNG files that Tessera drew of prompts have theirs.")],
    encoder: Annotated[str, typer.Option(metavar="FILE|ID", help="The encoder: OpenAI's file, a folder or a hub id.")],
    encoder_merges: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The merges of the encoder's tokenizer, where it is a file.")
    ] = None,
    count: Count = None,
    output: Output = None,
    *,
    options: SetOptions,
) -> None:
    """How well pictures fit their words: 100 times the mean cosine of their CLIP embeddings, negative ones counting as 0."""
    from tessera.evaluation.clip_score import clip_score as measure
    from tessera.evaluation.joint_features import JointFeatures
    from tessera.evaluation.reports import Report
    from tessera.model import torch_device, whole_number

    whole_number("batch_size", options.batch_size, 1)
    if count is not None:
        whole_number("count", count, 1)
    features = JointFeatures(encoder, encoder_merges)
    features.encoder.to(torch_device(options.device))
    measured = options.named.pictures(pictures)
    wanted = count or (DEFAULT if measured.count is None else None)
    with progress_of(measured, wanted) as step:
        found = measure(measured, features.encoder, wanted, options.batch_size, step)
    recipe = {
        "extractor": features.about(),
        "prompts_sha256": found.prompts,
        "pictures": found.count,
        "resized": measured.about.get("resized"),
    }
    values = {"clip_score": found.score, "cosine": found.cosine, "standard_error": found.standard_error}
    report = Report("clip-score", values, recipe, measured.account, tessera.__version__)
    finish(report, f"CLIP score {found.score:.3f} of {found.count} pictures of {measured.name} with their words", output, options.as_json)


@takes(FeatureOptions, batch_size=16)
def reconstruction(
    source: Annotated[str, typer.Argument(metavar="CODEC", help="A model, the folder of a codec, or a released file.")],
    pictures: Annotated[str, typer.Argument(help=f"What goes through it: {SETS}.")],
    count: Count = None,
    output: Output = None,
    *,
    options: FeatureOptions,
) -> None:
    """What a codec keeps: FID of reconstructions against the pictures themselves, and PSNR in dB."""
    from tessera.evaluation.fid import frechet_distance
    from tessera.evaluation.reconstruction import Reconstructed, load_codec
    from tessera.evaluation.reports import Report, recipe_of
    from tessera.model import torch_device, whole_number

    if count is not None:
        whole_number("count", count, 1)
    measurer = options.measurer()
    originals = options.named.pictures(pictures)
    wanted = count or (DEFAULT if originals.count is None else None)
    reconstructed = Reconstructed(originals, load_codec(source, **options.extras).to(torch_device(options.device)), options.batch_size)
    with progress_of(reconstructed, wanted) as step:
        made = measurer.statistics(reconstructed, wanted, step)
    with progress_of(originals, wanted) as step:
        real = measurer.statistics(originals, wanted, step)
    found = frechet_distance(made.values, real.values).distance
    values = {"fid": found, "psnr": reconstructed.psnr}
    report = Report("reconstruction", values, recipe_of(real.origin, made.origin), made.origin.account, tessera.__version__)
    finish(report, f"reconstruction FID {found:.4f}, PSNR {reconstructed.psnr:.2f} dB {against(report)}", output, options.as_json)


@takes(FeatureOptions)
def neighbours(
    samples: Samples,
    training: Annotated[str, typer.Argument(help=f"Among which the nearest are looked for: {SETS}.")],
    n: Annotated[int, typer.Option("-n", help="Samples: the first of them.")] = 8,
    k: Annotated[int, typer.Option("-k", help="Nearest pictures shown of each.")] = 5,
    training_count: Annotated[int | None, typer.Option(help="Training pictures looked at, the first; all of them unless given.")] = None,
    lpips: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Near by LPIPS of AlexNet: its files of weights, repeatable; by features otherwise."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the picture of pairs and the list.")] = Path("neighbours"),
    *,
    options: FeatureOptions,
) -> None:
    """The training pictures nearest to samples, side by side: does the model repeat what it has seen?"""
    from PIL import Image

    from tessera.apps.console import print_json, show
    from tessera.apps.output import OutputFolder, contact_sheet
    from tessera.atomic import write_file
    from tessera.evaluation.neighbours import load_lpips, neighbours_by_features, neighbours_by_lpips
    from tessera.model import torch_device, whole_number

    whole_number("n, the number of samples,", n, 1)
    whole_number("k, the number of neighbours,", k, 1)
    if training_count is not None:
        whole_number("training_count", training_count, 1)
    among = options.named.pictures(training, samples)
    wanted = training_count or (DEFAULT if among.count is None else None)
    measured = options.named.pictures(samples, training)
    shown = [image for batch in measured.batches(n, options.batch_size) for image in batch.image]
    with progress_of(among, wanted) as step:
        if lpips:
            network = load_lpips(lpips).to(torch_device(options.device))
            found = neighbours_by_lpips(shown, among, network, k, wanted, options.batch_size, step)
        else:
            measurer = options.measurer()
            found = neighbours_by_features(shown, among, measurer, k, wanted, step)
    target = OutputFolder(output, overwrite=True)
    height, width = shown[0].shape[1:]
    target.check(3 * height * width + 4096, n * (k + 1))
    nearest = among.pictures_at(sorted({neighbour.index for row in found for neighbour in row}))
    paths, labels, listed = [], [], []
    for number, (image, row) in enumerate(zip(shown, found, strict=True), start=1):
        pictures = [(f"sample-{number}", image), *((f"sample-{number}-training", nearest[neighbour.index]) for neighbour in row)]
        written = [target.save(Image.fromarray(picture.permute(1, 2, 0).numpy()), name) for name, picture in pictures]
        paths += written
        labels += [f"sample {number}", *(f"{neighbour.index}: {neighbour.distance:.4g}" for neighbour in row)]
        listed.append({"sample": written[0].name, "nearest": [asdict(neighbour) for neighbour in row]})
    sheet = target.save(contact_sheet(paths, labels, k + 1), "neighbours")
    answer = {"samples": measured.account, "training": among.account, "by": "lpips" if lpips else options.extractor, "pairs": listed}
    with write_file(target.path / "neighbours.json") as part:
        part.write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    if options.as_json:
        print_json({**answer, "sheet": str(sheet)})
        return
    show(str(sheet))
    for number, row in enumerate(found, start=1):
        show(f"sample {number}: " + ", ".join(f"{neighbour.index} ({neighbour.distance:.4g})" for neighbour in row))
