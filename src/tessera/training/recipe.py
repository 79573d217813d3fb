"""Recipes: a training run as typed, checked data.

A recipe is a YAML file. Every key is described below; an unknown key is an error that names the nearest known one. Keys can be
overridden as `key.sub=value`, the value read as YAML. Model parts and datasets are described by their registered name under
`kind` and their constructor's arguments, so a new part needs no change here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tessera import registry
from tessera.training.recipe_parts import CodecPart, ContextPart, DatasetPart, NetworkPart, Part, SchedulePart, checked_part

__all__ = [
    "RECIPES", "AutoregressiveLoss", "Average", "Checkpoints", "ClipRecipe", "CodecRecipe", "DenoisingLoss", "FlowModel", "FlowRecipe",
    "JointFlow", "JointRecipe", "MaskedLoss", "NullPromptRecipe", "Optimizer", "PanelSettings", "ReaderRecipe", "Recipe", "Sampling",
    "Schedule", "TextCodecRecipe", "Validation", "VariationalLoss",
]  # fmt: skip
MOST = 10**9
Share = Annotated[float, Field(ge=0, lt=1)]
NUMBERS = (int, float, int | None, float | None)
NotLess = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, values: Any) -> Any:
        for key, field in cls.model_fields.items():
            if isinstance(values, Mapping) and isinstance(values.get(key), bool) and field.annotation in NUMBERS:
                raise ValueError(f"{key!r} is {values[key]}: input should be a number")
        return values


class Optimizer(Section):
    kind: Literal["adamw", "muon"] = Field(default="adamw", description="muon: hidden matrices by Muon, everything else by AdamW")
    rate: float = Field(description="peak learning rate of AdamW, per step", gt=0)
    betas: tuple[Share, Share] = Field(default=(0.9, 0.96), description="AdamW: decay of the first and second moments, per step")
    weight_decay: float = Field(default=4.5e-2, description="decoupled weight decay, relative to the learning rate", ge=0)
    decay: Literal["all", "matrices"] = Field(default="all", description="what weight decay acts on; the originals: all parameters")
    muon_rate: float = Field(default=0.02, description="peak learning rate of Muon, per step", gt=0)
    clip: float | None = Field(default=0.5, description="largest global gradient norm; null: no clipping", gt=0)


class Schedule(Section):
    kind: Literal["constant", "linear", "cosine", "plateau"] = Field(
        "cosine", description="how the learning rate goes on after the warm-up"
    )
    warmup: int = Field(default=0, description="optimiser steps of linear warm-up", ge=0)
    hold: float = Field(default=0.0, description="linear, cosine: share of the steps after the warm-up that stay at the peak", ge=0, lt=1)
    base: float = Field(default=0.0, description="learning rate at the start of the warm-up", ge=0)
    base_first: bool = Field(default=False, description="constant, linear, cosine: the warm-up's first step has the rate `base` itself")
    floor: float = Field(default=0.0, description="learning rate at the end; plateau: the least", ge=0)
    factor: float = Field(default=0.5, description="plateau: what the rate is multiplied with", gt=0, lt=1)
    patience: int = Field(default=25000, description="plateau: optimiser steps without improvement that are tolerated", ge=0)
    threshold: float = Field(default=0.1, description="plateau: relative fall of the loss that counts as improvement", ge=0, lt=1)


class Average(Section):
    decay: float = Field(default=0.99, description="share of the old average kept by an update", ge=0, lt=1)
    every: int = Field(default=25, description="optimiser steps between updates", ge=1)
    warmup: bool = Field(default=False, description="start with a smaller decay, (1 + k) / (10 + k) at update k")


class Checkpoints(Section):
    every: int = Field(default=1000, description="optimiser steps between checkpoints", ge=1)
    minutes: float | None = Field(default=10.0, description="also after this many minutes; null: by steps only", gt=0)


class Validation(Section):
    data: DatasetPart | None = Field(default=None, description="dataset to validate on; null: none")
    examples: int = Field(default=256, description="pictures, the first of the validation set, with the same noise every time", ge=1)
    every: int = Field(default=1000, description="optimiser steps between validations, each with an export of the averaged model", ge=1)


class PanelSettings(Section):
    every: int = Field(default=1000, description="optimiser steps between sanity panels", ge=1)
    prompts: list[str | int | None] = Field(default=[], description="fixed prompts to sample; empty: those of the first pictures")
    pictures: int = Field(default=8, description="reconstructions and samples shown", ge=1)


class Sampling(Section):
    sampler: str | None = Field(default=None, description="a registered sampler, with options after a colon; null: the kind of model's own")
    steps: int | None = Field(default=None, description="sampling steps; null: one per time of the process, or 50 for floats", ge=1)
    guidance: float = Field(default=1.0, description="classifier-free guidance scale; 1: none")
    truncation: float | int | None = Field(default=None, description="share of the mass kept (a number with a point) or classes kept")
    temperature: float = Field(default=1.0, description="divides the log-probabilities; 1: none", gt=0)
    spacing: str | None = Field(default=None, description="floats: the schedule that spaces the steps; null: the model's own")


class Recipe(Section):
    """What every task has."""

    task: str = Field(description="clip, codec, flow, flows, null-prompt, scenes-reader or text-codec")
    name: str = Field(default="model", description="what the trained model is called")
    out: str = Field(description="run folder: checkpoints, metrics, pictures and the trained model")
    seed: int = Field(default=0, description="decides initial weights, data order and noise")
    data: DatasetPart = Field(description="training dataset: {kind: …, its arguments}")
    size: int | None = Field(default=None, description="side of the pictures in pixels; null: that of the first picture of the data", gt=0)
    steps: int = Field(default=0, description="optimiser steps; left out where `epochs` says them", ge=0, le=MOST)
    epochs: float | None = Field(default=None, description="passes over the data, in place of `steps`", gt=0, le=MOST)
    batch_size: int = Field(description="pictures per optimiser step, over all processes and parts", ge=1, le=MOST)
    accumulate: int = Field(default=1, description="parts an optimiser step is computed in, to save memory", ge=1)
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="of matrix products; weights stay float32")
    device: Literal["auto", "cpu"] = Field(default="auto", description="auto: a GPU if there is one")
    compile: bool = Field(default=False, description="torch.compile the network")
    workers: int = Field(default=0, description="processes that read data beside each training process", ge=0, le=256)
    optimizer: Optimizer
    schedule: Schedule = Field(default=Schedule(kind="cosine"), description="of the learning rate")
    ema: Average | None = Field(default=Average(), description="moving average of the weights; null: none")
    checkpoint: Checkpoints = Checkpoints()
    validation: Validation = Validation()
    panel: PanelSettings | None = Field(default=PanelSettings(), description="shown with validation data; null: no panel")
    log_every: int = Field(default=50, description="optimiser steps between lines of metrics", ge=1)
    tracker: Literal["tensorboard", "wandb", "visdom", "none"] = Field(
        default="tensorboard", description="where curves and pictures go as well"
    )
    visdom_server: str = Field(default="http://localhost:8097", description="tracker visdom: the address of its server")

    resumable: ClassVar[frozenset[str]] = frozenset({
        "out", "steps", "device", "compile", "workers", "accumulate", "checkpoint", "validation", "panel", "log_every", "tracker",
        "visdom_server",
        "sampling", "layout", "epochs",
    })  # fmt: skip
    """Keys that may change when a run goes on."""
    adjustable: ClassVar[frozenset[str]] = frozenset({"precision", "optimizer.rate", "optimizer.muon_rate"})
    """Keys that may change too, which changes what is computed, so that the run says it: what helps a run that diverged."""

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if (self.steps == 0) == (self.epochs is None):
            raise ValueError("give either the key 'steps', from 1, or the key 'epochs'")
        return self

    def of_length(self, examples: int) -> Recipe:
        """The recipe with its number of steps, where it says them in passes over that many examples."""
        if self.epochs is None:
            return self
        return self.model_copy(update={"steps": max(1, math.ceil(self.epochs * examples / self.batch_size))})


class Adversary(Section):
    start: int = Field(default=0, description="optimiser steps before the discriminator counts", ge=0)
    weight_max: float = Field(default=1.0, description="largest weight of its loss, which follows from the gradients", gt=0)
    width: int = Field(default=64, description="channels of its first layer", ge=1)
    layers: int = Field(default=3, description="its layers that halve the sides", ge=1, le=16)
    augment: list[Literal["color", "translation", "cutout"]] = Field(
        default=["color", "translation"], description="random changes of the pictures it sees; empty: none"
    )
    optimizer: Optimizer | None = Field(default=None, description="of the discriminator; null: as the codec's")


class Temperature(Section):
    steps: int = Field(description="optimiser steps over which it would fall from 1 to 0", ge=1)
    floor: float = Field(default=1 / 16, description="where it stops falling", gt=0, le=1)

    def at(self, done: int) -> float:
        """After `done` steps."""
        return max(self.floor, 1 - done / self.steps)


class CodecLoss(Section):
    pixels: Literal["l1", "mse"] = Field(default="l1", description="error of pixels: mean absolute or mean squared")
    unit_range: bool = Field(default=False, description="the losses see pictures in [0, 1], not [-1, 1]")
    perceptual: Part | None = Field(default=None, description="network that compares pictures: lpips or codec, with its files; null: none")
    perceptual_weight: float = Field(default=1.0, description="weight of its distance", ge=0)
    adversary: Adversary | None = Field(default=None, description="the discriminator; null: none")
    temperature: Temperature | None = Field(default=None, description="how a Gumbel quantizer's falls; null: it stays 1")


class CodecRecipe(Recipe):
    """Train a codec to reconstruct pictures."""

    task: Literal["codec"]
    codec: Annotated[Part, checked_part("codec", registry.CODECS, empty=True)] = Field(
        default={}, description="the codec to make; with train=log-sigma that of `init`"
    )
    init: str | None = Field(default=None, description="folder of a codec to start from; its configuration must be the same")
    train: Literal["all", "log-sigma"] = Field(default="all", description="what learns: the codec, or a vqgan's head for likelihoods alone")
    loss: CodecLoss = Field(default=CodecLoss(), description="of pictures; what the bottleneck adds stands with the codec")


class TextCodecRecipe(Recipe):
    """Train a text autoencoder on the captions of the data; the pictures are left alone."""

    task: Literal["text-codec"]
    codec: CodecPart = Field(description="the codec to make")
    init: str | None = Field(default=None, description="folder of a codec to start from; its configuration must be the same")
    beta: float = Field(default=1.0, description="weight of the divergence from a standard normal distribution", ge=0)
    beta_cycle: int | None = Field(
        default=None, description="optimiser steps in which beta rises from 0, again and again; null: it is constant", ge=4
    )
    free_bits: float = Field(default=0.0, description="divergence in nats of a number of the vector below which it costs nothing", ge=0)
    deviation: float | None = Field(
        default=None, description="standard deviation of a text's vectors, the same for all; null: the encoder learns it", gt=0
    )


class ClipRecipe(Recipe):
    """Train words and pictures into one space; the choice of the contrastive loss is among the pictures of one process and part."""

    task: Literal["clip"]
    encoder: ContextPart = Field(description="the encoder with a text and an image tower to make")
    interchangeable: list[list[str]] = Field(
        default=[], description="groups of words of which another makes a caption wrong; such captions are offered to the pictures too"
    )
    init: str | None = Field(default=None, description="folder of an encoder to start from; its configuration must be the same")


class VariationalLoss(Section):
    kind: Literal["variational"] = Field(default="variational", description="VQ-Diffusion's")
    vb_weight: float = Field(default=1.0, description="weight of the variational bound; 0: cross-entropy of x_0 alone, cheaper", ge=0)
    auxiliary_weight: float = Field(default=5e-4, description="weight of the cross-entropy of x_0", ge=0)
    adaptive_auxiliary: bool = Field(default=True, description="weigh the cross-entropy by 2 - (t - 1)/T")
    mask_weight: tuple[NotLess, NotLess] = Field(default=(1.0, 1.0), description="weights of masked and of other positions")
    time_sampling: Literal["importance", "uniform", "mixed"] = Field(default="importance", description="how times are drawn")


class MaskedLoss(Section):
    kind: Literal["masked"] = Field(description="absorbing diffusion's")
    objective: Literal["elbo", "reweighted-elbo", "mlm"] = Field(
        default="reweighted-elbo", description="the bound, the bound with late times counting less, or the mean over masked tokens"
    )
    mask: Literal["random", "fixed"] = Field(default="random", description="masked tokens of a time: by chance, or exactly its share")
    time_sampling: Literal["importance", "uniform", "mixed"] = Field(default="uniform", description="how times are drawn")


class AutoregressiveLoss(Section):
    kind: Literal["autoregressive"] = Field(description="of causal networks")


class DenoisingLoss(Section):
    objective: Literal["v", "eps", "x_0", "min-snr", "root-snr"] | None = Field(
        default=None, description="whose error counts; null: the network's own"
    )
    gamma: float = Field(default=5.0, description="min-snr: the signal-to-noise ratio above which it counts no more", gt=0)
    time_sampling: Literal["uniform", "stratified"] = Field(default="uniform", description="how times are drawn")
    time_power: float = Field(default=1.0, description="times are this power of uniform ones: above 1 more of them at little noise", gt=0)


class FlowModel(Section):
    context: str | ContextPart = Field(
        default={"kind": "none"}, description="the context encoder, a trained one's folder, or a CLIP's hub id"
    )
    train_context: bool = Field(default=False, description="train the context encoder with the network")
    network: NetworkPart = Field(description="the network; what codec, context and process imply (classes, grid, …) may be left out")
    process: SchedulePart = Field(
        default={}, description="noise schedule: kind, options; by default vq-diffusion of 100 steps, for floats cosine"
    )
    codebook_start: float | None = Field(
        default=None,
        description="token embeddings start as a projection of the codec's codebook of this standard deviation; null: random",
        gt=0,
    )
    loss: Annotated[VariationalLoss | MaskedLoss | AutoregressiveLoss, Field(discriminator="kind")] = Field(
        default=VariationalLoss(), description="over tokens; variational unless its kind says otherwise"
    )
    denoising: DenoisingLoss = Field(default=DenoisingLoss(), description="the loss over floats")

    @field_validator("loss", mode="before")
    @classmethod
    def _kind_of_loss(cls, value: Any) -> Any:
        return {"kind": "variational", **value} if isinstance(value, Mapping) else value


class Layout(Section):
    """A coarse target beside the tokens: what is in each cell, as the data know it. Teaches relations, which the choice of tokens hides."""

    words: int = Field(default=0, description="first optimiser steps, in which a small decoder teaches the words alone", ge=0)
    alone: int = Field(default=0, description="optimiser steps after these, which learn the layout of fully masked pictures alone", ge=0)
    weight: float = Field(default=1.0, description="of its cross-entropies afterwards", ge=0)


class FlowRecipe(Recipe):
    """Train a denoiser over the tokens or floats of a trained codec; `codec: {kind: pixels}` for pixels themselves."""

    task: Literal["flow"]
    codec: str | CodecPart = Field(description="folder of a trained codec, or a codec's description (untrained)")
    model: FlowModel
    init: str | None = Field(default=None, description="model folder to start from; its configuration must be the same")
    drop_prompt: float = Field(default=0.0, description="share of prompts replaced by no prompt", ge=0, le=1)
    picture_prompts: float = Field(
        default=0.0, description="share of prompts replaced by the picture itself, where the context encoder sees pictures", ge=0, le=1
    )
    layout: Layout | None = Field(default=None, description="learn what is in each cell as well, where the data say so; null: no")
    sampling: Sampling = Field(default=Sampling(), description="how the panel samples, and how the trained model does by default")
    token_cache: str | None = Field(default=None, description="folder for tokens computed once; null: the codec runs at every step")
    token_views: int = Field(default=1, description="token cache: random crops kept of each picture", ge=1)


class NullPromptRecipe(Recipe):
    """Fine-tune a trained flow so that it learns to draw without a prompt, for classifier-free guidance."""

    task: Literal["null-prompt"]
    init: str = Field(description="folder of the trained model")
    drop_prompt: float = Field(default=0.1, description="share of prompts replaced by no prompt", ge=0, le=1)
    train: Literal["all", "null"] = Field(default="all", description="what learns: the whole flow, or the null embedding alone")
    train_context: bool = Field(default=False, description="with train=all: whether the context encoder learns too")
    picture_prompts: float = Field(
        default=0.0, description="share of prompts replaced by the picture itself, where the context encoder sees pictures", ge=0, le=1
    )
    sampling: Sampling = Field(default=Sampling(), description="how the panel samples, and how the trained model does by default")
    token_cache: str | None = Field(default=None, description="folder for tokens computed once; null: the codec runs at every step")
    token_views: int = Field(default=1, description="token cache: random crops kept of each picture", ge=1)


class JointFlow(Section):
    """One of several flows that are trained together."""

    weight: float = Field(default=1.0, description="of its loss", gt=0)
    share: float = Field(default=1.0, description="share of a step's pairs that it sees", gt=0, le=1)
    drop: float = Field(default=0.1, description="share of its prompts replaced by no prompt", ge=0, lt=1)
    blank: int | None = Field(
        default=None,
        description="of flows from pictures: the grey level of the picture that stands for no prompt; null: zeros",
        ge=0,
        le=255,
    )


class JointRecipe(Recipe):
    """Train several flows of one network together, from pictures with captions (Versatile Diffusion)."""

    task: Literal["flows"]
    flows: dict[str, JointFlow] = Field(
        description="what learns: text_to_image, image_to_image, image_to_text, text_to_text or some of them, or from a context type of "
        "`encoders`, such as palette_to_image"
    )
    codecs: dict[str, str | CodecPart] = Field(
        default={}, description="by data type (image, text): folder of a trained codec, or a description; one left out is that of `init`"
    )
    context: str | ContextPart | None = Field(
        default=None, description="the encoder of words and pictures: a trained one's folder, a CLIP, a description; null: that of `init`"
    )
    encoders: dict[str, ContextPart] = Field(
        default={},
        description="by context type: what reads pictures for context types beside words and pictures, {palette: {kind: palette}}",
    )
    train_context: bool = Field(default=False, description="train the context encoder with the network")
    network: NetworkPart = Field(default={}, description="the network; empty: that of `init` with the layers that it lacks")
    processes: dict[str, SchedulePart] = Field(
        default={}, description="by data type: the noise schedule; by default linear-beta, latent diffusion's"
    )
    denoising: dict[str, DenoisingLoss] = Field(default={}, description="by data type: the loss")
    reworded: bool = Field(default=False, description="flows from words to words learn other words for the same, where the data has some")
    gradients: dict[str, float] = Field(
        default={},
        description="what gradients of layers are multiplied with before they are clipped, by how the names of their tensors begin: "
        "time, data.image, data.text, contexts.image, contexts.text",
    )
    init: str | None = Field(
        default=None, description="model to start from, with one flow or several: every layer that it has is taken over"
    )
    copies: dict[str, str] = Field(
        default={}, description="with init: layers that it lacks and those of it that they start as, contexts.image: contexts.text"
    )
    sampling: Sampling = Field(default=Sampling(), description="how the panel samples, and how the trained model does by default")

    @field_validator("flows")
    @classmethod
    def _some(cls, value: dict[str, JointFlow]) -> dict[str, JointFlow]:
        if not value:
            raise ValueError("name at least one flow")
        return value


class ReaderRecipe(Recipe):
    """Train a network that reads the scenes of the built-in world, whose features FID and the like are measured with."""

    task: Literal["scenes-reader"]
    reader: Annotated[Part, checked_part("reader", registry.READERS)] = Field(description="the network to make")


RECIPES: dict[str, type[Recipe]] = {
    "clip": ClipRecipe, "codec": CodecRecipe, "flow": FlowRecipe, "flows": JointRecipe, "null-prompt": NullPromptRecipe,
    "scenes-reader": ReaderRecipe, "text-codec": TextCodecRecipe,
}  # fmt: skip
