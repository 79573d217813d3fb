"""Pictures as files, from addresses and as tensors: float32 [3, H, W] in [-1, 1] ⇄ 8-bit RGB.

This is the one reader, for data, prompts, starting pictures, masks and the page. Whatever a picture comes from, `LIMITS` holds for it, and
only the formats of `formats` are read: others start programs (EPS) or are rare.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps, features

from tessera.errors import TesseraError, UsageError
from tessera.picture_modes import eight_bits, upright_rgb
from tessera.png_chunks import SIGNATURE, pixels_alone

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = [
    "LIMITS", "SUFFIXES", "UNREAD_SUFFIXES", "PictureLimits", "as_tensor", "decode", "fingerprint", "formats", "is_address",
    "open_picture", "read_rgb", "resize_and_center_crop", "to_picture", "to_tensor", "upright_rgb",
]  # fmt: skip

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".heic", ".heif",
})  # fmt: skip
"""How the names of picture files end, in lower case."""
UNREAD_SUFFIXES = frozenset(
    {".jxl", ".jp2", ".j2k", ".psd", ".svg", ".tga", ".ico", ".eps", ".exr", ".hdr", ".raw", ".dng", ".cr2", ".nef", ".arw"}
)
"""How the names of pictures end that are not read, in lower case."""
ADDRESS = re.compile(r"https?://")
BRANDS = {"HEIF": (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "AVIF": (b"avif", b"avis")}
"""What stands after "ftyp" at byte 4 of a file."""


@dataclass(frozen=True)
class PictureLimits:
    """What is accepted as a picture.

    pixels: width times height, known before anything is decompressed. shrunk: a picture of more pixels than this is shrunk to so many;
    None: it stays as it is. For an address also: bytes: of the file. seconds: for all of it, from looking up the host's name to the last
    byte. redirects: how many are followed.
    """

    pixels: int = 80_000_000
    shrunk: int | None = None
    bytes: int = 32 << 20
    seconds: float = 30.0
    redirects: int = 5


LIMITS = PictureLimits()


def is_address(source: str) -> bool:
    """Whether this is the address of something on the web: it starts with http:// or https://, in lower case."""
    return ADDRESS.match(source) is not None


@cache
def formats() -> tuple[str, ...]:
    """The formats that are read here: `FORMATS`, AVIF where Pillow was built with it, HEIF where the package pillow-heif is installed."""
    found = list(FORMATS)
    if features.check("avif"):
        found.append("AVIF")
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        found.append("HEIF")
    return tuple(found)


def open_picture(source: str | Path, limits: PictureLimits = LIMITS) -> Image.Image:
    """Reads a picture whole, so that a truncated one is found here. `source`: a path, or an http(s) address as text.

    Raises:
        UsageError: there is no such file, or the address leads into a private network.
        TesseraError: it is no readable picture, is larger than `limits`, or cannot be downloaded within them.
    """
    if isinstance(source, str) and is_address(source):
        from tessera.picture_sources import fetch

        return decode(io.BytesIO(fetch(source, limits)), source, limits)
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"there is no picture {path}: check the path")
    try:
        with path.open("rb") as file:
            return decode(file, str(path), limits)
    except OSError as error:
        raise TesseraError(f"{path} cannot be read: {error.strerror or error}") from None


def read_rgb(path: Path, content: bytes | None = None) -> Image.Image:
    """A picture file as `upright_rgb` makes it. Raises as `open_picture` does.

    content: the file's, where it lies in an archive; `path` then only names it in errors.
    """
    return upright_rgb(open_picture(path) if content is None else decode(io.BytesIO(content), str(path)))


def decode(file: io.BufferedReader | io.BytesIO, name: str, limits: PictureLimits = LIMITS) -> Image.Image:
    """The picture in an open file that is called `name` in errors. TesseraError as of `open_picture`."""
    try:
        try:
            return _loaded(file, name, limits)
        except TesseraError:
            raise
        except Exception:
            file.seek(0)
            if file.read(len(SIGNATURE)) != SIGNATURE:
                raise
            return _loaded(pixels_alone(file), name, limits)  # what is beside the pixels may be all that is wrong
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, KeyError, IndexError, TypeError, OverflowError,
            AttributeError, AssertionError, RuntimeError, MemoryError) as error:  # fmt: skip  # what decoders raise for damaged files
        raise TesseraError(f"{name} is not a readable picture ({_reason(file, error)}): save it again as PNG or JPEG") from None


def _loaded(file: io.BufferedReader | io.BytesIO, name: str, limits: PictureLimits) -> Image.Image:
    try:
        opened = Image.open(file, formats=formats())
    except Image.DecompressionBombError:  # Pillow's own limit, which comes first where a picture is far beyond ours
        raise TesseraError(f"{name} is too large: at most {limits.pixels / 1e6:g} million pixels are read") from None
    with opened as picture:
        if picture.width * picture.height > limits.pixels:
            raise TesseraError(
                f"{name} is too large: {picture.width}x{picture.height} pixels, where at most {limits.pixels / 1e6:g} million are read"
            )
        picture.load()
        if picture.mode == "I" and picture.format in ("PNG", "PPM"):  # 16 bits, which some of Pillow's readers widen
            return _shrunk(picture.convert("I;16"), limits.shrunk)
        return _shrunk(picture.copy(), limits.shrunk)


def _shrunk(picture: Image.Image, pixels: int | None) -> Image.Image:
    """The picture with at most so many pixels, in the same proportion."""
    if pixels is None or picture.width * picture.height <= pixels:
        return picture
    picture = eight_bits(picture)
    if picture.has_transparency_data or picture.mode in ("P", "1"):  # modes that cannot be averaged
        picture = picture.convert("RGBA")
    factor = (pixels / (picture.width * picture.height)) ** 0.5
    sides = max(1, int(picture.width * factor)), max(1, int(picture.height * factor))
    return picture.resize(sides, Image.Resampling.LANCZOS)


def _reason(file: io.BufferedReader | io.BytesIO, error: Exception) -> str:
    if not isinstance(error, Image.UnidentifiedImageError):
        return str(error) or type(error).__name__
    file.seek(0)
    start = file.read(12)
    kind = next((kind for kind, brands in BRANDS.items() if start[4:8] == b"ftyp" and start[8:] in brands), None)
    if kind is None or kind in formats():
        return "its bytes are those of no known format"
    package = "pip install 'tessera[heif]'" if kind == "HEIF" else "install Pillow 11.3 or later"
    return f"it is {kind}, which this installation cannot read: {package}"


def as_tensor(picture: Image.Image) -> Float[Tensor, "c h w"]:
    """The levels of an RGB picture (three channels), or of a grey one (one), in [-1, 1]."""
    import numpy as np
    import torch

    levels = torch.from_numpy(np.array(picture, dtype=np.float32))
    return (levels.permute(2, 0, 1) if levels.ndim == 3 else levels[None]) / 127.5 - 1


def to_picture(image: Float[Tensor, "c h w"], truncate: bool = False) -> Image.Image:
    """The 8-bit picture of values in [-1, 1]: RGB of three channels, grey of one.

    truncate: take the next lower level rather than the nearest, as v-diffusion's scripts do (a round trip darkens some levels by 1).
    """
    levels = (image.clamp(-1, 1) + 1) / 2 * 255
    array = (levels if truncate else levels.round()).byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array if array.shape[2] == 3 else array[:, :, 0])


def to_tensor(picture: Image.Image, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """A picture scaled to cover `size` = (height, width), its centre cut out. Transparent parts become white; EXIF rotation is applied."""
    return as_tensor(ImageOps.fit(upright_rgb(picture), (size[1], size[0]), Image.Resampling.LANCZOS))


def resize_and_center_crop(picture: Image.Image, size: tuple[int, int], limits: PictureLimits = LIMITS) -> Image.Image:
    """`size` = (height, width) out of the middle of the RGB or grey picture resized to cover it, as v-diffusion's scripts do.

    The resized sides are truncated, so that they can come out a pixel short; then the last row or column, or both, are black.
    Raises TesseraError for a picture so long and narrow that resizing it would exceed `limits`.
    """
    height, width = size
    factor = max(width / picture.width, height / picture.height)
    sides = int(factor * picture.width), int(factor * picture.height)
    if sides[0] * sides[1] > limits.pixels:
        raise TesseraError(
            f"a picture of {picture.width}x{picture.height} pixels is too long and narrow to cover {width}x{height}: crop it"
        )
    resized = picture.resize((max(1, sides[0]), max(1, sides[1])), Image.Resampling.LANCZOS)
    left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
    return resized.crop((left, top, left + width, top + height))


def fingerprint(picture: Image.Image) -> str:
    """SHA-256 of a picture's size and RGB values, whatever file it came from."""
    rgb = picture.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height}".encode() + rgb.tobytes()).hexdigest()
