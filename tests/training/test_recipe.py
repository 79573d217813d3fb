"""Recipes: what is accepted, and how errors read."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tessera.codecs.presets import PRESETS
from tessera.errors import UsageError
from tessera.families.versatile.presets import CODECS as RELEASED
from tessera.families.versatile.presets import preset
from tessera.training.recipe import ClipRecipe, CodecRecipe, FlowRecipe, JointRecipe
from tessera.training.recipe_files import load_recipe
from tessera.training.run import make_task
from tessera.yaml_files import parse_yaml
from tests.training.tiny import CODEC, FLOW, write

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_overrides_are_typed_and_may_name_new_keys(tmp_path: Path) -> None:
    path = write(tmp_path, FLOW)
    recipe = load_recipe(
        path, ["optimizer.rate=1e-4", "model.network.mlp=conv", "ema=null", "panel.pictures=3", "codec=runs/c/model", "data.seed=7"]
    )
    assert isinstance(recipe, FlowRecipe)
    assert recipe.optimizer.rate == 1e-4
    assert recipe.model.network["mlp"] == "conv"
    assert recipe.ema is None
    assert recipe.panel is not None
    assert recipe.panel.pictures == 3
    assert recipe.codec == "runs/c/model"
    assert recipe.data["seed"] == 7


def test_numbers_and_keys_are_read_as_written(tmp_path: Path) -> None:
    values = parse_yaml("on: 1e-3\nnull: yes\nno: true\n1: [2., .5]")
    assert values == {"on": 1e-3, "null": "yes", "no": True, "1": [2.0, 0.5]}
    recipe = load_recipe(write(tmp_path, FLOW, optimizer={"rate": "1e-3"}), ["optimizer.rate=1e-3"])
    assert recipe.optimizer.rate == 1e-3
    assert recipe.model.context["null"] is True


BOMB = "a0: &a0 [1, 1, 1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "the key 'c' stands twice"),
        (BOMB, "more than 100000 values"),
        ("a: &x [*x]", "nested too deeply"),
        ("[" * 5000, "nested too deeply|not YAML"),
        ("a: [", "not YAML"),
        ("a: 2021-13-45", "month"),
    ],
)
def test_yaml_of_strangers(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.seed=x", "dataset 'scenes': seed is 'x': input should be a valid integer"),
        ("data.splitt=train", "dataset 'scenes': unknown argument 'splitt': did you mean 'split'"),
        ("codec.classes=1.5", "codec 'patch': classes is 1.5: input should be a valid integer"),
        ("codec.classes=0", "codec 'patch': classes is 0: input should be greater than 0"),
        ("codec={classes: 3}", "the codec is not described by its kind"),
        ("model.network.heads=[2]", "network 'vq-diffusion': heads is"),
        ("model.network.dropout=.inf", "dropout is inf: give a finite number"),
        ("model.network.withd=3", "did you mean 'width'"),
        ("model.context.null=1", "context encoder 'words': null is 1"),
        ("model.process.stepps=3", "schedule 'vq-diffusion': unknown argument 'stepps'"),
        ("validation={data: {kind: folder, root: 7}}", "dataset 'folder': root is 7"),
        ("workers=100000", "'workers' is 100000: input should be less than or equal to 256"),
        ("model.process={kind: {a: 1}}", "unknown schedule"),
        ("model.process={kind: [1]}", "unknown schedule"),
        ("optimizer.betas=[2.0, 0.9]", "'optimizer.betas.0' is 2.0: input should be less than 1"),
        ("optimizer.clip=true", "'clip' is True: input should be a number"),
        ("steps=true", "'steps' is True: input should be a number"),
        ("model.loss.mask_weight=[-1.0, 0.0]", "mask_weight.0' is -1.0"),
        (f"model.loss.vb_weight={10**30}", f"model.loss.vb_weight is {10**30}: give a number of at most"),
        ("epochs=2", "give either the key 'steps'"),
    ],
)
def test_a_recipe_is_checked_to_the_bottom_before_anything_is_made(override: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        load_recipe(write(tmp_path, FLOW), [override])


def test_passes_over_the_data_in_place_of_steps(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, {key: value for key, value in FLOW.items() if key != "steps"}, epochs=2.5))
    assert recipe.of_length(24).steps == 8  # 60 pictures in batches of 8


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("batchsize=3", "unknown key 'batchsize': did you mean 'batch_size'"),
        ("optimizer.rat=3", "unknown key 'optimizer.rat': did you mean 'optimizer.rate'"),
        ("model.los.vb_weight=3", "unknown key 'model.los': did you mean 'model.loss'"),
        ("ema.zzz=3", "unknown key 'ema.zzz': known: decay, every, warmup"),
        ("steps=0", "give either the key 'steps'"),
        ("steps=ten", "'steps' is 'ten'"),
        ("optimizer.rate=-1", "'optimizer.rate' is -1"),
        ("precision=fp8", "'precision' is 'fp8'"),
        ("task=flwo", "unknown task 'flwo': did you mean 'flow'"),
        ("steps.x=1", "'steps' holds a value"),
        ("steps", "must read key=value"),
        ("=3", "must read key=value"),
        ("steps=[", "is not a YAML value"),
    ],
)
def test_errors_name_the_key_and_the_remedy(tmp_path: Path, override: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, FLOW), [override])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the recipe"):
        load_recipe(tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1,")
    with pytest.raises(UsageError, match="is not YAML") as caught:
        load_recipe(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UsageError, match="key: value"):
        load_recipe(tmp_path / "list.yaml")
    incomplete = {key: value for key, value in CODEC.items() if key != "steps"}
    with pytest.raises(UsageError, match="give either the key 'steps'"):
        load_recipe(write(tmp_path, incomplete))


FINE_TUNES = ("scenes_null", "scenes_palette", "cc12m_cfg", "coco_tune", "imagenet_tune")
CLIPS = {
    "openai/clip-vit-base-patch16": {
        "kind": "clip", "text": {"length": 77, "layers": 12, "width": 512, "heads": 8, "vocabulary": 49408},
        "image": {"size": 224, "patch": 16, "layers": 12, "width": 768, "heads": 12}, "width": 512,
    }
}  # fmt: skip


def described(part: Any) -> Any:
    """A part given as a folder or a hub id, by its description: a released one, or that of the recipe which trains it."""
    if not isinstance(part, str):
        return part
    if part in CLIPS:
        return CLIPS[part]
    if Path(part).parent.name == "codecs":
        return PRESETS[Path(part).name]
    [recipe] = [recipe for recipe in map(load_recipe, SHIPPED) if Path(recipe.out) / "model" == Path(part)]
    return recipe.encoder if isinstance(recipe, ClipRecipe) else recipe.codec


def joint_parts(recipe: JointRecipe) -> dict[str, Any]:
    """Parts of a recipe for several flows by their descriptions; in place of a released model to start from, its own size, new."""
    if recipe.init is None:
        return {"codecs": {data: described(part) for data, part in recipe.codecs.items()}, "context": described(recipe.context)}
    clip = {
        "kind": "clip-tokens", "text": {"length": 77, "layers": 12, "width": 768, "heads": 12, "vocabulary": 49408},
        "image": {"size": 224, "patch": 14, "layers": 24, "width": 1024, "heads": 16}, "width": 768,
    }  # fmt: skip
    codecs = {"image": RELEASED["kl-f8"], "text": RELEASED["optimus"]}
    return {"init": None, "copies": {}, "codecs": codecs, "context": clip, "network": preset("four-flow")}


@pytest.mark.parametrize("path", [path for path in SHIPPED if path.stem not in FINE_TUNES], ids=lambda path: path.stem)
def test_shipped_recipes_build(path: Path) -> None:
    """Every recipe parses, and its parts fit each other; the large ones on the meta device, so that they need no memory."""
    recipe = load_recipe(path)
    if isinstance(recipe, FlowRecipe):
        context = {name: value for name, value in described(recipe.model.context).items() if name != "pretrained"}  # would be downloaded
        recipe = recipe.model_copy(update={"codec": described(recipe.codec), "model": recipe.model.model_copy(update={"context": context})})
    if isinstance(recipe, JointRecipe):
        recipe = recipe.model_copy(update=joint_parts(recipe))
    if isinstance(recipe, CodecRecipe):  # the files of LPIPS are not at hand
        recipe = recipe.model_copy(update={"loss": recipe.loss.model_copy(update={"perceptual": None})})
    with torch.device("cpu" if path.stem.startswith("scenes") else "meta"):
        task: Any = make_task(recipe, recipe.size or 64)
    assert any(parameter.requires_grad for parameter in task.parameters())
    if path.stem == "laion":
        assert sum(parameter.numel() for parameter in task.network.parameters()) == 2_566_318_852
    published = {"coco": 521, "cub": 521, "ithq": 1486}  # whole model, in millions
    if path.stem in published:
        assert round(sum(parameter.numel() for parameter in task.parameters()) / 1e6) == published[path.stem]


@pytest.mark.parametrize("name", FINE_TUNES)
def test_fine_tunes_start_from_a_shipped_recipe(name: str) -> None:
    recipe = load_recipe(SHIPPED[0].parent / f"{name}.yaml")
    assert Path(recipe.init) in [Path(other.out) / "model" for other in map(load_recipe, SHIPPED)]
