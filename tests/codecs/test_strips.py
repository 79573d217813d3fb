"""Strips of rows make the map that the layers make at once."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from tessera.codecs import strips
from tessera.codecs.convolutional import Decoder, Encoder, Layers, ResidualBlock, Upsample
from tessera.codecs.strips import Rows, is_large, norm_by_rows

LAYERS = {"usual": Layers(), "local": Layers(local=True), "wide": Layers(local=True, kernel=5), "position": Layers(local=True, kernel=1)}


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_of_strips_are_those_of_the_map(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(rows)
    layers = LAYERS[kind]
    norm, conv, enlarge = layers.norm(64), layers.conv(64, 5), Upsample(layers, 64)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    blocks = [ResidualBlock(layers, 64, 64), ResidualBlock(layers, 64, 32)]
    x = torch.randn(2, 64, 11, 9) * 3 + 2
    with torch.no_grad():
        expected, larger = conv(nn.functional.silu(norm(x))), enlarge(x)
        of_blocks = [block(map_) for block in blocks for map_ in (x, larger)]
        monkeypatch.setattr(strips, "LARGE", 1)
        monkeypatch.setattr(strips, "STRIP", rows * 2 * 64 * 9)
        assert torch.allclose(norm_by_rows(norm, conv, x), expected, atol=1e-5)
        for much in (1 << 30, 1):
            monkeypatch.setattr(strips, "MUCH", much)
            made = [block(map_) for block in blocks for map_ in (x.clone(), enlarge(x))]
            assert isinstance(enlarge(x), Rows) == (much == 1)
            assert all(torch.allclose(ours, wanted, atol=1e-4) for ours, wanted in zip(made, of_blocks, strict=True))
        y = x.clone()
        assert blocks[0](y) is y, "a map that is too large beside another is written over"


@pytest.mark.parametrize("kind", ["usual", "local"])
def test_large_maps_go_through_networks_in_strips_with_the_same_result(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    decoder, encoder = Decoder(32, (1, 2), 2, (), 4, layers=LAYERS[kind]), Encoder(32, (1, 2), 2, (), 4, layers=LAYERS[kind])
    z, image = torch.randn(2, 4, 5, 7), torch.randn(2, 3, 10, 14)
    used: list[int] = []
    strips_of = Rows.strips

    def counted(rows: Rows) -> Iterator[tuple[int, int]]:
        used.append(rows.shape[2])
        return strips_of(rows)

    with torch.no_grad():
        expected = decoder(z), encoder(image)
        monkeypatch.setattr(strips, "LARGE", 1)
        monkeypatch.setattr(strips, "STRIP", 3 * 2 * 32 * 14)
        monkeypatch.setattr(Rows, "strips", counted)
        for much in (1 << 30, 1):
            monkeypatch.setattr(strips, "MUCH", much)
            assert torch.allclose(decoder(z), expected[0], atol=1e-5)
            assert set(used) == {5, 10}
            assert torch.allclose(encoder(image), expected[1], atol=1e-5)
    used.clear()
    decoder(z).sum().backward()  # training needs the maps anyway
    assert not used


def test_pictures_of_usual_sizes_are_computed_at_once() -> None:
    with torch.no_grad():
        assert not is_large(torch.empty(1, 128, 256, 256, device="meta"))
        assert is_large(torch.empty(1, 128, 512, 512, device="meta"))
    assert not is_large(torch.empty(1, 128, 512, 512, device="meta"))
