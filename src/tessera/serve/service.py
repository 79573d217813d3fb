"""The service: a queue of requests, and one worker that owns the models and draws pictures of several users together.

    service = Service(Shelf())
    job = service.submit(Draw("scenes", prompts=("a red circle",)), user="anybody")
    while not job.wait(0.1):
        print(service.view(job))

Requests are served in the order in which they came. What fits the first one (see `Drawing.fits`) fills the rest of its batch, so that
many users at once wait less; no picture depends on it.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tessera.errors import TesseraError, UsageError
from tessera.serve.jobs import ENDED, Job, View
from tessera.serve.limits import LIMITS, Busy, Limits
from tessera.serve.requests import Call, Draw, Request
from tessera.serve.shelf import Shelf

if TYPE_CHECKING:
    from tessera.model import Model
    from tessera.samplers.loop import Progress

__all__ = ["Service", "sentence"]

LINGER = 0.05
"""Seconds that a request which came to an idle server waits for others, so that clicks at once share a batch."""


class Cancelled(Exception):
    """Nobody wants the batch any more."""


class Service:
    """See above.

    Args:
        shelf: the models.
        limits: of requests and memory.
        together: whether requests of several users share batches; otherwise one by one, for comparison.
    """

    def __init__(self, shelf: Shelf, limits: Limits = LIMITS, together: bool = True) -> None:
        self.shelf, self.limits, self.together = shelf, limits, together
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._worker = threading.Thread(target=self._work, name="tessera-worker", daemon=True)
        self._worker.start()

    def submit(self, request: Request, user: str) -> Job:
        """Puts a request into the queue. `user`: an address, then after a slash whatever tells its users apart.

        Raises UsageError for a request beyond the limits, Busy when too many are waiting.
        """
        offer = self.shelf.offer(request.model)
        request.check(self.limits)
        if isinstance(request, Draw) and offer.about and "text_to_image" not in offer.flows:
            raise UsageError(f"model {offer.name!r} does not make pictures from prompts; it has: {', '.join(offer.flows)}")
        job = Job(request, user, request.pictures if isinstance(request, Draw) else 1)
        with self._changed:
            if self._closing:
                raise TesseraError("the server is stopping: try again when it is back")
            if len(self._jobs) >= self.limits.waiting:
                raise Busy(f"{len(self._jobs)} requests are waiting, which is all that this server takes: try again later")
            if sum(other.user == user for other in self._jobs) >= self.limits.waiting_of_user:
                raise Busy(f"you have {self.limits.waiting_of_user} requests waiting, which is all that one user may: let one finish")
            address = user.partition("/")[0]
            if sum(other.user.partition("/")[0] == address for other in self._jobs) >= self.limits.waiting_of_address:
                raise Busy(f"{self.limits.waiting_of_address} requests from your address are waiting, which is all it may: let one finish")
            self._jobs.append(job)
            self._changed.notify_all()
        return job

    def view(self, job: Job) -> View:
        """What is to be shown of it now. Asking says that somebody still wants it."""
        job.touch()
        with self._changed:
            position = self._jobs.index(job) if job.state == "waiting" and job in self._jobs else 0
        return View(
            job.state, position, job.fraction, job.step, job.steps, len(job.results), job.seconds_left, list(job.previews), job.version
        )

    def cancel_all(self, user: str) -> None:
        """Stops what a user asked for."""
        with self._changed:
            jobs = [job for job in self._jobs if job.user == user]
        for job in jobs:
            job.cancel()

    def warm(self, name: str) -> Job:
        """Loads a model before it is asked for."""
        return self.submit(Call(name), user="")

    def close(self) -> None:
        """Cancels everything and waits for the worker to stop."""
        with self._changed:
            self._closing = True
            jobs = list(self._jobs)
            self._changed.notify_all()
        for job in jobs:
            job.cancel()
        self._worker.join()

    def _work(self) -> None:
        while (jobs := self._next()) is not None:
            if not jobs:
                continue
            try:
                self._serve(jobs)
            except Cancelled:
                pass
            except Exception as error:  # whatever it is, the next request must be served
                self._failed(jobs, error)
            self._settle(jobs)

    def _next(self) -> list[Job] | None:
        """The waiting jobs, first the one to serve; None when the service closes."""
        with self._changed:
            idle = not self._jobs
            while not self._jobs and not self._closing:
                self._changed.wait(1.0)
            if self._closing:
                return None
        if idle:
            time.sleep(LINGER)
        with self._changed:
            for job in self._jobs:
                if self._unwanted(job):
                    job.cancel()
            self._jobs = [job for job in self._jobs if job.state not in ENDED and not job.cancelled.is_set()]
            return list(self._jobs)

    def _unwanted(self, job: Job) -> bool:
        abandoned = time.monotonic() - job.asked > self.limits.abandoned_seconds and job.user != ""
        return job.cancelled.is_set() or abandoned

    def _serve(self, jobs: list[Job]) -> None:
        """One batch, or one call; `jobs` is reduced to those that have a part in it."""
        waiting, head = list(jobs), jobs[0]
        jobs[:] = [head]
        head.begin()
        model = self.shelf.model(head.request.model)
        if isinstance(head.request, Call):
            self._call(head, head.request, model)
            return
        for job in waiting:
            self._prepare(job, model, head.request.model)
        rows = self._rows(head, waiting)
        jobs[:] = list(dict.fromkeys(job for job, _ in rows))
        if rows:
            self._draw(rows, jobs)

    def _prepare(self, job: Job, model: Model, name: str) -> None:
        """Makes its drawing, or fails it."""
        if job.drawing is not None or not isinstance(job.request, Draw) or job.request.model != name:
            return
        try:
            job.drawing = job.request.drawing(model)
            job.warnings = _warnings(job.drawing.flow.context_encoder, job.drawing.prompts)
        except Exception as error:
            self._failed([job], error)

    def _rows(self, head: Job, waiting: Sequence[Job]) -> list[tuple[Job, int]]:
        """The pictures of the next batch: of the first job, then of others that fit it."""
        if head.drawing is None:
            return []
        height, width = head.drawing.record.size
        room = max(1, min(self.limits.batch, self.limits.batch_pixels // (height * width)))
        rows: list[tuple[Job, int]] = []
        for job in waiting:
            fits = job is head or (
                self.together and not job.alone and not head.alone and not job.request.frames and not head.request.frames
            )
            drawing = job.drawing
            if drawing is None or job.state in ENDED or not fits or not head.drawing.fits(drawing):
                continue
            first = len(job.results)
            rows += [(job, number) for number in range(first, min(job.total, first + room - len(rows)))]
        return rows

    def _draw(self, rows: Sequence[tuple[Job, int]], jobs: Sequence[Job]) -> None:
        from tessera.drawing import draw
        from tessera.serve.previews import Watcher

        drawn = [(job.drawing, number) for job, number in rows if job.drawing is not None]
        watcher = Watcher([job for job, _ in rows], drawn[0][0], self.limits)
        for job in jobs:
            job.begin(sum(other is job for other, _ in rows))
        started = time.monotonic()
        calls = {job: job.calls for job in jobs}

        def after_step(progress: Progress) -> None:
            self._check(jobs)
            for job in jobs:
                job.step, job.steps = progress.index, progress.total
                job.calls = max(calls[job], progress.calls)
                job.version += 1
            watcher.see(progress)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they were said when each request was prepared
            pictures = draw(drawn, after_step)
        seconds = (time.monotonic() - started) / len(rows)
        for (job, _), picture in zip(rows, pictures, strict=True):
            if job.state not in ENDED and not job.cancelled.is_set():
                job.results.append(picture)
                job.seconds += seconds
        for job in jobs:
            job.drawing_now, job.previews = 0, []
            if len(job.results) == job.total:
                job.end("done")

    def _call(self, job: Job, request: Call, model: Model) -> None:
        started = time.monotonic()

        def after_step(progress: Progress) -> None:
            self._check([job])
            job.drawing_now, job.step, job.steps = 1, progress.index, progress.total
            job.calls = progress.calls
            job.version += 1

        job.results = request.run(model, after_step)
        job.seconds = time.monotonic() - started
        job.end("done")

    def _check(self, jobs: Sequence[Job]) -> None:
        """Raises Cancelled when none of the jobs is wanted any more; those that are not are over."""
        for job in jobs:
            if self._closing or self._unwanted(job):
                job.cancelled.set()
                job.end("cancelled")
        if all(job.state in ENDED for job in jobs):
            raise Cancelled

    def _failed(self, jobs: Sequence[Job], error: Exception) -> None:
        """A sentence for the user. What failed together is tried again one by one, for it may be the fault of one alone."""
        if len(jobs) > 1:
            for job in jobs:
                job.alone, job.drawing_now, job.previews = True, 0, []
            return
        jobs[0].end("failed", sentence(error), isinstance(error, UsageError))

    def _settle(self, jobs: Sequence[Job]) -> None:
        """What has ended leaves the queue."""
        for job in jobs:
            if job.cancelled.is_set():
                job.end("cancelled")
            if job.state in ENDED:
                job.drawing = None  # with the pictures that it started from
        with self._changed:
            self._jobs = [job for job in self._jobs if job.state not in ENDED]


def sentence(error: BaseException) -> str:
    """What the user is told of it. What nobody expected is written to the server's standard error, and not shown to strangers."""
    if isinstance(error, TesseraError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "not enough memory" in str(error):
        return "the server has not enough memory for this: ask for a smaller picture"
    traceback.print_exception(error, file=sys.stderr)
    return "the server failed at this in a way nobody expected; what happened is in its log"


def _warnings(encoder: Any, prompts: Sequence[Any]) -> list[str]:
    """What the model says of these prompts; of each request alone, for a batch holds those of others."""
    from tessera.contexts.prompt_warnings import PromptTruncated, UnknownWords

    tokenize = getattr(encoder, "tokenize", None)
    words = [prompt for prompt in dict.fromkeys(prompts) if isinstance(prompt, str)]
    if tokenize is None or not words:
        return []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tokenize(words)
    return list(dict.fromkeys(str(one.message) for one in said if issubclass(one.category, PromptTruncated | UnknownWords)))
