"""The training loop, for every task.

Optimiser step i = 1, 2, … is a function of the state after step i - 1 and of (seed, i) alone: its pictures, its noise and everything
random come from them (`loader`, `StepDraws`). A checkpoint holds the state after a step, so a run that was killed and goes on computes
what it would have computed.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import itertools
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tessera.data.dataset import Dataset
from tessera.errors import TesseraError, UsageError
from tessera.finite import not_finite
from tessera.randomness import derive_seed
from tessera.registry import MISFITS
from tessera.training.checkpointing import Checkpointer
from tessera.training.ema import EMA
from tessera.training.loader import Batch, Batches, batches, fixed_batches
from tessera.training.optimizers import Optimizers
from tessera.training.panel import save_panel
from tessera.training.recipe import Recipe
from tessera.training.recipe_files import as_read_now, compare_recipes
from tessera.training.schedules import Decay, Plateau, RateSchedule
from tessera.training.task import Panel, Task
from tessera.training.trackers import check_packages, log_pictures, make_tracker
from tessera.training.tracking import MetricsFile, SkippedFile, TrainingProgress

__all__ = ["Stopped", "Trainer", "make_accelerator", "make_schedule"]


STATE: dict[str, type | tuple[type, ...]] = {
    "step": int, "seconds": (int, float), "recipe": dict, "model": dict, "ema": (dict, type(None)), "optimizers": list, "schedule": dict,
    "pending": list, "frozen": str, "data": str,
}  # fmt: skip
"""What a checkpoint holds."""


class Stopped(TesseraError):
    """Training was asked to stop (Ctrl-C or SIGTERM) and has saved its state."""

    exit_code = 130


def make_schedule(recipe: Recipe) -> RateSchedule:
    """The learning-rate schedule of a recipe."""
    settings, peak = recipe.schedule, recipe.optimizer.rate
    if settings.kind == "plateau":
        return Plateau(peak, settings.warmup, settings.base, settings.floor, settings.factor, settings.patience, settings.threshold)
    return Decay(peak, recipe.steps, settings.kind, settings.warmup, settings.base, settings.floor, settings.hold, settings.base_first)


def make_accelerator(recipe: Recipe, folder: Path) -> Any:
    """The device, and the other processes, that a run computes on."""
    check_packages(recipe.tracker)
    from accelerate import Accelerator, DistributedDataParallelKwargs

    atexit.unregister(_leave_group)
    atexit.register(_leave_group)
    return Accelerator(
        cpu=recipe.device == "cpu",
        mixed_precision="no",  # precision is a matter of the loss alone, see `Trainer._autocast`
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)],
        log_with=make_tracker(recipe, folder),
        project_dir=folder,
    )


def _leave_group() -> None:
    """Ends the threads that talk to other processes: left to the end of the program, they sometimes abort it (seen with gloo)."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # what still refers to the group, the network of a finished run, keeps its threads
        torch.distributed.destroy_process_group()


class Trainer:
    """Trains one task by one recipe in one run folder.

    Args:
        task: what to train.
        data: the training dataset.
        recipe: how.
        folder: the run folder, which the caller has claimed.
        accelerator: from `make_accelerator`.
        validation: dataset to validate on and to show in the panel; None: neither.

    Raises:
        UsageError: the batch cannot be divided among processes and accumulated parts.
    """

    def __init__(
        self, task: Task, data: Dataset, recipe: Recipe, folder: Path, accelerator: Any, validation: Dataset | None = None
    ) -> None:
        self.recipe, self.folder, self.data, self.accelerator = recipe, folder, data, accelerator
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        parts = processes * recipe.accumulate
        if recipe.batch_size % parts:
            raise UsageError(
                f"batch_size {recipe.batch_size} cannot be divided into {parts} equal parts "
                f"({processes} processes x accumulate {recipe.accumulate}): make it a multiple of {parts}"
            )
        part = recipe.batch_size // parts
        self.source = Batches(data, recipe.seed, part, stride=part * processes, offset=part * rank, **task.asks)
        self.main = self.accelerator.is_main_process
        task.to(accelerator.device).begin(Batches(data, recipe.seed, recipe.batch_size, **task.asks))
        self.model: Any = self.accelerator.prepare_model(task)
        self.task = task
        if processes > 1:
            task.share_statistics(self.accelerator.gather)
        self.frozen = task.fingerprint()
        self.optimizers = [Optimizers(part, settings) for part, settings in task.optimised(recipe.optimizer)]
        self.schedule = make_schedule(recipe)
        live = task.live_state()
        self.live = live
        self.ema = EMA(live, recipe.ema.decay, recipe.ema.every, recipe.ema.warmup) if recipe.ema else None
        self.checkpointer = Checkpointer(folder)
        self.step = 0
        self.seconds = 0.0
        self.pending: list[dict[str, Tensor]] = []  # reports since the last line of metrics
        self.figures: dict[str, float] = {}  # the latest losses, for the model's card
        self.remarks: list[str] = []  # what a run that goes on should say
        self.fixed: list[Batch] = []
        if validation is not None and self.main:
            self.fixed = fixed_batches(validation, recipe.validation.examples, part, **task.asks)
        self._stop = threading.Event()

    def run(self) -> None:
        """Train up to the recipe's last step, going on from the latest checkpoint.

        Raises:
            Stopped: Ctrl-C or SIGTERM; the state is saved.
            TesseraError: the loss is no longer finite; the checkpoints and the model from before that are kept.
        """
        self._resume()
        first = self.step
        self.skipped = SkippedFile(self.folder / f"skipped-{self.accelerator.process_index}.txt", self.step)
        metrics = MetricsFile(self.folder / "metrics.jsonl", self.step) if self.main else None
        for line in [] if metrics is None else metrics.kept:
            if line["kind"] == "train":
                self.task.watch(line["step"], line)
        trackers = self._start_trackers()
        progress = TrainingProgress(self.recipe.steps, self.step, shown=self.main)
        for name, remark in self.task.remarks().items():
            progress.say(f"{name}: {remark}")
        for remark in self.remarks:
            progress.say(f"warning: {remark}")
            if metrics is not None:
                metrics.write(self.step, "warning", {"message": remark})
        if left_out := len(self.data.skipped):
            progress.say(f"data: {len(self.data)} examples; {left_out} more were found and left out, {self.skipped.path} will name them")
        try:
            with self._signals():
                self._loop(metrics, trackers, progress)
            if self.step > first and self.checkpointer.latest_step() != self.step:
                self._save()
            self._export()
        finally:
            progress.close()
            if metrics is not None:
                metrics.close()
            for tracker in trackers:
                tracker.finish()
        self.accelerator.wait_for_everyone()

    def _loop(self, metrics: MetricsFile | None, trackers: Sequence[Any], progress: TrainingProgress) -> None:
        recipe = self.recipe
        parts = recipe.accumulate
        pin = self.accelerator.device.type == "cuda"
        stream = batches(self.source, self.step * parts, recipe.steps * parts, recipe.workers, pin)
        last_log = last_save = time.monotonic()
        logged_step, pause = self.step, 0.0
        while self.step < recipe.steps:
            self._train_step(stream)
            progress.advance()
            now = time.monotonic()
            if self.step % recipe.log_every == 0 or self.step == recipe.steps:
                self._check_finite()
                line = self._line((self.step - logged_step) * recipe.batch_size / max(now - last_log - pause, 1e-9))
                self.seconds += now - last_log
                self.figures["training_loss"] = line["loss"]
                if metrics is not None:
                    metrics.write(self.step, "train", {**line, "seconds": round(self.seconds, 1)})
                    self.accelerator.log({f"train/{name}": value for name, value in line.items()}, step=self.step)
                    for sentence in self.task.watch(self.step, line):
                        metrics.write(self.step, "warning", {"message": sentence})
                        progress.say(f"warning: {sentence}")
                progress.note(f"loss {line['loss']:.4g}  {line['images_per_second']:.3g} images/s")
                last_log, logged_step, pause = now, self.step, 0.0
            if self._due(recipe.validation.every) and self.fixed:
                self._check_finite()
                self._validate(metrics)
                self._export()
            if recipe.panel and self._due(recipe.panel.every) and self.fixed:
                self._panel(metrics, trackers)
            minutes = recipe.checkpoint.minutes
            stop, due = self._agreed(self._stop.is_set(), bool(minutes) and time.monotonic() - last_save > 60 * (minutes or 0))
            if stop or due or self.step % recipe.checkpoint.every == 0:
                self._save()
                last_save = time.monotonic()
            pause += time.monotonic() - now
            if stop:
                raise Stopped(f"stopped after step {self.step}, which is saved: run the same command again to go on")

    def _train_step(self, stream: Iterator[Batch]) -> None:
        recipe, step = self.recipe, self.step + 1
        seed = derive_seed(recipe.seed, "train", step)
        torch.manual_seed(derive_seed(seed, self.accelerator.process_index))  # for dropout, the one thing drawn from global state
        report: dict[str, Tensor] = {}
        for part in range(recipe.accumulate):
            batch = next(stream)
            self.skipped.add(step, batch.skipped)
            last = part == recipe.accumulate - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model), self._autocast():
                loss, values = self.model(batch.to(self.accelerator.device), seed, recipe.batch_size)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                self.accelerator.backward(loss / recipe.accumulate)
            for name, value in {"loss": loss.detach(), **values}.items():
                report[name] = report.get(name, 0) + value.float() / recipe.accumulate
        norms = [optimizers.clip() for optimizers in self.optimizers]
        for optimizers in self.optimizers:
            optimizers.step(self.schedule.rate / recipe.optimizer.rate)
            optimizers.zero_grad()
        self.schedule.step(self._plateau_loss(report["loss"]))
        self.step = step
        if self.ema is not None:
            self.ema.step(step)
        self.pending.append({**report, "gradient_norm": torch.stack(norms).norm()})

    def _plateau_loss(self, loss: Tensor) -> float | None:
        """The loss over all processes, for the one schedule that looks at it; reading it waits for the device."""
        if self.recipe.schedule.kind != "plateau":
            return None
        return float(self.accelerator.reduce(loss, "mean"))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16")

    def _check_finite(self) -> None:
        """Stop when a pending loss or gradient is not finite. Called before anything is written, so checkpoints and models stay good."""
        if not self.pending:
            return
        values = torch.stack([torch.stack([report["loss"], report["gradient_norm"]]) for report in self.pending])
        bad = (~values.isfinite()).any(1).nonzero().flatten()
        if len(bad):
            first = int(bad[0])
            step = self.step - len(self.pending) + 1 + first
            report = {name: float(value) for name, value in self.pending[first].items()}
            wrong = ", ".join(f"{name} is {value}" for name, value in report.items() if not math.isfinite(value))
            raise TesseraError(f"training diverged at step {step}: {wrong}; {self._advice()}")

    def _advice(self) -> str:
        saved = self.checkpointer.latest_step()
        kept = "nothing was saved before, so start anew" if saved is None else f"the checkpoint of step {saved} is kept, so go on from it"
        return f"{kept}, with a lower optimizer.rate or precision=float32"

    def _means(self, reports: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """The reports of steps, averaged over processes, so that the main one's checkpoint holds those of all."""
        if self.accelerator.num_processes == 1 or not reports:
            return reports
        values = torch.stack([value for report in reports for _, value in sorted(report.items())])
        means = iter(self.accelerator.reduce(values, "mean").unbind())
        return [{name: next(means) for name in sorted(report)} for report in reports]

    def _line(self, images_per_second: float) -> dict[str, Any]:
        """Means of the pending reports over steps and processes; of what no step measured, nothing."""
        names = sorted({name for report in self.pending for name in report})
        absent = torch.full_like(self.pending[0]["loss"], math.nan)  # of the stages of a run, not all measure everything
        table = torch.stack([torch.stack([report.get(name, absent) for name in names]) for report in self.pending]).nanmean(0)
        means = self.accelerator.reduce(table, "mean").tolist()
        self.pending.clear()
        line = dict(zip(names, means, strict=True))
        return {
            **line,
            "rate": self.schedule.rate,
            "images": self.step * self.recipe.batch_size,
            "images_per_second": round(images_per_second, 2),
            "skipped": len(self.skipped),
        }

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.recipe.steps

    def _validate(self, metrics: MetricsFile | None) -> None:
        """The mean loss and report over the fixed pictures, with averaged weights and noise that is the same every time."""
        sums: dict[str, float] = {}
        count = sum(len(batch.prompts) for batch in self.fixed)
        with self._averaged(), self._evaluating(), self._autocast():
            for batch in self.fixed:
                loss, report = self.task(batch.to(self.accelerator.device), derive_seed(0, "validation"), count)
                for name, value in {"loss": loss, **report}.items():
                    sums[name] = sums.get(name, 0.0) + float(value) * len(batch.prompts) / count
        self.figures["validation_loss"] = sums["loss"]
        if metrics is not None:
            metrics.write(self.step, "validation", sums)
            self.accelerator.log({f"validation/{name}": value for name, value in sums.items()}, step=self.step)

    def _panel(self, metrics: MetricsFile | None, trackers: Sequence[Any]) -> None:
        settings = self.recipe.panel
        assert settings is not None
        self._check_finite()
        prompts = settings.prompts or [prompt for batch in self.fixed for prompt in batch.prompts][: settings.pictures]
        panels: dict[str, Panel] = {}
        with self._evaluating(), self._autocast():
            panels["raw"] = self.task.panel(self.fixed, prompts, seed=0)
            if self.ema is not None:
                with self._averaged():
                    panels["ema"] = self.task.panel(self.fixed, prompts, seed=0)
        images = save_panel(self.folder / "panel", self.step, panels)
        for weights, panel in panels.items():
            series: dict[str, Any] = {name: dict(zip(labels, values, strict=True)) for name, (labels, values) in panel.series.items()}
            series |= {name: [float(f"{value:.4g}") for value in values] for name, values in panel.curves.items() if weights == "raw"}
            if metrics is not None:
                metrics.write(self.step, "panel", {"weights": weights, **panel.scalars, **series})
            self.accelerator.log({f"panel-{weights}/{name}": value for name, value in panel.scalars.items()}, step=self.step)
        for tracker in trackers:
            log_pictures(tracker, {f"panel/{name}": image for name, image in images.items()}, self.step)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        with contextlib.nullcontext() if self.ema is None else self.ema.applied():
            yield

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        self.task.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.task.train()

    def _export(self) -> None:
        """The averaged model, in `model/` of the run folder."""
        if not self.main:
            return
        recipe = self.recipe
        card = {
            "task": recipe.task, "data": recipe.data, "steps": self.step, "images": self.step * recipe.batch_size,
            "hours": round(self.seconds / 3600, 3), "device": str(self.accelerator.device), "processes": self.accelerator.num_processes,
            "seed": recipe.seed, "init": getattr(recipe, "init", None), **self.figures, **self.task.remarks(),
        }  # fmt: skip
        with self._averaged():
            self.task.export(self.folder / "model", card)

    def _save(self) -> None:
        self._check_finite()
        self.pending = self._means(self.pending)
        if not self.main:
            return
        if wrong := not_finite(self.live.items()):
            raise TesseraError(f"training diverged at step {self.step}: the weights are not finite ({wrong[0]}); {self._advice()}")
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "recipe": self.recipe.model_dump(mode="json"),
            "model": self.live,
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizers": [state for optimizers in self.optimizers for state in optimizers.state_dict()],
            "schedule": self.schedule.state_dict(),
            "pending": self.pending,
            "frozen": self.frozen,
            "data": self.data.fingerprint,
        }
        self.checkpointer.save(self.step, state)

    def _resume(self) -> None:
        state = self.checkpointer.load(STATE)
        if state is None:
            return
        if not 0 <= state["step"] <= 10**9:
            raise TesseraError(f"the checkpoint in {self.folder} says that {state['step']} steps are done: remove it, or set another `out`")
        stored, wanted = as_read_now(type(self.recipe), state["recipe"]), self.recipe.model_dump(mode="json")
        adjusted, changed = compare_recipes(self.recipe, stored, wanted)
        self.remarks += [f"it goes on with {key} {new} in place of {old}" for key, (old, new) in adjusted.items()]
        if state["data"] != self.data.fingerprint:
            self.remarks.append("the data are not what they were when the run was stopped: pictures come in another order from here on")
        if changed:
            raise UsageError(
                f"the run in {self.folder} was started with another {changed[0]!r} ({stored.get(changed[0])}): "
                "give the same recipe to go on, or another `out` to start anew"
            )
        if state["frozen"] != self.frozen:
            raise UsageError(
                f"the run in {self.folder} was started with another codec or text encoder (its files have changed since): "
                "restore them, or set another `out` to start anew"
            )
        if state["model"].keys() != self.live.keys():
            different = sorted(state["model"].keys() ^ self.live.keys())
            raise TesseraError(f"the checkpoint in {self.folder} does not fit the model: {different[0]!r} is in only one of them")
        try:
            self._restore(state)
        except MISFITS as error:
            raise TesseraError(
                f"the checkpoint of step {state['step']} in {self.folder} does not fit the run ({' '.join(str(error).split())[:200]}): "
                "remove it to go on from an earlier one, or set another `out` to start anew"
            ) from error

    @torch.no_grad()
    def _restore(self, state: Mapping[str, Any]) -> None:
        for name, value in self.live.items():
            value.copy_(state["model"][name])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        states = iter(state["optimizers"])
        for optimizers in self.optimizers:
            optimizers.load_state_dict(list(itertools.islice(states, len(optimizers.members))))
        self.schedule.load_state_dict(state["schedule"])
        device = self.accelerator.device
        self.pending = [{name: value.to(device) for name, value in report.items()} for report in state["pending"]]
        self.step, self.seconds = state["step"], state["seconds"]

    def _start_trackers(self) -> list[Any]:
        if self.recipe.tracker == "none":
            return []
        # Curves of steps after the checkpoint, left by a run that was killed, are hidden.
        settings = {"tensorboard": {"purge_step": self.step + 1}, "wandb": {"dir": str(self.folder), "name": self.recipe.name}}
        self.accelerator.init_trackers("tracker", init_kwargs=settings)
        return [self.accelerator.get_tracker(self.recipe.tracker)] if self.main else []

    def _agreed(self, *asked: bool) -> list[bool]:
        """What any process asks for, all of them do after the same step. Asking each other every time would cost."""
        if self.accelerator.num_processes == 1:
            return list(asked)
        if self.step % self.recipe.log_every:
            return [False] * len(asked)
        flags = torch.tensor(asked, dtype=torch.float32, device=self.accelerator.device)
        return (self.accelerator.reduce(flags, "sum") > 0).tolist()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM ask for a stop after the present step; a second one acts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def ask(number: int, frame: Any) -> None:
            self._stop.set()
            signal.signal(number, before[number])

        for number in before:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
