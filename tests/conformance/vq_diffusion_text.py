"""VQ-Diffusion's tokenizer and text tower."""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor

from tessera.contexts.clip import CLIPText
from tessera.contexts.prompt_warnings import PromptTruncated
from tessera.contexts.tokenizer import ClipTokenizer, read_merges
from tessera.families.vq_diffusion.text_checkpoint import load_text
from tests.conformance.cases import Case, original_file
from tests.conformance.settings import known

__all__ = ["COMPONENTS", "merges"]


@cache
def merges() -> tuple[str, ...]:
    """CLIP's merges."""
    return tuple(read_merges(original_file("vq_diffusion", "clip_bpe", "merges.json")))


def tokenize(case: Case) -> dict[str, Tensor]:
    """The case's prompts as token ids, and which of them are real."""
    config = case.config
    tokenizer = ClipTokenizer(merges(), config["context_length"], config["pad_value"], config["add_start_and_end"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptTruncated)
        tokens, mask = tokenizer(case.spec["prompts"])
    return {"tokens": tokens} | ({"mask": mask.to(torch.uint8)} if config["with_mask"] else {})


def text_embedding(case: Case) -> dict[str, Tensor]:
    """Embeddings of the recorded tokens, with the weights as they are and as released files round them."""
    config = case.config
    known("config.pick_last_embedding", config["pick_last_embedding"], {False: "the models take the embeddings of all tokens"})
    encoder = CLIPText(
        length=config["context_length"],
        layers=config["transformer_layers"],
        width=config["transformer_width"],
        heads=config["transformer_heads"],
        vocabulary=config["vocab_size"],
        normalise=config["normalize"],
    )
    state = case.state_dict()
    outputs = {}
    for name, weights in (
        ("embedding", state),
        ("embedding_half_weights", {key: _as_released(key, value) for key, value in state.items()}),
    ):
        if name in case.expected:
            load_text(encoder, weights)
            stride = config["transformer_width"] // case.expected[name].shape[-1]
            outputs[name] = encoder.embed(case.io["tokens"])[..., ::stride]
    return outputs


def _as_released(key: str, value: Tensor) -> Tensor:
    """Released files hold a layer's matrices and their biases in float16."""
    return value.half() if any(part in key for part in ("in_proj", "out_proj", ".mlp.")) else value


COMPONENTS = {"Tokenize": tokenize, "CLIPTextEmbedding": text_embedding}
