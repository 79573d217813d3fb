from pathlib import Path
from typing import Any

import pytest
import torch

from tessera.errors import TesseraError, UsageError
from tessera.nn.lpips import LPIPS, FeatureDistance
from tessera.training.perceptual import load_lpips, make_perceptual
from tests.closeness import assert_same_but_for_rounding


def of_package(network: LPIPS) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Its weights as torchvision's file and the package's own have them."""
    own = network.state_dict()
    backbone = {f"features.{name.split('.', 2)[2]}": value for name, value in own.items() if name.startswith("stages.")}
    linear = {
        f"lin{name.split('.')[1]}.model.1.weight": value.view(1, -1, 1, 1) for name, value in own.items() if name.startswith("weights.")
    }
    return backbone, linear


@pytest.fixture(scope="module")
def alex() -> LPIPS:
    torch.manual_seed(0)
    network = LPIPS("alex").eval()
    for weight in network.weights:
        torch.nn.init.uniform_(weight)
    return network.requires_grad_(False)


def test_it_is_a_distance(alex: LPIPS) -> None:
    a, b = torch.rand(2, 2, 3, 32, 40).unbind(0)
    assert torch.equal(alex(a, a), torch.zeros(2))
    assert_same_but_for_rounding(alex(a, b), alex(b, a))
    assert bool((alex(a, b) > 0).all())
    torch.testing.assert_close(alex.layers(a, b).sum(0), alex(a, b))


def test_its_gradient_is_finite_where_all_features_are_zero(alex: LPIPS) -> None:
    class Dead(LPIPS):
        def features(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [torch.relu(each - 1e6) for each in super().features(image)]

    dead = Dead("alex")
    dead.load_state_dict(alex.state_dict())
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    dead(image, torch.rand(1, 3, 32, 32)).sum().backward()
    assert image.grad is not None
    assert bool(image.grad.isfinite().all())


def test_weights_come_from_torchvision_and_the_package_or_from_one_file(alex: LPIPS, tmp_path: Path) -> None:
    backbone, linear = of_package(alex)
    torch.save(backbone, tmp_path / "alexnet.pth")
    torch.save(linear, tmp_path / "alex.pth")
    torch.save({f"perceptual.{name}": value for name, value in {**backbone, **linear}.items()}, tmp_path / "whole.th")
    a, b = torch.rand(2, 1, 3, 32, 32).unbind(0)
    for files in (["alexnet.pth", "alex.pth"], ["whole.th"]):
        loaded = make_perceptual({"kind": "lpips", "network": "alex", "files": [str(tmp_path / name) for name in files]})
        assert torch.equal(loaded(a, b), alex(a, b))
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(TesseraError, match=r"no tensor 'lins.0.model.1.weight' or 'lin0.model.1.weight'"):
        load_lpips("alex", [str(tmp_path / "alexnet.pth")])
    with pytest.raises(TesseraError, match=r"no tensor|another network"):
        load_lpips("vgg", [str(tmp_path / "whole.th")])


def test_weights_that_are_not_there_are_named_with_the_alternative(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"vgg16-397923af\.pth and lpips/weights/v0\.1/vgg\.pth.*none\.pth is not there.*kind: codec"):
        load_lpips("vgg", [str(tmp_path / "none.pth")])
    with pytest.raises(UsageError, match=r"alexnet-owt-7be5be79\.pth"):
        load_lpips("alex")


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "lpisp"}, "did you mean 'lpips'"),
        ({"kind": "lpips", "network": "vgg19"}, "did you mean 'vgg'"),
        ({"network": "vgg"}, "needs a kind"),
        ({"kind": "codec", "folder": "nowhere"}, "is not a trained codec"),
        ({"kind": "codec"}, "needs the argument 'folder'"),
    ],
)
def test_bad_descriptions_are_named(description: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_perceptual(description)


def test_pictures_that_leave_nothing_to_the_last_stage_are_refused(alex: LPIPS) -> None:
    assert alex(torch.rand(1, 3, 31, 31), torch.rand(1, 3, 31, 31)).shape == (1,)
    with pytest.raises(UsageError, match="needs 31 pixels"):
        alex(torch.rand(1, 3, 30, 31), torch.rand(1, 3, 30, 31))


def test_any_features_give_a_distance() -> None:
    distance = FeatureDistance(torch.nn.Identity(), lambda image: [image, image[:, :, ::2, ::2]])
    a, b = torch.rand(2, 2, 3, 8, 8).unbind(0)
    assert torch.equal(distance(a, a), torch.zeros(2))
    assert bool((distance(a, b) > 0).all())
