"""Networks of any description: they run, have the originals' names, and come back from their files.

Names are counted here as the originals lay out their modules, or taken from a block of a recorded checkpoint.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.codecs.vqgan import VQGAN
from tessera.contexts.context import Context
from tessera.families.absorbing import checkpoint as absorbing
from tessera.families.absorbing.codec_checkpoint import codec_names, export_codec, load_codec
from tessera.families.absorbing.network import Transformer
from tessera.families.absorbing.presets import CODECS
from tessera.families.absorbing.shapes import codec_config
from tessera.families.v_diffusion import checkpoint as v_diffusion
from tessera.families.v_diffusion.network import UNet
from tessera.families.v_diffusion.presets import KINDS
from tessera.families.vq_diffusion import checkpoint as vq_diffusion
from tessera.families.vq_diffusion.network import TokenTransformer

REFERENCE = Path(__file__).parents[1] / "reference"
few = settings(max_examples=8, deadline=None)


def names_of(case: str, depth: int) -> set[str]:
    """Of a recorded checkpoint, with as many blocks as `depth`."""
    recorded = json.loads((REFERENCE / case / "manifest.json").read_text())
    outside = {name for name in recorded if ".blocks." not in name}
    first = {name for name in recorded if ".blocks.0." in name}
    return outside | {name.replace(".blocks.0.", f".blocks.{block}.") for name in first for block in range(depth)}


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in mine.items())


def unet_names(described: dict[str, Any], kind: str) -> Iterator[str]:
    """Of v-diffusion's nested lists."""
    widths, modulated = described["widths"], kind == "modulated"

    def level(number: int, prefix: str) -> Iterator[str]:
        deepest = number == len(widths) - 1
        above, width = widths[number - 1] if number else None, widths[number]
        blocks = described["blocks"] * (2 if deepest else 1)
        place = int(number > 0)  # after the pooling
        for way in range(1 if deepest else 2):
            for block in range(blocks):
                enter = ((above or 3 + 16) if way == 0 else 2 * width) if block == 0 else width
                leave = (above or 3) if (way == 1 or deepest) and block == blocks - 1 else width
                last_of_all = number == 0 and leave == 3
                parts = ["main.0.weight", "main.0.bias"]
                parts += ["main.2.layer.weight", "main.4.weight", "main.4.bias"] if modulated else ["main.2.weight", "main.2.bias"]
                parts += ["main.6.layer.weight"] if modulated and not last_of_all else []
                parts += ["skip.weight"] if enter != leave else []
                yield from (f"{prefix}{place}.{part}" for part in parts)
                place += 1
                if number in described["attention_levels"]:
                    parts = [f"{part}.{what}" for part in ("qkv_proj", "out_proj") for what in ("weight", "bias")]
                    parts += ["norm.weight", "norm.bias"] if kind != "jax" else []
                    yield from (f"{prefix}{place}.{part}" for part in parts)
                    place += 1
            if way == 0 and not deepest:
                yield from level(number + 1, f"{prefix}{place}.main.")
                place += 1

    yield from level(0, "net.")
    yield "timestep_embed.weight"
    if modulated:
        yield "mapping_timestep_embed.weight"
        yield "mapping.0.skip.weight"
        yield from (f"mapping.{i}.main.{j}.{what}" for i in (0, 1) for j in (0, 2) for what in ("weight", "bias"))


@st.composite
def unets(draw: st.DrawFn) -> dict[str, Any]:
    widths = draw(st.lists(st.sampled_from([8, 16]), min_size=1, max_size=4))
    return {
        "widths": widths, "blocks": draw(st.integers(1, 3)), "head_width": draw(st.sampled_from([4, 8])),
        "attention_levels": sorted(draw(st.sets(st.integers(1, 3).filter(lambda level: level < len(widths))))) if widths[1:] else [],
    }  # fmt: skip


@torch.no_grad()
@few
@given(described=unets(), kind=st.sampled_from(sorted(KINDS)), more=st.integers(1, 2))
def test_any_network_of_v_diffusion(described: dict[str, Any], kind: str, more: int) -> None:
    sizes = {"context_width": 6, "mapping_width": 10} if kind == "modulated" else {}
    network, again = (UNet(size=16, **KINDS[kind] | described | sizes).eval() for _ in range(2))
    written = v_diffusion.export_network(network)
    assert set(written) == set(unet_names(described, kind))
    v_diffusion.load_network(again, written)
    assert same(network, again)
    x = torch.randn(2, 3, 2 ** (len(described["widths"]) - 1) * more, 2 ** len(described["widths"]))
    context = Context(torch.randn(2, 1, 6)) if sizes else Context()
    out = network(x, torch.tensor([0.9, 0.2], dtype=torch.float64), context)
    assert out.shape == x.shape
    assert out.isfinite().all()


CONDITIONS = {"text": "text_transformer_small", "class": "class_transformer_small", "none": "uncond_transformer_small"}


@torch.no_grad()
@few
@given(
    condition=st.sampled_from(sorted(CONDITIONS)), classes=st.integers(2, 9), depth=st.integers(1, 3), heads=st.sampled_from([1, 2, 3]),
    head_width=st.sampled_from([4, 8]), height=st.integers(1, 4), width=st.integers(1, 4), ratio=st.integers(1, 4),
    table=st.sampled_from([None, [4, 4], [5, 7]]), mlp=st.sampled_from(["linear", "conv"]),
)  # fmt: skip
def test_any_network_of_vq_diffusion(
    condition: str, classes: int, depth: int, heads: int, head_width: int, height: int, width: int, ratio: int,
    table: list[int] | None, mlp: str,
) -> None:  # fmt: skip
    described: dict[str, Any] = {
        "classes": classes, "grid": [height, width], "width": heads * head_width, "depth": depth, "heads": heads, "timesteps": 5,
        "condition": condition, "mlp": mlp, "mlp_ratio": ratio, "position_table": table,
        "context_width": 7 if condition == "text" else None, "class_count": 4 if condition == "class" else None,
    }  # fmt: skip
    network, again = (TokenTransformer(**described).eval() for _ in range(2))
    written = vq_diffusion.export_network(network)
    recorded = {name for name in names_of(f"vq_diffusion/{CONDITIONS[condition]}", depth) if not name.endswith("attn2.mask")}
    inside = re.compile(r"\.mlp\..*")  # the recorded ones have one kind each
    assert {inside.sub("", name) for name in written} == {inside.sub("", name) for name in recorded}
    kinds = {"linear": {".mlp.0", ".mlp.2"}, "conv": {".mlp.conv1", ".mlp.conv2"}}
    found = {match[0].rpartition(".")[0] for name in written if (match := inside.search(name))}
    assert found == kinds[mlp]
    vq_diffusion.load_network(again, written)
    assert same(network, again)
    context = Context(
        embeddings=torch.randn(2, 3, 7) if condition == "text" else None, labels=torch.tensor([0, 3]) if condition == "class" else None
    )
    logits = network(torch.randint(classes + 1, (2, height * width)), torch.tensor([0, 4]), context)
    assert logits.shape == (2, height * width, classes)
    assert logits.isfinite().all()


@torch.no_grad()
@few
@given(
    causal=st.booleans(), classes=st.integers(2, 9), depth=st.integers(1, 3), heads=st.sampled_from([1, 2, 3]),
    head_width=st.sampled_from([4, 8]), height=st.integers(1, 5), width=st.integers(1, 5), ratio=st.integers(1, 4), spare=st.integers(0, 3),
)  # fmt: skip
def test_any_network_of_absorbing_diffusion(
    causal: bool, classes: int, depth: int, heads: int, head_width: int, height: int, width: int, ratio: int, spare: int
) -> None:
    described: dict[str, Any] = {
        "classes": classes, "grid": [height, width], "width": heads * head_width, "depth": depth, "heads": heads, "causal": causal,
        "mlp_ratio": ratio, "positions": height * width + spare,
    }  # fmt: skip
    network, again = (Transformer(**described).eval() for _ in range(2))
    written = absorbing.export_network(network)
    kind = "autoregressive" if causal else "absorbing"
    assert set(written) == {name for name in names_of(f"absorbing/transformer_{kind}_small", depth) if not absorbing.unread(name)}
    absorbing.load_network(again, written)
    assert same(network, again)
    logits = network(torch.randint(classes, (2, height * width)), torch.zeros(2, dtype=torch.int64), Context())
    assert logits.shape == (2, height * width, classes)
    assert logits.isfinite().all()


@torch.no_grad()
@few
@given(
    multipliers=st.lists(st.integers(1, 2), min_size=1, max_size=3), blocks=st.integers(1, 2), attended=st.sets(st.integers(0, 2)),
    codes=st.integers(2, 9), dim=st.integers(1, 6), quantizer=st.sampled_from(sorted(CODECS)), log_sigma=st.booleans(),
)  # fmt: skip
def test_any_vqgan_of_absorbing_diffusion(
    multipliers: list[int], blocks: int, attended: set[int], codes: int, dim: int, quantizer: str, log_sigma: bool
) -> None:
    levels = range(len(multipliers))
    described = CODECS[quantizer] | {
        "codebook": codes, "width": 32, "multipliers": multipliers, "blocks": blocks, "decoder_blocks": blocks, "dim": dim,
        "attention_levels": [level for level in levels if level in attended], "log_sigma": log_sigma,
    }  # fmt: skip
    codec, again = (VQGAN(**{key: value for key, value in described.items() if key != "kind"}).eval() for _ in range(2))
    written = export_codec(codec)
    assert {f"ae.{name}" for name in codec_names(codec).values()} <= set(written)
    assert codec_config({name: value.shape for name, value in written.items()}) == described
    load_codec(again, written)
    side = 2 ** len(multipliers)
    image = torch.rand(2, 3, side, side) * 2 - 1
    tokens = codec.encode(image)
    assert tokens.shape == (2, math.prod(codec.grid((side, side))))
    assert torch.equal(again.encode(image), tokens)
    assert torch.equal(again.decode(tokens, again.grid((side, side))), codec.decode(tokens, codec.grid((side, side))))
