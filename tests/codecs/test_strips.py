"""Strips of rows make the map that the layers make at once."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from tessera.codecs import strips
from tessera.codecs.convolutional import Decoder, Encoder, Layers
from tessera.codecs.strips import is_large, norm_by_rows

LAYERS = {"usual": Layers(), "local": Layers(local=True), "wide": Layers(local=True, kernel=5), "position": Layers(local=True, kernel=1)}


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("kind", LAYERS)
def test_norm_activation_and_convolution_of_strips_are_those_of_the_map(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(rows)
    norm, conv, other = LAYERS[kind].norm(64), LAYERS[kind].conv(64, 5), LAYERS[kind].conv(64, 64)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 64, 11, 9) * 3 + 2
    monkeypatch.setattr(strips, "STRIP", rows * 2 * 64 * 9)
    with torch.no_grad():
        expected = conv(nn.functional.silu(norm(x)))
        assert torch.allclose(norm_by_rows(norm, conv, x), expected, atol=1e-5)
        expected = other(nn.functional.silu(norm(x)))
        assert norm_by_rows(norm, other, x, in_place=True) is x
        assert torch.allclose(x, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["usual", "local"])
def test_large_maps_go_through_networks_in_strips_with_the_same_result(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    decoder, encoder = Decoder(32, (1, 2), 2, (), 4, layers=LAYERS[kind]), Encoder(32, (1, 2), 2, (), 4, layers=LAYERS[kind])
    z, image = torch.randn(2, 4, 5, 7), torch.randn(2, 3, 10, 14)
    used: list[int] = []
    strips_of = strips._strips

    def counted(height: int, *others: int) -> Iterator[tuple[int, int]]:
        used.append(height)
        return strips_of(height, *others)

    with torch.no_grad():
        expected = decoder(z), encoder(image)
        monkeypatch.setattr(strips, "LARGE", 1)
        monkeypatch.setattr(strips, "STRIP", 3 * 2 * 32 * 14)
        monkeypatch.setattr(strips, "_strips", counted)
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
