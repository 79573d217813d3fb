"""What released files are, in each of their layouts, and the models made of them."""

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tessera.checkpoints.cards import cards
from tessera.checkpoints.recognise import Extras, build, recognise
from tessera.checkpoints.safe_read import Archive, StoredTensor, read_archive
from tessera.checkpoints.stored import InMemory, contiguous_strides
from tessera.errors import TesseraError, UsageError
from tessera.families.versatile.checkpoint import LAYOUTS, export_network, load_network, network_names
from tessera.families.versatile.kl_checkpoint import kl_to_released
from tessera.families.versatile.network import MultiFlowUNet
from tessera.families.versatile.parts_checkpoint import text_vae_to_released
from tessera.families.versatile.presets import PRESETS
from tessera.families.versatile.shapes import find_layout, network_config
from tessera.model import Model
from tessera.part_folder import save_part
from tests.conformance.cases import NotInProject, original_file
from tests.contexts.test_clip_joint import IMAGE, MERGES, TEXT
from tests.tiny_versatile import NETWORK, noisy, tiny_network, tiny_versatile

RELEASED = {
    "vd-four-flow-v1-0-deprecated": ("four-flow", 4),
    "vd-dc": ("two-flow", 2),
    "sd-v1-4": ("single-flow", 1),
    "sd-variation-ema": ("image-variation", 1),
}
ONE_TYPE = {"data": {"image": NETWORK["data"]["image"]}}
TYPES: dict[str, dict[str, Any]] = {
    "four-flow": {},
    "four-flow-deprecated": {},
    "two-flow": ONE_TYPE,
    "single-flow": {**ONE_TYPE, "contexts": {"text": NETWORK["contexts"]["text"]}},
    "single-flow-bare-average": {**ONE_TYPE, "contexts": {"image": NETWORK["contexts"]["image"]}},
}


def stored(shape: list[int]) -> StoredTensor:
    """A tensor of which only the shape is there."""
    return StoredTensor(tuple(shape), contiguous_strides(tuple(shape)), torch.float32, InMemory(b""), 0, prod(shape))


def archive(shapes: dict[str, Any]) -> Archive:
    return Archive(Path("file.pth"), "zip", {name: stored(list(shape)) for name, shape in shapes.items()}, (), 0)


@pytest.mark.parametrize("name", RELEASED)
def test_released_models_are_known_by_names_and_shapes(name: str) -> None:
    try:
        shapes = json.loads(original_file("versatile", "layouts", f"{name}.json").read_text())
    except NotInProject as error:
        pytest.skip(str(error))
    found = recognise(archive(shapes))
    preset, flows = RELEASED[name]
    assert (found.family, found.kind, found.preset, found.unexpected) == ("versatile", "model", preset, ())
    assert found.parameters == {"network": PRESETS[preset].parameters}
    assert len(found.config["flows"]) == flows
    assert found.ema == name.startswith("sd-")
    whole = name == "vd-four-flow-v1-0-deprecated"
    assert bool(found.needs) != whole
    assert name in found.cards
    assert ("vd-official" in found.cards) == whole


@pytest.mark.parametrize("layout", TYPES)
@pytest.mark.parametrize("changes", [{}, {"widths": [32, 64, 64], "blocks": 2, "context_levels": [0, 1], "heads": 8}])
def test_configurations_are_told_by_shapes(layout: str, changes: dict[str, Any]) -> None:
    network = tiny_network(**{**changes, "heads": 8, **TYPES[layout]})
    shapes = {name: value.shape for name, value in export_network(network, LAYOUTS[layout]).items()}
    assert find_layout(shapes) == layout
    assert network_config(shapes, layout) == network.config


@pytest.mark.parametrize("layout", [*TYPES, "single-flow-average"])
def test_export_and_load_are_inverse(layout: str, tmp_path: Path) -> None:
    types = TYPES.get(layout, TYPES["single-flow"])
    network = tiny_network(**types)
    exported = export_network(network, LAYOUTS[layout])
    assert len(exported) == sum(len(names) for names in network_names(network, LAYOUTS[layout]).values())
    again = MultiFlowUNet(**{**NETWORK, **types})
    load_network(again, exported, LAYOUTS[layout])
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in network.state_dict().items())
    name = next(iter(exported))
    with pytest.raises(TesseraError, match="the file has no tensor"):
        load_network(again, {key: value for key, value in exported.items() if key != name}, LAYOUTS[layout])
    with pytest.raises(TesseraError, match="where the network needs"):
        load_network(again, {**exported, name: torch.zeros(3)}, LAYOUTS[layout])


def test_the_average_is_read_unless_it_is_not_wanted() -> None:
    network = tiny_network(**TYPES["single-flow"])
    names = network_names(network, LAYOUTS["single-flow-average"])
    assert all("." not in name.removeprefix("model_ema.") for target in names.values() for name in target)
    assert names["time.first.weight"] == ("model_ema.diffusion_modeltime_embed0weight",)


def parts() -> tuple[Model, dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """A model with heads as wide as files imply, and the files of its autoencoders and its CLIP."""
    from tessera.codecs.text_vae import TextVAE
    from tessera.contexts.clip_tokens import CLIPTokens

    model = tiny_versatile()
    flows = model.flows
    wide = {"length": 80, "layers": 1, "width": 64, "heads": 1, "vocabulary": 20}
    text = noisy(TextVAE(encoder=wide, decoder=wide, latent=6), 2)
    clip = noisy(CLIPTokens(text={**TEXT, "width": 64, "heads": 1}, image={**IMAGE, "width": 64, "heads": 1}, width=16, merges=MERGES), 3)
    return model, kl_to_released(flows["text_to_image"].codec), text_vae_to_released(text), dict(clip.clip.state_dict())


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save({name: value.clone() for name, value in tensors.items()}, path)
    return path


def test_a_whole_file_and_its_flows_alone(tmp_path: Path) -> None:
    """The deprecated layout has everything inside; of the flows that are not wanted, nothing is read."""
    model, kl, text, clip = parts()
    network = model.flows["text_to_image"].network.whole
    whole = {
        **export_network(network, LAYOUTS["four-flow-deprecated"]),
        **{f"autokl.{name}": value for name, value in kl.items()},
        **{f"optimus.{name}": value for name, value in text.items()},
        **{f"clip.model.{name}": value for name, value in clip.items()},
        "betas": torch.zeros(1000),
    }
    file = read_archive(saved(tmp_path / "whole.pth", whole))
    found = recognise(file)
    assert (found.needs, found.unexpected, found.config["layout"]) == ((), (), "four-flow-deprecated")
    made = build(file, found, Extras(heads=2))
    assert isinstance(made, Model)
    assert list(made.flows) == list(model.flows)
    rebuilt = made.flows["image_to_text"].network.whole
    assert all(torch.equal(value, rebuilt.state_dict()[name]) for name, value in network.state_dict().items())
    written = made.flows["text_to_text"].codec.state_dict()
    assert all(torch.equal(value, text[name]) for name, value in written.items())
    read: set[str] = set()
    original = StoredTensor.read

    def noted(self: StoredTensor) -> Tensor:
        read.update(name for name, tensor in file.states()[""].items() if tensor is self)
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoredTensor, "read", noted)
        alone = build(file, found, Extras(heads=2, flows=("text_to_image",)))
    assert isinstance(alone, Model)
    assert alone.partial
    assert not [name for name in read if "unet_text.input_blocks.0" in name or name.startswith(("optimus.", "clip.model.vision_model."))]
    assert {name.split(".")[0] for name in read} == {"model", "autokl", "clip"}


def test_a_network_with_its_parts_beside_it(tmp_path: Path) -> None:
    model, kl, text, _ = parts()
    file = read_archive(saved(tmp_path / "net.pth", export_network(model.flows["text_to_image"].network.whole, LAYOUTS["four-flow"])))
    found = recognise(file)
    assert len(found.needs) == 3
    given = Extras(codec=saved(tmp_path / "kl.pth", kl), text_codec=saved(tmp_path / "text.pth", text), heads=2)
    with pytest.raises(UsageError, match="needs CLIP"):
        build(file, found, given)
    with pytest.raises(UsageError, match="needs no mapping"):
        build(file, found, Extras(mapping=Path("x")))
    with pytest.raises(UsageError, match="unknown flow 'text_to_sound'"):
        build(file, found, Extras(flows=("text_to_sound",)))


@pytest.mark.parametrize(
    ("flow", "towers"), [("text_to_image", {"text_model", "text_projection"}), ("image_to_image", {"vision_model", "visual_projection"})]
)
def test_of_a_clip_beside_the_network_only_what_a_flow_reads_stays(flow: str, towers: set[str], tmp_path: Path) -> None:
    model, kl, _, _ = parts()
    encoder = model.flows[flow].context_encoder
    file = read_archive(saved(tmp_path / "net.pth", export_network(model.flows[flow].network.whole, LAYOUTS["four-flow"])))
    save_part(encoder.whole, tmp_path / "clip")
    given = Extras(codec=saved(tmp_path / "kl.pth", kl), clip=str(tmp_path / "clip"), heads=2, flows=(flow,))
    made: Any = build(file, recognise(file), given)
    left = made.flows[flow].context_encoder
    assert {name.split(".")[1] for name, value in left.whole.named_parameters() if value.numel()} == towers
    prompt = "a red circle" if flow == "text_to_image" else Image.new("RGB", (16, 16), "red")
    assert torch.equal(left([prompt]).embeddings, encoder([prompt]).embeddings)


def test_autoencoders_alone(tmp_path: Path) -> None:
    model, kl, text, _ = parts()
    for name, tensors, kind in [("kl.pth", kl, "kl"), ("text.pth", text, "text-vae")]:
        file = read_archive(saved(tmp_path / name, tensors))
        found = recognise(file)
        assert (found.kind, found.preset, found.config["kind"], found.unexpected) == ("codec", None, kind, ())
        made: Any = build(file, found, Extras())
        assert made.config["kind"] == kind
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    codec: Any = build(read_archive(tmp_path / "kl.pth"), recognise(read_archive(tmp_path / "kl.pth")), Extras())
    assert torch.equal(codec.encode(image), model.flows["text_to_image"].codec.encode(image))


@pytest.mark.parametrize(
    ("case", "preset", "file"), [("full_autoencoder_kl", "kl-f8", "kl-f8"), ("full_optimus", "optimus", "optimus-vae")]
)
def test_released_autoencoders_are_known(case: str, preset: str, file: str) -> None:
    try:
        shapes = json.loads(original_file("versatile", case, "manifest.json").read_text())
    except NotInProject as error:
        pytest.skip(str(error))
    found = recognise(archive(shapes))
    assert (found.family, found.kind, found.preset, found.cards, found.unexpected) == ("versatile", "codec", preset, (file,), ())


def test_incomplete_files() -> None:
    shapes = {name: value.shape for name, value in export_network(tiny_network(), LAYOUTS["four-flow"]).items()}
    without = {name: shape for name, shape in shapes.items() if "context_blocks.1." not in name}
    with pytest.raises(TesseraError, match="context layers for image are incomplete"):
        recognise(archive(without))
    found = recognise(archive({**shapes, "extra.weight": (3,)}))
    assert found.unexpected == ("extra.weight",)


def test_every_card_has_a_preset() -> None:
    own = [card for card in cards().values() if card.family == "versatile"]
    assert {card.name for card in own if card.kind == "model"} == {
        "vd-four-flow-v1-0", "vd-four-flow-v1-0-fp16", "vd-four-flow-v1-0-deprecated", "vd-four-flow-v1-0-fp16-deprecated",
        "vd-official", "vd-dc", "sd-v1-4", "sd-variation-ema",
    }  # fmt: skip
    assert all(card.urls[0].in_browser for card in own if card.name in {"vd-official", *RELEASED} - {"vd-four-flow-v1-0-deprecated"})
    assert all(card.configuration in PRESETS for card in own if card.kind == "model")
