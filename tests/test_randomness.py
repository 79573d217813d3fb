import pytest
import torch

from tessera.randomness import BatchDraws, Draws, derive_seed
from tests.chi_square import fits


@pytest.mark.parametrize("classes", [1, 2, 63, 64, 65, 300])
def test_categorical_draws_follow_their_distribution(classes: int) -> None:
    log_p = 2 * torch.randn(1, 1, classes, generator=torch.Generator().manual_seed(classes))
    drawn = Draws(0, [classes]).categorical(log_p.expand(1, 60_000, classes))
    assert fits(drawn, log_p[0, 0].double().exp())


def test_rare_classes_are_drawn_as_often_as_they_should_be() -> None:
    # Eleven bits of a float32 uniform number would not reach this tail: 2000 classes of 1e-5 beside one of 0.98.
    log_p = torch.full((1, 1, 2001), 1e-5).log()
    log_p[..., 700] = torch.tensor(0.98).log()
    draws = Draws(0, [0])
    drawn = torch.cat([draws.categorical(log_p.expand(1, 2000, 2001)) for _ in range(20)])
    others = drawn[drawn != 700]
    assert abs(len(others) / drawn.numel() - 0.02) < 0.003
    assert fits(others // 20, torch.bincount(torch.arange(2001)[torch.arange(2001) != 700] // 20).double())


def test_classes_of_no_mass_are_never_drawn() -> None:
    log_p = torch.full((1, 1, 200), float("-inf"))
    log_p[..., [0, 70, 130, 199]] = 0.0
    drawn = Draws(0, [0]).categorical(log_p.expand(1, 5000, 200))
    assert set(drawn.unique().tolist()) == {0, 70, 130, 199}


def test_an_image_does_not_depend_on_its_batch() -> None:
    log_p = torch.randn(3, 10, 100, generator=torch.Generator().manual_seed(0))
    together, alone = Draws(7, [4, 5, 6]), Draws(7, [5])
    assert torch.equal(together.categorical(log_p)[1:2], alone.categorical(log_p[1:2]))
    assert torch.equal(together.uniform(3)[1:2], alone.uniform(3))
    assert torch.equal(together.normal(2, 2)[1:2], alone.normal(2, 2))


def test_positions_are_chosen_in_proportion_to_their_score() -> None:
    score = torch.tensor([[5.0, 0.0, 3.0, 2.0]]).expand(20_000, -1)
    chosen = BatchDraws(0, 20_000).choose(score, 1)
    assert bool((chosen.sum(1) == 1).all())
    assert fits(chosen.long().argmax(1), torch.tensor([0.5, 0.0, 0.3, 0.2]))
    both = BatchDraws(1, 20_000).choose(score, 2)
    assert bool((both.sum(1) == 2).all())
    # Without replacement: position 0 first (0.5), or second after 2 (0.3 · 5/7) or after 3 (0.2 · 5/8).
    first = both[:, 0].long()
    assert fits(first, torch.tensor([1 - (0.5 + 0.3 * 5 / 7 + 0.2 * 5 / 8), 0.5 + 0.3 * 5 / 7 + 0.2 * 5 / 8]))


def test_a_batch_stream_is_fixed_by_its_seed() -> None:
    assert torch.equal(BatchDraws(3, 4).uniform(5), BatchDraws(3, 4).uniform(5))
    assert not torch.equal(BatchDraws(3, 4).uniform(5), BatchDraws(4, 4).uniform(5))
    assert BatchDraws(3, 4).normal(2, 3).shape == (4, 2, 3)
    assert BatchDraws(3, 4).uniform().shape == (4,)


def test_derived_seeds_depend_on_every_part() -> None:
    seeds = {derive_seed(*parts) for parts in [(1, 2), (2, 1), (12,), (1, "a"), (1, 2, 0)]}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
