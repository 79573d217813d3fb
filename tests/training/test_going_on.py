"""What may have changed when a run goes on, what it keeps for that, and that nothing of it stays behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tessera.errors import TesseraError, UsageError
from tessera.training.checkpointing import Checkpointer
from tessera.training.run import train
from tests.training.tiny import CODEC, FLOW, metrics, write

EVERY = {"checkpoint": {"every": 1, "minutes": None}}


def warnings_of(run: Path) -> list[str]:
    return [line["message"] for line in metrics(run, "warning")]


@pytest.mark.parametrize(
    "advice", [{"optimizer": {"rate": 1e-4, "weight_decay": 0.0, "clip": None}}, {"precision": "float32"}], ids=["rate", "precision"]
)
def test_a_run_that_diverged_goes_on_as_its_error_advises(tmp_path: Path, advice: dict[str, Any]) -> None:
    recipe = FLOW | EVERY | {"precision": "bfloat16", "optimizer": {"rate": 1e-3, "weight_decay": 0.0, "clip": None}}
    run = train(write(tmp_path, recipe, steps=2))
    for path in (run / "checkpoints").glob("*.pt"):  # weights from which the next step is not finite
        state = torch.load(path, weights_only=True)
        next(value for value in state["model"].values() if value.is_floating_point()).mul_(1e38)
        torch.save(state, path)
    with pytest.raises(TesseraError, match=r"diverged at step 3: .*go on from it, with a lower optimizer.rate or precision=float32"):
        train(write(tmp_path, recipe, steps=4))
    assert Checkpointer(run).latest_step() == 2
    for path in (run / "checkpoints").glob("*.pt"):
        state = torch.load(path, weights_only=True)
        next(value for value in state["model"].values() if value.is_floating_point()).mul_(1e-38)
        torch.save(state, path)
    train(write(tmp_path, recipe | advice, steps=4))
    assert Checkpointer(run).latest_step() == 4
    key, new, old = ("optimizer.rate", "0.0001", "0.001") if "optimizer" in advice else ("precision", "float32", "bfloat16")
    assert warnings_of(run) == [f"it goes on with {key} {new} in place of {old}"]


def test_nothing_else_of_the_optimizer_may_change(tmp_path: Path) -> None:
    train(write(tmp_path, CODEC, steps=1))
    with pytest.raises(UsageError, match="started with another 'optimizer"):
        train(write(tmp_path, CODEC, steps=2, optimizer={**CODEC["optimizer"], "weight_decay": 0.5}))


@pytest.mark.parametrize("steps", [6, 7])
def test_a_finished_run_keeps_two_checkpoints_and_needs_one(tmp_path: Path, steps: int) -> None:
    recipe = CODEC | {"checkpoint": {"every": 3, "minutes": None}}
    run = train(write(tmp_path, recipe, steps=steps))
    names = sorted(path.name for path in (run / "checkpoints").glob("*.pt"))
    assert names == [f"step-{step:08d}.pt" for step in ((3, 6) if steps == 6 else (6, 7))]
    (run / "checkpoints" / names[1]).write_bytes(b"PK damaged")
    whole = train(write(tmp_path / "whole", recipe, steps=8))
    train(write(tmp_path, recipe, steps=8))
    assert metrics(run)[-1] == metrics(whole)[-1]


def test_a_run_whose_data_changed_says_so(tmp_path: Path) -> None:
    run = train(
        write(tmp_path, CODEC, steps=1, data={"kind": "folder", "root": str(pictures(tmp_path / "data", 4)), "size": 64, "captions": None})
    )
    pictures(tmp_path / "data", 6)
    train(tmp_path / "recipe-in.yaml", ["steps=2"])
    assert len(warnings_of(run)) == 1
    assert "data are not what they were" in warnings_of(run)[0]
    train(tmp_path / "recipe-in.yaml", ["steps=3"])
    assert len(warnings_of(run)) == 1


def pictures(folder: Path, count: int) -> Path:
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for i in range(count):
        Image.new("RGB", (64, 64), (40 * i, 0, 0)).save(folder / f"{i}.png")
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"steps": 10**6, "workers": 2, "log_every": 1, "data": {"kind": "scenes", "length": 10**6}}
    command = [sys.executable, "-m", "tessera", "train", str(write(tmp_path, CODEC, **changes))]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    path = tmp_path / "run" / "metrics.jsonl"
    workers: set[int] = set()
    try:
        while process.poll() is None and not (path.exists() and path.read_text().count("\n") > 1):
            time.sleep(0.01)
        workers = descendants(process.pid)
        assert len(workers) >= 2
        process.kill()
        process.wait()
        end = time.monotonic() + 60  # they look every few seconds
        while workers & parents().keys() and time.monotonic() < end:
            time.sleep(0.05)
        assert not workers & parents().keys()
    finally:
        for one in [process.pid, *workers]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)


def parents() -> dict[int, int]:
    """Of every process that has not ended, the one that started it."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, *_ = path.read_text().rpartition(")")[2].split()
            if state not in "ZX":
                found[int(path.parent.name)] = int(parent)
    return found


def descendants(process: int) -> set[int]:
    """All that a process started, and what these started."""
    known = parents()
    found: set[int] = set()
    while more := {child for child, parent in known.items() if parent in {process, *found}} - found:
        found |= more
    return found
