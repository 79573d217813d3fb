"""A flow over floats: pixels, or the latents of an autoencoder.

prompt → parts with weights → embeddings;   x_1 → predict(x_t, t) = (x_0, eps) → sampler + process → x_0 → codec.decode → pictures

A prompt is words, a picture's path or its address, or several of these with weights: `a fox:2 | in snow | style.png:0.5 | rain:-0.5`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tessera.codecs.text_tidying import without_repetition
from tessera.codecs.text_vae import TextVAE
from tessera.codecs.text_writing import Writing
from tessera.contexts.context import Context, ContextEncoder, Unconditional
from tessera.contexts.joint import JointEncoder, needed
from tessera.contexts.prompt_warnings import valid
from tessera.contexts.weighted_prompts import CLIP_WEIGHT, WeightedPrompt, split_prompt, warn_weights
from tessera.errors import UsageError
from tessera.flow import Flow, SamplingSettings
from tessera.guidance.clip_guidance import clip_guided, clip_target, picture_embedding
from tessera.guidance.inpaint import Known, keep_floats
from tessera.guidance.tiling import tiled_floats
from tessera.guidance.weighted import mixing_weights, weighted
from tessera.heap import give_back
from tessera.pictures import open_picture
from tessera.processes.gaussian import GaussianProcess
from tessera.processes.gaussian_loss import GaussianLoss
from tessera.processes.gaussian_schedules import Leading, LinearBeta, make_spacing
from tessera.randomness import Draws, derive_seed
from tessera.samplers.loop import Callback, Progress, drive, invert, run_floats
from tessera.samplers.registry import float_sampler
from tessera.samplers.resampling import resampled
from tessera.samplers.sampler import FloatStep, PredictFloat

__all__ = ["FloatFlow"]


@dataclass(frozen=True)
class _Mixture:
    """What one example is drawn from. context: K rows. weights: [1 + K], that of "no prompt" first. target: [D], of CLIP guidance."""

    context: Context
    weights: Float[Tensor, " k1"]
    target: Float[Tensor, " d"] | None = None


class FloatFlow(Flow):
    """A flow over floats.

    Args:
        codec: pictures, or texts, ⇄ latents [B, `channels`, *`grid(size)`]; frozen while the flow trains.
        context_encoder: prompts → context: of words, pictures or both, or none. With a network that takes no context it serves CLIP
            guidance alone.
        network: (x_t [B, …], t [B] in [0, 1], prepared context) → v, eps or x_0, as its `parametrisation` says.
        loss: the training loss; holds the process.
    """

    kind = "floats"
    own_settings = SamplingSettings("plms", steps=50)
    own_strength = 0.9

    def __init__(self, codec: nn.Module, context_encoder: ContextEncoder, network: nn.Module, loss: GaussianLoss) -> None:
        super().__init__(codec, context_encoder, network, loss)
        if loss.parametrisation != network.parametrisation:
            raise UsageError(f"the network predicts {network.parametrisation}, but the loss is for one of {loss.parametrisation}")
        own = getattr(network, "schedule", None)  # of a network that is preconditioned by the noise
        if own is not None and own.config != self.process.schedule.config:
            raise UsageError(f"the network is made for the noise of {own.config}, but the process is {self.process.schedule.config}")
        if not self.prompted and not isinstance(context_encoder, JointEncoder | Unconditional):
            raise UsageError("the network takes no prompts, so its context encoder can only serve CLIP guidance: give a CLIP, or none")
        if self.prompted and isinstance(context_encoder, Unconditional):
            raise UsageError("the network takes prompts, but the context encoder is none: give the CLIP it was trained with")

    @property
    def process(self) -> GaussianProcess:
        process: GaussianProcess = self.loss.process
        return process

    @property
    def prompted(self) -> bool:
        """Whether the network itself takes prompts."""
        prompted: bool = self.network.prompted
        return prompted

    @property
    def spacing(self) -> str:
        """The kind of schedule that spaces the steps unless asked otherwise: latent diffusion's or v-diffusion's own choice, or its own."""
        kind: str = self.process.schedule.config["kind"]
        if kind == LinearBeta.KIND:
            return Leading.KIND
        if not hasattr(self.network, "times"):
            return kind
        return "spliced" if self.network.times[0] == 0 else "ddpm"

    def use_clip(self, encoder: JointEncoder) -> None:
        """Takes an encoder for CLIP guidance. UsageError where there is one already."""
        if not isinstance(self.context_encoder, Unconditional):
            raise UsageError("this model has a CLIP of its own: leave clip out")
        self.context_encoder = encoder

    def grid(self, size: tuple[int, int]) -> tuple[int, ...]:
        grid = super().grid(size)
        self.network.check_size(*grid)
        return grid

    def check(self, settings: SamplingSettings) -> None:
        if isinstance(settings.sampler, str):
            float_sampler(settings.sampler)
        if self.writes:
            self.writing(settings)
        elif settings.truncation is not None or settings.temperature != 1:
            name = "temperature" if settings.truncation is None else "truncation"
            raise UsageError(f"{name} is for models of tokens, such as VQ-Diffusion, but this one draws floats: leave it out")
        if settings.clip_guidance:
            needed(self.context_encoder)

    def check_prompt(self, prompt: Any, settings: SamplingSettings) -> None:
        if prompt is None:
            if settings.clip_guidance:
                raise UsageError("CLIP guidance needs something to go to: give a prompt or a picture")
            return
        if not isinstance(prompt, str):
            raise UsageError(f"a prompt of this model is words or pictures, not {prompt!r}")
        if isinstance(self.context_encoder, Unconditional):
            raise UsageError("this model takes no prompt: leave it out, or give a CLIP to lead it to the prompt (--clip, --clip-guidance)")
        if not self.prompted and not settings.clip_guidance:
            raise UsageError("this model follows a prompt only by CLIP guidance: ask for it (--clip-guidance 500), or give no prompt")
        split_prompt(valid(prompt), 1.0)
        warn_weights(prompt)

    def decode(self, latents: Float[Tensor, "b ..."], grid: tuple[int, ...]) -> Any:
        """Pictures, or texts, of latents."""
        give_back()
        return self.codec.decode(latents)

    @property
    def writes(self) -> bool:
        """Whether its latents are texts'."""
        return isinstance(self.codec, TextVAE)

    def writing(self, settings: SamplingSettings) -> Writing:
        """How latents become words. UsageError for settings that do not go together."""
        if settings.beams == 1 and (settings.truncation is not None or settings.temperature != 1):
            raise UsageError("temperature and truncation are for words that are drawn: ask for that with beams=0, or leave them out")
        truncation = settings.truncation
        return Writing(
            settings.temperature, top_k=truncation if isinstance(truncation, int) else 0,
            top_p=truncation if isinstance(truncation, float) else 1.0, greedy=settings.beams == 1, beams=max(1, settings.beams),
            length=min(Writing.length, self.codec.config["decoder"]["length"]),
        )  # fmt: skip

    def finish(self, latents: Tensor, grid: tuple[int, ...], prompt: Any, settings: SamplingSettings, draws: Draws) -> Any:
        if not self.writes:
            return super().finish(latents, grid, prompt, settings, draws)
        return without_repetition(self.codec.decode(latents, self.writing(settings), draws)[0])

    def predictor(self, context: Context) -> PredictFloat:
        """The denoiser for one context: `predict(x_t, t)` → (x_0, eps). x_t: its rows once or several times."""
        prepared = self.prepared(context)

        def predict(x_t: Tensor, t: Tensor) -> Any:
            return self.process.estimate(self.loss.parametrisation, self.network(x_t, t, prepared(len(x_t))), x_t, t)

        return predict

    def guided(self, prompts: Sequence[str | None], grid: tuple[int, ...], settings: SamplingSettings, draws: Draws) -> PredictFloat:
        """The denoiser of a batch: over windows if need be, its prompts mixed by their weights, then CLIP guidance, as `settings` ask."""
        windows = self.windows(grid, settings)

        def over_windows(context: Context) -> PredictFloat:
            predict = self.predictor(context)
            return predict if windows is None else tiled_floats(predict, windows, draws)

        known = {prompt: self._mixture(prompt, grid, settings) for prompt in dict.fromkeys(prompts)}
        mixtures = [known[prompt] for prompt in prompts]
        predict = self._mixed(mixtures, over_windows) if self.prompted else over_windows(Context())
        if not settings.clip_guidance:
            return predict
        target = torch.stack([mixture.target for mixture in mixtures if mixture.target is not None])
        encoder = needed(self.context_encoder)
        return clip_guided(predict, self.process, encoder, target, settings.clip, draws, self.codec.decode)

    def sample(
        self,
        prompts: Sequence[Any],
        grid: tuple[int, ...],
        settings: SamplingSettings,
        draws: Draws,
        callback: Callback | None = None,
        init: Float[Tensor, "b ..."] | None = None,
        known: Known | None = None,
    ) -> Float[Tensor, "b ..."]:
        """Latents [B, C, *grid]."""
        self.check(settings)
        for prompt in prompts:
            self.check_prompt(prompt, settings)
        sampler: Any = float_sampler(settings.sampler) if isinstance(settings.sampler, str) else settings.sampler
        if settings.invert and known is not None:
            raise UsageError("invert edits a whole picture, but part of this one stays: leave invert or the mask out")
        spacing = make_spacing(settings.spacing or self.spacing, self.process.schedule)
        # Guidance by gradients needs tensors that inference mode does not make.
        with torch.inference_mode(False), torch.no_grad(), _fixed(self) if settings.clip_guidance else nullcontext():
            predict = self.guided(prompts, grid, settings, draws)
            if known is not None:
                predict = keep_floats(predict, self.process, known)
            if not settings.invert:
                return run_floats(
                    predict, self.process, resampled(sampler, settings.resample), batch=len(prompts), shape=(self.codec.channels, *grid),
                    spacing=spacing, steps=settings.steps, draws=draws, callback=callback, init=init, start=settings.start,
                )  # fmt: skip
            if init is None:
                raise UsageError("invert encodes a picture as noise, but none is given: give one")
            unprompted = self.guided([None] * len(prompts), grid, replace(settings, clip_guidance=0.0), draws)
            noise, times = invert(
                unprompted, self.process, sampler, init, spacing=spacing, steps=settings.steps, draws=draws, end=settings.start,
                callback=_half(callback, 0),
            )  # fmt: skip
            plan = [FloatStep(t, s) for t, s in pairwise([*times[:0:-1], 0.0])]
            return drive(predict, self.process, sampler, noise, plan, draws, _half(callback, len(plan)))

    def _mixture(self, prompt: str | None, grid: tuple[int, ...], settings: SamplingSettings) -> _Mixture:
        """Each part encoded once and alone: products of few rows round differently, and a picture must not depend on its batch."""
        parts = split_prompt(prompt, CLIP_WEIGHT if settings.clip_guidance else settings.guidance)
        weights = [part.weight for part in parts]
        if not parts:
            return _Mixture(Context(), mixing_weights([]))
        if not settings.clip_guidance:
            return _Mixture(Context.cat([self._context(part) for part in parts]), mixing_weights(weights))
        encoder = needed(self.context_encoder)
        size = (grid[0] * self.codec.factor, grid[1] * self.codec.factor)
        embeddings = []
        for part in parts:
            if part.is_picture:  # as guidance sees pictures: in cutouts, the same for every picture that is drawn
                once = Draws(derive_seed("picture prompt", part.text), [0], self.device)
                embeddings.append(picture_embedding(open_picture(part.text), encoder, size, settings.clip, once))
            else:
                embeddings.append(encoder.encode_text([part.text])[0].to(self.device))
        target = clip_target(embeddings, weights)
        if not self._takes(target):
            shares = [settings.guidance * weight / sum(weights) for weight in weights]
            return _Mixture(Context.cat([self._context(part) for part in parts]), mixing_weights(shares), target)
        return _Mixture(Context(target[None, None]), mixing_weights([settings.guidance]), target)

    def _takes(self, target: Float[Tensor, " d"]) -> bool:
        """Whether the embedding that CLIP guidance goes to can be the network's prompt too: not where it takes one of every token."""
        nothing = self.context_encoder.unconditional(1).embeddings
        return nothing is not None and nothing.shape[1:] == (1, len(target))

    def _context(self, part: WeightedPrompt) -> Any:
        """Its `Context`, a row."""
        return self.context_encoder([open_picture(part.text) if part.is_picture else part.text]).to(self.device)

    def _mixed(self, mixtures: Sequence[_Mixture], predictor: Callable[[Context], PredictFloat]) -> PredictFloat:
        """The denoiser of a batch whose pictures mix prompts of their own; what has no weight in any of them is not computed."""
        count = max(len(mixture.weights) for mixture in mixtures)
        weights = torch.zeros(count, len(mixtures), dtype=torch.float64)
        nothing = self.context_encoder.unconditional(1).to(self.device)
        columns = []
        for column, mixture in enumerate(mixtures):
            weights[: len(mixture.weights), column] = mixture.weights
            given = [mixture.context] if mixture.context.rows else []
            columns.append(Context.cat([nothing, *given, *[nothing] * (count - len(mixture.weights))]))
        used = (weights != 0).any(1)
        rows = torch.arange(count * len(mixtures)).view(len(mixtures), count).T[used].flatten()  # all pictures with the first prompt first
        return weighted(predictor(Context.cat(columns)[rows]), weights[used])


@contextmanager
def _fixed(module: nn.Module) -> Iterator[None]:
    """Gradients flow through the module but not to its parameters."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _half(callback: Callback | None, done: int) -> Callback | None:
    """The callback of one of two runs of equal length, of which `done` steps are done."""
    if callback is None:
        return None

    def counted(progress: Progress) -> None:
        callback(replace(progress, index=progress.index + done, total=2 * progress.total))

    return counted
