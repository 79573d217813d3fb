"""Runs that are killed or stopped go on as if nothing had happened."""

import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tessera.training.checkpointing import Checkpointer
from tessera.training.run import train
from tests.training.tiny import CODEC, FLOW, metrics, start, write

STEPS = 36


def wait_for_lines(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until the run has written `count` lines of metrics."""
    path = run / "metrics.jsonl"
    while process.poll() is None and not (path.exists() and path.read_text().count("\n") >= count):
        time.sleep(0.01)


def same_state(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same_state(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def final_state(run: Path) -> dict[str, Any]:
    state = Checkpointer(run).load()
    assert state is not None
    return {key: value for key, value in state.items() if key not in ("seconds", "recipe")}


def test_killed_at_any_moment_the_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    """SIGKILL at two random moments; every later loss, and the whole final state, must be equal bit for bit."""
    changes: dict[str, Any] = {
        "steps": STEPS, "checkpoint": {"every": 7, "minutes": None}, "log_every": 3, "drop_prompt": 0.3,
        "schedule": {"kind": "plateau", "warmup": 5, "patience": 3},
        # dropout draws from global state, which must be the same too
        "model": {**FLOW["model"], "network": {**FLOW["model"]["network"], "dropout": 0.1}},
    }  # fmt: skip
    whole = train(write(tmp_path / "whole", FLOW, **changes))
    path = write(tmp_path / "killed", FLOW, **changes)
    run = tmp_path / "killed" / "run"
    rng = random.Random()
    for lines in sorted(rng.sample(range(1, STEPS // 3 - 3), 2)):
        process = start(tmp_path, path)
        wait_for_lines(run, lines, process)
        time.sleep(rng.random() * 0.1)
        process.kill()
        process.communicate()
    train(path)
    assert metrics(run) == metrics(whole)
    assert same_state(final_state(run), final_state(whole))


@pytest.mark.parametrize("optimizer", [{"kind": "adamw", "rate": 3e-3}, {"kind": "muon", "rate": 3e-3}], ids=["adamw", "muon"])
@pytest.mark.parametrize("recipe", [FLOW, CODEC], ids=["flow", "codec"])
def test_a_run_in_two_pieces_is_the_run_in_one(tmp_path: Path, recipe: dict[str, Any], optimizer: dict[str, Any]) -> None:
    changes: dict[str, Any] = {"optimizer": optimizer, "log_every": 4}
    whole = train(write(tmp_path / "whole", recipe, steps=16, **changes))
    for steps in (7, 16):
        pieces = train(write(tmp_path / "pieces", recipe, steps=steps, **changes))
    # the run that ended at step 7 wrote a line for it, of the steps since the line before
    assert [line for line in metrics(pieces) if line["step"] > 8] == [line for line in metrics(whole) if line["step"] > 8]
    assert same_state(final_state(pieces), final_state(whole))


def test_ctrl_c_saves_and_stops_with_a_sentence(tmp_path: Path) -> None:
    changes = {"steps": 100000, "checkpoint": {"every": 100000, "minutes": None}}
    path = write(tmp_path, FLOW, **changes)
    process = start(tmp_path, path)
    wait_for_lines(tmp_path / "run", 5, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to go on" in errors
    assert "Traceback" not in errors
    state = Checkpointer(tmp_path / "run").load()
    assert state is not None
    assert state["step"] == metrics(tmp_path / "run")[-1]["step"] >= 5
