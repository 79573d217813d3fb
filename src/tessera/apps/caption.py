"""`tessera caption` and `tessera rewrite`: words from pictures, and from words, for models with several flows."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessera.apps.blends import is_picture
from tessera.apps.console import print_json, progress_bar, say, show, shown_warnings
from tessera.apps.drawing_options import SamplingOptions
from tessera.apps.option_lists import takes
from tessera.apps.prompts import gather_prompts
from tessera.contexts.blend import Blend, Seen
from tessera.errors import UsageError
from tessera.pictures import open_picture

if TYPE_CHECKING:
    from tessera.record import Written
    from tessera.samplers.loop import Progress

__all__ = ["WritingOptions", "caption", "rewrite"]

Remove = Annotated[str | None, typer.Option(metavar="WORDS", help="Words to take out of what is written.")]
Add = Annotated[str | None, typer.Option(metavar="WORDS", help="Words to put in.")]


@dataclass(frozen=True)
class WritingOptions(SamplingOptions):
    """Of commands that write words."""

    n: Annotated[int, typer.Option("-n", help="Texts of each.")] = 1
    seed: Annotated[int | None, typer.Option(help="Fixes the result; drawn and reported unless given.")] = None
    beams: Annotated[
        int | None,
        typer.Option(help="1 takes the most probable next word (unless given), more search, 0 draws, as --temperature or --truncation do."),
    ] = None
    batch_size: Annotated[int, typer.Option(help="Texts computed together: speed and memory, not the result.")] = 8


@takes(WritingOptions)
def caption(
    pictures: Annotated[list[str], typer.Argument(metavar="PICTURE…", help="Pictures, files or addresses.")],
    remove: Remove = None,
    add: Add = None,
    *,
    options: WritingOptions,
) -> None:
    """Says in words what is in pictures, a line for each text; of several pictures after the picture's name."""
    blends = [Blend((Seen(open_picture(name)),), remove=remove, add=add) for name in pictures]
    written(options, blends, pictures, "image_to_text")


@takes(WritingOptions)
def rewrite(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT…", help="Texts; - reads one per line of standard input.")
    ] = None,
    texts_file: Annotated[Path | None, typer.Option("--texts", metavar="FILE", help="A text per line; - is standard input.")] = None,
    remove: Remove = None,
    add: Add = None,
    *,
    options: WritingOptions,
) -> None:  # fmt: skip
    """Says the same in other words, a line for each text; of several after the text it was made of."""
    given = gather_prompts(texts or [], texts_file)
    if not given:
        raise UsageError("there is nothing to rewrite: give a text, or --texts")
    for text in given:
        if is_picture(text):
            raise UsageError(f"this takes words, not the picture {text}: `tessera caption {text}` says what is in it")
    written(options, [Blend(texts=(text,), remove=remove, add=add) for text in given], given, "text_to_text")


def written(options: WritingOptions, blends: Sequence[Blend], names: Sequence[str], flow: str) -> None:
    """Loads the model, writes, prints and reports. names: of what each blend is made of, for the output."""
    from tessera.apps.drawing import INTERRUPTED, included, interruptible
    from tessera.sources import locate

    started = time.monotonic()
    found: list[Written] = []
    folder, total = locate(options.model or included((flow,))), len(blends) * options.n
    interrupted = False
    with interruptible() as stop_if_asked:
        from tessera.applications import writing

        model = options.load(folder, options.device, (flow,))
        drawn = writing(temperature=options.temperature, truncation=options.truncation, beams=options.beams)
        settings = options.settings(model.defaults, beams=drawn.get("beams"))
        stop_if_asked()
        with shown_warnings(), progress_bar("writing", total, "texts") as bar:

            def after_step(progress: "Progress") -> None:
                bar.set(len(found) + len(progress.x) * progress.index / progress.total)
                stop_if_asked()

            stream = model.write(
                blends, options.n, options.seed, settings, batch_size=options.batch_size, precision=options.precision, callback=after_step
            )
            try:
                for text in stream:
                    if not options.as_json:
                        show(text if len(blends) == 1 else f"{names[len(found) // options.n]}: {text}")
                    found.append(text)
            except KeyboardInterrupt:
                interrupted = True
    _report(options, found, names, interrupted, total, time.monotonic() - started)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if not all(found):
        raise typer.Exit(1)


def _report(
    options: WritingOptions, found: Sequence["Written"], names: Sequence[str], interrupted: bool, total: int, seconds: float
) -> None:
    """What became of it: to standard error, with JSON all of it to standard output."""
    of = [names[number // options.n] for number in range(len(found))]
    if options.as_json:
        texts: list[dict[str, Any]] = [{"text": str(text), "of": name, **asdict(text.record)} for text, name in zip(found, of, strict=True)]
        print_json({"texts": texts, "interrupted": interrupted, "seconds": round(seconds, 3)})
    elif interrupted:
        say(f"stopped: {len(found)} of {total} texts are written")
    for text, name in zip(found, of, strict=True):
        if not text:
            say(f"{name} decoded to no words (seed {text.record.seed}, number {text.record.index}): take another seed")
    if found and not options.as_json and not interrupted:
        made = found[0].record
        how = f"model {made.model}, seed {made.seed}, sampler {made.sampler}"
        say(f"{len(found)} text{'s' * (len(found) > 1)} after {seconds:.1f} s ({how})")
