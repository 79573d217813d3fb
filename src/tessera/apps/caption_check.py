"""`tessera evaluate caption`: is a caption true of a picture of the built-in world?"""

from typing import TYPE_CHECKING, Annotated

import typer

from tessera.apps.console import print_json, show
from tessera.apps.options import AsJSON, Debug
from tessera.errors import TesseraError

if TYPE_CHECKING:
    from tessera.evaluation.scenes_judge import Reading

__all__ = ["caption"]


def caption(
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="A picture of the built-in world, file or address.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What is said of it.")],
    as_json: AsJSON = False,
    debug: Debug = False,
) -> None:
    """Whether each clause of a caption holds in a picture of the built-in world, and whether it names all that is there."""
    try:
        from tessera.evaluation.scenes_captions import judge_caption
        from tessera.evaluation.scenes_judge import read_picture
    except ModuleNotFoundError as error:
        raise TesseraError(f"evaluation needs the package {error.name!r}: pip install 'tessera[eval]'") from error
    from tessera.evaluation.picture_sets import as_levels
    from tessera.pictures import open_picture

    levels = as_levels(open_picture(picture)).numpy()
    reading = read_picture(levels)
    verdict = judge_caption(text, reading, levels.shape[-1])
    there = shown(reading)
    if as_json:
        print_json({"text": text, **verdict.as_dict(), "clean": reading.clean, "background": reading.background, "things": there})
        return
    if verdict.caption is None:
        show("not understood: it is no sentence of the world's language, such as 'a red circle above a blue square on white'")
    else:
        show("right" if verdict.right else "wrong")
    for clause, holds in verdict.clauses:
        show(f"{'holds' if holds else 'does not hold'}: {clause}")
    things = ", ".join(there) or "nothing that is known"
    show(f"the picture shows: {things}, on {reading.background or 'no background'}" + ("" if reading.clean else ", and something else"))


def shown(reading: "Reading") -> list[str]:
    """The things of a picture in words, from the top."""
    from tessera.data.scenes_language import Mention, phrase

    return [phrase(Mention(thing.shape, thing.colour, thing.size)) for thing in sorted(reading.things, key=lambda thing: thing.centre)]
