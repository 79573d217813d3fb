"""Drawing pictures into a folder, with a progress bar, such that Ctrl-C keeps what is finished: what all commands that draw do."""

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tessera.apps.console import print_json, progress_bar, say, show, shown_warnings
from tessera.apps.drawing_options import DrawingOptions
from tessera.apps.output import OutputFolder, contact_sheet
from tessera.errors import UsageError
from tessera.record import Record

if TYPE_CHECKING:
    from PIL import Image

    from tessera.flow import SamplingSettings
    from tessera.model import Model
    from tessera.repainting import Repaint
    from tessera.samplers.loop import Callback, Progress

__all__ = ["Drawn", "Request", "Task", "draw", "interruptible", "produce"]

INTERRUPTED = 130
LARGEST = (512, 512)
"""Pictures of released models."""


@dataclass(frozen=True)
class Task:
    """What one command wants drawn, beside the options that all share.

    prompts: none where the picture to make again says them. old: the record of that picture. size: (height, width); None: the model's own.
    settings: from the model and what they start from; None: as the options say. init: see `Model.stream`. repaint: what to repaint, once
    the model is there. flows: what is read of the model. stream: draws the pictures; None: `Model.stream` does.
    """

    prompts: list[Any]
    old: Record | None
    size: tuple[int, int] | None
    settings: "Callable[[Model, SamplingSettings], SamplingSettings] | None" = None
    init: "Image.Image | None" = None
    repaint: "Callable[[Model], Repaint] | None" = None
    flows: tuple[str, ...] = ("text_to_image",)
    stream: "Callable[[Model, Request, SamplingSettings, Callback], Iterator[Image.Image]] | None" = None


def produce(options: DrawingOptions, task: Task) -> None:
    """Loads the model, draws, saves and reports. What can be known to be wrong is said before the weights are read."""
    from tessera.model_folder import DESCRIPTION, read_description
    from tessera.sources import locate

    started, old = time.monotonic(), task.old
    texts, seed, index, precision = task.prompts, options.seed, 0, options.precision
    if old is None:
        folder = locate(options.model or included(task.flows))
    else:
        folder = locate(options.model) if options.model else folder_of(old)
        if not texts:
            refuse_addresses(old)
        texts, seed, index = texts or [old.prompt], old.seed if seed is None else seed, old.index
        precision = old.precision if precision == "auto" else precision
    if task.size is None and (folder / DESCRIPTION).is_file():
        height, width = read_description(folder)["size"]
    else:  # of a released file it is known when it is loaded
        height, width = task.size or LARGEST
    request = Request(
        texts or [None], options.n, seed, (height, width), index, options.batch_size, precision, task.init, stream=task.stream
    )
    target = OutputFolder(options.output, options.overwrite)
    target.check(picture_bytes=3 * height * width + 4096, count=request.total)

    with interruptible() as stop_if_asked:
        from tessera.model import settings_of

        loaded = options.load(folder, options.device, task.flows)
        if old and old.weights and loaded.weights != old.weights:
            say(f"warning: {options.source} was made with other weights of model {old.model!r}, so the result differs from it")
        request = replace(request, size=task.size or loaded.size, repaint=task.repaint and task.repaint(loaded))
        base = settings_of(old) if old else loaded.defaults
        settings = options.settings(base) if task.settings is None else task.settings(loaded, base)
        stop_if_asked()
        drawn = draw(loaded, request, settings, target, stop_if_asked)
        sheet_path = save_sheet(drawn, options.n, target) if options.sheet and len(drawn.pictures) > 1 else None
    report(drawn, request.total, options.output, sheet_path, time.monotonic() - started, options.as_json)
    if drawn.interrupted:
        raise typer.Exit(INTERRUPTED)


def refuse_addresses(old: Record) -> None:
    """What a record says is somebody else's word: it must not send this machine to an address. Raises UsageError where it would."""
    from tessera.contexts.weighted_prompts import SEPARATOR
    from tessera.pictures import is_address

    for part in str(old.prompt).split(SEPARATOR):
        if is_address(part.strip()):
            raise UsageError(f"that picture's prompt names the address {part.strip()}: if you trust it, give the prompt yourself")


def included(flows: Sequence[str]) -> str:
    """The included model that is used unless one is named: the first that has these flows. UsageError where there is none."""
    from tessera.model_folder import SHIPPED, bundled, read_description

    if tuple(flows) == Task.flows:
        return SHIPPED[0]
    for name, folder in bundled().items():
        if set(flows) <= set(read_description(folder)["flows"]):
            return name
    raise UsageError(f"no included model has the flow{'s' * (len(flows) > 1)} {', '.join(flows)}: name one that has with --model")


def folder_of(old: Record) -> Path:
    """The bundled model that a picture was made with. Raises UsageError when it was another one, whose folder nobody noted."""
    from tessera.model_folder import bundled

    known = bundled()
    if old.model not in known:
        raise UsageError(f"that picture was made with the model {old.model!r}, which is not a bundled one: give its folder with --model")
    return known[old.model]


@dataclass(frozen=True)
class Request:
    """What to draw; see `Model.stream`. stream: of the `Task`."""

    prompts: list[Any]
    n: int
    seed: int | None
    size: tuple[int, int]
    index: int
    batch_size: int
    precision: str
    init: "Image.Image | None"
    repaint: "Repaint | None" = None
    stream: "Callable[[Model, Request, SamplingSettings, Callback], Iterator[Image.Image]] | None" = None

    def how(self, callback: "Callback") -> dict[str, Any]:
        """What every way of drawing is told."""
        return {
            "size": self.size, "batch_size": self.batch_size, "precision": self.precision, "index": self.index, "callback": callback,
        }  # fmt: skip

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

        if request.stream is not None:
            stream = request.stream(model, request, settings, after_step)
        else:
            given = {"init": request.init, "repaint": request.repaint, **request.how(after_step)}
            stream = model.stream(request.prompts, request.n, request.seed, settings, **given)
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


def report(drawn: Drawn, total: int, output: Path, sheet: Path | None, seconds: float, as_json: bool) -> None:
    """Paths to standard output, the rest to standard error; with JSON, all of it to standard output."""
    if as_json:
        pictures = [{"path": str(path), **asdict(made)} for path, made in drawn.pictures]
        print_json({"pictures": pictures, "sheet": sheet and str(sheet), "interrupted": drawn.interrupted, "seconds": round(seconds, 3)})
        return
    for path in [*(path for path, _ in drawn.pictures), *([sheet] if sheet else [])]:
        show(str(path))
    count = len(drawn.pictures)
    if drawn.interrupted:
        say(f"stopped: {count} of {total} pictures are finished" + (f" and kept in {output}" if count else ""))
    elif count:
        made = drawn.pictures[0][1]
        how = f"model {made.model}, seed {made.seed}, sampler {made.sampler}, steps {made.steps or 'all'}, guidance {made.guidance:g}"
        say(f"{count} picture{'s' * (count > 1)} in {output} after {seconds:.1f} s ({how})")


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
