"""Two processes train what one does, and only the first writes."""

from pathlib import Path
from typing import Any

import pytest

from tessera.training.run import train
from tests.training.test_joint import JOINT
from tests.training.tiny import CODEC, FLOW, metrics, start, write

LAUNCHERS = {
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
    # `--multi_gpu` is how accelerate starts processes by itself; without a GPU they run on the CPU and share gradients by gloo.
    "accelerate": (
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1", "--main_process_port=0"),
        *("--mixed_precision=no", "--dynamo_backend=no"),
    ),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_equal_one_with_the_same_batch(launcher: str, tmp_path: Path) -> None:
    """The gradient (its norm, and the losses after its steps) does not depend on how many processes share a step."""
    recipes: dict[str, Any] = {"flow": FLOW | {"steps": 5, "drop_prompt": 0.3}, "codec": CODEC | {"steps": 5}}
    if launcher == "torchrun":  # a flow that sees one pair of a step, which is one process's
        recipes["flows"] = JOINT | {"steps": 3, "flows": {**JOINT["flows"], "image_to_image": {"share": 0.1}}}
    alone = {name: train(write(tmp_path / "one" / name, recipe)) for name, recipe in recipes.items()}
    process = start(tmp_path, *(write(tmp_path / "two" / name, recipe) for name, recipe in recipes.items()), launcher=LAUNCHERS[launcher])
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert (tmp_path / "world").read_text() == "2"
    for name, recipe in recipes.items():
        shared = tmp_path / "two" / name / "run"
        assert len(metrics(shared)) == recipe["steps"]
        for one, two in zip(metrics(alone[name]), metrics(shared), strict=True):
            assert {key: two[key] for key in ("loss", "gradient_norm")} == pytest.approx(
                {key: one[key] for key in ("loss", "gradient_norm")}, rel=1e-3
            )
        assert {path.name for path in alone[name].iterdir()} == {path.name for path in shared.iterdir()}
