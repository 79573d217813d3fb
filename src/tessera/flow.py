"""A flow turns a context (words, a picture, a label, nothing) into data: it binds codec, context encoder, network and process.

prompt → context;   x_T → predict(x_t, t) → sampler + process → x_0 → codec.decode → pictures

Here is what flows over tokens and over floats have in common, and the flow over tokens; the one over floats is in `float_flow`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.codecs.codec import TokenCodec
from tessera.contexts.context import Context, ContextEncoder, Unconditional
from tessera.contexts.prompt_warnings import valid
from tessera.contexts.weighted_prompts import warn_unread
from tessera.errors import UsageError
from tessera.guidance.classifier_free import classifier_free, is_guided
from tessera.guidance.clip_guidance import CLIPGuidance
from tessera.guidance.inpaint import Known, keep_tokens, told_by_share
from tessera.guidance.temperature import check_temperature, temper
from tessera.guidance.tiling import Tiling, Windows, tiled
from tessera.guidance.truncation import check_truncation, truncate
from tessera.processes.discrete import DiscreteProcess, log_posterior
from tessera.processes.gaussian_schedules import make_gaussian_schedule
from tessera.processes.token_loss import TokenLoss
from tessera.randomness import Draws
from tessera.samplers.loop import Callback, run_tokens
from tessera.samplers.raster import Raster
from tessera.samplers.registry import any_sampler, token_sampler
from tessera.samplers.resampling import resampled
from tessera.samplers.sampler import FloatSampler, Predict, TokenSampler
from tessera.schema import shown

__all__ = ["Flow", "SamplingSettings", "TokenFlow"]


@dataclass(frozen=True)
class SamplingSettings:
    """How to sample. Every setting works with every sampler and model of its state space. Raises UsageError for a value out of range.

    sampler: a registered name, with options after a colon (`purity:weight=2`), or a sampler object.
    steps: number of steps of a whole run; None takes one step per time of the process, or 50 for floats.
    guidance: classifier-free guidance scale; 1 is none. Of a prompt in several parts, the weight of those that name none.
    start: share of the process to run, in (0, 1]; below 1 it starts from a given picture (image-to-image).
    resample: passes of each step, for inpainting where it is not exact, see `samplers.resampling`; 1 is a plain run.
    stride, window_weights, moving_windows: of the windows on a canvas larger than the network's grid, see `Tiling`. Networks that take any
        size draw the canvas whole unless a stride is given.

    Tokens only, those of pictures or of words that a text decoder writes:
    truncation: float in (0, 1]: keep the most probable classes of this mass (top-r); int ≥ 1: keep that many classes (top-k).
    temperature: divides the log-probabilities; 1 is none.

    Words only, of models that write some:
    beams: 1 takes the most probable next word again and again, more search for the most probable text among so many, 0 draws words.

    Floats only:
    spacing: the kind of schedule that spaces the steps evenly, see `gaussian_schedules`, with the shift of the model's own; None: its own.
    invert: start from the noise that a picture is encoded as, rather than from the picture with random noise on it: for editing.
    clip_guidance, cutouts, cut_power: see `CLIPGuidance`; a scale of 0 is none.
    """

    sampler: str | TokenSampler | FloatSampler = "ancestral"
    steps: int | None = None
    guidance: float = 1.0
    truncation: float | int | None = None
    temperature: float = 1.0
    start: float = 1.0
    spacing: str | None = None
    invert: bool = False
    clip_guidance: float = 0.0
    cutouts: int = 16
    cut_power: float = 1.0
    stride: int | None = None
    window_weights: str = "even"
    moving_windows: bool = True
    resample: int = 1
    beams: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.sampler, str):
            any_sampler(self.sampler)
        for name, least, most in (("steps", 1, 100_000), ("resample", 1, 10_000), ("cutouts", 0, 10_000), ("beams", 0, 1_000)):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UsageError(f"{name} must be {least} to {most}, not {shown(value)}")
        is_guided(self.guidance)
        check_truncation(self.truncation)
        check_temperature(self.temperature)
        if not 0 < self.start <= 1:
            raise UsageError(f"start must be a share of the process above 0 and at most 1, not {self.start}")
        if self.spacing is not None:
            make_gaussian_schedule(self.spacing)
        _ = self.clip, self.tiling

    @property
    def tiling(self) -> Tiling:
        return Tiling(self.stride, self.window_weights, self.moving_windows)

    @property
    def clip(self) -> CLIPGuidance:
        return CLIPGuidance(self.clip_guidance, self.cutouts, self.cut_power)


class Flow(nn.Module):
    """What a model needs of a flow, whatever its latents are.

    Args:
        codec: pictures ⇄ latents; frozen while the flow trains.
        context_encoder: prompts → context.
        network: the denoiser; its `prepare(context)` computes once per request what depends on the context alone.
        loss: the training loss; holds the process.
    """

    kind: ClassVar[str]
    """Of its latents: "tokens" or "floats"."""
    own_settings: ClassVar[SamplingSettings]
    """How to sample where neither model nor user says."""
    own_strength: ClassVar[float]
    """Share of the process that image-to-image runs unless told otherwise."""

    codec: Any  # nn.Module's own type knows neither `encode` nor `prepare`
    network: Any
    loss: Any

    def __init__(self, codec: nn.Module, context_encoder: ContextEncoder, network: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.codec, self.context_encoder, self.network, self.loss = codec, context_encoder, network, loss

    def grid(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Picture (height, width) → latent positions (h, w), or () of texts. UsageError for a size that the flow cannot draw."""
        grid: tuple[int, ...] = self.codec.grid(size)
        return grid

    def windows(self, grid: tuple[int, ...], settings: SamplingSettings) -> Windows | None:
        """The windows that a canvas of `grid` is drawn through; None where the network takes it whole.

        A network says what grid it was trained for (`grid`), and whether it takes others (`takes_any_grid`). UsageError for a causal
        network, and for a canvas that is larger along one side and smaller along the other.
        """
        own: tuple[int, ...] = getattr(self.network, "grid", grid)
        larger = any(side > trained for side, trained in zip(grid, own, strict=True))
        if not larger or (settings.stride is None and getattr(self.network, "takes_any_grid", False)):
            return None
        if getattr(self.network, "causal", False):
            raise UsageError("an autoregressive model draws its own size only: leave the size out")
        if grid[0] < own[0] or grid[1] < own[1]:
            height, width = (side * self.codec.factor for side in own)
            raise UsageError(
                f"size {grid[1] * self.codec.factor}x{grid[0] * self.codec.factor} is larger than the {width}x{height} this model was "
                "trained for along one side and smaller along the other: make the shorter side that long too"
            )
        return Windows((grid[0], grid[1]), (own[0], own[1]), settings.tiling)

    def check(self, settings: SamplingSettings) -> None:
        """Raises UsageError for settings that mean nothing here."""
        raise NotImplementedError

    def check_prompt(self, prompt: Any, settings: SamplingSettings) -> None:
        """Raises UsageError for a prompt that cannot be drawn."""
        if isinstance(self.context_encoder, Unconditional):
            if prompt is not None:
                raise UsageError("this model takes no prompt: give None")
        elif prompt is None or not str(prompt).strip():
            raise UsageError("the prompt is empty: say what to draw")
        elif isinstance(prompt, str):
            warn_unread(valid(prompt))

    def sample(
        self,
        prompts: Sequence[Any],
        grid: tuple[int, ...],
        settings: SamplingSettings,
        draws: Draws,
        callback: Callback | None = None,
        init: Tensor | None = None,
        known: Known | None = None,
    ) -> Tensor:
        """Latents of one picture per prompt over `grid` = (h, w).

        `init`: latents of the pictures to start from when `settings.start` < 1. `known`: latents that stay (inpainting). `callback`: called
        after each step; raise to cancel.
        """
        raise NotImplementedError

    def decode(self, latents: Tensor, grid: tuple[int, ...]) -> Float[Tensor, "b 3 h w"]:
        """Pictures of latents over `grid`."""
        raise NotImplementedError

    def finish(self, latents: Tensor, grid: tuple[int, ...], prompt: Any, settings: SamplingSettings, draws: Draws) -> Any:
        """What one example's latents are in the end: its picture [3, H, W] in [-1, 1], or its text."""
        return self.decode(latents, grid)[0]

    def prepared(self, context: Context) -> Callable[[int], Any]:
        """What the network computes once of a context, for a batch that holds its rows once or, of windows, several times over."""

        @cache
        def repeated(times: int) -> Any:
            return self.network.prepare(context if times == 1 else Context.cat([context] * times))

        return lambda rows: repeated(1 if context.rows is None else rows // context.rows)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device


class TokenFlow(Flow):
    """A flow over codebook tokens.

    Args:
        codec: pictures ⇄ tokens; frozen while the flow trains.
        context_encoder: prompts → context.
        network: (x_t [B, N], timestep index t - 1 [B], prepared context) → logits of x_0 [B, N, K];
            its `prepare(context)` computes once per request what depends on the context alone.
        loss: the training loss; holds the process and the running loss statistics.
    """

    kind = "tokens"
    own_settings = SamplingSettings()
    own_strength = 0.6

    def __init__(self, codec: TokenCodec, context_encoder: ContextEncoder, network: nn.Module, loss: TokenLoss) -> None:
        super().__init__(codec, context_encoder, network, loss)
        causal = bool(getattr(network, "causal", False))
        if causal != loss.causal:
            raise UsageError("a causal network learns by the autoregressive loss: give both, or neither")
        if codec.classes != loss.process.classes:
            raise UsageError(
                f"the codec has {codec.classes} classes but the network was made for {loss.process.classes}: "
                "use the codec it was trained with"
            )

    @property
    def process(self) -> DiscreteProcess:
        process: DiscreteProcess = self.loss.process
        return process

    def check(self, settings: SamplingSettings) -> None:
        sampler = token_sampler(settings.sampler) if isinstance(settings.sampler, str) else settings.sampler
        if self.loss.causal and sampler != Raster():
            raise UsageError("this model predicts each token from those before it, and draws in that order: use the sampler autoregressive")
        if self.loss.causal and settings.start < 1:
            raise UsageError("this model predicts each token from those before it, so it cannot start from a picture: leave init out")
        if settings.resample > 1 and self.process.masking:
            raise UsageError("resample is for inpainting that is not exact, but that of a masking process is: leave it at 1")
        if settings.spacing is not None or settings.invert or settings.clip_guidance:
            name = "spacing" if settings.spacing is not None else "invert" if settings.invert else "clip_guidance"
            raise UsageError(f"{name} is for models of floats, such as v-diffusion, but this one draws tokens: leave it out")

    def decode(self, latents: Int[Tensor, "b n"], grid: tuple[int, ...]) -> Float[Tensor, "b 3 h w"]:
        pictures: Tensor = self.codec.decode(latents, grid)
        return pictures

    def predictor(self, context: Context) -> Predict:
        """The denoiser for one context: `predict(x_t, t)` → log p(x_0 | x_t) [B, N, K]. x_t: its rows once or several times."""
        prepared = self.prepared(context)

        def predict(x_t: Int[Tensor, "b n"], t: Int[Tensor, " b"]) -> Float[Tensor, "b n k"]:
            return log_posterior(self.network(x_t, t - 1, prepared(len(x_t))))

        return predict

    def guided(
        self, context: Context, settings: SamplingSettings, windows: Windows | None = None, draws: Draws | None = None,
        known: Known | None = None,
    ) -> Predict:  # fmt: skip
        """The denoiser, over `windows` if there are any, with guidance, temperature, truncation as `settings` ask, then what is `known`."""

        def over_windows(context: Context) -> Predict:
            predict = self.predictor(context)
            if known is not None and self.process.masking:
                predict = told_by_share(predict, self.process)
            return predict if windows is None or draws is None else tiled(predict, windows, draws)

        if is_guided(settings.guidance):
            batch = self._batch(context)
            both = over_windows(Context.cat([context, self.context_encoder.unconditional(batch).to(self.device)]))
            predict = classifier_free(both, settings.guidance)
        else:
            predict = over_windows(context)
        predict = truncate(temper(predict, settings.temperature), settings.truncation)
        return predict if known is None else keep_tokens(predict, self.process, known)

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Any],
        grid: tuple[int, ...],
        settings: SamplingSettings,
        draws: Draws,
        callback: Callback | None = None,
        init: Int[Tensor, "b n"] | None = None,
        known: Known | None = None,
    ) -> Int[Tensor, "b n"]:
        """Tokens [B, N], row-major."""
        self.check(settings)
        sampler: Any = token_sampler(settings.sampler) if isinstance(settings.sampler, str) else settings.sampler
        predict, final = self.guided(self._contexts(prompts), settings, self.windows(grid, settings), draws, known), None
        if known is not None and self.process.masking:
            final = known.put(self.process.prior(1, grid[0] * grid[1], draws.device))
        return run_tokens(
            predict, self.process, resampled(sampler, settings.resample), batch=len(prompts), grid=(grid[0], grid[1]), steps=settings.steps,
            draws=draws, callback=callback, init=init, start=settings.start, final=final,
        )  # fmt: skip

    def _contexts(self, prompts: Sequence[Any]) -> Context:
        """Each prompt encoded once and alone: products of few rows round differently, and a picture must not depend on its batch."""
        encoded = {prompt: self.context_encoder([prompt]).to(self.device) for prompt in dict.fromkeys(prompts)}
        return Context.cat([encoded[prompt] for prompt in prompts])

    @staticmethod
    def _batch(context: Context) -> int:
        if context.rows is None:
            raise UsageError("this model takes no prompt, so it has nothing to guide with: leave guidance at 1")
        return context.rows
