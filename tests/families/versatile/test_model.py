"""Four flows over one network: stored once, loaded as far as they are used, drawn with every kind of sampler."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tessera.errors import TesseraError, UsageError
from tessera.families.versatile.presets import FLOWS
from tessera.flow import SamplingSettings
from tessera.loading import load
from tessera.model import Model
from tessera.model_weights import read_model
from tessera.randomness import Draws
from tessera.tensor_files import StoredTensors
from tests.closeness import assert_same_but_for_rounding
from tests.tiny_versatile import tiny_versatile

CONTEXTS = {"text": "red cat", "image": "picture.png"}


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_versatile()


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    model.save(path)
    return path


@pytest.fixture(autouse=True)
def a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 16), (200, 30, 40)).save("picture.png")


def draw(model: Model, name: str, prompts: list[str | None], indices: list[int], **settings: object) -> torch.Tensor:
    flow = model.flows[name]
    chosen = SamplingSettings(**{"sampler": "ddim", "steps": 3, "guidance": 2.0, **settings})  # type: ignore[arg-type]
    return flow.sample(prompts, flow.grid((16, 16)), chosen, Draws(0, indices))


def test_what_flows_share_is_stored_once(model: Model, folder: Path) -> None:
    about = json.loads((folder / "model.json").read_text())
    assert sorted(about["parts"]) == ["clip-tokens", "kl", "text-vae", "versatile"]
    assert about["flows"]["image_to_text"]["network"] == {"part": "versatile", "data": "text", "context": "image"}
    assert about["flows"]["image_to_text"]["context"] == {"part": "clip-tokens", "of": "pictures", "blank": 0}
    assert about["flows"]["text_to_image"]["codec"] == {"part": "kl"}
    stored = StoredTensors(folder, "model.safetensors").shapes
    network = model.flows["text_to_image"].network.whole
    assert {name for name in stored if name.startswith("parts.versatile.")} == {f"parts.versatile.{name}" for name in network.state_dict()}
    assert all(name.startswith("parts.") for name in stored)


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_is_the_same_from_the_whole_folder_and_alone(name: str, model: Model, folder: Path) -> None:
    prompt = CONTEXTS[FLOWS[name][1]]
    expected = draw(model, name, [prompt], [0])
    assert torch.equal(draw(load(folder), name, [prompt], [0]), expected)
    alone = load(folder, flows=[name])
    assert list(alone.flows) == [name]
    assert torch.equal(draw(alone, name, [prompt], [0]), expected)
    with pytest.raises(UsageError, match="was read in part, for " + name):
        alone.save("again")


def test_only_what_a_flow_uses_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()
    original = StoredTensors.__getitem__

    def noted(self: StoredTensors, name: str) -> torch.Tensor:
        read.add(name)
        return original(self, name)

    monkeypatch.setattr(StoredTensors, "__getitem__", noted)
    alone = Model(*read_model(folder, ["text_to_image"]))
    beginnings = {".".join(name.split(".")[1:4]) if "versatile" in name else ".".join(name.split(".")[1:]) for name in read}
    assert {name for name in beginnings if name.startswith("versatile.")} == {
        "versatile.time.first", "versatile.time.second", "versatile.data.image", "versatile.contexts.text",
    }  # fmt: skip
    towers = {name.split(".")[2] for name in beginnings if name.startswith("clip-tokens.")}
    assert towers == {"text_model", "text_projection"}
    assert not any("text-vae" in name for name in read)
    assert sorted(alone.flows["text_to_image"].network.whole.data) == ["image"]
    assert sorted(alone.flows["text_to_image"].network.whole.contexts) == ["text"]


def test_flows_of_a_loaded_model_share_their_parts(folder: Path) -> None:
    flows = load(folder, flows=["text_to_image", "image_to_image"]).flows
    first, second = flows["text_to_image"], flows["image_to_image"]
    assert first.codec is second.codec
    assert first.network.data_layers is second.network.data_layers
    assert first.context_encoder.whole is second.context_encoder.whole


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("sampler", ["ddim", "ddim:eta=1", "dpm-solver++", "plms"])
def test_every_flow_draws_with_every_sampler(name: str, sampler: str, model: Model) -> None:
    prompt = CONTEXTS[FLOWS[name][1]]
    latents = draw(model, name, [prompt, None], [0, 1], sampler=sampler, steps=4)
    assert latents.shape == ((2, 4, 8, 8) if FLOWS[name][0] == "image" else (2, 6))
    assert latents.isfinite().all()
    decoded = model.flows[name].decode(latents, ())
    assert len(decoded) == 2
    assert not torch.equal(latents[0], draw(model, name, [None], [0], sampler=sampler, steps=4)[0])


@pytest.mark.parametrize("name", FLOWS)
def test_an_example_does_not_depend_on_its_batch(name: str, model: Model) -> None:
    prompt = CONTEXTS[FLOWS[name][1]]
    many = draw(model, name, [None, prompt, prompt], [0, 1, 2])
    assert_same_but_for_rounding(draw(model, name, [prompt], [1])[0], many[1])


def test_pictures_come_from_words(model: Model) -> None:
    (picture,) = model.text_to_image("a cat", seed=1)
    assert picture.size == (16, 16)


@pytest.mark.parametrize(
    ("name", "prompt", "words"),
    [
        ("text_to_image", "picture.png", "this flow takes words, not a picture"),
        ("image_to_text", "red cat", "this flow takes pictures, not the words 'red cat'"),
    ],
)
def test_a_prompt_of_the_wrong_kind(name: str, prompt: str, words: str, model: Model) -> None:
    with pytest.raises(UsageError, match=words):
        draw(model, name, [prompt], [0])


def test_flows_that_are_not_there(folder: Path) -> None:
    with pytest.raises(UsageError, match="unknown flow 'text_to_images'"):
        load(folder, flows=["text_to_images"])
    with pytest.raises(UsageError, match="no flow is asked for"):
        load(folder, flows=[])


def test_a_description_that_names_no_part(folder: Path, tmp_path: Path) -> None:
    about = json.loads((folder / "model.json").read_text())
    about["flows"]["text_to_image"]["network"]["part"] = "versatil"
    (tmp_path / "model.json").write_text(json.dumps(about))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(TesseraError, match="unknown part 'versatil'"):
        load(tmp_path)
