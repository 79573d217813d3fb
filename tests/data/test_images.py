import warnings
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessera.data.images import Crop
from tessera.errors import TesseraError, UsageError
from tessera.pictures import read_rgb
from tests.data.making import picture, stripes, truncate


def colours(picture: Image.Image) -> list[tuple[int, int, int]]:
    return [tuple(row) for row in np.asarray(picture).reshape(-1, 3).tolist()]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".gif", ".tif"])
def test_reads_every_format(tmp_path, suffix):
    read = read_rgb(picture(tmp_path / f"a{suffix}", 20, 10, (250, 10, 10)))
    assert read.mode == "RGB"
    assert read.size == (20, 10)
    np.testing.assert_allclose(np.asarray(read), np.broadcast_to([250, 10, 10], (10, 20, 3)), atol=6)


def test_modes_become_rgb(tmp_path):
    made = {
        "grey": Image.new("L", (4, 4), 100),
        "sixteen": Image.fromarray(np.full((4, 4), 100 * 256, np.uint16)),
        "bits": Image.new("1", (4, 4), 1),
        "transparent": Image.new("RGBA", (4, 4), (0, 0, 0, 0)),
        "half": Image.new("LA", (4, 4), (0, 128)),
        "palette": Image.new("RGB", (4, 4), (255, 0, 0)).quantize(),
    }
    for name, image in made.items():
        image.save(tmp_path / f"{name}.png")
    Image.new("CMYK", (4, 4), (0, 0, 0, 0)).save(tmp_path / "print.jpg")
    expected = {"grey": 100, "sixteen": 100, "bits": 255, "transparent": 255, "half": 127, "print": 255}
    for path in tmp_path.iterdir():
        colour = (255, 0, 0) if path.stem == "palette" else (expected[path.stem],) * 3
        assert set(colours(read_rgb(path))) == {colour}, path.stem


def test_rotation_in_exif_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert read_rgb(tmp_path / "a.jpg").size == (10, 20)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp", ".tif"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_raise_a_clean_error(tmp_path, suffix, share):
    path = truncate(picture(tmp_path / f"a{suffix}"), share)
    with pytest.raises(TesseraError, match=path.name):
        read_rgb(path)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_files_raise_nothing_else(tmp_path_factory, data):
    path = picture(tmp_path_factory.mktemp("damaged") / data.draw(st.sampled_from(["a.png", "a.jpg", "a.gif", "a.tif", "a.webp"])))
    content = bytearray(path.read_bytes())
    for _ in range(8):
        content[data.draw(st.integers(0, min(len(content), 300) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    with warnings.catch_warnings(), suppress(TesseraError):
        warnings.simplefilter("ignore")
        read_rgb(path)


def test_no_picture_at_all(tmp_path):
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(TesseraError, match=r"text\.jpg"):
        read_rgb(tmp_path / "text.jpg")
    with pytest.raises(UsageError, match=r"absent\.jpg"):
        read_rgb(tmp_path / "absent.jpg")


def test_decompression_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(TesseraError, match=r"bomb\.png"):
        read_rgb(picture(tmp_path / "bomb.png", 30, 30))


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.sampled_from(["centre", "random"]), st.integers(0, 9))
def test_every_picture_becomes_a_square(width, height, size, mode, seed):
    if max(width, height) > 64 * min(width, height):
        width = height
    image = Crop(size, mode, flip=True)(stripes(width, height), seed)
    assert image.shape == (3, size, size)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image, Crop(size, mode, flip=True)(stripes(width, height), seed))


def test_centre_crop_resizes_the_shorter_side():
    original = stripes(41, 20)
    resized = np.asarray(original.resize((20, 10), Image.Resampling.BICUBIC))  # 41 · 10 / 20 = 20.5
    expected = torch.from_numpy(resized[:, 5:15].copy()).permute(2, 0, 1)
    assert torch.equal(Crop(10, "centre")(original, 0), expected)


def test_random_crop_stays_near_the_middle_and_within_nine_eighths():
    """Colours that name the place: red is x, green is y, on a picture four times as wide as high."""
    x, y = np.meshgrid(np.arange(256), np.arange(64))
    place = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    lefts, sides = set(), set()
    for seed in range(300):
        image = Crop(32, "random")(place, seed).float()
        lefts.add(float(image[0, :, 0].mean()))
        sides.add(round(float(32 * 64 / (image[1, -1, 0] - image[1, 0, 0] + 64 / 32))))
    # the square lies between 3/8 and 5/8 of the slack of 192; what is cut of it at most is 1 - 8/9 of its side
    assert min(lefts) >= 72 - 1
    assert max(lefts) <= 120 + 64 * (1 - 8 / 9) + 2
    assert len(lefts) > 20
    assert min(sides) >= 31
    assert max(sides) <= 37
    assert len(sides) >= 4


def test_small_pictures_are_enlarged_to_the_size_exactly():
    """No random side is left when min(s, 9/8 size) is below size, and the whole square is kept."""
    original = stripes(20, 20)
    expected = np.asarray(original.resize((32, 32), Image.Resampling.BICUBIC))
    for seed in range(5):
        assert np.array_equal(Crop(32, "random")(original, seed).permute(1, 2, 0).numpy(), expected)


def test_flip_mirrors_half_of_the_pictures():
    original = stripes(16, 16)
    plain = Crop(16, "centre")(original, 0)
    flipped = [torch.equal(Crop(16, "centre", flip=True)(original, seed), plain.flip(2)) for seed in range(200)]
    assert 70 < sum(flipped) < 130
    assert not any(torch.equal(Crop(16, "centre")(original, seed), plain.flip(2)) for seed in range(20))


def test_wrong_settings_and_shapes():
    with pytest.raises(UsageError, match="did you mean 'centre'"):
        Crop(8, "center")
    with pytest.raises(UsageError, match="at least 1"):
        Crop(0)
    with pytest.raises(TesseraError, match="too long and narrow"):
        Crop(8, "centre")(Image.new("RGB", (1000, 2)), 0)
