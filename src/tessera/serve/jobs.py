"""A request on its way: where it stands, what is finished, and how it is stopped."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tessera.serve.requests import Request

if TYPE_CHECKING:
    from PIL import Image

    from tessera.drawing import Drawing

__all__ = ["ENDED", "Frame", "Job", "View"]

ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Frame:
    """A moment of the way: the estimated picture, and for tokens which squares are decided (an array of h x w, None for floats)."""

    picture: Image.Image
    decided: Any
    index: int
    total: int


@dataclass(frozen=True)
class View:
    """What is shown of a job at one moment.

    position: requests before it in the queue. fraction: done of it, 0 to 1. seconds_left: None while nobody can know.
    previews: of the pictures that are being drawn.
    """

    state: str
    position: int
    fraction: float
    step: int
    steps: int
    finished: int
    seconds_left: float | None
    previews: list[Image.Image]
    version: int


@dataclass(eq=False)
class Job:
    """One request of one user. Only the worker changes it, but for `cancel` and `touch`.

    state: "waiting", "running", or one of `ENDED`. results: finished pictures or texts, in order. error: a sentence for the user.
    own_fault: whether the request was wrong, rather than the server. warnings: what the model says of the prompts. seconds: of drawing, its
    share of batches. calls: of the network for each picture.
    """

    request: Request
    user: str
    total: int
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: str = "waiting"
    results: list[Any] = field(default_factory=list)
    error: str | None = None
    own_fault: bool = True
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    calls: int = 0
    frames: list[Frame] = field(default_factory=list)
    drawing: Drawing | None = None
    drawing_now: int = 0
    alone: bool = False
    step: int = 0
    steps: int = 0
    previews: list[Image.Image] = field(default_factory=list)
    version: int = 0
    started: float | None = None
    asked: float = field(default_factory=time.monotonic)
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, drawing_now: int = 0) -> None:
        """The worker takes it up, with so many of its pictures."""
        with self._lock:
            if self.state not in ENDED:
                self.state = "running"
        self.started = self.started or time.monotonic()
        self.drawing_now, self.step, self.steps = drawing_now, 0, 0
        self.version += 1

    def cancel(self) -> None:
        """It is over for its user at once; what it shares with others goes on, and what it does not stops at the next step."""
        self.cancelled.set()
        if self.state == "waiting":
            self.end("cancelled")

    def touch(self) -> None:
        """Somebody still wants it."""
        self.asked = time.monotonic()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended, waiting for that at most so long."""
        return self.ended.wait(seconds)

    def end(self, state: str, error: str | None = None, own_fault: bool = True) -> None:
        """Nothing changes any more."""
        with self._lock:
            if self.state in ENDED:
                return
            self.state, self.error, self.own_fault = state, error, own_fault
        self.previews = []
        self.version += 1
        self.ended.set()

    @property
    def fraction(self) -> float:
        """Done of it."""
        if self.state == "done":
            return 1.0
        now = self.drawing_now * self.step / self.steps if self.steps else 0.0
        return (len(self.results) + now) / max(1, self.total)

    @property
    def seconds_left(self) -> float | None:
        fraction = self.fraction
        if self.started is None or fraction < 0.02:
            return None
        return (time.monotonic() - self.started) * (1 - fraction) / fraction
