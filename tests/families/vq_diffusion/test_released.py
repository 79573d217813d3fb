"""What released files are, from names and shapes alone, and the models made of them."""

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tessera
from tessera.checkpoints.recognise import Extras, Finding, build, recognise
from tessera.checkpoints.safe_read import Archive, StoredTensor, read_archive
from tessera.checkpoints.stored import InMemory, contiguous_strides
from tessera.codecs.presets import PRESETS as CODECS
from tessera.codecs.vqgan import VQGAN
from tessera.contexts.clip import CLIPText
from tessera.data.class_folders import imagenet_synsets
from tessera.errors import UsageError
from tessera.families.vq_diffusion.checkpoint import load_network
from tessera.families.vq_diffusion.codec_checkpoint import load_codec
from tessera.families.vq_diffusion.presets import PRESETS
from tessera.families.vq_diffusion.released import contents
from tessera.families.vq_diffusion.text_checkpoint import load_text
from tessera.model import Model
from tessera.registry import CODECS as CODEC_PARTS
from tessera.registry import CONTEXTS, NETWORKS
from tessera.registry import build as part
from tests.released_files import case, code_mapping, codec_state, larger_codebook, small_state, training_state, without

MODELS = {
    "released_coco": ("coco", "openimages_f8_2887", ("coco_learnable", "cc_learnable"), True),
    "released_ithq": ("ithq", "ithq_4096", ("ithq_learnable",), True),
    "released_imagenet": ("imagenet", "imagenet_f16_974", ("imagenet_pretrained",), False),
    "released_imagenet_cf": ("imagenet", "imagenet_f16_974", ("imagenet_learnable",), True),
    "released_ffhq": ("ffhq", "ffhq_f16_1024", (), False),
}
PARTS = {
    "codec_gumbel_f8_8192": ("openimages_f8_8192", ("taming_f8_8192_openimages",)),
    "codec_vqgan_imagenet_f16_16384": ("imagenet_f16_16384", ("vqgan_imagenet_f16_16384",)),
    "codec_vqgan_ffhq_f16_1024": ("ffhq_f16_1024", ("vqgan_ffhq_f16_1024",)),
    "codec_ithq_4096": ("ithq_4096", ("ithq_vqvae",)),
}
DEFAULTS = {"quantizer": "nearest", "width": 128, "dim": 256, "classes": None}
"""What presets of codecs leave to the constructor."""


def stored(shape: list[int]) -> StoredTensor:
    """A tensor of which only the shape is there."""
    return StoredTensor(tuple(shape), contiguous_strides(tuple(shape)), torch.float32, InMemory(b""), 0, prod(shape))


def archive(tree: dict[str, Any]) -> Archive:
    return Archive(Path("file.pth"), "zip", tree, (), 0)


class Meta(Mapping[str, Tensor]):
    """Tensors without memory; notes which were asked for."""

    def __init__(self, shapes: Mapping[str, Any]) -> None:
        self.shapes, self.asked = shapes, set[str]()

    def __getitem__(self, name: str) -> Tensor:
        self.asked.add(name)
        return torch.empty(tuple(self.shapes[name]), device="meta")

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def documented(recorded: Any) -> set[str]:
    """Names that the reference says nobody reads."""
    skipped = set(recorded.spec["weights"]["skipped"]) | set(recorded.spec["weights"].get("aliases", {}))
    return skipped | {name for name in recorded.manifest if name.endswith("text_projection")}


@pytest.mark.parametrize("name", MODELS)
def test_released_models_are_known_by_names_and_shapes(name: str) -> None:
    preset, codec, cards, learned_null = MODELS[name]
    recorded = case(name)
    shapes = {key: stored(shape) for key, shape in recorded.manifest.items()}
    average = {key.removeprefix("transformer."): value for key, value in shapes.items() if key.startswith("transformer.")}
    found = recognise(archive({"last_epoch": 1, "model": shapes, "ema": average}))
    assert (found.family, found.kind, found.preset) == ("vq-diffusion", "model", preset)
    if preset == "imagenet":  # the labels of data to go on with are held to these
        assert found.config["context"]["classes"] == imagenet_synsets()
    assert (found.cards[: len(cards)], found.learned_null, found.ema, found.unexpected) == (cards, learned_null, True, ())
    expected = dict(PRESETS[preset].config)
    if name == "released_imagenet":
        expected["class_count"] = 1000
    assert found.config["network"] == found.config["network"] | expected
    assert found.config["codec"] == {**found.config["codec"], **DEFAULTS, **CODECS[codec]}
    assert sum(found.parameters.values()) == parameters(recorded)
    fills(found, Meta(recorded.manifest), documented(recorded))


def parameters(recorded: Any) -> int:
    """The recorded count is of everything in the original's model, which has an unused projection and an EMA codebook as parameters."""
    unused = sum(prod(shape) for key, shape in recorded.manifest.items() if key.endswith("text_projection"))
    return recorded.spec["measured"]["parameters"] - unused


def fills(found: Finding, tensors: Meta, unread: set[str]) -> None:
    """The configuration takes every tensor but those in `unread`, and lacks none."""
    with torch.device("meta"):
        network, codec = part("network", NETWORKS, found.config["network"]), part("codec", CODEC_PARTS, found.config["codec"])
        encoder = part("context encoder", CONTEXTS, found.config["context"])
    load_network(network, tensors)
    load_codec(codec, tensors)
    if isinstance(encoder, CLIPText):
        load_text(encoder, tensors)
    assert tensors.asked == set(tensors) - unread


@pytest.mark.parametrize("name", PARTS)
def test_released_codecs_are_known_by_names_and_shapes(name: str) -> None:
    preset, cards = PARTS[name]
    recorded = case(name)
    beside = {"loss.perceptual_loss.lin0.weight": [1, 64], "loss.discriminator.main.0.weight": [64, 3, 4, 4]}
    if name == "codec_vqgan_ffhq_f16_1024":  # inside an autoregressive model
        beside = {"transformer.blocks.0.attn.key.weight": [64, 64], "transformer.tok_emb.weight": [9, 64], "first_stage_model.loss.w": [1]}
    nesting = recorded.spec["weights"]["checkpoint_nesting"]
    found = recognise(archive({nesting: {key: stored(shape) for key, shape in {**recorded.manifest, **beside}.items()}, "epoch": 3}))
    assert (found.kind, found.preset, found.cards, found.unexpected, found.needs) == ("codec", preset, cards, (), ())
    with torch.device("meta"):
        codec = VQGAN(**{key: value for key, value in found.config.items() if key != "kind"})
    tensors = Meta(recorded.manifest)
    load_codec(codec, tensors)
    assert tensors.asked == set(tensors)


def test_what_nobody_expects_is_listed() -> None:
    state = {key: stored(shape) for key, shape in case("released_ffhq").manifest.items()}
    found = recognise(archive({"model": {**state, "transformer.extra.weight": stored([3])}}))
    assert found.unexpected == ("transformer.extra.weight",)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_alone_is_a_checkpoint_too(prefix: str) -> None:
    """Files that somebody stripped: the state dict at the top level, with or without what distributed training puts before its names."""
    shapes = case("released_ffhq").manifest
    found = recognise(archive({prefix + key: stored(shape) for key, shape in shapes.items()}))
    assert (found.preset, found.ema, found.unexpected) == ("ffhq", False, ())


def test_a_moving_average_alone_lacks_its_codec() -> None:
    state = {key.removeprefix("transformer."): stored(shape) for key, shape in case("released_coco").manifest.items()}
    found = recognise(archive({"ema": {key: value for key, value in state.items() if not key.startswith("content_codec")}}))
    assert (found.preset, found.ema, found.config["codec"]) == ("coco", True, None)
    assert "--codec" in found.needs[0]


@pytest.fixture(scope="module")
def small() -> dict[str, Tensor]:
    return small_state()


def load(state: dict[str, Any], path: Path, **extras: Any) -> Model:
    torch.save(state, path)
    return tessera.load(path, "cpu", heads=4, **extras)


def weight(model: Model, name: str) -> Tensor:
    return model.flows["text_to_image"].state_dict()[name]


def test_the_moving_average_takes_the_place_of_the_last_weights(small: dict[str, Tensor], tmp_path: Path) -> None:
    name = "transformer.transformer.to_logits.1.bias"
    last = small[name] + 1
    tree = training_state(small, {name: last})
    averaged, raw = load(tree, tmp_path / "a.pth"), load(tree, tmp_path / "a.pth", ema=False)
    assert torch.equal(weight(averaged, "network.head.bias"), small[name])
    assert torch.equal(weight(raw, "network.head.bias"), last)
    del tree["ema"]
    assert torch.equal(weight(load(tree, tmp_path / "b.pth"), "network.head.bias"), last)


def test_half_precision_of_the_text_tower_becomes_float32(small: dict[str, Tensor], tmp_path: Path) -> None:
    model = load({"model": small}, tmp_path / "a.pth")
    state = model.flows["text_to_image"].state_dict()
    assert all(value.dtype in (torch.float32, torch.int64) for value in state.values())
    released = small["transformer.condition_emb.transformer.resblocks.0.attn.out_proj.weight"]
    assert released.dtype == torch.float16
    assert torch.equal(state["context_encoder.tower.encoder.layers.0.self_attn.out_proj.weight"], released.float())
    assert model.defaults.guidance == 5.0
    assert load({"model": without(small, "empty_text_embed")}, tmp_path / "b.pth").defaults.truncation == 0.86


def test_a_codec_is_given_where_none_is_inside(small: dict[str, Tensor], tmp_path: Path) -> None:
    network = {"model": without(small, "content_codec.")}
    torch.save({"model": codec_state(small)}, tmp_path / "codec.pth")
    whole = load({"model": small}, tmp_path / "whole.pth", codec=tmp_path / "codec.pth")
    put_together = load(network, tmp_path / "network.pth", codec=tmp_path / "codec.pth")
    ours, theirs = (model.flows["text_to_image"].state_dict() for model in (whole, put_together))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(UsageError, match=r"no codec inside.*--codec"):
        load(network, tmp_path / "network.pth")
    with pytest.raises(UsageError, match="holds no codec"):
        load(network, tmp_path / "network.pth", codec=tmp_path / "network.pth")


def test_another_codec_is_refused(small: dict[str, Tensor], tmp_path: Path) -> None:
    other = codec_state(small)
    other["decoder.conv_in.bias"] = other["decoder.conv_in.bias"] + 1
    torch.save({"model": other}, tmp_path / "codec.pth")
    with pytest.raises(UsageError, match=r"not the one inside the checkpoint \(decoder.conv_in.bias differs\)"):
        load({"model": small}, tmp_path / "whole.pth", codec=tmp_path / "codec.pth")
    fewer = {name: value[:48] if name.startswith("quantize.") else value for name, value in codec_state(small).items()}
    torch.save({"model": fewer}, tmp_path / "codec.pth")
    with pytest.raises(UsageError, match="48 classes but the network was made for 80"):
        load({"model": without(small, "content_codec.")}, tmp_path / "network.pth", codec=tmp_path / "codec.pth")


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    return code_mapping(tmp_path / "mapping.pt")


def test_a_code_mapping_is_used_and_checked(small: dict[str, Tensor], mapping: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tree = {"model": larger_codebook(small, 100)}
    with pytest.raises(UsageError, match=r"100 codes, of which the model uses 80.*--mapping"):
        load(tree, tmp_path / "a.pth")
    model = load(tree, tmp_path / "a.pth", mapping=mapping)
    remap: Any = model.flows["text_to_image"].codec.remap
    assert remap.to_code.tolist() == [0, *range(98, 19, -1)]
    save_file({"full_to_quantize": torch.load(mapping)}, tmp_path / "mapping.safetensors")
    again: Any = load(tree, tmp_path / "a.pth", mapping=tmp_path / "mapping.safetensors").flows["text_to_image"].codec.remap
    assert torch.equal(again.to_class, remap.to_class)
    torch.save(torch.zeros(99, dtype=torch.int64), tmp_path / "short.pt")
    with pytest.raises(UsageError, match=r"short\.pt: .*100 codes.*99"):
        load(tree, tmp_path / "a.pth", mapping=tmp_path / "short.pt")
    with pytest.raises(UsageError, match="leave the mapping out"):
        load({"model": small}, tmp_path / "b.pth", mapping=mapping)


def test_a_codec_alone_with_a_mapping_gives_the_subset(small: dict[str, Tensor], mapping: Path, tmp_path: Path) -> None:
    torch.save({"model": codec_state(larger_codebook(small, 100))}, tmp_path / "codec.pth")
    file = read_archive(tmp_path / "codec.pth")
    whole: Any = build(file, recognise(file), Extras())
    subset: Any = build(file, recognise(file), Extras(mapping=mapping))
    assert (whole.classes, subset.classes) == (100, 80)
    assert torch.equal(subset.codebook()[0], whole.codebook()[0])
    assert torch.equal(subset.codebook()[1:], whole.codebook().flip(0)[1:80])


def test_the_last_and_the_averaged_are_told_apart_by_their_place() -> None:
    state = {key: stored(shape) for key, shape in case("released_ffhq").manifest.items()}
    found = contents(archive({"ema": {key.removeprefix("transformer."): value for key, value in state.items()}, "model": state}))
    assert found is not None
    assert found.ema
