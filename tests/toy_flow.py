"""The smallest parts that fulfil a flow's contracts, and the flow of them."""

import torch
from torch import nn

from tessera.codecs.codec import TokenCodec
from tessera.contexts.context import Context, ContextEncoder
from tessera.flow import TokenFlow
from tessera.processes.discrete import DiscreteProcess
from tessera.processes.discrete_loss import DiscreteLoss
from tessera.processes.schedules import vq_diffusion

CLASSES = 5


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


def toy_flow(steps: int, codec: Codec | None = None, encoder: ContextEncoder | None = None) -> TokenFlow:
    process = DiscreteProcess(vq_diffusion(steps), CLASSES)
    return TokenFlow(codec or Codec(), encoder or Numbers(), Network(), DiscreteLoss(process))
