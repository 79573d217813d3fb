import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tessera.codecs.patch import PatchVQ
from tessera.errors import UsageError
from tessera.registry import CODECS, build
from tests.closeness import assert_same_but_for_rounding

COLOURS = torch.tensor([[-1.0, -1, -1], [1, 1, 1], [0.7, -0.6, -0.5], [-0.4, 0.2, 0.9]])


def flags(count: int, seed: int) -> Tensor:
    """16×16 pictures of four cells; a cell is flat, or two colours along its diagonal."""
    generator = torch.Generator().manual_seed(seed)
    upper, lower = COLOURS[torch.randint(4, (2, count, 2, 2), generator=generator)]
    diagonal = torch.ones(8, 8).tril().bool()[:, None, :, None]
    cells = torch.where(diagonal, lower[:, :, None, :, None], upper[:, :, None, :, None])
    return cells.reshape(count, 16, 16, 3).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module")
def trained() -> PatchVQ:
    torch.manual_seed(0)
    codec = PatchVQ(classes=24, dim=12, patience=20).train()
    optimizer = torch.optim.Adam(codec.parameters(), 1e-3)
    for step in range(60):
        image = flags(8, step)
        made = codec.reconstruct(image)
        loss = torch.nn.functional.mse_loss(made.image, image) + made.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return codec.eval()


def test_it_learns_to_draw_every_patch(trained: PatchVQ) -> None:
    image = flags(200, 999)
    made = trained.reconstruct(image)
    assert float((made.image - image).detach().square().mean()) < 4 * 10**-3.5  # 35 dB
    assert float(made.loss.detach()) < 0.01
    assert_same_but_for_rounding(made.image.detach().clamp(-1, 1), trained.decode(trained.encode(image), (2, 2)))
    assert float(made.report["usage"]) == pytest.approx(16 / 24)
    assert 10 < float(made.report["perplexity"]) < 24


def test_equal_patches_have_one_code_and_different_patches_have_others(trained: PatchVQ) -> None:
    image = flags(200, 998)
    cells = torch.nn.functional.pixel_unshuffle(image, 8).permute(0, 2, 3, 1).flatten(0, 2)
    _, patch = cells.unique(dim=0, return_inverse=True)
    pairs = torch.stack([patch, trained.encode(image).flatten()]).unique(dim=1)
    assert pairs.shape[1] == 16
    assert len(pairs[1].unique()) == 16


@given(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), st.integers(1, 6), st.integers(1, 6))
def test_a_flat_picture_is_one_code(colour: list[float], rows: int, columns: int) -> None:
    torch.manual_seed(1)
    codec = PatchVQ(classes=50, dim=8).eval()
    image = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 8 * rows, 8 * columns)
    assert len(codec.encode(image).unique()) == 1


def test_tokens_move_with_their_patches(trained: PatchVQ) -> None:
    image = flags(10, 5)
    tokens = trained.encode(image).view(10, 2, 2)
    assert torch.equal(trained.encode(image.roll((8, 8), (2, 3))).view(10, 2, 2), tokens.roll((1, 1), (1, 2)))
    assert_same_but_for_rounding(trained.decode(tokens[:, :1].flatten(1), (1, 2)), trained.decode(tokens.flatten(1), (2, 2))[:, :, :8])


@torch.no_grad()
def test_pictures_stay_in_range_and_tokens_survive_the_round_trip(trained: PatchVQ) -> None:
    tokens = torch.arange(24)[trained.quantizer.idle < trained.quantizer.patience][None]
    image = trained.decode(tokens, (4, 4))
    assert image.shape == (1, 3, 32, 32)
    assert float(image.abs().max()) <= 1
    assert torch.equal(trained.encode(image), tokens)


def test_tokens_do_not_depend_on_autocast(trained: PatchVQ) -> None:
    image = flags(50, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = trained.encode(image)
    assert torch.equal(mixed, trained.encode(image))


def test_its_config_builds_it_again(trained: PatchVQ) -> None:
    again = build("codec", CODECS, trained.config)
    again.load_state_dict(trained.state_dict())
    assert again.config == trained.config
    assert torch.equal(again.eval().encode(flags(3, 1)), trained.encode(flags(3, 1)))


def test_a_size_that_does_not_fit_and_a_width_beyond_the_patch_are_refused(trained: PatchVQ) -> None:
    with pytest.raises(UsageError, match="multiples of 8"):
        trained.encode(torch.zeros(1, 3, 16, 20))
    with pytest.raises(UsageError, match="dim 13"):
        PatchVQ(factor=2, dim=13)
