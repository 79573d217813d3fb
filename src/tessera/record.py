"""What a picture remembers: everything needed to make it again, as JSON in the PNG's text chunk "tessera". Words remember it too."""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import NotRequired

from PIL import Image, PngImagePlugin
from typing_extensions import TypedDict

from tessera.errors import TesseraError, UsageError
from tessera.json_files import parse_json
from tessera.pictures import open_picture
from tessera.schema import check_arguments

__all__ = ["Record", "Written", "save_png"]

KEY = "tessera"
LARGEST_SIDE = 2**14  # pixels


class SeenDescription(TypedDict):
    """A picture in a blend; see `contexts.blend.Seen.description`."""

    sha256: str
    hidden: str | None
    focus: float
    weight: float
    directions: list[int] | None
    class_token: bool


class BlendDescription(TypedDict):
    """See `contexts.blend.Blend.description`."""

    pictures: list[SeenDescription]
    texts: list[str]
    mix: list[float]
    by: str
    colour: str
    remove: str | None
    add: str | None
    palette: NotRequired[str | None]
    palette_share: NotRequired[float]


@dataclass(frozen=True)
class Record:
    """How a picture, or a text, was made.

    version: of Tessera. model, weights: the model's name and the SHA-256 of its weights file (None: never saved).
    prompt: words, a class label, or None. seed, index: the request's seed and the picture's number within the request.
    sampler, steps, guidance, truncation, temperature, start and what has a default: see `SamplingSettings`.
    blend: what else of pictures and words it is made of, see `contexts.blend.Blend.description`; `prompt` is then its words.
    size: (height, width) in pixels. precision: of matrix products, "float32" or "bfloat16".
    init: SHA-256 of the pixels that an image-to-image run started from (`pictures.fingerprint`).
    picture, mask, feather, place: of a picture that was repainted in part, see `repainting.Repaint`: the SHA-256 of the given one and of
        the mask, or where it was placed on a larger canvas.
    """

    version: str
    model: str
    weights: str | None
    prompt: str | int | None
    seed: int
    index: int
    sampler: str
    steps: int | None
    guidance: float
    truncation: float | int | None
    temperature: float
    start: float
    size: tuple[int, int]
    precision: str
    init: str | None
    spacing: str | None = None
    invert: bool = False
    clip_guidance: float = 0.0
    cutouts: int = 16
    cut_power: float = 1.0
    stride: int | None = None
    window_weights: str = "even"
    moving_windows: bool = True
    resample: int = 1
    picture: str | None = None
    mask: str | None = None
    feather: int = 0
    place: tuple[int, int] | None = None
    beams: int = 1
    blend: BlendDescription | None = None

    def attach(self, picture: Image.Image) -> Image.Image:
        """The same picture, carrying this record in `picture.info["tessera"]`."""
        picture.info[KEY] = json.dumps(asdict(self), ensure_ascii=False)
        return picture

    @staticmethod
    def of(picture: Image.Image) -> "Record | None":
        """The record a picture carries, or None. Raises TesseraError when it carries a broken one."""
        text = picture.info.get(KEY)
        if text is None:
            return None
        try:
            values = parse_json(text)
            height, width = values["size"]
            known = {field.name: values[field.name] for field in fields(Record) if field.default is MISSING or field.name in values}
            place = known.get("place")
            known |= {"size": (height, width), "place": place and (place[0], place[1])}
            check_arguments("the picture's", "record", Record, known)
            json.dumps(known, ensure_ascii=False).encode()  # halves of UTF-16 pairs are no text
            if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
                raise ValueError(f"its size is {width}x{height}")
            return Record(**known)
        except (ValueError, TypeError, LookupError) as error:
            raise TesseraError(f"the picture's metadata cannot be read ({error}): give the prompt and settings yourself") from None

    @staticmethod
    def read(path: Path) -> "Record":
        """The record in a PNG file. Raises UsageError when it has none."""
        record = Record.of(open_picture(path))
        if record is None:
            raise UsageError(
                f"{path} carries no Tessera metadata: only PNG files that Tessera wrote, and nothing has changed, can be made again"
            )
        return record


class Written(str):
    """A text that knows how it was made, as pictures do."""

    record: Record

    def __new__(cls, text: str, record: Record) -> "Written":
        made = super().__new__(cls, text)
        made.record = record
        return made

    def __getnewargs__(self) -> tuple[str, Record]:  # type: ignore[override]
        """For copies."""
        return str(self), self.record


def save_png(picture: Image.Image, path: Path) -> None:
    """Writes a picture with its record, and with the prompt as the standard "Description"."""
    chunks = PngImagePlugin.PngInfo()
    record = Record.of(picture)
    if record is not None:
        chunks.add_itxt("Software", f"Tessera {record.version}")
        if record.prompt is not None:
            chunks.add_itxt("Description", str(record.prompt))
        chunks.add_itxt(KEY, picture.info[KEY])
    picture.save(path, format="PNG", pnginfo=chunks)
