"""What a sampling step costs beside the network: guidance, truncation and the token draw at COCO size.

Ours (`log_posterior`, `classifier_free`, `top_mass`, `DiscreteProcess.reverse`) against the original's arithmetic written out: float64
softmax, full sort with its order, full posterior over K + 1 classes, Gumbel noise, one-hot of the result, with classes as the second
axis. Both start from the same logits, take turns in one run, and must agree on the truncated log-probabilities and on the posterior.
The share of a step is the time over that of the network's 1.32 TFLOP at the rate of a matrix product in the same run, which no
network exceeds.

    python -m benchmarks.sampler_overhead --threads 2
    python -m benchmarks.sampler_overhead --threads 1 --processor-time      (on a machine that is busy with other work)
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from tessera.guidance.classifier_free import classifier_free
from tessera.guidance.truncation import top_mass
from tessera.processes.discrete import DiscreteProcess, log_posterior
from tessera.processes.schedules import vq_diffusion
from tessera.randomness import Draws

TOKENS, CLASSES, STEPS, STEP_FLOPS = 1024, 2887, 100, 1.32e12
SCALE, MASS, TIME = 5.0, 0.86, 50


class Original:
    """The original's step in its own layout [B, K, N], times from 0."""

    def __init__(self) -> None:
        schedule = vq_diffusion(STEPS)
        alpha, gamma = schedule.alpha_bar, schedule.gamma_bar
        step_alpha, step_gamma = alpha[1:] / alpha[:-1], 1 - (1 - gamma[1:]) / (1 - gamma[:-1])

        def logs(alpha: Tensor, gamma: Tensor) -> list[Tensor]:
            return [value.clamp(min=1e-40).log().float() for value in (alpha, (1 - alpha - gamma) / CLASSES, gamma, 1 - gamma)]

        self.cumulative, self.one_step = logs(alpha[1:], gamma[1:]), logs(step_alpha, step_gamma)

    @staticmethod
    def spread(log_x: Tensor, coefficients: list[Tensor], t: int) -> Tensor:
        a, b, c, survive = (values[t] for values in coefficients)
        return torch.cat([torch.logaddexp(log_x[:, :-1] + a, b), torch.logaddexp(log_x[:, -1:] + survive, c)], dim=1)

    def log_x_0(self, logits: Tensor) -> Tensor:
        """Softmax of both halves, guidance, truncation."""
        conditional, unconditional = logits.double().log_softmax(1).float().clamp(-70, 0).chunk(2)
        mixed = unconditional + SCALE * (conditional - unconditional)
        mixed = (mixed - mixed.logsumexp(1, keepdim=True)).clamp(-70, 0)
        log_p = torch.cat([mixed, torch.full_like(mixed[:, :1], -70.0)], dim=1)
        ordered, order = log_p.sort(dim=1, descending=True)
        below = ordered.exp().cumsum(dim=1) < MASS
        kept = torch.cat([torch.ones_like(below[:, :1]), below], dim=1)[:, :-1].gather(1, order.argsort(1)).float()
        return kept * log_p + (1 - kept) * -70.0

    def posterior(self, log_x_0: Tensor, log_x_t: Tensor, t: int) -> Tensor:
        masked = (log_x_t.argmax(1) == CLASSES).unsqueeze(1)
        zero = torch.full_like(log_x_t[:, :1], 1e-30).log()
        evidence = torch.where(masked, self.cumulative[2][t].expand_as(log_x_t), self.spread(log_x_t, self.cumulative, t))[:, :-1]
        step = torch.where(masked, self.one_step[2][t].expand_as(log_x_t), self.spread(log_x_t, self.one_step, t))[:, :-1]
        step = torch.cat([step, torch.where(masked, 0.0, zero)], dim=1)
        q = torch.cat([log_x_0[:, :-1] - evidence, zero], dim=1)
        total = q.logsumexp(1, keepdim=True)
        return (self.spread(q - total, self.cumulative, t - 1) + step + total).clamp(-70, 0)

    def step(self, logits: Tensor, log_x_t: Tensor, t: int) -> Tensor:
        log_p = self.posterior(self.log_x_0(logits), log_x_t, t)
        noise = -torch.log(-torch.log(torch.rand_like(log_p) + 1e-30) + 1e-30)
        drawn = torch.nn.functional.one_hot((log_p + noise).argmax(1), CLASSES + 1).transpose(1, 2)
        return drawn.float().clamp(min=1e-30).log()


def timed(function: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    function()
    return clock() - start


def milliseconds(times: list[float]) -> str:
    return f"{statistics.median(times) * 1e3:8.1f} ms  ({min(times) * 1e3:.1f})"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=10, help="steps of each, in turns")
    parser.add_argument("--sharpness", type=float, default=3.0, help="standard deviation of the logits")
    parser.add_argument("--processor-time", action="store_true", help="count processor seconds, not wall-clock ones; use one thread")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.processor_time else time.perf_counter
    torch.set_num_threads(arguments.threads)

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, TOKENS, CLASSES, generator=generator) * arguments.sharpness
    process, draws = DiscreteProcess(vq_diffusion(STEPS), CLASSES), Draws(0, [0])
    t, s = torch.tensor([TIME]), torch.tensor([TIME - 1])
    x_t = process.noise(torch.randint(CLASSES, (1, TOKENS), generator=generator), t, draws)
    predict = classifier_free(lambda x_t, t: log_posterior(logits), SCALE)

    original = Original()
    theirs = logits.transpose(1, 2).contiguous()
    log_x_t = torch.nn.functional.one_hot(x_t, CLASSES + 1).transpose(1, 2).float().clamp(min=1e-30).log()

    log_p = top_mass(predict(x_t, t), MASS)
    reference = original.log_x_0(theirs)
    torch.testing.assert_close(log_p.transpose(1, 2), reference[:, :-1], atol=1e-4, rtol=1e-5)
    posterior = original.posterior(reference, log_x_t, TIME - 1)
    torch.testing.assert_close(process.posterior(log_p, x_t, t, s).transpose(1, 2), posterior, atol=1e-4, rtol=1e-5)

    product = torch.randn(TOKENS, 1024, generator=generator), torch.randn(1024, 4096, generator=generator)
    parts: dict[str, Callable[[], object]] = {
        "softmax and guidance": lambda: predict(x_t, t),
        "truncation": lambda: top_mass(log_p, MASS),
        "reverse draw": lambda: process.reverse(log_p, x_t, t, s, draws),
        "ours": lambda: process.reverse(top_mass(predict(x_t, t), MASS), x_t, t, s, draws),
        "original": lambda: original.step(theirs, log_x_t, TIME - 1),
        "matrix product": lambda: torch.mm(*product),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(arguments.repeats + 1):
        for name, function in parts.items():
            elapsed = timed(function, clock)
            if turn:  # the first turn warms up
                times[name].append(elapsed)

    print(
        f"{TOKENS} tokens, {CLASSES} classes, guidance {SCALE}, truncation {MASS}, {arguments.threads} threads, torch {torch.__version__}"
    )
    for name in list(parts)[:-1]:
        print(f"  {name:<22}{milliseconds(times[name])}")
    ours, theirs_time = statistics.median(times["ours"]), statistics.median(times["original"])
    rate = 2 * TOKENS * 1024 * 4096 / statistics.median(times["matrix product"])
    network = STEP_FLOPS / rate
    print(f"ours / original {ours / theirs_time:.3f}")
    print(f"matrix product {rate / 1e9:.0f} GFLOP/s: the network's part of a step is at least {network:.2f} s")
    print(f"share of a step: ours {ours / (ours + network):.2%}, original {theirs_time / (theirs_time + network):.2%}")


if __name__ == "__main__":
    main()
