"""Palettes, as they are typed, as pictures have them, and as a context."""

import pytest
import torch
from PIL import Image

from tessera.contexts.palette import Palette
from tessera.data.scenes import BACKGROUNDS, COLOURS, Scene, Thing, render
from tessera.errors import UsageError
from tessera.palettes import Swatch, palette_of, parse_palette, written
from tessera.training.task import to_picture

SCENE = Scene("black", (Thing("square", "red", "large", 0, 0), Thing("circle", "cyan", "small", 5, 5)))


def test_typed_palettes() -> None:
    assert parse_palette("white:3, red, #2080ff:0.5 ") == [
        Swatch((255, 255, 255), 3 / 4.5), Swatch((255, 0, 0), 1 / 4.5), Swatch((32, 128, 255), 0.5 / 4.5),
    ]  # fmt: skip
    assert parse_palette("black") == [Swatch((0, 0, 0), 1.0)]
    palette = parse_palette("white:3, red, #2080ff:0.5")
    assert [one.colour for one in parse_palette(written(palette))] == [one.colour for one in palette]


@pytest.mark.parametrize("text", ["", "red,", "rouge", "red:much", "red:1:2", "#12", "red:0", "red:-1", "red:inf", "red:nan", "\x00"])
def test_what_is_no_palette_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"palette|character"):
        parse_palette(text)


def test_the_palette_of_a_picture_is_what_covers_it() -> None:
    """The smooth edges of the circle are no colour of their own."""
    picture = Image.fromarray(render(SCENE).transpose(1, 2, 0))
    palette = palette_of(picture, 4)
    assert len(palette) == 3
    for swatch, colour, share in zip(palette, (BACKGROUNDS["black"], COLOURS["red"], COLOURS["cyan"]), (0.87, 0.10, 0.04), strict=True):
        assert max(abs(a - b) for a, b in zip(swatch.colour, colour, strict=True)) <= 8
        assert swatch.share == pytest.approx(share, abs=0.02)
    assert palette_of(Image.new("L", (3, 5), 7), 4) == [Swatch((7, 7, 7), 1.0)]
    assert len(palette_of(Image.effect_noise((64, 64), 100), 256)) >= 1


def test_context() -> None:
    encoder = Palette(3)
    picture = torch.from_numpy(render(SCENE))[None]
    context = encoder.see(to_picture(picture))
    assert context.embeddings is not None
    assert context.mask is not None
    assert context.embeddings.shape == (1, 3, 4)
    assert context.mask.all()
    typed = encoder(["#000000:3, white", None])
    assert typed.embeddings is not None
    assert typed.embeddings[0].tolist() == [[-1, -1, -1, 0.75], [1, 1, 1, 0.25], [0, 0, 0, 0]]
    assert typed.mask is not None
    assert typed.mask.tolist() == [[True, True, False], [True, False, False]]
    assert not typed.embeddings[1].any()
    with pytest.raises(UsageError, match="has 4 colours, but this model takes 3"):
        encoder(["red, green, blue, white"])
    with pytest.raises(UsageError, match="1 to 256 colours"):
        Palette(0)
