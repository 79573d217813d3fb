"""Training with the losses of absorbing diffusion: what learns, what is kept and drawn, and what ends a run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tessera.errors import TesseraError, UsageError
from tessera.loading import load
from tessera.training.checkpointing import Checkpointer
from tessera.training.recipe_files import as_read_now, load_recipe
from tessera.training.run import train
from tests.training.tiny import FLOW, metrics, write

NETWORK = {"kind": "absorbing", "width": 32, "depth": 2, "heads": 2}
ABSORBING = FLOW | {
    "model": {"network": NETWORK, "process": {"kind": "absorbing", "steps": 16}, "loss": {"kind": "masked"}},
    "optimizer": {"rate": 1e-2, "betas": [0.9, 0.99], "weight_decay": 0.0, "clip": None},
    "schedule": {"kind": "constant", "warmup": 5, "base_first": True},
}


def model(**changes: Any) -> dict[str, Any]:
    return ABSORBING["model"] | changes


@pytest.mark.parametrize(
    ("loss", "causal"),
    [
        ({"kind": "masked", "objective": "elbo"}, False),
        ({"kind": "masked", "objective": "reweighted-elbo", "mask": "fixed"}, False),
        ({"kind": "masked", "objective": "mlm", "time_sampling": "mixed"}, False),
        ({"kind": "autoregressive"}, True),
    ],
)
def test_every_loss_learns(tmp_path: Path, loss: dict[str, Any], causal: bool) -> None:
    """Of 24 scenes: the bound in bits per token, which every loss reports, falls, and the model is whole."""
    recipe = ABSORBING | {"model": model(loss=loss, network=NETWORK | {"causal": causal}), "steps": 40}
    if causal:
        recipe |= {"sampling": {"sampler": "autoregressive"}}
    run = train(write(tmp_path, recipe))
    bits = [line["bits_per_token"] for line in metrics(run)]
    assert sum(bits[-10:]) < 0.75 * sum(bits[:10])
    assert metrics(run)[0]["rate"] == pytest.approx(1e-2 / 5)  # of the second step: the first had none
    made = load(run / "model", "cpu")
    assert made.family == "absorbing"
    assert made.text_to_image(None, seed=0)[0].size == (64, 64)


def test_vq_diffusions_loss_trains_the_same_network(tmp_path: Path) -> None:
    loss = {"vb_weight": 0, "auxiliary_weight": 1 / 16, "mask_weight": [1, 0]}
    run = train(write(tmp_path, ABSORBING | {"model": model(loss=loss), "steps": 2}))
    assert "loss" in metrics(run)[-1]


def test_the_loss_at_each_time_is_kept_and_drawn(tmp_path: Path) -> None:
    validation = {"data": {"kind": "scenes", "length": 8}, "examples": 8, "every": 6}
    recipe = ABSORBING | {"steps": 6, "validation": validation, "panel": {"every": 6, "pictures": 1}, "sampling": {"steps": 2}}
    run = train(write(tmp_path, recipe))
    state = Checkpointer(run).load()
    assert state is not None
    kept = state["model"]["flow.loss.loss_history"]
    assert kept.shape == (16,)
    assert kept.count_nonzero() > 4
    drawn = next(line for line in metrics(run, "panel") if line["weights"] == "raw")["reweighted-elbo_loss"]
    assert drawn == pytest.approx(kept.tolist(), rel=1e-3)
    assert Image.open(run / "panel" / "00000006-reweighted-elbo_loss.png").size[0] > 600
    assert "bits_per_token" in metrics(run, "validation")[0]


def test_a_run_that_diverges_names_step_and_loss_and_keeps_what_was_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tessera.training.token_task import TokenTask

    forward, step = TokenTask.forward, 0

    def broken(self: TokenTask, batch: Any, seed: int, total: int) -> Any:
        nonlocal step
        loss, report = forward(self, batch, seed, total)
        step += self.training
        return (loss * math.nan, report | {"nll": report["nll"] * math.inf}) if step == 7 else (loss, report)

    monkeypatch.setattr(TokenTask, "forward", broken)
    validation = {"data": {"kind": "scenes", "length": 8}, "examples": 8, "every": 3}
    changes = {"steps": 12, "log_every": 12, "checkpoint": {"every": 5, "minutes": None}, "validation": validation}
    recipe = write(tmp_path, ABSORBING | changes)
    with pytest.raises(
        TesseraError, match=r"diverged at step 7: loss is nan, nll is inf, gradient_norm is nan; the checkpoint of step 5 is kept"
    ):
        train(recipe)
    state = Checkpointer(tmp_path / "run").load()
    assert state is not None
    assert state["step"] == 5
    assert all(bool(value.isfinite().all()) for value in state["model"].values())
    about = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert about["card"]["steps"] == 6  # the validation of step 9 exported nothing
    made = load(tmp_path / "run" / "model", "cpu")
    assert all(bool(value.isfinite().all()) for value in made.flows["text_to_image"].state_dict().values())


def test_a_run_that_diverges_before_anything_was_saved(tmp_path: Path) -> None:
    changes = {"steps": 4, "optimizer": ABSORBING["optimizer"] | {"rate": 1e30}, "schedule": {"kind": "constant"}}
    with pytest.raises(TesseraError, match=r"diverged at step [23]: .*nothing was saved before, so start anew"):
        train(write(tmp_path, ABSORBING | changes))


def test_a_validation_split_without_examples(tmp_path: Path) -> None:
    data = {"kind": "scenes", "length": 0, "split": "held-out"}
    with pytest.raises(UsageError, match="length is 0: input should be greater than 0"):
        train(write(tmp_path, ABSORBING | {"validation": {"data": data}}))


def test_a_causal_network_and_its_loss_go_together(tmp_path: Path) -> None:
    for loss, causal in (({"kind": "masked"}, True), ({"kind": "autoregressive"}, False)):
        with pytest.raises(UsageError, match="learns by the autoregressive loss: give both, or neither"):
            train(write(tmp_path, ABSORBING | {"model": model(loss=loss, network=NETWORK | {"causal": causal})}))
    causal_recipe = ABSORBING | {"model": model(loss={"kind": "autoregressive"}, network=NETWORK | {"causal": True})}
    with pytest.raises(UsageError, match="use the sampler autoregressive"):
        train(write(tmp_path, causal_recipe))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.loss.kind=maskd", "unknown model.loss.kind 'maskd': did you mean 'masked'"),
        ("model.loss.objctive=elbo", "unknown key 'model.loss.objctive': did you mean 'model.loss.objective'"),
        ("model.loss.objective=elb", "'model.loss.objective' is 'elb'"),
        ("model.loss.vb_weight=1", "unknown key 'model.loss.vb_weight'"),
        ("tracker=visdm", "'tracker' is 'visdm'"),
    ],
)
def test_errors_name_the_key_of_the_loss_that_was_chosen(tmp_path: Path, override: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, ABSORBING), [override])
    assert sentence in str(caught.value)


def test_a_recipe_stored_before_a_key_existed_is_the_same_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, ABSORBING))
    now = recipe.model_dump(mode="json")
    before = json.loads(json.dumps(now))
    del before["schedule"]["base_first"], before["visdom_server"], before["model"]["loss"]["mask"]
    read = as_read_now(type(recipe), before)
    assert read["model"] == now["model"]
    assert read["schedule"] == now["schedule"] | {"base_first": False}
    assert as_read_now(type(recipe), {"nonsense": 1}) == {"nonsense": 1}


def test_unknown_processes_for_the_masked_loss(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use the absorbing process, or the variational loss"):
        train(write(tmp_path, ABSORBING | {"model": model(process={"kind": "vq-diffusion", "steps": 10})}))


def test_times_by_importance_leave_the_loss_unbiased() -> None:
    """The mean over drawn times is the same, however they are drawn."""
    from tessera.processes.discrete import DiscreteProcess
    from tessera.processes.masked_loss import MaskedLoss
    from tessera.processes.schedules import absorbing
    from tessera.randomness import BatchDraws

    x_0 = torch.zeros(40_000, 4, dtype=torch.int64)
    table = torch.linspace(0, 3, 7)[:, None, None] * torch.tensor([1.0, 0.0, 0.0])

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return table[t].expand(-1, 4, -1)

    for objective in ("elbo", "reweighted-elbo", "mlm"):
        means = []
        for time_sampling in ("uniform", "importance"):
            loss = MaskedLoss(DiscreteProcess(absorbing(6), 3), objective, time_sampling=time_sampling).eval()
            loss.count.fill_(11)
            loss.history.copy_(torch.tensor([9.0, 4.0, 1.0, 2.0, 3.0, 0.5]))
            means.append(float(loss(predict, x_0, BatchDraws(1, len(x_0))).loss))
        assert means[0] == pytest.approx(means[1], rel=0.02)
