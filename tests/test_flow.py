"""A flow from parts that are no more than their contracts."""

import pytest
import torch
from torch import nn

from tessera.codecs.codec import TokenCodec
from tessera.contexts.context import Context, ContextEncoder, Unconditional
from tessera.errors import UsageError
from tessera.flow import SamplingSettings, TokenFlow
from tessera.processes.discrete import DiscreteProcess
from tessera.processes.discrete_loss import DiscreteLoss
from tessera.processes.schedules import vq_diffusion
from tessera.randomness import Draws

CLASSES, STEPS = 5, 8


class Codec(TokenCodec):
    def __init__(self, classes=CLASSES):
        super().__init__()
        self.classes, self.factor = classes, 4


class Numbers(ContextEncoder):
    """The prompt k asks for the token k; none asks for nothing."""

    def forward(self, prompts):
        return Context(embeddings=torch.nn.functional.one_hot(torch.tensor(prompts), CLASSES).float()[:, None])

    def unconditional(self, batch):
        return Context(embeddings=torch.zeros(batch, 1, CLASSES))


class Network(nn.Module):
    """Masked tokens: logits are the context, twice as strong after `prepare`. The others are copied."""

    def __init__(self):
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(1.0))
        self.prepared, self.calls = 0, []

    def prepare(self, context):
        self.prepared += 1
        return context.embeddings * 2

    def forward(self, x_t, t_index, prepared):
        self.calls.append((x_t, t_index))
        seen = torch.nn.functional.one_hot(x_t, CLASSES + 1)[..., :CLASSES]
        return prepared * self.strength + 30 * seen


@pytest.fixture
def flow():
    return TokenFlow(Codec(), Numbers(), Network(), DiscreteLoss(DiscreteProcess(vq_diffusion(STEPS), CLASSES)))


def sample(flow, prompts=(1, 3), settings=SamplingSettings(), indices=None, **options):  # noqa: B008
    return flow.sample(list(prompts), (20, 30), settings, Draws(0, indices or range(len(prompts))), **options)


def share(tokens, prompt):
    return (tokens == prompt).float().mean().item()


def test_tokens_follow_the_prompt(flow):
    tokens = sample(flow)
    probability = torch.tensor([2.0, 0, 0, 0, 0]).softmax(0)[0].item()
    assert tokens.shape == (2, 600)
    assert share(tokens[0], 1) == pytest.approx(probability, abs=0.06)
    assert share(tokens[1], 3) == pytest.approx(probability, abs=0.06)


def test_the_network_sees_the_times_less_one_and_prepares_once(flow):
    sample(flow)
    assert [call[1].tolist() for call in flow.network.calls] == [[i, i] for i in reversed(range(STEPS))]
    assert flow.network.prepared == 1


def test_guidance_runs_one_doubled_batch_and_follows_the_prompt_more(flow):
    tokens = sample(flow, settings=SamplingSettings(guidance=3))
    probability = torch.tensor([6.0, 0, 0, 0, 0]).softmax(0)[0].item()
    assert share(tokens[0], 1) == pytest.approx(probability, abs=0.02)
    assert [len(call[0]) for call in flow.network.calls] == [4] * STEPS
    assert flow.network.prepared == 1


def test_temperature_comes_before_truncation(flow):
    """Three classes of four would remain of the flat posterior; at a low temperature one holds all the mass."""
    flat = sample(flow, settings=SamplingSettings(truncation=0.9))
    sharp = sample(flow, settings=SamplingSettings(truncation=0.9, temperature=0.2))
    assert len(flat[0].unique()) > 1
    assert sharp[0].unique().tolist() == [1]
    assert sharp[1].unique().tolist() == [3]


@pytest.mark.parametrize("settings", [SamplingSettings(), SamplingSettings("purity", 4, guidance=2.0, truncation=0.9)])
def test_a_picture_does_not_depend_on_its_batch(flow, settings):
    together = sample(flow, (1, 2, 3), settings)
    assert torch.equal(sample(flow, (2,), settings, indices=[1]), together[1:2])


def test_sampling_leaves_the_global_random_state_alone(flow):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = sample(flow)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(sample(flow), first)


def test_a_partial_start_keeps_tokens_of_the_picture(flow):
    init = torch.full((2, 600), 4)
    kept = share(sample(flow, settings=SamplingSettings(start=0.25), init=init), 4)
    assert kept > share(sample(flow, settings=SamplingSettings(start=0.75), init=init), 4) > share(sample(flow), 4)


def test_nothing_to_guide_with():
    flow = TokenFlow(Codec(), Unconditional(), Network(), DiscreteLoss(DiscreteProcess(vq_diffusion(STEPS), CLASSES)))
    with pytest.raises(UsageError, match="nothing to guide with"):
        sample(flow, (None,), SamplingSettings(guidance=2.0))


def test_a_codec_of_another_codebook_is_refused():
    with pytest.raises(UsageError, match="7 classes"):
        TokenFlow(Codec(7), Numbers(), Network(), DiscreteLoss(DiscreteProcess(vq_diffusion(STEPS), CLASSES)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampler": "purty"}, "did you mean 'purity'"),
        ({"steps": 0}, "steps"),
        ({"guidance": float("nan")}, "guidance"),
        ({"guidance": float("inf")}, "guidance"),
        ({"truncation": 1.5}, "truncation"),
        ({"truncation": 0}, "truncation"),
        ({"temperature": 0.0}, "temperature"),
        ({"start": 0.0}, "start"),
        ({"start": float("nan")}, "start"),
    ],
)
def test_a_setting_out_of_range_is_refused_when_it_is_made(settings, words):
    with pytest.raises(UsageError, match=words):
        SamplingSettings(**settings)
