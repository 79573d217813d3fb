"""Files of finished and uploaded pictures, for as long as a page may show them. Everything is in one folder, which is gone when the server
stops, and no picture elsewhere is opened for anybody."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections import deque
from pathlib import Path

from PIL import Image, ImageChops

from tessera.apps.output import slug
from tessera.errors import TesseraError, UsageError
from tessera.pictures import PictureLimits, decode
from tessera.record import Record, save_png
from tessera.serve.limits import Limits

__all__ = ["Kept", "remove_abandoned"]

PREFIX = "tessera-serve-"


def remove_abandoned() -> None:
    """Removes the folders of servers that were killed: a folder's name holds its server's process id."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        number = folder.name.removeprefix(PREFIX).partition("-")[0]
        if number.isdecimal() and not folder.is_symlink() and not _runs(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of somebody else
        return True
    return True


class Kept:
    """The folder.

    Args:
        limits: how long a file stays, how large all of them may be together, and what is taken as a picture.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        remove_abandoned()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")).resolve()
        self._uploaded: dict[str, deque[tuple[float, int]]] = {}
        self._lock = threading.Lock()
        atexit.register(self.close)
        # The page's own copies of uploads and pictures go there as well; it reads this when it is imported.
        os.environ["GRADIO_TEMP_DIR"] = str(self.folder)

    def png(self, picture: Image.Image, name: str) -> str:
        """Writes a picture with its record, under a name that tells the prompt in a folder that nobody can guess."""
        record = Record.of(picture)
        path = self._path(f"{slug(name)}-{record.index + 1 if record else 1:03d}.png")
        save_png(picture, path)
        return str(path)

    def webp(self, frames: list[Image.Image], name: str, seconds: float) -> str:
        """Writes an animation that stays at its last frame for a while."""
        path = self._path(f"{slug(name)}.webp")
        each = max(20, round(1000 * seconds / len(frames)))
        frames[0].save(
            path, save_all=True, append_images=frames[1:], duration=[each] * (len(frames) - 1) + [2000], loop=0, lossless=True, method=2
        )
        return str(path)

    def text(self, text: str, name: str) -> str:
        path = self._path(name)
        path.write_text(text, encoding="utf-8")
        return str(path)

    def opened(self, path: str | None, what: str = "the picture") -> Image.Image:
        """A picture that was uploaded, or written here. TesseraError for what is none, is too large or lies elsewhere; it tells no path."""
        if not path:
            raise UsageError(f"{what} is missing: choose one first")
        place = Path(path).resolve()
        try:
            if not place.is_relative_to(self.folder):
                raise FileNotFoundError
            if place.stat().st_size > self.limits.upload_bytes:
                raise TesseraError(f"{what} is a file of more than {self.limits.upload_bytes >> 20} MB, the most that is taken")
            with place.open("rb") as file:
                return decode(file, what, PictureLimits(pixels=self.limits.upload_pixels, shrunk=self.limits.shrunk_pixels))
        except OSError:
            raise UsageError(f"{what} is no longer here: choose it again") from None

    def painted(self, layers: list[str], size: tuple[int, int]) -> Image.Image | None:
        """What was painted in layers over a picture of (width, height): white on black, or None where nothing was. Raises as `opened`."""
        mask = Image.new("L", size)
        for path in layers:
            layer = self.opened(path, "what you painted").convert("RGBA").getchannel("A")
            mask = ImageChops.lighter(mask, layer.resize(size, Image.Resampling.BOX).point(lambda level: 255 * (level > 63)))
        return None if mask.getbbox() is None else mask

    def uploads(self, address: str, count: int) -> bool:
        """Notes that an address uploads `count` bytes; False where it may not, having uploaded too many of late."""
        with self._lock:
            now = time.monotonic()
            for other in list(self._uploaded):
                noted = self._uploaded[other]
                while noted and now - noted[0][0] > self.limits.kept_seconds:
                    noted.popleft()
                if not noted:
                    del self._uploaded[other]
            noted = self._uploaded.setdefault(address, deque())
            if sum(size for _, size in noted) + count > self.limits.uploaded_bytes:
                return False
            noted.append((now, count))
            return True

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        self.sweep()
        folder = self.folder / secrets.token_urlsafe(16)
        folder.mkdir()
        return folder / name

    def sweep(self) -> None:
        """Removes what is too old, and the oldest of what is too much."""
        with self._lock:
            files = []
            for path in self.folder.rglob("*"):
                try:
                    if path.is_file():
                        files.append((path.stat().st_mtime, path.stat().st_size, path))
                except OSError:
                    continue
            total, now = sum(size for _, size, _ in files), time.time()
            for written, size, path in sorted(files):
                if now - written < self.limits.kept_seconds and total <= self.limits.kept_bytes:
                    break
                path.unlink(missing_ok=True)
                total -= size
                if path.parent != self.folder and not any(path.parent.iterdir()):
                    path.parent.rmdir()
