import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tessera.codecs.quantizer import Quantizer, perplexity
from tessera.codecs.quantizers import EMA, Gumbel, Nearest, distinct_points
from tessera.randomness import Draws
from tests.chi_square import fits

KINDS = [Nearest, EMA, Gumbel]


def quantizer(kind: type[Quantizer], classes: int = 12, dim: int = 4, **settings: object) -> Quantizer:
    torch.manual_seed(0)
    return kind(classes, dim, **settings)


def points(count: int, dim: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 300), st.integers(0, 300), st.floats(1e-3, 1e3))
def test_perplexity_of_n_codes_used_alike_is_n(used: int, unused: int, count: float) -> None:
    histogram = torch.cat([torch.full((used,), count), torch.zeros(unused)])
    torch.testing.assert_close(perplexity(histogram), torch.tensor(float(used)))


def test_perplexity_of_known_histograms() -> None:
    assert float(perplexity(torch.tensor([2.0, 1.0, 1.0]))) == pytest.approx(2**1.5)
    assert float(perplexity(torch.tensor([9.0, 1.0]))) == pytest.approx(math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1)))
    assert float(perplexity(torch.zeros(5))) == 0


@pytest.mark.parametrize("kind", [Nearest, EMA])
@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 8), st.integers(0, 99))
def test_nearest_is_the_code_of_least_distance(kind: type[Quantizer], count: int, classes: int, dim: int, seed: int) -> None:
    z, made = points(count, dim, seed), quantizer(kind, classes, dim).eval()
    with torch.no_grad():
        made.codebook.copy_(points(classes, dim, seed + 1))
    distances = (z.double()[:, None] - made.codebook.detach().double()).square().sum(-1)
    chosen = distances.gather(1, made(z).indices[:, None]).squeeze(1)
    torch.testing.assert_close(chosen, distances.min(1).values, atol=1e-5, rtol=1e-5)
    assert torch.equal(made.tokens(z[None])[0], made(z).indices)
    torch.testing.assert_close(made(z).values, made.codebook.detach()[made(z).indices], atol=1e-6, rtol=1e-6)


def test_search_in_parts_is_the_same_search(monkeypatch: pytest.MonkeyPatch) -> None:
    made, z = quantizer(EMA).eval(), points(101)
    whole = made(z).indices
    monkeypatch.setattr("tessera.codecs.quantizers.SEARCH", 7 * made.classes)
    assert torch.equal(made(z).indices, whole)


@pytest.mark.parametrize("kind", [Nearest, EMA])
def test_gradients_pass_straight_through(kind: type[Quantizer]) -> None:
    made, z, weight = quantizer(kind, restart_every=0), points(9).requires_grad_(), points(9, seed=2)
    made.train()
    (made(z).values * weight).sum().backward()
    assert torch.equal(z.grad, weight)
    assert made.codebook.grad is None


def test_gumbel_passes_the_gradient_of_the_mixture() -> None:
    made, z, weight = quantizer(Gumbel, restart_every=0), points(9).requires_grad_(), points(9, seed=2)
    made.temperature = 0.7
    reference = copy.deepcopy(made)
    quantized = made(z)
    torch.testing.assert_close(quantized.values, made.codebook.detach()[quantized.indices])
    (quantized.values * weight).sum().backward()
    z_2 = z.detach().clone().requires_grad_()
    noise = -torch.empty(9, 12).exponential_(generator=reference._generator("draw")).log()
    soft = ((reference.logits(z_2) + noise) / 0.7).softmax(-1)
    ((soft @ reference.codebook) * weight).sum().backward()
    torch.testing.assert_close(z.grad, z_2.grad)


def test_losses_are_those_of_the_papers() -> None:
    z = points(50)
    nearest, ema, gumbel = (quantizer(kind, restart_every=0).eval() for kind in KINDS)
    nearest.commitment, ema.commitment, gumbel.kl_weight = 0.3, 0.3, 2.0
    with torch.no_grad():
        nearest.codebook.copy_(ema.codebook)
    error = (z - ema.codebook[ema(z).indices]).square().mean()
    torch.testing.assert_close(nearest(z).loss, 1.3 * error)
    torch.testing.assert_close(ema(z).loss, 0.3 * error)
    p = gumbel.logits(z).softmax(-1)
    torch.testing.assert_close(gumbel(z).loss, 2.0 * (p * (p * gumbel.classes).log()).sum(-1).mean())


def test_nearest_loss_pulls_codes_to_points_and_points_to_codes() -> None:
    made, z = quantizer(Nearest, restart_every=0), points(50).requires_grad_()
    quantized = made(z)
    quantized.loss.backward()
    distance = z.detach() - made.codebook.detach()[quantized.indices]
    torch.testing.assert_close(z.grad, made.commitment * 2 * distance / z.numel())
    expected = torch.zeros_like(made.codebook).index_add_(0, quantized.indices, -2 * distance / z.numel())
    torch.testing.assert_close(made.codebook.grad, expected)


@given(st.integers(1, 12), st.floats(0.5, 0.99), st.integers(0, 50))
def test_ema_equals_its_closed_form(updates: int, decay: float, seed: int) -> None:
    """N_T = γ^T N_0 + (1 - γ) Σ_i γ^(T-1-i) n_i, the sums likewise, e = m / N where a code was used."""
    made = EMA(6, 3, restart_every=0, decay=decay).train()
    size, total, first = made.cluster_size.double(), made.codebook_sum.double(), made.codebook.clone()
    used = torch.zeros(6, dtype=torch.bool)
    for i in range(updates):
        z = points(20, 3, seed + i)
        indices = made(z).indices
        choice = torch.nn.functional.one_hot(indices, 6).double()
        size = decay * size + (1 - decay) * choice.sum(0)
        total = decay * total + (1 - decay) * choice.T @ z.double()
        used |= choice.sum(0) > 0
    expected = torch.where(used[:, None], total / size[:, None], first.double())
    torch.testing.assert_close(made.codebook.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made.cluster_size.double(), size, atol=1e-5, rtol=1e-5)


@given(st.integers(1, 12), st.integers(0, 20), st.integers(0, 99))
def test_distinct_points_are_distinct_and_cover(places: int, repeats: int, seed: int) -> None:
    where = torch.cat([torch.arange(places), torch.zeros(repeats, dtype=torch.int64)])
    z = points(places, seed=seed)[where]
    rows = distinct_points(z, torch.full((len(z),), math.inf), 20, 1e-9, torch.Generator().manual_seed(seed))
    assert sorted(where[rows].tolist()) == list(range(places))


def test_distinct_points_follow_the_error_and_stop_at_the_floor() -> None:
    z = torch.arange(4.0).unsqueeze(1) * 1000
    error = torch.tensor([0.5, 1.0, 3.0, 6.0])
    first = torch.cat([distinct_points(z, error, 1, 0.5, torch.Generator().manual_seed(seed)) for seed in range(2000)])
    assert fits(first, torch.tensor([0.0, 1.0, 3.0, 6.0]))
    assert len(distinct_points(z, error, 4, 0.5, torch.Generator())) == 3


@pytest.mark.parametrize("kind", [Nearest, EMA])
def test_unused_codes_recover(kind: type[Quantizer]) -> None:
    """99 % of the points are one background, ten rare points are the rest; every code but two starts where no point is."""
    made = quantizer(kind, 16, 4, patience=3, restart_every=2).train()
    with torch.no_grad():
        made.codebook.copy_(1000 + points(16))
        made.idle.zero_()
    rare = points(10)
    z = torch.cat([torch.zeros(990, 4), rare])
    before = made.report()["usage"]
    for _ in range(8):
        quantized = made(z)
    made.eval()
    assert float(before) == 1.0  # nothing was known about their use yet
    assert len(made(z).indices.unique()) == 11
    assert float(made.report()["usage"]) == pytest.approx(11 / 16)
    assert float((quantized.values - z).abs().max()) < 1e-4


@pytest.mark.parametrize("kind", [Nearest, EMA])
def test_a_new_codebook_starts_on_the_points_of_the_first_batch(kind: type[Quantizer]) -> None:
    made, z = quantizer(kind, 8).train(), points(5).repeat(20, 1)
    assert float(made.report()["usage"]) == 0.0
    torch.testing.assert_close(made(z).values, z)
    assert float(made.report()["usage"]) == 5 / 8
    assert float(made.report()["perplexity"]) == pytest.approx(5)


def test_gumbel_restart_leaves_the_mixture_unchanged_and_recovers_usage() -> None:
    made, z = quantizer(Gumbel, 12, 4, patience=5, restart_every=1).train(), points(400)
    with torch.no_grad():
        made.to_logits.bias[3:] = -40.0  # never drawn
    for _ in range(5):
        made(z)
    assert float(made.report()["usage"]) == 3 / 12
    before = made.logits(z).softmax(-1) @ made.codebook
    made(z)
    torch.testing.assert_close(made.logits(z).softmax(-1) @ made.codebook, before, atol=1e-5, rtol=1e-4)
    assert float(made.report()["usage"]) == 6 / 12  # three codes in use, each shares with one
    for _ in range(3):
        made(z)
    assert float(made.report()["usage"]) == 1.0


def test_gumbel_tokens_are_draws_from_its_logits() -> None:
    made = quantizer(Gumbel, 5, 4).eval()
    z = points(1).expand(20000, -1)[None]
    assert fits(made.tokens(z, Draws(0, [0])), made.logits(z[0, 0]).softmax(-1).detach())
    assert made.tokens(z).unique().tolist() == [int(made.logits(z[0, 0]).argmax())]


@pytest.mark.parametrize("kind", KINDS)
def test_training_continues_from_a_saved_state_as_if_never_interrupted(kind: type[Quantizer]) -> None:
    def run(made: Quantizer, first: int, last: int) -> None:
        for i in range(first, last):
            made(points(30, seed=i))

    whole, saved = (quantizer(kind, 40, 4, patience=2, restart_every=3).train() for _ in range(2))
    run(whole, 0, 9)
    run(saved, 0, 4)
    torch.manual_seed(99)
    resumed = kind(40, 4, patience=2, restart_every=3).train()
    resumed.load_state_dict(saved.state_dict())
    run(resumed, 4, 9)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_changes_nothing(kind: type[Quantizer]) -> None:
    made = quantizer(kind).eval()
    before = copy.deepcopy(made.state_dict())
    made(points(30))
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize("kind", [Nearest, EMA])
def test_tokens_do_not_depend_on_autocast(kind: type[Quantizer]) -> None:
    made, z = quantizer(kind, 300).eval(), points(2000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = made.nearest(z)
    assert torch.equal(mixed, made.nearest(z))
