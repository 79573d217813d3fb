"""What released files are, from names and shapes alone, and the models and codecs filled from them."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tessera.checkpoints.cards import cards
from tessera.checkpoints.recognise import recognise
from tessera.checkpoints.registry import card_of
from tessera.checkpoints.safe_read import Archive, StoredTensor
from tessera.checkpoints.stored import InMemory, contiguous_strides
from tessera.codecs.vqgan import VQGAN
from tessera.contexts.context import Context
from tessera.errors import TesseraError, UsageError
from tessera.families.absorbing.checkpoint import export_network
from tessera.families.absorbing.codec_checkpoint import export_codec
from tessera.families.absorbing.network import Transformer
from tessera.families.absorbing.presets import PRESETS
from tessera.families.absorbing.released import find_codec
from tessera.loading import load, read
from tessera.part_folder import save_part
from tessera.sources import locate
from tests.conformance.cases import Case

REFERENCE = Path(__file__).parents[2] / "reference" / "absorbing"
CLASSES = 12
TINY_CODEC: dict[str, Any] = {
    "codebook": CLASSES, "quantizer": {"kind": "nearest", "commitment": 1.0, "codebook_weight": 0.25}, "width": 32, "multipliers": [1, 2],
    "blocks": 1, "decoder_blocks": 1, "attention_levels": [1], "dim": 4, "projections": False, "activation_out": False,
    "unit_range": True, "log_sigma": True,
}  # fmt: skip


def archive(shapes: dict[str, list[int]], name: str = "absorbing_ema_2.th") -> Archive:
    """A file of which only names and shapes are there."""
    state = {
        key: StoredTensor(tuple(shape), contiguous_strides(tuple(shape)), torch.float32, InMemory(b""), 0, prod(shape))
        for key, shape in shapes.items()
    }
    return Archive(Path(name), "zip", state, (), 0)


def sampler_state(causal: bool = False, classes: int = CLASSES) -> dict[str, Tensor]:
    """With everything beside the network that released files hold."""
    torch.manual_seed(0)
    made = Transformer(classes, (4, 4), 32, 2, 4, causal=causal)
    beside = {"net.blocks.0.attn.mask": torch.ones(1, 1, 16, 16)} if causal else {"_denoise_fn.start_tok": torch.zeros(1, 1, 32)}
    if not causal:
        beside |= {name: torch.zeros(11) for name in ("Lt_history", "Lt_count", "loss_history")}
    return export_network(made) | beside


def codec_state(codes: int = CLASSES) -> dict[str, Tensor]:
    torch.manual_seed(1)
    beside = {"disc.main.0.weight": torch.zeros(3), "perceptual.net.slice1.0.weight": torch.zeros(3)}
    return export_codec(VQGAN(**{**TINY_CODEC, "codebook": codes})) | beside


def saved(state: dict[str, Tensor], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: value.clone() for name, value in state.items()}, path)
    return path


@pytest.mark.parametrize("kind", ["absorbing", "autoregressive"])
def test_released_samplers_are_known_by_names_and_shapes(kind: str) -> None:
    shapes = Case.read(REFERENCE / f"transformer_{kind}_full").manifest
    found = recognise(archive(shapes, f"{kind}_ema_2000000.th"))
    assert (found.family, found.kind, found.preset, found.ema, found.unexpected) == ("absorbing", "model", kind, True, ())
    assert found.parameters == {"network": PRESETS[kind].parameters}
    assert found.cards == (("churches_absorbing", "bedrooms_absorbing", "ffhq_absorbing") if kind == "absorbing" else ())
    assert found.config["network"] == found.config["network"] | PRESETS[kind].config
    assert found.config["process"]["schedule"]["steps"] == 256
    assert "1024 codes" in found.needs[0]


def test_the_released_vqgan_is_known_by_names_and_shapes() -> None:
    shapes = Case.read(REFERENCE / "checkpoint_mapping").manifest
    found = recognise(archive(shapes, "vqgan_ema_2200000.th"))
    assert (found.kind, found.preset, found.unexpected) == ("codec", "absorbing_f16_1024", ())
    assert found.cards == ("churches_vqgan", "bedrooms_vqgan", "ffhq_vqgan")
    assert found.config["multipliers"] == [1, 1, 2, 2, 4]
    assert found.config["attention_levels"] == [4]


def test_small_vqgans_are_described_as_they_are() -> None:
    found = recognise(archive({name: list(value.shape) for name, value in codec_state().items()}))
    assert found.preset is None
    assert {key: found.config[key] for key in TINY_CODEC} == TINY_CODEC


def test_incomplete_files() -> None:
    shapes = {name: list(value.shape) for name, value in sampler_state().items()}
    del shapes["_denoise_fn.blocks.1.ln2.weight"]
    with pytest.raises(TesseraError, match=r"incomplete: it has no tensor '_denoise_fn\.blocks\.1\.ln2\.weight'"):
        recognise(archive(shapes))
    shapes = {name: list(value.shape) for name, value in codec_state().items() if not name.startswith("ae.encoder.blocks.7")}
    with pytest.raises(TesseraError, match="another kind, or incomplete"):
        recognise(archive(shapes))


@pytest.mark.parametrize("causal", [False, True])
def test_a_sampler_and_the_vqgan_beside_it_are_a_model(causal: bool, tmp_path: Path) -> None:
    name = "autoregressive" if causal else "absorbing"
    file = saved(sampler_state(causal), tmp_path / "logs" / f"{name}_churches" / "saved_models" / f"{name}_ema_2.th")
    with pytest.raises(UsageError, match=r"none is beside it: give .* \(--codec FILE\)"):
        load(file, "cpu")
    beside = tmp_path / "logs" / "vqgan_churches" / "saved_models"
    saved(codec_state(), beside / "vqgan_ema_30.th")
    saved(codec_state(), beside / "vqgan_400.th")
    model = load(file, "cpu", heads=4)
    assert (model.family, model.size, model.card["codec"], model.card["moving average"]) == ("absorbing", (8, 8), "vqgan_ema_30.th", True)
    picture = model.text_to_image(None, seed=0)[0]
    flow: Any = model.flows["text_to_image"]
    assert flow.process.steps == (256 if causal else 10)
    x = torch.randint(CLASSES, (1, 16))
    torch.manual_seed(0)
    expected = Transformer(CLASSES, (4, 4), 32, 2, 4, causal=causal).eval()
    t = torch.zeros(1, dtype=torch.int64)
    assert torch.equal(flow.network(x, t, Context()), expected(x, t, Context()))
    again = load(model.save(tmp_path / "saved"), "cpu")
    assert again.text_to_image(None, seed=0)[0].tobytes() == picture.tobytes()
    save_part(flow.codec, tmp_path / "codec")
    assert load(file, "cpu", codec=tmp_path / "codec", heads=4).text_to_image(None, seed=0)[0].tobytes() == picture.tobytes()


def test_where_a_vqgan_is_looked_for(tmp_path: Path) -> None:
    sampler = tmp_path / "absorbing_ffhq" / "saved_models" / "absorbing_ema_5.th"
    assert find_codec(sampler) is None
    other = saved({}, tmp_path / "vqgan_ffhq" / "saved_models" / "vqgan_7.th")
    saved({}, tmp_path / "vqgan_churches" / "saved_models" / "vqgan_ema_9.th")
    assert find_codec(sampler) == other
    here = saved({}, sampler.parent / "vqgan_ema_1.th")
    saved({}, sampler.parent / "vqgan_90.th")
    saved({}, sampler.parent / "vqgan_optim_90.th")
    assert find_codec(sampler) == here


def test_a_vqgan_with_another_codebook_is_refused(tmp_path: Path) -> None:
    file = saved(sampler_state(), tmp_path / "absorbing_ema_2.th")
    other = saved(codec_state(codes=20), tmp_path / "codecs" / "vqgan_ema_1.th")
    with pytest.raises(UsageError, match=r"vqgan_ema_1\.th has 20 codes, but the sampler in .* was made for 12"):
        load(file, "cpu", codec=other)
    with pytest.raises(UsageError, match="is a model and no codec"):
        load(file, "cpu", codec=file)


def test_what_such_files_do_not_need(tmp_path: Path) -> None:
    file = saved(sampler_state(), tmp_path / "absorbing_ema_2.th")
    with pytest.raises(UsageError, match=r"reads no words .* leave clip out"):
        load(file, "cpu", clip="x")
    codec = saved(codec_state(), tmp_path / "vqgan_1.th")
    from tessera.checkpoints.recognise import Extras

    with pytest.raises(UsageError, match="needs nothing beside it"):
        read(codec, Extras(codec=codec))
    made: Any = read(codec, Extras())
    assert torch.equal(made.codebook(), codec_state()["ae.quantize.embedding.weight"])


def test_every_named_file_has_a_card() -> None:
    known = {name: card for name, card in cards().items() if card.family == "absorbing"}
    steps = {"churches": (2_000_000, 2_200_000), "bedrooms": (2_000_000, 2_200_000), "ffhq": (900_000, 1_400_000)}
    assert {name: card.file for name, card in known.items()} == {
        f"{data}_{what}": f"{run}_{data}/saved_models/{run}_ema_{step}.th"
        for data, counts in steps.items()
        for (what, run), step in zip((("absorbing", "absorbing"), ("vqgan", "vqgan")), counts, strict=True)
    }
    assert all(card.sha256 is None and card.urls[0].in_browser for card in known.values())
    assert "700,000" in known["ffhq_absorbing"].note


def test_the_downloaded_logs_are_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of different data have the same name, so the folders of their runs tell them apart, and lead to the right VQGAN."""
    monkeypatch.setenv("TESSERA_MODELS", str(tmp_path))
    known = {name: card for name, card in cards().items() if card.family == "absorbing"}
    colours = {"churches": 1.0, "bedrooms": 2.0}
    for data, scale in colours.items():
        codec = codec_state()
        codec["ae.quantize.embedding.weight"] *= scale
        saved(codec, tmp_path / known[f"{data}_vqgan"].on_disk)
        saved(sampler_state(), tmp_path / known[f"{data}_absorbing"].on_disk)
    for data, scale in colours.items():
        assert card_of(locate(f"{data}_absorbing")) is known[f"{data}_absorbing"]
        made: Any = load(f"{data}_absorbing", "cpu").flows["text_to_image"].codec
        assert torch.equal(made.codebook(), codec_state()["ae.quantize.embedding.weight"] * scale)
    assert card_of(tmp_path / "absorbing_ema_2000000.th") is None
    with pytest.raises(TesseraError, match=r"absorbing_ffhq/saved_models/absorbing_ema_900000\.th is not on this machine"):
        locate("ffhq_absorbing")
