"""One reader for every picture: what is wrong beside the pixels never costs them, and a mode becomes the same RGB wherever it is read."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, features

from tessera.data.images import Crop
from tessera.errors import TesseraError, UsageError
from tessera.pictures import PictureLimits, decode, formats, open_picture, read_rgb, to_tensor, upright_rgb
from tessera.record import KEY
from tests.data.making import stripes

RAMP = np.linspace(0, 1, 64).reshape(8, 8)
GREY = (RAMP * 255).round().astype(np.uint8)


def chunk(kind: bytes, data: bytes, check: bytes | None = None) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + (check or zlib.crc32(kind + data).to_bytes(4, "big"))


def png(picture: Image.Image, *inserted: bytes, last: bool = False) -> bytes:
    """The file with chunks put behind its header, or before its end."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    content = file.getvalue()
    place = len(content) - 12 if last else 33
    return content[:place] + b"".join(inserted) + content[place:]


def jpeg(picture: Image.Image, exif: bytes) -> bytes:
    """The file with an APP1 segment of EXIF's mark and these bytes, which Pillow would refuse to write."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95)
    content, segment = file.getvalue(), b"Exif\0\0" + exif
    return content[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + content[2:]


def both_readers(content: bytes, path: Path) -> np.ndarray:
    """The levels as data sees them, checked against the way to a tensor that starting pictures go."""
    path.write_bytes(content)
    read = read_rgb(path)
    again = read_rgb(Path("inside an archive"), content)
    assert np.array_equal(np.asarray(read), np.asarray(again))
    tensor = to_tensor(open_picture(path), (read.height, read.width))
    assert np.allclose((tensor.permute(1, 2, 0).numpy() + 1) * 127.5, np.asarray(read), atol=0.01)
    assert np.array_equal(np.asarray(upright_rgb(read)), np.asarray(read))
    return np.asarray(read)


def saved(picture: Image.Image, kind: str, **how: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getvalue()


DEEP = {
    "16 bits": (Image.fromarray((RAMP * 65535).astype(np.uint16)), ("PNG", "TIFF", "PPM")),
    "16 bits, dark": (Image.fromarray((RAMP * 200).astype(np.uint16)), ("PNG", "TIFF")),
    "integers to 255": (Image.fromarray(GREY.astype(np.int32)), ("TIFF",)),
    "integers to 65535": (Image.fromarray((RAMP * 65535).astype(np.int32)), ("TIFF",)),
    "floats to 1": (Image.fromarray(RAMP.astype(np.float32)), ("TIFF",)),
    "floats to 255": (Image.fromarray((RAMP * 255).astype(np.float32)), ("TIFF",)),
    "floats to 65535": (Image.fromarray((RAMP * 65535).astype(np.float32)), ("TIFF",)),
}


@pytest.mark.parametrize("name", DEEP)
def test_grey_of_more_than_eight_bits_is_scaled_not_clipped(name: str, tmp_path: Path) -> None:
    picture, kinds = DEEP[name]
    expected = np.zeros_like(GREY) if "dark" in name else GREY
    for kind in kinds:
        read = both_readers(saved(picture, kind), tmp_path / "a")
        assert np.abs(read.astype(int) - expected[:, :, None]).max() <= 1, kind


def test_floats_that_are_no_numbers_do_not_cost_the_others(tmp_path: Path) -> None:
    values = RAMP.astype(np.float32)
    values[0, :3] = np.nan, np.inf, -5
    read = both_readers(saved(Image.fromarray(values), "TIFF"), tmp_path / "a")
    assert np.abs(read[1:, :, 0].astype(int) - GREY[1:]).max() <= 1
    assert read[0, :3].max() == 0


@pytest.mark.parametrize(
    ("picture", "clear"),
    [
        (Image.new("RGB", (4, 4), (10, 20, 30)), (10, 20, 30)), (Image.new("L", (4, 4), 90), 90),
        (Image.fromarray(np.full((4, 4), 3000, np.uint16)), 3000), (Image.new("P", (4, 4), 3), 3),
    ],
    ids=["RGB", "L", "I;16", "P"],
)  # fmt: skip
def test_the_transparent_colour_of_a_png_is_white(picture: Image.Image, clear: object, tmp_path: Path) -> None:
    if picture.mode == "P":
        picture.putpalette([0] * 768)
    content = saved(picture, "PNG", transparency=clear) if picture.mode != "I;16" else png(picture, chunk(b"tRNS", struct.pack(">H", 3000)))
    assert both_readers(content, tmp_path / "a").min() == 255


def test_alpha_and_print_colours(tmp_path: Path) -> None:
    assert both_readers(saved(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG"), tmp_path / "a").min() == 255
    assert both_readers(saved(Image.new("LA", (4, 4), (0, 128)), "PNG"), tmp_path / "a")[0, 0].tolist() == [127] * 3
    assert both_readers(saved(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"), tmp_path / "a")[0, 0].tolist() == [255, 0, 0]
    with pytest.raises(TesseraError, match="mode La cannot become RGB"):
        upright_rgb(Image.new("La", (4, 4)))


BAD_EXIF = {
    "nothing": b"", "no TIFF": b"garbage that is no TIFF header at all", "cut": b"II*\0\x08\0\0\0\xff\xff",
    "far": b"MM\0*\xff\xff\xff\xff", "type": b"II*\0\x08\0\0\0\x01\0\x12\x01\x63\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
    "text": b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0",
}  # fmt: skip


@pytest.mark.parametrize("exif", BAD_EXIF.values(), ids=BAD_EXIF)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_that_cannot_be_read_leaves_the_picture_as_it_lies(exif: bytes, kind: str, tmp_path: Path) -> None:
    picture = stripes(12, 8)
    content = {
        "JPEG": lambda: jpeg(picture, exif), "PNG": lambda: png(picture, chunk(b"eXIf", exif)),
        "WEBP": lambda: saved(picture, "WEBP", exif=b"Exif\0\0" + exif, lossless=True),
    }[kind]()  # fmt: skip
    read = both_readers(content, tmp_path / "a")
    assert read.shape == (8, 12, 3)
    if kind != "JPEG":
        assert np.array_equal(read, np.asarray(picture))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=120))
def test_no_exif_at_all_costs_a_picture(tmp_path_factory: pytest.TempPathFactory, exif: bytes) -> None:
    path = tmp_path_factory.mktemp("exif") / "a.jpg"
    for start in (b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"):
        path.write_bytes(jpeg(Image.new("RGB", (12, 8)), start + exif))
        assert sorted(read_rgb(path).size) == [8, 12]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation: int, tmp_path: Path) -> None:
    upright = np.asarray(stripes(6, 4))
    lies = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(np.ascontiguousarray(lies)), "PNG", exif=exif)
    assert np.array_equal(both_readers(content, tmp_path / "a"), upright)


BESIDE = {
    "much text": chunk(b"zTXt", b"notes\0\0" + zlib.compress(b"x" * 3_000_000)), "a wrong check": chunk(b"tEXt", b"a\0b", b"\0\0\0\0"),
    "no deflate": chunk(b"iTXt", b"a\0\1\0\0\0no deflate"), "profile": chunk(b"iCCP", b"p\0\0" + b"garbage"),
    "size": chunk(b"pHYs", b"\0"), "time": chunk(b"tIME", b"", b"abcd"), "gamma": chunk(b"gAMA", b"\0"),
}  # fmt: skip


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("last", [False, True], ids=["before", "behind"])
def test_what_stands_beside_the_pixels_of_a_png_does_not_cost_them(beside: bytes, last: bool, tmp_path: Path) -> None:
    picture = stripes(12, 8)
    info = PngImagePlugin.iTXt("{}", "", "")
    content = png(picture, chunk(b"iTXt", KEY.encode() + b"\0\0\0\0\0" + info.encode()), beside, last=last)
    assert np.array_equal(both_readers(content, tmp_path / "a"), np.asarray(picture))
    assert open_picture(tmp_path / "a").info[KEY] == "{}"


def test_pixels_that_are_damaged_are_an_error_still(tmp_path: Path) -> None:
    whole = png(stripes(40, 30), BESIDE["much text"])
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TesseraError, match=r"a\.png is not a readable picture"):
        read_rgb(tmp_path / "a.png")


def test_what_is_only_too_large_is_shrunk(tmp_path: Path) -> None:
    for mode in ("RGB", "L", "RGBA", "P", "1", "I;16", "CMYK"):
        picture = Image.new(mode, (200, 100))
        file = io.BytesIO(saved(picture, "TIFF"))
        small = decode(file, "a", PictureLimits(pixels=20_000, shrunk=5000))
        assert small.size == (100, 50), mode
        with pytest.raises(TesseraError, match="a is too large: 200x100 pixels"):
            decode(file, "a", PictureLimits(pixels=19_999, shrunk=5000))
    turned = Image.Exif()
    turned[0x0112] = 6
    small = decode(io.BytesIO(saved(Image.new("RGB", (200, 100)), "PNG", exif=turned)), "a", PictureLimits(shrunk=5000))
    assert upright_rgb(small).size == (50, 100)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif(tmp_path: Path) -> None:
    assert np.abs(both_readers(saved(Image.new("RGB", (16, 8), (250, 10, 10)), "AVIF"), tmp_path / "a.avif") - [250, 10, 10]).max() < 12


def test_heic_or_what_to_install(tmp_path: Path) -> None:
    """With the extra a HEIC file is read like any other; without it the sentence names the package."""
    if "HEIF" in formats():
        assert both_readers(saved(Image.new("RGB", (16, 16), (250, 10, 10)), "HEIF"), tmp_path / "a.heic").shape == (16, 16, 3)
    else:
        (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
        with pytest.raises(TesseraError, match=r"it is HEIF.*tessera\[heif\]"):
            read_rgb(tmp_path / "a.heic")


def test_large_pictures_are_cropped_without_a_word_of_bombs(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2**30 // 12)  # Pillow's own, which a server in this process may have lowered
    Image.new("1", (8900, 8900)).save(tmp_path / "a.png")
    assert Crop(8)(read_rgb(tmp_path / "a.png"), 0).shape == (3, 8, 8)
    assert not [warning for warning in recwarn if "bomb" in str(warning.message)]


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UsageError, match="there is no picture"):
        read_rgb(tmp_path / "pipe.png")
    with pytest.raises(UsageError, match="there is no picture"):
        open_picture("/dev/zero")
