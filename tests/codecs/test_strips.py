"""Strips of rows make the map that the layers make at once."""

import pytest
import torch
from torch import nn

from tessera.codecs import strips
from tessera.codecs.convolutional import Decoder, Encoder, Layers
from tessera.codecs.strips import activated, conv_by_rows, is_large

LAYERS = {"usual": Layers(), "local": Layers(local=True), "wide": Layers(local=True, kernel=5), "position": Layers(local=True, kernel=1)}


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("kind", LAYERS)
def test_norm_activation_and_convolution_of_strips_are_those_of_the_map(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(rows)
    norm, conv = LAYERS[kind].norm(64), LAYERS[kind].conv(64, 5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 64, 11, 9) * 3 + 2
    monkeypatch.setattr(strips, "STRIP", rows * 2 * 64 * 9)
    with torch.no_grad():
        expected = conv(nn.functional.silu(norm(x)))
        assert torch.allclose(conv_by_rows(conv, activated(norm, x), 11), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["usual", "local"])
def test_large_maps_go_through_networks_in_strips_with_the_same_result(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    decoder, encoder = Decoder(32, (1, 2), 2, (), 4, layers=LAYERS[kind]), Encoder(32, (1, 2), 2, (), 4, layers=LAYERS[kind])
    z, image = torch.randn(2, 4, 5, 7), torch.randn(2, 3, 10, 14)
    used: list[int] = []
    by_rows = strips._parts

    def counted(height: int, per_row: int) -> list[tuple[int, int]]:
        used.append(height)
        return by_rows(height, per_row)

    with torch.no_grad():
        expected = decoder(z), encoder(image)
        monkeypatch.setattr(strips, "LARGE", 1)
        monkeypatch.setattr(strips, "STRIP", 3 * 2 * 32 * 14)
        monkeypatch.setattr(strips, "_parts", counted)
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
