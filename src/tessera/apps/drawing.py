"""Drawing pictures into a folder, with a progress bar, such that Ctrl-C keeps what is finished."""

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.apps.console import progress_bar, say, shown_warnings
from tessera.apps.output import OutputFolder, contact_sheet
from tessera.record import Record

if TYPE_CHECKING:
    from PIL import Image

    from tessera.flow import SamplingSettings
    from tessera.model import Model
    from tessera.samplers.loop import Progress

__all__ = ["Drawn", "Request", "draw", "interruptible"]


@dataclass(frozen=True)
class Request:
    """What to draw; see `Model.stream`."""

    prompts: list[Any]
    n: int
    seed: int | None
    size: tuple[int, int]
    index: int
    batch_size: int
    precision: str
    init: "Image.Image | None"

    @property
    def total(self) -> int:
        return len(self.prompts) * self.n


@dataclass
class Drawn:
    """Saved pictures with their records, and whether the request was cut short."""

    pictures: list[tuple[Path, Record]] = field(default_factory=list)
    interrupted: bool = False


def draw(model: "Model", request: Request, settings: "SamplingSettings", target: OutputFolder, stop_if_asked: Callable[[], None]) -> Drawn:
    """Draws and saves batch by batch; `stop_if_asked` (see `interruptible`) is called after every step."""
    drawn = Drawn()
    with shown_warnings(), progress_bar("drawing", request.total, "pictures") as bar:

        def after_step(progress: "Progress") -> None:
            bar.set(len(drawn.pictures) + len(progress.x) * progress.index / progress.total)
            stop_if_asked()

        stream = model.stream(
            request.prompts, request.n, request.seed, settings, size=request.size, batch_size=request.batch_size, init=request.init,
            precision=request.precision, index=request.index, callback=after_step,
        )  # fmt: skip
        try:
            for picture in stream:
                made = Record.of(picture)
                assert made is not None  # the model attached it
                drawn.pictures.append((target.save(picture, model.name if made.prompt is None else str(made.prompt)), made))
        except KeyboardInterrupt:
            drawn.interrupted = True
    return drawn


def save_sheet(drawn: Drawn, n: int, target: OutputFolder) -> Path:
    """The contact sheet of what was drawn: a row per prompt where that fits."""
    columns = n if 1 < n <= 8 else math.ceil(math.sqrt(len(drawn.pictures)))
    labels = [f"{path.stem.rsplit('-', 1)[1]}: {'' if made.prompt is None else made.prompt}" for path, made in drawn.pictures]
    return target.save(contact_sheet([path for path, _ in drawn.pictures], labels, columns), "sheet")


@contextmanager
def interruptible() -> Iterator["Interruption"]:
    """Ctrl-C is noted, and raised where the interruption is called, so that imports and files are finished; a second one acts at once."""
    interruption = Interruption()
    before = signal.getsignal(signal.SIGINT)

    def note(*_: Any) -> None:
        interruption.asked = True
        signal.signal(signal.SIGINT, before)
        say("stopping soon; Ctrl-C again stops at once")

    signal.signal(signal.SIGINT, note)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, before)


class Interruption:
    asked = False

    def __call__(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C was pressed."""
        if self.asked:
            raise KeyboardInterrupt
