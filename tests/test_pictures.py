import io
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tessera.errors import TesseraError, UsageError
from tessera.pictures import PictureLimits, as_tensor, is_address, open_picture, resize_and_center_crop, to_picture, to_tensor


def levels(width: int, height: int, bands: int = 3) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, bands), np.uint8)
    return Image.fromarray(values if bands == 3 else values[:, :, 0])


@pytest.mark.parametrize("bands", [1, 3])
def test_levels_survive_the_way_to_a_tensor_and_back(bands):
    picture = levels(7, 5, bands)
    tensor = as_tensor(picture)
    assert tensor.shape == (bands, 5, 7)
    assert np.array_equal(np.asarray(to_picture(tensor)), np.asarray(picture))


def test_truncation_takes_the_lower_level_and_clamps():
    ramp = torch.tensor([-3.0, -1.0, 0.0, 0.9999, 1.0, 2.0]).view(1, 1, 6)
    assert np.asarray(to_picture(ramp, truncate=True)).tolist() == [[0, 0, 127, 254, 255, 255]]
    assert np.asarray(to_picture(ramp)).tolist() == [[0, 0, 128, 255, 255, 255]]


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40))
def test_a_covering_crop_has_the_size_asked_for_and_is_black_at_most_in_its_last_row_and_column(width, height, wide, high):
    crop = resize_and_center_crop(Image.new("RGB", (width, height), "white"), (high, wide))
    assert crop.size == (wide, high)
    short = np.argwhere(np.asarray(crop)[:, :, 0] != 255)
    # Lengths are rounded down after a division, in the original too: 11 pixels that should become 15 become 14 on both sides.
    assert ((short[:, 0] == high - 1) | (short[:, 1] == wide - 1)).all()


def test_a_bomb_is_refused_before_it_is_decompressed(tmp_path: Path):
    """A header that promises 10^9 pixels, and no data at all: reading them would fail otherwise."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    for side in (10_000, 32_000):
        header = side.to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
        with pytest.raises(TesseraError, match=r"bomb\.png is too large: .*at most 80 million"):
            open_picture(tmp_path / "bomb.png")


def test_pixels_are_limited_exactly(tmp_path: Path):
    levels(20, 10).save(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png", PictureLimits(pixels=200)).size == (20, 10)
    with pytest.raises(TesseraError, match="20x10"):
        open_picture(str(tmp_path / "a.png"), PictureLimits(pixels=199))


def test_a_long_and_narrow_picture_is_not_blown_up():
    with pytest.raises(TesseraError, match="20000x1 pixels is too long and narrow to cover 256x256"):
        resize_and_center_crop(Image.new("RGB", (20_000, 1)), (256, 256))


def test_formats_that_start_programs_are_not_opened(tmp_path: Path):
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    (tmp_path / "a.png").write_bytes(content)
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "EPS"
    with pytest.raises(TesseraError, match="no known format"):
        open_picture(tmp_path / "a.png")


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(UsageError, match="there is no picture"):
        open_picture(tmp_path / "absent.png")
    with pytest.raises(UsageError, match="there is no picture"):
        open_picture(tmp_path)


def test_addresses():
    assert is_address("http://a")
    assert is_address("https://a/b.png")
    assert not any(map(is_address, ["HTTP://a", " http://a", "http:/a", "ftp://a", "a http://b", ""]))


def test_to_tensor_covers_and_turns():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (40, 20), "white").save(file, "JPEG", exif=exif)
    with Image.open(file) as picture:
        tensor = to_tensor(picture, (8, 4))
    assert tensor.shape == (3, 8, 4)
    assert math.isclose(float(tensor.min()), 1.0, abs_tol=0.02)
    assert to_tensor(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), (2, 2)).min() == 1
