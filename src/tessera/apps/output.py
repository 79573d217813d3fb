"""The output folder: names that are free, files that are whole, and the contact sheet."""

import math
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tessera.atomic import new_file, write_file
from tessera.errors import TesseraError
from tessera.pictures import read_rgb
from tessera.record import save_png

__all__ = ["OutputFolder", "contact_sheet"]

SLUG_LENGTH = 48
CELL = 128  # pixels: smaller pictures are enlarged to this on a contact sheet
SHEET = 4096  # pixels: the longest side of a contact sheet
GAP, LINE, LINES = 8, 14, 2
LABEL = LINE * LINES + 4


class OutputFolder:
    """Where pictures go.

    Names are `<prompt>-<number>.png` with the next free number, or with numbers from 1 when existing files may be replaced.

    Args:
        path: made when it is not there.
        overwrite: replace existing files of the same name.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self.path, self.overwrite = path, overwrite
        self.numbers: dict[str, int] = {}

    def check(self, picture_bytes: int, count: int) -> None:
        """Raises TesseraError unless `count` pictures of at most `picture_bytes` can be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                probe.write(bytes(picture_bytes))
            free = shutil.disk_usage(self.path).free
        except OSError as error:
            raise self._cannot(error) from None
        if free < picture_bytes * count:
            raise TesseraError(
                f"the output folder {self.path} has room for {free / 1e6:.1f} MB, but {count} pictures may need "
                f"{picture_bytes * count / 1e6:.1f} MB: make room or choose another with -o"
            )

    def save(self, picture: Image.Image, name: str) -> Path:
        """Writes a picture with its metadata, whole or not at all, and returns its path."""
        stem = slug(name)
        number = self.numbers.get(stem, 0)
        if stem not in self.numbers and not self.overwrite:
            number = self._highest(stem)
        while True:
            number += 1
            path = self.path / f"{stem}-{number:03d}.png"
            try:
                with (write_file if self.overwrite else new_file)(path) as part:
                    save_png(picture, part)
            except FileExistsError:
                continue  # another process was quicker
            except OSError as error:
                raise self._cannot(error) from None
            self.numbers[stem] = number
            return path

    def _highest(self, stem: str) -> int:
        pattern = re.compile(re.escape(stem) + r"-(\d+)\.png")
        try:
            names = [path.name for path in self.path.iterdir()]
        except OSError as error:
            raise self._cannot(error) from None
        return max((int(found[1]) for name in names if (found := pattern.fullmatch(name))), default=0)

    def _cannot(self, error: OSError) -> TesseraError:
        return TesseraError(f"cannot write to the output folder {self.path}: {error.strerror or error}; choose another with -o")


def slug(prompt: str) -> str:
    """A file name's beginning that tells the prompt: letters and digits in lower case, joined by hyphens."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    return words[:SLUG_LENGTH].rstrip("-") or "picture"


def contact_sheet(paths: Sequence[Path], labels: Sequence[str], columns: int) -> Image.Image:
    """All pictures in a grid whose cells have the first one's shape, each above its label where there are labels."""
    pictures = [read_rgb(path) for path in paths]
    rows = math.ceil(len(pictures) / columns)
    width, height = pictures[0].size
    whole = max(1, math.ceil(CELL / max(width, height)))
    below = LABEL if any(labels) else 0
    scale = min(whole, (SHEET / columns - GAP) / width, (SHEET / rows - GAP - below) / height)
    width, height = max(1, int(width * scale)), max(1, int(height * scale))
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + below + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x, y = GAP + i % columns * (width + GAP), GAP + i // columns * (height + below + GAP)
        fit = min(width / picture.width, height / picture.height)
        size = (max(1, round(picture.width * fit)), max(1, round(picture.height * fit)))
        filter_ = Image.Resampling.NEAREST if fit >= 1 else Image.Resampling.LANCZOS
        sheet.paste(picture.resize(size, filter_), (x + (width - size[0]) // 2, y + (height - size[1]) // 2))
        for line, text in enumerate(wrap(label, font, width)):
            draw.text((x, y + height + 2 + line * LINE), text, fill="black", font=font)
    return sheet


def wrap(label: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    """`label` in at most `LINES` lines of `width` pixels; what does not fit the last one is cut."""
    lines = [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and len(lines) < LINES and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_cut(line, font, width) for line in lines]


def _cut(line: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"
