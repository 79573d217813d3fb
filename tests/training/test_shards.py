"""Training on archives: the recipes of Conceptual 12M at a small size, on scenes stored as img2dataset stores pictures."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from safetensors.torch import load_file

from tessera.contexts.clip_joint import JointCLIP
from tessera.contexts.weighted_prompts import Caption
from tessera.data.scenes import Scenes
from tessera.errors import TesseraError, UsageError
from tessera.families.v_diffusion.checkpoint import export_network
from tessera.families.v_diffusion.presets import PRESETS, preset
from tessera.float_flow import FloatFlow
from tessera.loading import load
from tessera.part_folder import save_part
from tessera.randomness import Draws
from tessera.registry import NETWORKS, build
from tessera.training.flow_making import make
from tessera.training.recipe import FlowRecipe, NullPromptRecipe
from tessera.training.recipe_files import load_recipe
from tessera.training.run import train
from tessera.training.task import to_picture
from tests.contexts.test_clip_joint import MERGES, VOCABULARY, in_transformers
from tests.data.shard_making import archive, captioned
from tests.tiny_floats import tiny_float_model
from tests.training.test_resume import final_state, same_state, wait_for_lines
from tests.training.tiny import metrics, start

RECIPES = Path(__file__).parents[2] / "recipes"
SHARED = ["batch_size=4", "precision=float32", "workers=0", "tracker=none", "device=cpu", "log_every=1", "size=32"]
NETWORK = {"widths": [8, 16, 16], "blocks": 1, "attention_levels": [2], "head_width": 8, "context_width": 16, "mapping_width": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data: two archives of scenes, with pictures in them that are too small, broken or without a caption. clip: a CLIP with merges."""
    folder = tmp_path_factory.mktemp("shards")
    scenes, number = Scenes("train"), 0
    for shard in range(2):
        members = []
        for i in range(12):
            key = f"{shard:05}{i:04}"
            example = scenes.example(number, 0)
            assert example is not None
            picture = Image.fromarray(example.image.permute(1, 2, 0).numpy())
            made = captioned(key, str(example.prompt), picture, original_width=100 if i == 3 else 640, original_height=480)
            made[0] = (made[0][0], made[0][1][:200]) if i == 5 else made[0]
            members += [member for member in made if i != 7 or not member[0].endswith(".txt")]
            number += 1
        archive(folder / "data" / f"{shard:05}.tar", members)
    torch.manual_seed(0)
    save_part(clip(), folder / "clip")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def clip() -> JointCLIP:
    text = {"length": 90, "layers": 1, "width": 16, "heads": 1, "vocabulary": VOCABULARY}
    return JointCLIP(text, {"size": 16, "patch": 8, "layers": 1, "width": 16, "heads": 2}, width=16, merges=MERGES)


def overrides(folder: Path, out: Path, **more: Any) -> list[str]:
    """What makes the recipe of the originals' size small; everything else of it stays as it is."""
    values = {
        "out": str(out), "data.root": str(folder / "data"), "validation.data.root": str(folder / "data"), "data.size": 32,
        "data.train_share": 0.7, "validation.data.size": 32, "validation.data.train_share": 0.7, "validation.examples": 4,
        "panel.pictures": 2, "sampling.steps": 2, "schedule.warmup": 2, "ema.decay": 0.5, **more,
    }  # fmt: skip
    return [*SHARED, *(f"{name}={json.dumps(value)}" for name, value in values.items())]


def first(folder: Path, out: Path, **more: Any) -> list[str]:
    """Those of cc12m.yaml."""
    network = {f"model.network.{name}": value for name, value in NETWORK.items()}
    return overrides(
        folder,
        out,
        **{"model.context": str(folder / "clip"), "steps": 16, "optimizer.rate": 4e-3, "checkpoint.every": 3, **network, **more},
    )


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of cc12m.yaml at a small size."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        return train(RECIPES / "cc12m.yaml", first(folder, place / "run"))


def test_the_recipes_are_of_the_released_network() -> None:
    recipe, fine = load_recipe(RECIPES / "cc12m.yaml"), load_recipe(RECIPES / "cc12m_cfg.yaml")
    assert isinstance(recipe, FlowRecipe)
    assert isinstance(fine, NullPromptRecipe)
    with torch.device("meta"):
        made = build("network", NETWORKS, {**recipe.model.network, "size": recipe.size})
    assert made.config == build_meta("cc12m_1").config
    assert sum(parameter.numel() for parameter in made.parameters()) == PRESETS["cc12m_1"].parameters
    assert Path(fine.init) == Path(recipe.out) / "model"
    assert recipe.data == fine.data
    assert recipe.validation == fine.validation
    assert {name: value for name, value in recipe.data.items() if name != "crop"} == {**recipe.validation.data, "split": "train"}


def build_meta(name: str) -> Any:
    with torch.device("meta"):
        return build("network", NETWORKS, preset(name))


@torch.no_grad()
def error(flow: Any) -> float:
    """The loss of 32 pictures, always the same ones at the same times with the same noise."""
    pictures, captions = Scenes().batch(range(32), 0)
    x_0 = F.avg_pool2d(to_picture(pictures), 2)
    context = flow.context_encoder([Caption(caption) for caption in captions])
    times = (torch.arange(32, dtype=torch.float64) + 0.5) / 32
    return float(flow.loss(lambda x_t, t: flow.network(x_t, t, context), x_0, Draws(0, range(32)), times).loss)


def test_a_run_on_archives(folder: Path, trained: Path) -> None:
    assert len(metrics(trained)) == 16
    skipped = (trained / "skipped-0.txt").read_text()
    assert skipped.count("does not say") == 0
    assert skipped.count("it has no .txt with a caption") == 2
    assert "000000005.jpg is not a readable picture" in skipped
    flow = load(trained / "model", "cpu").flows["text_to_image"]
    assert isinstance(flow, FloatFlow)
    assert error(flow) < 0.95 * error(make(load_recipe(RECIPES / "cc12m.yaml", first(folder, trained)), 32).flow)
    kept = load_file(folder / "clip" / "part.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in flow.context_encoder.state_dict().items())


def test_a_run_on_archives_that_is_killed_goes_on_exactly(folder: Path, trained: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle; the whole final state and every loss must be those of the run that nobody disturbed."""
    recipe = load_recipe(RECIPES / "cc12m.yaml", first(folder, tmp_path / "run"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    process = start(tmp_path, tmp_path / "recipe.yaml")
    wait_for_lines(tmp_path / "run", 5, process)
    process.kill()
    process.communicate()
    train(tmp_path / "recipe.yaml")
    losses = [[(line["step"], line["loss"], line["gradient_norm"]) for line in metrics(run)] for run in (trained, tmp_path / "run")]
    assert losses[0] == losses[1]
    assert same_state(final_state(trained), final_state(tmp_path / "run"))


def fine_tuned(folder: Path, init: Path, out: Path, **more: Any) -> Path:
    return train(RECIPES / "cc12m_cfg.yaml", overrides(folder, out, **{"init": str(init), "steps": 6, "optimizer.rate": 4e-3, **more}))


def test_the_fine_tune_leaves_prompts_out(folder: Path, trained: Path, tmp_path: Path) -> None:
    """The same network and CLIP go on, and what it draws without a prompt gets better."""
    run = fine_tuned(folder, trained / "model", tmp_path / "run", **{"drop_prompt": 0.5, "steps": 40})
    before, after = (load(place / "model", "cpu") for place in (trained, run))
    assert (after.name, after.defaults.guidance, after.size) == ("cc12m-cfg", 3.0, (32, 32))
    old, new = (model.flows["text_to_image"] for model in (before, after))
    assert new.network.config == old.network.config
    assert new.loss.config == old.loss.config
    for name, value in new.context_encoder.state_dict().items():
        assert torch.equal(value, old.context_encoder.state_dict()[name])
    assert unprompted_loss(new, folder) < 0.97 * unprompted_loss(old, folder)
    made = [after.text_to_image("a red circle", seed=0, steps=2, guidance=guidance)[0].tobytes() for guidance in (0.0, 1.0, 3.0)]
    assert len(set(made)) == 3
    assert made[0] == after.text_to_image(None, seed=0, steps=2)[0].tobytes()


@torch.no_grad()
def unprompted_loss(flow: Any, folder: Path) -> float:
    from tessera.data.shards import Shards
    from tessera.randomness import Draws

    data = Shards(str(folder / "data"), 32, split="val", train_share=0.5)
    examples = [example for i in range(len(data)) if (example := data.example(i, 0)) is not None]
    image = torch.stack([example.image for example in examples]).float() / 127.5 - 1
    context = flow.context_encoder.unconditional(len(image))
    times = torch.linspace(0.1, 0.9, len(image), dtype=torch.float64)
    return float(flow.loss(lambda x_t, t: flow.network(x_t, t, context), image, Draws(0, range(len(image))), times).loss)


def test_dropped_prompts_are_the_zero_embedding(trained: Path, folder: Path) -> None:
    recipe = load_recipe(RECIPES / "cc12m_cfg.yaml", overrides(folder, Path("unused"), init=str(trained / "model"), drop_prompt=0.5))
    task = make(recipe, 32)
    prompts = task.some_dropped([f"a red circle {i}" for i in range(64)], 1, 64, range(64))
    assert 16 < prompts.count(None) < 48
    embeddings = task._context(prompts).embeddings
    assert [bool(row.any()) for row in embeddings[:, 0]] == [prompt is not None for prompt in prompts]
    learning = {name for name, parameter in task.named_parameters() if parameter.requires_grad}
    assert learning
    assert all(name.startswith("flow.network.") for name in learning)


def test_a_fine_tune_of_a_converted_file(folder: Path, tmp_path: Path) -> None:
    """A file in the released layout, with a CLIP beside it, converted and trained on."""
    from tessera.apps.cli import main

    torch.manual_seed(0)
    network = build("network", NETWORKS, {**load_recipe(RECIPES / "cc12m.yaml").model.network, "size": 32, **NETWORK})
    torch.save(export_network(network), tmp_path / "net.pth")
    with pytest.raises(SystemExit) as caught:
        main(["convert", str(tmp_path / "net.pth"), "--clip", str(folder / "clip"), "-o", str(tmp_path / "net")])
    assert not caught.value.code
    run = fine_tuned(folder, tmp_path / "net", tmp_path / "run")
    assert len(metrics(run)) == 6
    made = load(run / "model", "cpu").flows["text_to_image"].network.state_dict()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, made[name])}
    assert moved
    assert not any("time" in name for name in moved)


def test_what_has_no_prompt_to_leave_out(trained: Path, folder: Path, tmp_path: Path) -> None:
    tiny_float_model("yfcc").save(tmp_path / "unprompted")
    given = {"init": str(tmp_path / "unprompted"), "picture_prompts": 0.0}
    with pytest.raises(UsageError, match="takes no prompts"):
        make(load_recipe(RECIPES / "cc12m_cfg.yaml", overrides(folder, tmp_path, **given)), 16)
    given = {"init": str(trained / "model")}
    with pytest.raises(UsageError, match="which labels and CLIPs lack"):
        make(load_recipe(RECIPES / "cc12m_cfg.yaml", overrides(folder, tmp_path, train="null", **given)), 32)
    with pytest.raises(UsageError, match="token_cache is for models of tokens"):
        make(load_recipe(RECIPES / "cc12m_cfg.yaml", overrides(folder, tmp_path, token_cache="t", **given)), 32)
    with pytest.raises(UsageError, match="multiples of 4"):
        make(load_recipe(RECIPES / "cc12m_cfg.yaml", overrides(folder, tmp_path, **given)), 66)


def test_a_clip_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    """A folder in transformers' layout is a context encoder; a name that means nothing is one sentence."""
    encoder = clip()
    in_transformers(encoder).save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "merges.txt").write_bytes(encoder.extra_files()["merges.txt"])
    given = {"model.context": str(tmp_path / "hf")}
    task = make(load_recipe(RECIPES / "cc12m.yaml", first(folder, tmp_path, **given)), 32)
    assert isinstance(task.flow.context_encoder, JointCLIP)
    for wrong in (str(tmp_path / "absent"), str(folder / "data"), "runs/no/such"):
        with pytest.raises(UsageError, match="is no"):
            make(load_recipe(RECIPES / "cc12m.yaml", first(folder, tmp_path, **{"model.context": wrong})), 32)


def test_no_readable_picture_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    archive(tmp_path / "bad" / "0.tar", [(f"{i}.{kind}", b"nothing") for i in range(20) for kind in ("jpg", "txt")])
    given = [*first(folder, tmp_path / "run", **{"data.root": str(tmp_path / "bad")}), "data.where={}"]
    with pytest.raises(TesseraError, match="can be read") as caught:
        train(RECIPES / "cc12m.yaml", given)
    assert "\n" not in str(caught.value)
