"""A folder of diffusers as a side of a verification: everything is computed by diffusers' own code, in float32.

Only the random numbers of `VQDiffusionScheduler.step` are ours: while a run is followed, the function that adds Gumbel noise there adds
the shared noise. Guidance, truncation, posterior and draw stay theirs.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tessera.checkpoints.recording import Noise
from tessera.checkpoints.verification.trial import AfterStep, Outcome, Size, Trial, levels, words_condition
from tessera.errors import TesseraError, UsageError
from tessera.json_files import read_json

__all__ = ["INDEX", "DiffusersPipeline"]

INDEX = "model_index.json"
PIPELINE = "VQDiffusionPipeline"
COMPONENTS = ("vqvae", "text_encoder", "tokenizer", "transformer", "scheduler", "learned_classifier_free_sampling_embeddings")


class DiffusersPipeline:
    """The pipeline in a folder.

    Raises TesseraError when diffusers is not installed or cannot read the folder, UsageError for a pipeline of another kind.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.name, self.device = str(folder), device
        self.pipe = _open(folder).to(device)
        self.pipe.set_progress_bar_config(disable=True)
        transformer, text = self.pipe.transformer, self.pipe.text_encoder.config
        factor = 2 ** (len(self.pipe.vqvae.config.block_out_channels) - 1)
        self.size = Size(
            transformer.config.num_vector_embeds - 1, self.pipe.scheduler.config.num_train_timesteps, transformer.num_latent_pixels,
            (transformer.height * factor, transformer.width * factor), words_condition(text.max_position_embeddings, text.hidden_size),
        )  # fmt: skip

    @torch.no_grad()
    def outcome(self, trial: Trial, after_step: AfterStep) -> Outcome:
        with quiet():
            return self._outcome(trial, after_step)

    def _outcome(self, trial: Trial, after_step: AfterStep) -> Outcome:
        pipe = self.pipe
        latents = pipe.vqvae.encode(trial.picture.to(self.device)).latents
        tokens = pipe.vqvae.quantize(latents)[2][2].view(len(trial.picture), -1).cpu() if trial.nearest else None
        picture = self._decode(trial.tokens.to(self.device))
        embedding = pipe._encode_prompt(list(trial.prompts), 1, False)
        log_p = [
            pipe.transformer(probe.x_t.to(self.device), encoder_hidden_states=embedding, timestep=torch.tensor(probe.t - 1)).sample
            for probe in trial.probes
        ]
        steps, final = self._run(trial, after_step)
        return Outcome(
            codec_tokens=tokens, reconstruction=levels(picture), log_p=[values.transpose(1, 2).cpu() for values in log_p],
            token_ids=self._token_ids(trial.prompts), text_embedding=embedding.cpu(), run=steps,
            final=None if final is None else levels(final),
            absent={
                "codec_tokens": "diffusers only encodes by the nearest of the codes in use, and this model does not",
                "final": f"only {trial.steps} of {self.size.times} steps were followed",
            },
        )  # fmt: skip

    def _token_ids(self, prompts: list[str]) -> Int[Tensor, "b l"]:
        tokenizer = self.pipe.tokenizer
        length = tokenizer.model_max_length
        return tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids

    def _decode(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b 3 h w"]:
        vqvae, transformer = self.pipe.vqvae, self.pipe.transformer
        shape = (len(tokens), transformer.height, transformer.width, vqvae.config.vq_embed_dim)
        return vqvae.decode(vqvae.quantize.get_codebook_entry(tokens, shape=shape), force_not_quantize=True).sample

    def _run(self, trial: Trial, after_step: AfterStep) -> tuple[Int[Tensor, "s b n"], Float[Tensor, "b 3 h w"] | None]:
        """The pipeline's own loop: tokens after every step, and the pictures unless it was cut short."""
        steps: list[Tensor] = []

        def keep(_index: int, _t: object, x: Tensor) -> None:
            steps.append(x.cpu())
            after_step()
            if len(steps) == trial.steps < self.size.times:
                raise Enough

        with shared_noise(self.pipe.scheduler, trial.noise):
            try:
                images = self.pipe(
                    list(trial.prompts), num_inference_steps=self.size.times, guidance_scale=trial.guidance,
                    truncation_rate=trial.truncation, output_type="np", callback=keep,
                ).images  # fmt: skip
            except Enough:
                return torch.stack(steps), None
        return torch.stack(steps), torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1


class Enough(Exception):
    """The run was followed as far as was asked."""


@contextmanager
def shared_noise(scheduler: Any, noise: Noise) -> Iterator[None]:
    """Within it, the scheduler's draw i adds `noise(i)` to its log-probabilities."""
    module: Any = sys.modules[type(scheduler).__module__]
    theirs, count = module.gumbel_noised, iter(range(sys.maxsize))

    def gumbel_noised(logits: Tensor, generator: object) -> Tensor:
        return noise(next(count)).transpose(1, 2)[:, : logits.shape[1]].to(logits.device) + logits

    module.gumbel_noised = gumbel_noised
    try:
        yield
    finally:
        module.gumbel_noised = theirs


def _open(folder: Path) -> Any:
    kind = _index(folder).get("_class_name")
    if kind != PIPELINE:
        raise UsageError(f"{folder} holds a {kind}, not a {PIPELINE}: give a folder with VQ-Diffusion")
    try:
        import_module("diffusers")
        with quiet():
            return _components(folder)
    except ImportError as error:
        raise TesseraError(f"a diffusers folder is compared with diffusers' own code ({error}): pip install 'tessera[diffusers]'") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise TesseraError(f"diffusers cannot read {folder} ({reason}): copy the folder again") from None


def _components(folder: Path) -> Any:
    """The pipeline from its components. `from_pretrained` of the whole fails on folders whose index says where a class lay before it was
    deprecated."""
    for name in COMPONENTS:  # before the imports, which take seconds
        if not (folder / name).is_dir():
            raise TesseraError(f"{folder / name} is missing, a part of {PIPELINE}: copy the whole folder again")
    from diffusers import Transformer2DModel, VQDiffusionPipeline, VQDiffusionScheduler, VQModel
    from transformers import CLIPTextModel, CLIPTokenizer

    null = sys.modules[VQDiffusionPipeline.__module__].LearnedClassifierFreeSamplingEmbeddings
    classes = (VQModel, CLIPTextModel, CLIPTokenizer, Transformer2DModel, VQDiffusionScheduler, null)
    made = {
        name: kind.from_pretrained(folder, subfolder=name, local_files_only=True) for name, kind in zip(COMPONENTS, classes, strict=True)
    }
    return VQDiffusionPipeline(**made).to(torch.float32)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and notices of diffusers and transformers: that a pipeline is deprecated is not the user's business."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    before = [(logging, logging.get_verbosity()) for logging in (of_diffusers, of_transformers)]
    for logging, _ in before:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logging, verbosity in before:
            logging.set_verbosity(verbosity)
            logging.enable_progress_bar()


def _index(folder: Path) -> Mapping[str, Any]:
    try:
        index = read_json(folder / INDEX)
    except (OSError, ValueError) as error:
        raise TesseraError(f"{folder / INDEX} cannot be read ({error}): copy the folder again") from None
    return index if isinstance(index, dict) else {}
