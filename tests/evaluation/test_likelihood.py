"""The bound on likelihoods: on networks whose distribution is known it is the entropy; fewer times change its spread, not its mean."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tessera.codecs.codec import TokenCodec
from tessera.contexts.context import Context, Unconditional
from tessera.contexts.labels import Labels
from tessera.errors import UsageError
from tessera.evaluation.likelihood import bits_per_dimension, bound_terms, evaluate_likelihood, last_term, spread_times, token_bound
from tessera.flow import TokenFlow
from tessera.processes.discrete import DiscreteProcess
from tessera.processes.discrete_loss import DiscreteLoss
from tessera.processes.masked_loss import AutoregressiveLoss, MaskedLoss
from tessera.processes.schedules import DiscreteSchedule, absorbing, hybrid, vq_diffusion
from tessera.randomness import Draws

SHARES = torch.tensor([0.5, 0.3, 0.2])
N = 4


class Codec(TokenCodec):
    """One token per pixel: its brightness. log_sigma: of the density of every value."""

    def __init__(self, log_sigma: float | None = None) -> None:
        super().__init__()
        self.classes, self.factor, self.config = 3, 1, {}
        self.log_sigma = log_sigma

    def encode(self, image: Tensor) -> Tensor:
        return (image[:, 0].flatten(1) + 1).long()

    def nll(self, image: Tensor, tokens: Tensor) -> Tensor:
        assert self.log_sigma is not None
        return torch.full((len(image),), image[0].numel() * (self.log_sigma + 0.5 * math.log(2 * math.pi)))


class Independent(nn.Module):
    """Every token by itself, drawn with SHARES: what is known of the others changes nothing."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.logits = nn.Parameter(SHARES.log())

    def prepare(self, context: Context) -> Context:
        return context

    def forward(self, x_t: Tensor, t_index: Tensor, context: Context) -> Tensor:
        return self.logits.expand(*x_t.shape, -1).clone()


def flow(process: DiscreteProcess, codec: Codec | None = None) -> TokenFlow:
    loss = MaskedLoss(process) if process.absorbing else DiscreteLoss(process)
    return TokenFlow(codec or Codec(), Unconditional(), Independent(), loss)


def pictures(count: int) -> Tensor:
    """Of tokens with these shares."""
    tokens = torch.multinomial(SHARES, count * N, replacement=True, generator=torch.Generator().manual_seed(0)).view(count, 1, 2, 2)
    return (tokens.float() - 1).expand(-1, 3, -1, -1).contiguous()


def nats(image: Tensor) -> Tensor:
    """-log p of its tokens, exactly."""
    return -SHARES.log()[Codec().encode(image)].sum(1)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_the_bound_is_tight_where_the_network_is_right(shape: str) -> None:
    made, image = flow(DiscreteProcess(absorbing(64, shape), 3)), pictures(400)
    found = evaluate_likelihood(made, [(image[:200], [None] * 200), (image[200:], [None] * 200)])
    exact = nats(image) / (N * math.log(2))
    assert found.pictures == 400
    assert found.bits_per_token == pytest.approx(float(exact.mean()), abs=4 * found.bits_per_token_error)
    assert found.bits_per_token == pytest.approx(float(exact.mean()), rel=0.05)
    assert found.bits_per_dimension is None
    assert found.times == 64


def test_fewer_times_estimate_the_same() -> None:
    made, image = flow(DiscreteProcess(absorbing(64), 3)), pictures(1).expand(2000, -1, -1, -1)
    x_0, draws = Codec().encode(image), [Draws(seed, range(2000)) for seed in range(2)]
    with torch.no_grad():
        few = torch.stack([token_bound(made, x_0, [None] * 2000, Draws(seed, range(2000)), 8).mean() for seed in range(12)])
        whole = token_bound(made, x_0, [None] * 2000, draws[0])
    exact = float(nats(pictures(1)))
    assert float(whole.mean()) == pytest.approx(exact, rel=0.03)
    assert float(few.mean()) == pytest.approx(exact, abs=4 * float(few.std()) / 12**0.5)


@pytest.mark.parametrize(("steps", "count"), [(64, 64), (64, 8), (10, 3), (5, 1)])
def test_times_stand_for_all(steps: int, count: int) -> None:
    drawn = [spread_times(steps, count, Draws(seed, [0])) for seed in range(200)]
    times = torch.stack([t for t, _ in drawn])
    assert all(int(stands.sum()) == steps for _, stands in drawn)
    assert set(times.flatten().tolist()) == set(range(1, steps + 1))
    assert bool((times.diff(dim=1) < 0).all())


def test_a_causal_network_is_exact() -> None:
    process = DiscreteProcess(absorbing(8), 3)
    made = TokenFlow(Codec(), Unconditional(), Independent(causal=True), AutoregressiveLoss(process))
    image = pictures(50)
    found = evaluate_likelihood(made, [(image, [None] * 50)])
    assert found.bits_per_token == pytest.approx(float(nats(image).mean()) / (N * math.log(2)), rel=1e-5)
    assert found.times == 1


def test_a_process_with_uniform_noise_has_a_bound_too() -> None:
    """Above the entropy here: the network does not look at unmasked tokens, which say something of x_0."""
    image = pictures(400)
    found = evaluate_likelihood(flow(DiscreteProcess(hybrid(32, 0.1), 3)), [(image, [None] * 400)])
    assert found.bits_per_token > float(nats(image).mean()) / (N * math.log(2))


def test_the_decoders_part() -> None:
    made, image = flow(DiscreteProcess(absorbing(16), 3), Codec(log_sigma=-3.0)), pictures(60)
    eight, five = (evaluate_likelihood(made, [(image, [None] * 60)], bits=bits) for bits in (8, 5))
    decoder = (-3.0 + 0.5 * math.log(2 * math.pi)) / math.log(2)
    assert eight.decoder == pytest.approx(decoder + 8, rel=1e-6)
    assert eight.bits_per_dimension == pytest.approx(decoder + 8 + eight.bits_per_token * N / 12, rel=1e-6)
    assert five.bits_per_dimension == pytest.approx(eight.bits_per_dimension - 3, rel=1e-6)
    assert float(bits_per_dimension(torch.zeros(1), 10, 5)) == 5


@pytest.mark.parametrize("schedule", [vq_diffusion(20), hybrid(20, 0.2), absorbing(20)], ids=["vq-diffusion", "hybrid", "absorbing"])
def test_it_is_the_bound_that_training_prints(schedule: DiscreteSchedule) -> None:
    """The same terms from the same masks, at every time."""
    made = DiscreteProcess(schedule, 3)
    x_0, loss = Codec().encode(pictures(6)), DiscreteLoss(made)
    network = Independent()
    one = TokenFlow(Codec(), Unconditional(), network, loss)
    predict = one.predictor(Context())
    with torch.no_grad():
        for time in range(1, 21):
            (term,) = bound_terms(predict, made, x_0, torch.tensor([time]), Draws(time, range(6)))
            t, p_t = torch.full((6,), time), torch.full((6,), 1 / 20)
            out = loss(lambda x_t, t: network(x_t, t, Context()), x_0, Draws(time, range(6)), t, p_t)
            assert out.bound is not None
            assert torch.allclose(term, out.bound, rtol=1e-4, atol=1e-5)


class Informed(Independent):
    """Knows the best answer of the process with uniform noise: what an unmasked token says, and SHARES otherwise."""

    def __init__(self, process: DiscreteProcess) -> None:
        super().__init__()
        self.process = process

    def forward(self, x_t: Tensor, t_index: Tensor, context: Context) -> Tensor:
        q = self.process.bar(t_index + 1)
        says = (q.uniform / 3).unsqueeze(-1) + q.alpha.unsqueeze(-1) * nn.functional.one_hot(x_t.clamp(max=2), 3)
        return torch.where((x_t == self.process.mask).unsqueeze(-1), 1.0, says).log().float() + self.logits


@pytest.mark.parametrize("steps", [10, 40])
def test_vq_diffusions_process_is_bounded_with_its_last_term_beside(steps: int) -> None:
    """With the last term and the best network the bound is above the entropy, and near it."""
    process = DiscreteProcess(vq_diffusion(steps, keep=(0.999, 0.05), mask=(0.0005, 0.9)), 3)
    image = pictures(400)
    made = TokenFlow(Codec(), Unconditional(), Informed(process), DiscreteLoss(process))
    found = evaluate_likelihood(made, [(image, [None] * 400)])
    exact = float(nats(image).mean()) / (N * math.log(2))
    assert found.last > 0.01
    assert exact - 4 * found.bits_per_token_error < found.bits_per_token + found.last < exact * 1.15
    assert last_term(DiscreteProcess(absorbing(steps), 3)) == 0
    released = last_term(DiscreteProcess(vq_diffusion(100), 2887)) / math.log(2)
    assert released == pytest.approx(1e-4, rel=0.05)


def test_the_last_term_is_a_divergence() -> None:
    """Written out over all K + 1 values of a token."""
    process = DiscreteProcess(vq_diffusion(10, keep=(0.99, 0.1), mask=(0.005, 0.6)), 5)
    kept, mask = 0.1, 0.6
    q = torch.tensor([kept + 0.06, 0.06, 0.06, 0.06, 0.06, mask], dtype=torch.float64)
    p = torch.tensor([0.4 / 5] * 5 + [mask], dtype=torch.float64)
    assert last_term(process) == pytest.approx(float((q * (q / p).log()).sum()), rel=1e-9)


class ByLabel(Informed):
    """Every token is the label of its picture, with probability 0.8."""

    def forward(self, x_t: Tensor, t_index: Tensor, context: Context) -> Tensor:
        assert context.labels is not None
        chosen = nn.functional.one_hot(context.labels, 3)[:, None].expand(*x_t.shape, -1)
        return super().forward(x_t, t_index, context) - self.logits + torch.where(chosen == 1, 0.8, 0.1).log()


def test_it_is_that_of_pictures_given_their_class() -> None:
    process = DiscreteProcess(vq_diffusion(20), 3)
    made = TokenFlow(Codec(), Labels(3), ByLabel(process), DiscreteLoss(process))
    labels = [index % 3 for index in range(60)]
    image = (torch.tensor(labels).float() - 1).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    right, wrong = (evaluate_likelihood(made, [(image, given)]) for given in (labels, [(label + 1) % 3 for label in labels]))
    assert right.bits_per_token == pytest.approx(-math.log2(0.8), rel=0.1)
    assert wrong.bits_per_token == pytest.approx(-math.log2(0.1), rel=0.1)
    with pytest.raises(UsageError, match=r"picture 3 says nothing of what it shows.*captions or labels"):
        evaluate_likelihood(made, [(image[:2], labels[:2]), (image[2:4], [None, 0])])


def test_what_it_refuses() -> None:
    made = flow(DiscreteProcess(absorbing(10), 3))
    with pytest.raises(UsageError, match="times must be between 1 and 10"):
        evaluate_likelihood(made, [(pictures(2), [None] * 2)], times=11)
    with pytest.raises(UsageError, match="no picture to evaluate"):
        evaluate_likelihood(made, [])
