"""Checkpoints on disk, and the claim on a run folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tessera.errors import TesseraError, UsageError
from tessera.training.checkpointing import Checkpointer, claim


def test_two_checkpoints_are_kept_and_the_latest_is_read(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    assert checkpointer.load() is None
    for step in (5, 10, 15):
        checkpointer.save(step, {"step": step, "x": torch.full((3,), float(step))})
    names = sorted(path.name for path in checkpointer.folder.iterdir())
    assert names == ["latest.json", "step-00000010.pt", "step-00000015.pt"]
    state = checkpointer.load()
    assert state is not None
    assert state["step"] == 15
    assert state["x"].tolist() == [15.0] * 3


def test_a_damaged_latest_gives_the_one_before(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"step": 1})
    path = checkpointer.save(2, {"step": 2})
    path.write_bytes(path.read_bytes()[:50])
    state = checkpointer.load()
    assert state is not None
    assert state["step"] == 1
    (checkpointer.folder / "step-00000001.pt").write_bytes(b"")
    with pytest.raises(TesseraError, match="none of the checkpoints"):
        checkpointer.load()


def test_what_a_killed_process_left_is_ignored_and_removed(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"step": 1})
    (checkpointer.folder / ".step-00000002.pt-0a1b.part").write_bytes(b"half")
    (checkpointer.folder / "step-00000002.pt").write_bytes(b"renamed, but the pointer did not follow")
    checkpointer.pointer.write_text(json.dumps({"file": "step-00000001.pt"}))
    state = checkpointer.load()
    assert state is not None
    assert state["step"] == 1
    checkpointer.save(3, {"step": 3})
    assert sorted(path.name for path in checkpointer.folder.iterdir()) == ["latest.json", "step-00000001.pt", "step-00000003.pt"]


def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000001.pt").mkdir()
    with pytest.raises(TesseraError, match="cannot write the checkpoint"):
        Checkpointer(tmp_path).save(1, {"step": 1})


def test_a_folder_is_claimed_by_one_process_and_free_after_it_died(tmp_path: Path) -> None:
    code = "import sys, time\nfrom pathlib import Path\nfrom tessera.training.checkpointing import claim\n"
    code += "with claim(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match="in use by another process"), claim(tmp_path):
        pass
    other.kill()
    other.wait()
    with claim(tmp_path):
        pass
