"""Folders of diffusers' VQDiffusionPipeline whose components lie."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tessera.checkpoints.diffusers import OUR_WEIGHTS, OURS, export_diffusers
from tests.hostile.folders import ESCAPES
from tests.tiny_pipeline import text_model

__all__ = ["write_pipelines"]

SETTINGS: dict[str, tuple[str, str, Any]] = {
    "a pipeline's network of depth 10^9": ("transformer/config.json", "num_layers", 10**9),
    "a pipeline's network of depth 500": ("transformer/config.json", "num_layers", 500),
    "a pipeline's network of heads 0": ("transformer/config.json", "num_attention_heads", 0),
    "a pipeline's network of width 2^70": ("transformer/config.json", "attention_head_dim", 2**70),
    "a pipeline's network of 10^12 tokens": ("transformer/config.json", "num_vector_embeds", 10**12),
    "a pipeline's network of size 10^9": ("transformer/config.json", "sample_size", 10**9),
    "a pipeline's network of text": ("transformer/config.json", "sample_size", "4"),
    "a pipeline's codec of 10^9 channels": ("vqvae/config.json", "block_out_channels", [10**9, 2 * 10**9]),
    "a pipeline's codec of 10^4 levels": ("vqvae/config.json", "block_out_channels", [32] * 10**4),
    "a pipeline's codec without levels": ("vqvae/config.json", "block_out_channels", []),
    "a pipeline's codec of 10^12 codes": ("vqvae/config.json", "num_vq_embeddings", 10**12),
    "a pipeline's text encoder of 10^9 layers": ("text_encoder/config.json", "num_hidden_layers", 10**9),
    "a pipeline's text encoder of length -1": ("text_encoder/config.json", "max_position_embeddings", -1),
    "a pipeline's text encoder of 10^12 tokens": ("text_encoder/config.json", "vocab_size", 10**12),
    "a pipeline's schedule of 10^9 steps": ("scheduler/scheduler_config.json", "num_train_timesteps", 10**9),
    "a pipeline's schedule of NaN": ("scheduler/scheduler_config.json", "alpha_cum_start", float("nan")),
    "a pipeline's null embedding is a path": ("learned_classifier_free_sampling_embeddings/config.json", "learnable", "/etc/passwd"),
    "a pipeline of another class": ("model_index.json", "_class_name", ESCAPES),
    "a pipeline's component from elsewhere": ("model_index.json", "transformer", ["os", "system"]),
    "a pipeline's component is a number": ("model_index.json", "vqvae", 5),
}
TEXTS: dict[str, tuple[str, bytes]] = {
    "a pipeline's index is deep": ("model_index.json", b"[" * 10**5),
    "a pipeline's index is a list": ("model_index.json", b"[1]"),
    "a pipeline's configuration is cut": ("vqvae/config.json", b'{"in_channels": 3'),
    "a pipeline's merges are not UTF-8": ("tokenizer/merges.txt", b"#version\n\xff\xfe \xff\n"),
    "a pipeline's merges are of 40 MB": ("tokenizer/merges.txt", b"a b\n" * 10**7),
    "a pipeline's weights are zeros": ("transformer/diffusion_pytorch_model.safetensors", bytes(1000)),
    "a pipeline's weights are cut": ("vqvae/diffusion_pytorch_model.safetensors", b"\x08\0\0\0\0\0\0\0{}"),
}


def write_pipelines(folder: Path, outside: Path) -> list[Path]:
    """The folders; `outside` holds a secret that some of them point to. None of them is a model."""
    whole = export_diffusers(text_model(), folder.parent / "whole-pipeline")
    (whole / OURS).unlink()
    (whole / OUR_WEIGHTS).unlink()
    made = []

    def new(name: str) -> Path:
        made.append(folder / name)
        shutil.copytree(whole, made[-1])
        return made[-1]

    for name, (file, key, value) in SETTINGS.items():
        path = new(name) / file
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    for name, (file, content) in TEXTS.items():
        (new(name) / file).write_bytes(content)
    for name, replace in PLACES.items():
        path = new(name) / "transformer" / "diffusion_pytorch_model.safetensors"
        path.unlink()
        replace(path, outside)
    shutil.rmtree(new("a pipeline without its codec") / "vqvae")
    place = new("a pipeline's weights are a pickle that runs")
    (place / "vqvae" / "diffusion_pytorch_model.safetensors").unlink()
    (place / "vqvae" / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    return made


PLACES: dict[str, Callable[[Path, Path], Any]] = {
    "a pipeline's weights are a link to a secret": lambda path, outside: path.symlink_to(outside / "secret.safetensors"),
    "a pipeline's weights are a pipe": lambda path, _: os.mkfifo(path),
    "a pipeline's weights are a device": lambda path, _: path.symlink_to("/dev/zero"),
    "a pipeline's weights are a folder": lambda path, _: path.mkdir(),
    "a pipeline's index of weights points outside": lambda path, outside: path.with_name(f"{path.name}.index.json").write_text(
        json.dumps({"weight_map": {"a": str(outside / "secret.safetensors")}})
    ),
}
