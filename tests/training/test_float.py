"""Training over floats: a tiny model of pixels overfits, is exported, and draws."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tessera.contexts.two_towers import TwoTowers
from tessera.data.scenes_language import VOCABULARY
from tessera.errors import UsageError
from tessera.float_flow import FloatFlow
from tessera.loading import load
from tessera.part_folder import save_part
from tessera.training.flow_making import make
from tessera.training.recipe_files import load_recipe
from tessera.training.run import train
from tests.training.tiny import COMMON, FLOW, metrics, write

FLOAT: dict[str, Any] = COMMON | {
    "task": "flow",
    "data": {"kind": "scenes", "length": 4},
    "codec": {"kind": "pixels"},
    "model": {
        "network": {
            "kind": "v-diffusion", "widths": [8, 16, 16], "blocks": 1, "attention_levels": [], "head_width": 8, "mapping_width": 16,
        },
        "denoising": {"time_sampling": "stratified"},
    },
    "drop_prompt": 0.1,
    "picture_prompts": 0.5,
    "batch_size": 4,
    "steps": 40,
    "optimizer": {"rate": 4e-3, "weight_decay": 0.0, "clip": 1.0},
    "ema": {"decay": 0.9, "every": 1},
    "sampling": {"steps": 3, "guidance": 2.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    small: dict[str, Any] = {"length": 26, "text_width": 16, "text_depth": 1, "text_heads": 2, "image_width": 16, "image_depth": 1}
    encoder = TwoTowers(list(VOCABULARY), **small, size=64, image_heads=2, width=8)
    folder = tmp_path_factory.mktemp("clip") / "model"
    save_part(encoder, folder)
    return folder


def with_clip(clip: Path, **changes: Any) -> dict[str, Any]:
    return {**FLOAT, "model": {**FLOAT["model"], "context": str(clip), **changes}}


def test_it_overfits_and_the_model_draws(clip: Path, tmp_path: Path) -> None:
    scenes = {"kind": "scenes", "length": 4}
    changes = {"validation": {"data": scenes, "examples": 4, "every": 40}, "panel": {"every": 40, "pictures": 2}}
    run = train(write(tmp_path, with_clip(clip), **changes))
    losses = [line["loss"] for line in metrics(run)]
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    assert (run / "panel").is_dir()
    model = load(run / "model", "cpu")
    assert (model.size, model.defaults.sampler, model.defaults.steps, model.defaults.guidance) == ((64, 64), "plms", 3, 2.0)
    flow = model.flows["text_to_image"]
    assert isinstance(flow, FloatFlow)
    assert flow.loss.time_sampling == "stratified"
    before: Any = load_context(clip)
    for name, value in flow.context_encoder.state_dict().items():  # frozen
        assert torch.equal(value, before[name])
    made = [model.text_to_image(prompt, seed=0)[0].tobytes() for prompt in ("a red circle", "a blue square", None)]
    assert len(set(made)) == 3


def load_context(clip: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(clip / "part.safetensors")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"loss": {"vb_weight": 0.0}}}, "model.loss is for models of tokens"),
        ({"model": {"codebook_start": 0.1}}, "model.codebook_start is for models of tokens"),
        ({"model": {"denoising": {"objective": "epsilon"}}}, "denoising.objective"),
        ({"model": {"process": {"kind": "cosin"}}}, "did you mean 'cosine'"),
        ({"sampling": {"sampler": "purity"}}, "not one for continuous models"),
        ({"sampling": {"truncation": 0.9}}, "truncation is for models of tokens"),
        ({"token_cache": "tokens"}, "token_cache is for models of tokens"),
        ({"size": 66}, "not a multiple of 4"),
    ],
)
def test_what_means_nothing_over_floats(clip: Path, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    recipe, size = with_clip(clip, **changes.get("model", {})), changes.get("size", 64)
    changes = {name: value for name, value in changes.items() if name != "model"}
    with pytest.raises(UsageError, match=says):
        make(load_recipe(write(tmp_path, recipe, **changes)), size)


def test_frozen_frequencies_stay_frozen(clip: Path, tmp_path: Path) -> None:
    network = {**FLOAT["model"]["network"], "frozen_frequencies": True}
    task = make(load_recipe(write(tmp_path, with_clip(clip, network=network))), 64)
    learning = {name for name, parameter in task.named_parameters() if parameter.requires_grad}
    assert learning
    assert not any("time" in name or name.startswith("flow.context_encoder") for name in learning)


@pytest.mark.filterwarnings("ignore:the model does not know")
@pytest.mark.parametrize("prompted", [True, False])
def test_captions_are_sampled_as_they_are(clip: Path, tmp_path: Path, prompted: bool) -> None:
    """Colons and addresses in them mean nothing, and a model without prompts draws without."""
    network = {key: value for key, value in FLOAT["model"]["network"].items() if key != "mapping_width"}
    recipe = with_clip(clip) if prompted else {**FLOAT, "model": {"network": network}, "drop_prompt": 0.0, "picture_prompts": 0.0}
    task = make(load_recipe(write(tmp_path, recipe, sampling={"steps": 1, "sampler": "ddim"})), 64)
    assert task.samples(["a red circle: small", "http://127.0.0.1/p.png"], 0).shape == (2, 3, 64, 64)


def test_prompts_need_an_encoder(tmp_path: Path) -> None:
    network = {key: value for key, value in FLOAT["model"]["network"].items() if key != "mapping_width"}
    recipe = {**FLOAT, "model": {"network": network}}
    with pytest.raises(UsageError, match="drop_prompt needs"):
        make(load_recipe(write(tmp_path, recipe, picture_prompts=0.0)), 64)
    with pytest.raises(UsageError, match="picture_prompts needs"):
        make(load_recipe(write(tmp_path, recipe, drop_prompt=0.0)), 64)


def test_a_model_of_tokens_refuses_what_is_for_floats(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.denoising is for models of floats"):
        make(load_recipe(write(tmp_path, {**FLOW, "model": {**FLOW["model"], "denoising": {"gamma": 2.0}}})), 64)
    with pytest.raises(UsageError, match="picture_prompts is for"):
        make(load_recipe(write(tmp_path, FLOW, picture_prompts=0.5)), 64)
