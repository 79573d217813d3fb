"""What released files are, from names and shapes alone, and the networks filled from them."""

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from tessera.checkpoints.cards import cards
from tessera.checkpoints.recognise import Extras, recognise
from tessera.checkpoints.safe_read import Archive, StoredTensor, read_archive
from tessera.checkpoints.stored import InMemory, contiguous_strides
from tessera.errors import TesseraError, UsageError
from tessera.families.v_diffusion.checkpoint import export_network
from tessera.families.v_diffusion.presets import PRESETS, preset
from tessera.families.v_diffusion.released import build, build_network, network_config
from tessera.loading import load
from tessera.part_folder import save_part
from tests.families.v_diffusion.small import ALL, case, context, inputs, network
from tests.tiny_floats import tiny_clip

RELEASED = [name for name in PRESETS if name != "scenes"]


def stored(shape: list[int]) -> StoredTensor:
    """A tensor of which only the shape is there."""
    return StoredTensor(tuple(shape), contiguous_strides(tuple(shape)), torch.float32, InMemory(b""), 0, prod(shape))


def archive(tree: dict[str, Any]) -> Archive:
    return Archive(Path("file.pth"), "zip", tree, (), 0)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", RELEASED)
def test_released_models_are_known_by_names_and_shapes(name: str, prefix: str) -> None:
    found = recognise(archive({prefix + key: stored(shape) for key, shape in case(f"net_{name}_full").manifest.items()}))
    assert (found.family, found.kind, found.preset, found.ema, found.unexpected) == ("v-diffusion", "model", name, False, ())
    assert found.cards == (("cc12m_1_cfg", "cc12m_1") if name == "cc12m_1" else (name,))
    assert found.parameters == {"network": PRESETS[name].parameters}
    assert found.config["network"] == found.config["network"] | preset(name)
    assert bool(found.needs) == (found.config["context"] is None) == (name == "cc12m_1")


@pytest.mark.parametrize("kind", ALL)
def test_other_networks_of_each_kind(kind: str) -> None:
    made = network(kind)
    config, name = network_config({key: value.shape for key, value in export_network(made).items()})
    assert name is None
    unknown = {"initial_scale", "frozen_frequencies", "frequency_std", "last_rectified"}  # what changes no shape and no value
    assert {key: value for key, value in config.items() if key not in unknown} == {
        key: value for key, value in made.config.items() if key not in unknown
    }


def test_what_nobody_expects_is_listed() -> None:
    shapes = case("net_wikiart_128_full").manifest
    found = recognise(archive({**{key: stored(shape) for key, shape in shapes.items()}, "extra.weight": stored([3])}))
    assert (found.unexpected, found.parameters) == (("extra.weight",), {"network": PRESETS["wikiart_128"].parameters})


def test_incomplete_files() -> None:
    shapes = case("net_imagenet_128_full").manifest
    cut = {key: stored(shape) for key, shape in shapes.items() if not key.startswith("net.4.main.3.")}
    with pytest.raises(TesseraError, match=r"the file names \[4, 2.* blocks at its levels.*incomplete"):
        recognise(archive(cut))
    del cut["timestep_embed.weight"]
    with pytest.raises(TesseraError, match="not a checkpoint that Tessera knows"):
        recognise(archive(cut))


@pytest.mark.parametrize("kind", ALL)
def test_weights_come_from_the_file(kind: str, tmp_path: Path) -> None:
    made, (x_t, t) = network(kind), inputs()
    torch.save({name: value.half() if kind == "jax" else value for name, value in export_network(made).items()}, tmp_path / "a.pth")
    file = read_archive(tmp_path / "a.pth")
    again = build_network(file, recognise(file))
    assert all(value.dtype == torch.float32 for value in again.state_dict().values())
    tolerance = {"atol": 2e-2, "rtol": 2e-2} if kind == "jax" else {"atol": 0.0, "rtol": 0.0}
    torch.testing.assert_close(again(x_t, t, context(kind)), made(x_t, t, context(kind)), **tolerance)


def released(folder: Path, kind: str, name: str = "a.pth") -> Path:
    torch.save(export_network(network(kind)), folder / name)
    return folder / name


def part(folder: Path, width: int = 10) -> Path:
    """A CLIP of one's own, as training writes it."""
    save_part(tiny_clip(width), folder / f"clip-{width}")
    return folder / f"clip-{width}"


@pytest.mark.parametrize("kind", ["yfcc", "jax"])
def test_a_file_without_prompts_is_a_model(kind: str, tmp_path: Path) -> None:
    model = load(released(tmp_path, kind), "cpu")
    assert (model.name, model.family, model.size, model.defaults.guidance) == ("a", "v-diffusion", (16, 16), 1.0)
    assert model.text_to_image(None, seed=0, steps=3)[0].size == (16, 16)


def test_a_file_with_prompts_needs_its_clip(tmp_path: Path) -> None:
    file = released(tmp_path, "modulated")
    with pytest.raises(UsageError, match="which is not inside: give CLIP whose embeddings are 10 wide"):
        load(file, "cpu")
    with pytest.raises(UsageError, match="of width 10, but this CLIP's are 8 wide"):
        load(file, "cpu", clip=part(tmp_path, 8))
    model = load(file, "cpu", clip=part(tmp_path))
    assert model.text_to_image("a red circle | a square:-1", seed=0, steps=3)[0].size == (16, 16)
    again = load(model.save(tmp_path / "saved"), "cpu")
    assert again.text_to_image("a red circle", seed=1)[0].tobytes() == model.text_to_image("a red circle", seed=1)[0].tobytes()


def test_a_clip_beside_a_file_without_prompts_leads_it(tmp_path: Path) -> None:
    file = released(tmp_path, "yfcc")
    for model in (load(file, "cpu", clip=part(tmp_path)), load(load(file, "cpu").save(tmp_path / "saved"), "cpu", clip=part(tmp_path))):
        made = [model.text_to_image("a red circle", seed=0, steps=3, clip_guidance=scale, cutouts=2)[0] for scale in (1.0, 500.0)]
        assert made[0].tobytes() != made[1].tobytes()


def test_guidance_is_the_default_where_no_prompt_was_learned(tmp_path: Path) -> None:
    """The released file that learned it says so by its name alone."""
    for name, guidance in (("cc12m_1_cfg.pth", 3.0), ("cc12m_1.pth", 1.0)):
        file = read_archive(released(tmp_path, "modulated", name))
        found = replace(recognise(file), cards=("cc12m_1_cfg", "cc12m_1"))
        model: Any = build(file, found, Extras(clip=str(part(tmp_path))))
        assert model.defaults.guidance == guidance


@pytest.mark.parametrize(("extra", "value"), [("codec", "x"), ("mapping", "x"), ("heads", 4), ("merges", "x")])
def test_what_such_a_file_does_not_need(tmp_path: Path, extra: str, value: Any) -> None:
    with pytest.raises(UsageError, match="needs no"):
        load(released(tmp_path, "yfcc"), "cpu", **{extra: value})


def test_every_released_file_has_a_card() -> None:
    hashes = {
        "cc12m_1_cfg": "4fc95ee1b320", "cc12m_1": "63946d1f6a1c", "yfcc_1": "a1c0f6baaf89", "yfcc_2": "69ad4e534fea",
        "danbooru_128": "1728940d3531", "imagenet_128": "cac117cd0ed8", "wikiart_128": "b3ca8d0cf8bd", "wikiart_256": "da45c38aa31c",
    }  # fmt: skip
    models = {name: card for name, card in cards().items() if card.family == "v-diffusion" and card.kind == "model"}
    assert set(models) == set(hashes)
    for name, card in models.items():
        assert (card.sha256 or "").startswith(hashes[name])
        assert [address.url for address in card.urls][:2] == [
            f"https://the-eye.eu/public/AI/models/v-diffusion/{name}.pth", f"https://v-diffusion.s3.us-west-2.amazonaws.com/{name}.pth"
        ]  # fmt: skip
        assert all(address.url.endswith(f"/{name}.pth") and address.dead is None for address in card.urls)
        assert card.condition == ("text" if PRESETS[str(card.configuration)].clip else "none")
