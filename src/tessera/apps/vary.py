"""`tessera vary`, `tessera blend` and `tessera edit`: pictures made of pictures and words, for models with several flows."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from tessera.apps.blends import Colour, Focus, Level, Masks, Typed, each_of, is_picture, made_of, read_blended
from tessera.apps.drawing_options import DrawingOptions, drawing_command
from tessera.apps.options import parse_size
from tessera.contexts.blend import Blend
from tessera.errors import UsageError
from tessera.pictures import open_picture

if TYPE_CHECKING:
    from PIL import Image

    from tessera.apps.drawing import Request
    from tessera.flow import SamplingSettings
    from tessera.model import Model
    from tessera.samplers.loop import Callback

__all__ = ["blend", "edit", "vary"]

Size = Annotated[str | None, typer.Option(metavar="WxH", help="Picture size in pixels; the model's own unless given.")]
PALETTE_COLOURS = 4
"""Of a picture that is given for its palette."""
FROM_PICTURES, FROM_WORDS, TO_WORDS = "image_to_image", "text_to_image", "image_to_text"


@drawing_command
def vary(
    pictures: Annotated[list[str], typer.Argument(metavar="PICTURE…", help="Pictures, files or addresses; each is varied.")],
    fidelity: Annotated[
        float | None, typer.Option(help="From 0, drawn anew, to below 1: how much of the picture itself the drawing starts from.")
    ] = None,
    focus: Focus = None,
    level: Level = None,
    masks: Masks = None,
    colour: Colour = None,
    size: Size = None,
    *,
    options: DrawingOptions,
) -> None:
    """Draws pictures like each of some pictures (image variation)."""
    from tessera.apps.drawing import Task, produce

    if fidelity is not None and not 0 <= fidelity < 1:
        raise UsageError(f"--fidelity must be from 0 to below 1, where the result would be the picture itself, not {fidelity:g}")
    old = read_blended(options.source)
    made = each_of(Typed(pictures, masks=masks or [], focus=focus or [], level=level or [], colour=colour), old)
    if made[0].texts:
        raise UsageError(f"that picture was made with words: make it again with `tessera blend PICTURE --from {options.source}`")
    if fidelity is None:
        fidelity = 1 - old.start if old and old.init else 0.0

    def stream(model: "Model", request: "Request", settings: "SamplingSettings", callback: "Callback") -> "Iterator[Image.Image]":
        from tessera import applications

        return applications.vary(model, made, request.n, request.seed, settings, fidelity, **request.how(callback))

    def settings(model: "Model", base: "SamplingSettings") -> "SamplingSettings":
        return options.settings(replace(base, start=1.0))

    flows = (FROM_PICTURES,)
    produce(options, Task(list(made), old, parse_size(size) or (old.size if old else None), settings, flows=flows, stream=stream))


@drawing_command
def blend(
    given: Annotated[
        list[str] | None, typer.Argument(metavar="PICTURE[:STRENGTH]… [TEXT]", help="Pictures, files or addresses, and at most one text.")
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Of the words, 0 to 1, the rest is the pictures'; or WORDS:PICTURES. 0.7 unless given."),
    ] = None,
    masks: Masks = None,
    focus: Focus = None,
    level: Level = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="KIND", help="How they are mixed: attention (unless given), or layer, one in each.")
    ] = None,
    colour: Colour = None,
    palette: Annotated[
        str | None,
        typer.Option(metavar="COLOURS|PICTURE", help="Colours and how much of each, 'white:8, #dc2828:2', or a picture with them."),
    ] = None,
    palette_share: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of the palette, beside words and pictures, 0 to 1. 0.3 unless given.")
    ] = None,
    size: Size = None,
    *,
    options: DrawingOptions,
) -> None:  # fmt: skip
    """Draws pictures made of several pictures, words, and a palette."""
    from tessera.apps.drawing import Task, produce

    old = read_blended(options.source)
    pictures, strengths, text = split(given or [])
    typed = Typed(
        pictures, text, parse_mix(mix), masks or [], strengths, focus or [], level or [], by, colour, parse_colours(palette), palette_share
    )
    made = made_of(typed, old)
    flows = tuple(f"{context}_to_image" for context in made.shares)

    produce(options, Task([made], old, parse_size(size) or (old.size if old else None), flows=flows))


@drawing_command
def edit(
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="The picture, file or address.")],
    remove: Annotated[str | None, typer.Option(metavar="WORDS", help="What to take out of what the picture shows.")] = None,
    add: Annotated[str | None, typer.Option(metavar="WORDS", help="What to put in.")] = None,
    mix: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of the new words beside how the picture looks; 0.67 unless given.")
    ] = None,
    mask: Annotated[str | None, typer.Option(metavar="PICTURE", help="White hides a part of the picture; of its size.")] = None,
    colour: Colour = None,
    size: Size = None,
    *,
    options: DrawingOptions,
) -> None:
    """Reads a picture as words, takes words out and puts words in, and draws it again."""
    from tessera.apps.drawing import Task, produce

    old = read_blended(options.source)
    size_asked = parse_size(size) or (old.size if old else None)
    masks = [mask] if mask else []
    if old is not None and remove is None and add is None:  # its words are known
        shares = None if mix is None else (mix, 1 - mix)
        again = made_of(Typed([picture], mix=shares, masks=masks, colour=colour), old)
        produce(options, Task([again], old, size_asked, flows=(FROM_WORDS, FROM_PICTURES)))
        return
    if remove is None and add is None:
        raise UsageError("edit needs words to take out or to put in: give --remove or --add (`tessera vary` draws without)")
    (seen,) = made_of(Typed([picture], masks=masks, colour=colour), None).pictures

    def stream(model: "Model", request: "Request", settings: "SamplingSettings", callback: "Callback") -> "Iterator[Image.Image]":
        from tessera import applications

        return applications.redrawn(
            model, seen.picture, remove, add, request.n, request.seed, settings, mix, colour or "none", **request.how(callback)
        )

    def settings(model: "Model", base: "SamplingSettings") -> "SamplingSettings":
        from tessera.applications import writing

        return options.settings(base, beams=writing(temperature=options.temperature, truncation=options.truncation).get("beams"))

    texts = tuple(words for words in (remove, add) if words is not None)
    Blend((seen,), texts, (1.0, 0.0) if mix is None else (mix, 1 - mix), colour=colour or "none")  # what is wrong is said at once
    flows = (TO_WORDS, FROM_WORDS, FROM_PICTURES)
    produce(options, Task([seen], old, size_asked, settings, flows=flows, stream=stream))


def split(given: list[str]) -> tuple[list[str], list[float | None], str | None]:
    """Pictures, their strengths, and the text among what was typed. UsageError for two texts."""
    from tessera.contexts.weighted_prompts import split_weight

    pictures: list[str] = []
    strengths: list[float | None] = []
    texts: list[str] = []
    for argument in given:
        name, strength = argument, None
        if not is_picture(argument) and is_picture(argument.rpartition(":")[0]):
            name, strength = split_weight(argument, 1.0)
        if is_picture(name):
            pictures.append(name)
            strengths.append(strength)
        else:
            texts.append(argument)
    if len(texts) > 1:
        raise UsageError(f"a blend has one text at most, and neither {texts[0]!r} nor {texts[1]!r} is a picture: check the paths")
    return pictures, strengths, texts[0] if texts else None


def parse_colours(given: str | None) -> str | None:
    """A palette as it is typed, or that of a picture."""
    if given is None or not is_picture(given):
        return given
    from tessera.palettes import palette_of, written

    return written(palette_of(open_picture(given), PALETTE_COLOURS))


def parse_mix(text: str | None) -> tuple[float, float] | None:
    """ "0.7" → shares of words and pictures, (0.7, 0.3); "2:1" → (2, 1)."""
    if text is None:
        return None
    words, colon, pictures = text.partition(":")
    try:
        return float(words), float(pictures) if colon else 1 - float(words)
    except ValueError:
        raise UsageError(f"mix {text!r} is neither a share of the words, such as 0.7, nor WORDS:PICTURES, such as 2:1") from None
