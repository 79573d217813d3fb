"""`tessera generate`: pictures of prompts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessera.apps.console import say
from tessera.apps.drawing_options import DrawingOptions, drawing_command
from tessera.apps.options import parse_size
from tessera.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from tessera.flow import SamplingSettings
    from tessera.model import Model
    from tessera.record import Record

__all__ = ["generate"]


@drawing_command
def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            help="What to draw, one argument each; - reads a prompt per line of standard input. Models of floats take weights and several "
            "parts: 'a fox:2 | in snow | style.png:0.5'; the methods of v-diffusion take several arguments for the parts of one."
        ),
    ] = None,
    prompts_file: Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="A prompt per line; - is standard input.")] = None,
    images: Annotated[
        list[str] | None, typer.Option(metavar="PICTURE[:WEIGHT]", help="A picture, file or address, as a prompt beside each; repeatable.")
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Picture size in pixels; the model's own unless given.")] = None,
    init: Annotated[str | None, typer.Option(metavar="PICTURE", help="Start from this picture, file or address (image-to-image).")] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength",
            "--start",
            "--starting-timestep",
            "--starting-t",
            help="How much to change --init, above 0 to 1; 0.6 unless given, of floats 0.9.",
        ),
    ] = None,
    invert: Annotated[
        bool, typer.Option("--invert", help="Start from the noise that --init is encoded as, to edit it (models of floats).")
    ] = False,
    *,
    options: DrawingOptions,
) -> None:
    """Draws pictures of prompts. Each PNG carries its prompt, seed and every setting; --from makes it again."""
    # Whatever can be known to be wrong is said before the weights are read.
    from tessera.apps.drawing import Task, produce
    from tessera.apps.prompts import gather_prompts, with_pictures
    from tessera.pictures import open_picture
    from tessera.record import Record

    texts: list[Any] = with_pictures(gather_prompts(prompts or [], prompts_file, options.draws_one), images or [])
    asked = parse_size(size)
    start_picture = None if init is None else open_picture(init)
    old = None if options.source is None else Record.read(options.source)
    if old is not None and old.picture is not None:
        command = "inpaint" if old.place is None else "extend"
        raise UsageError(f"part of that picture was given: make it again with `tessera {command} PICTURE … --from {options.source}`")
    if old is not None and old.blend is not None:
        command = "blend" if old.blend["texts"] or len(old.blend["pictures"]) > 1 else "vary"
        raise UsageError(f"that picture was made of given ones: make it again with `tessera {command} PICTURE … --from {options.source}`")
    check_init(start_picture, strength, old)

    def settings(model: "Model", base: "SamplingSettings") -> "SamplingSettings":
        start = strength
        if start_picture is not None and start is None:
            start = old.start if old and old.init else model.own_strength
        return options.settings(base, start=start, invert=invert or None)

    produce(options, Task(texts, old, asked or (old.size if old else None), settings, init=start_picture))


def check_init(picture: "Image.Image | None", strength: float | None, old: "Record | None") -> None:
    """Raises UsageError when a starting picture is needed or is of no use; warns when it is not the one of `old`."""
    from tessera.pictures import fingerprint

    if picture is None:
        if strength is not None:
            raise UsageError("--strength (or --start) says how much to change a picture: give the picture with --init")
        if old is not None and old.init is not None:
            raise UsageError("that picture was made from another picture: give that one with --init")
    elif old is not None and old.init is not None and fingerprint(picture) != old.init:
        say("warning: --init is not the picture that was started from, so the result differs")
