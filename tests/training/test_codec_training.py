"""Codecs trained against a discriminator: exact resume, what learns from what, warnings in real runs, and what goes wrong reads well."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tessera.codecs.kl import KLAutoencoder
from tessera.codecs.vqgan import VQGAN
from tessera.errors import UsageError
from tessera.part_folder import load_part, save_part
from tessera.registry import CODECS
from tessera.training.adversary import Adversary, adaptive_weight
from tessera.training.autoencoder import CodecTask
from tessera.training.checkpointing import Checkpointer
from tessera.training.recipe_files import parse_recipe
from tessera.training.run import make_task, train
from tests.training.test_resume import final_state, same_state
from tests.training.tiny import CODEC, metrics, write

VQ = {
    "kind": "vqgan", "codebook": 24, "quantizer": {"kind": "ema"}, "width": 8, "multipliers": [1], "blocks": 1, "decoder_blocks": 1,
    "attention_levels": [], "projections": False, "dim": 8, "patch": 16, "local": True,
}  # fmt: skip
ADVERSARIAL = CODEC | {
    "codec": VQ,
    "loss": {"adversary": {"start": 4, "width": 4, "layers": 2, "optimizer": {"rate": 2e-3, "betas": [0.5, 0.9], "weight_decay": 0.0}}},
}


def changed(**loss: Any) -> dict[str, Any]:
    return ADVERSARIAL | {"loss": ADVERSARIAL["loss"] | loss}


def adversary(**settings: Any) -> dict[str, Any]:
    return {"adversary": ADVERSARIAL["loss"]["adversary"] | settings}


def warnings_of(run: Path) -> list[str]:
    return [line["message"] for line in metrics(run, "warning")]


def test_a_run_in_two_pieces_is_the_run_in_one(tmp_path: Path) -> None:
    """Both optimisers, the discriminator's norms, the average, the codebook and all that is drawn, cut before and after the start."""
    whole = train(write(tmp_path / "whole", ADVERSARIAL, steps=14, ema={"decay": 0.9, "every": 2}))
    for steps in (3, 8, 14):
        pieces = train(write(tmp_path / "pieces", ADVERSARIAL, steps=steps, ema={"decay": 0.9, "every": 2}))
    assert metrics(pieces) == metrics(whole)
    assert same_state(final_state(pieces), final_state(whole))
    state = final_state(whole)["model"]
    assert int(state["adversary.discriminator.main.3.num_batches_tracked"]) == 3 * 10 - 2  # one call at the step where it starts


def test_the_discriminator_counts_from_its_start(tmp_path: Path) -> None:
    lines = metrics(train(write(tmp_path, ADVERSARIAL, steps=8)))
    assert [line["adversarial_weight"] > 0 for line in lines] == [step > 4 for step in range(1, 9)]
    assert [line["discriminator"] > 0 for line in lines] == [step > 5 for step in range(1, 9)]


def test_each_side_learns_from_its_own_loss() -> None:
    torch.manual_seed(0)
    contest = Adversary(0, 1.0, 4, 2)
    made = torch.rand(2, 3, 16, 16, requires_grad=True)
    contest.codec_loss(made).backward()
    assert made.grad is not None
    assert all(parameter.grad is None for parameter in contest.parameters())
    made.grad = None
    contest.own_loss(torch.rand(2, 3, 16, 16), made.detach()).backward()
    assert made.grad is None
    assert all(parameter.grad is not None for parameter in contest.parameters())


def test_the_weight_balances_the_gradients_of_the_last_layer() -> None:
    last = torch.nn.Parameter(torch.ones(3))
    nll, g = (last * torch.tensor([3.0, 0, 4])).sum(), (last * torch.tensor([0.0, 2, 0])).sum()
    assert float(adaptive_weight(nll, g, last, 100.0)) == pytest.approx(5 / (2 + 1e-4))
    assert float(adaptive_weight(nll, g, last, 1.5)) == 1.5


@pytest.mark.parametrize("quantizer", ["nearest", "ema", "gumbel"])
def test_losses_of_a_codec_in_double_precision_are_in_it(quantizer: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = VQ | {"quantizer": {"kind": quantizer}}
    save_part(VQGAN(**{key: value for key, value in codec.items() if key != "kind"}), tmp_path / "codec")
    recipe = changed(perceptual={"kind": "codec", "folder": str(tmp_path / "codec")}) | {"codec": codec, "out": "unused"}
    task = make_task(parse_recipe(recipe, "here"), 32).double().train()
    assert isinstance(task, CodecTask)
    found = task.losses(torch.rand(2, 3, 32, 32).double() * 2 - 1, 5, None, lambda x: x, lambda x: x)
    assert found.made.loss.dtype == torch.float64  # 0 of codes that start on points
    for value in (found.total, found.nll, found.x_hat, found.report["adversarial"], found.report["discriminator"]):
        assert value.dtype == torch.float64
        assert (value.float() != value).any()  # not rounded on the way


def test_the_gumbel_temperature_falls_to_its_floor(tmp_path: Path) -> None:
    gumbel = CODEC | {
        "codec": VQ | {"quantizer": {"kind": "gumbel", "straight_through": False}}, "loss": {"temperature": {"steps": 4, "floor": 0.25}}
    }  # fmt: skip
    recipe = parse_recipe(gumbel | {"out": "unused", "steps": 8}, "here")
    task = make_task(recipe, 64)
    assert [recipe.loss.temperature.at(done) for done in (0, 1, 3, 100)] == [1.0, 0.75, 0.25, 0.25]
    assert len(metrics(train(write(tmp_path, gumbel, steps=5)))) == 5
    assert task.codec.quantizer.temperature == 1.0  # type: ignore[union-attr]


def test_a_kl_autoencoder_by_the_same_trainer(tmp_path: Path) -> None:
    kl = {"kind": "kl", "channels": 2, "width": 32, "multipliers": [1, 1, 1], "blocks": 0, "features": 2, "kl_weight": 1e-4}
    changes = {"codec": kl, "batch_size": 2, "steps": 4, "validation": {"data": {"kind": "scenes", "length": 2}, "every": 4}}
    run = train(write(tmp_path, ADVERSARIAL | {"loss": adversary(start=1)}, **changes, panel={"every": 4, "pictures": 2}))
    line, panel = metrics(run)[-1], metrics(run, "panel")[0]
    assert line["kl"] > 0
    assert line["discriminator"] > 0
    assert panel["psnr"] > 0
    assert "codes_used" not in panel
    assert isinstance(load_part("codec", CODECS, run / "model"), KLAutoencoder)


def test_perceptual_features_of_a_codec_are_said_and_used(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_part(VQGAN(**{key: value for key, value in VQ.items() if key != "kind"}), tmp_path / "codec")
    run = train(write(tmp_path, changed(perceptual={"kind": "codec", "folder": str(tmp_path / "codec")}), steps=2))
    card = (run / "model" / "card.json").read_text()
    assert '"perceptual_network": "codec, folder' in card
    line = metrics(run)[-1]
    assert line["nll"] == pytest.approx(line["l1"] + line["perceptual"], rel=1e-5)
    state = Checkpointer(run).load()
    assert state is not None
    assert not any(name.startswith("perceptual") for name in state["model"])  # it does not learn


def test_the_head_for_likelihoods_is_added_and_learns_alone(tmp_path: Path) -> None:
    run = train(write(tmp_path / "codec", CODEC, codec=VQ, steps=2))
    changes = {
        "codec": {}, "init": str(run / "model"), "train": "log-sigma", "steps": 30,
        "optimizer": {"rate": 1e-2, "weight_decay": 0.0, "clip": 0.1},
        "validation": {"data": {"kind": "scenes", "length": 8}, "every": 30}, "panel": {"every": 30},
    }  # fmt: skip
    tuned = train(write(tmp_path / "head", CODEC, **changes))
    lines = metrics(tuned)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.1
    assert metrics(tuned, "panel")[0]["bits_per_value"] < lines[0]["loss"]
    before: Any = load_part("codec", CODECS, run / "model")
    after: Any = load_part("codec", CODECS, tuned / "model")
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())
    assert after.log_sigma is not None


def test_a_collapsing_codebook_is_told(tmp_path: Path) -> None:
    """No restarts, and a rate at which the encoder leaves its codes behind."""
    quantizer = {"kind": "nearest", "restart_every": 0, "patience": 8, "commitment": 0.0}
    changes = {"codec": VQ | {"quantizer": quantizer, "codebook": 256}, "optimizer": {"rate": 0.1, "weight_decay": 0.0, "clip": None}}
    told = warnings_of(train(write(tmp_path, CODEC, steps=230, log_every=10, **changes)))
    assert any("the codebook collapses" in message and "restart_every" in message for message in told)


def test_a_discriminator_that_wrecks_reconstructions_is_told(tmp_path: Path) -> None:
    """A discriminator that learns nothing, weighed as much as the pictures."""
    wild = adversary(start=40, weight_max=1e6, augment=[], optimizer={"rate": 1e-9, "weight_decay": 0.0})
    changes = {"steps": 60, "optimizer": {"rate": 1e-2, "weight_decay": 0.0, "clip": None}, "data": {"kind": "scenes", "length": 8}}
    told = warnings_of(train(write(tmp_path, changed(**wild), **changes)))
    assert any("wrecks the reconstructions" in message and "weight_max" in message for message in told)


def test_a_discriminator_that_has_won_is_told(tmp_path: Path) -> None:
    """Pictures that are never changed, a discriminator that learns fast and a codec that hardly does."""
    strong = adversary(start=0, augment=[], width=16, optimizer={"rate": 1e-2, "weight_decay": 0.0, "clip": None})
    changes = {"steps": 60, "optimizer": {"rate": 1e-6, "weight_decay": 0.0}, "data": {"kind": "scenes", "length": 8}}
    told = warnings_of(train(write(tmp_path, changed(**strong), **changes)))
    assert any("has won" in message and "augment" in message for message in told)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 72}, "multiples of 16"),
        ({"size": 16}, "too small for a discriminator of 3 layers"),
        ({"codec": {}}, "has no kind"),
        ({"codec": {"kind": "pixels"}}, "nothing to train"),
        ({"loss": {"perceptual": {"kind": "lpips"}}}, "LPIPS of vgg needs its weights"),
        ({"loss": {"perceptual": {"kind": "lpip"}}}, "did you mean 'lpips'"),
        ({"loss": {"temperature": {"steps": 5}}}, "does not have: leave it out"),
        ({"loss": {"pixel": "l2"}}, "did you mean 'loss.pixels'"),
        ({"loss": {"adversary": {"augment": ["colour"]}}}, "loss.adversary.augment.0"),
        ({"train": "log-sigma"}, "name its folder as `init`"),
    ],
)
def test_bad_recipes_are_refused_before_training(changes: dict[str, Any], message: str) -> None:
    values = CODEC | {"codec": VQ, "out": "unused", "loss": {"adversary": {"layers": 3}}} | changes
    with pytest.raises(UsageError, match=message):
        make_task(parse_recipe(values, "here"), values.get("size", 64))
