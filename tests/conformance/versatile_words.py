"""Versatile Diffusion's text autoencoder: Optimus, its tokenizers and how its texts are tidied."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tessera.codecs.text_tidying import without_doubled_words, without_repetition
from tessera.codecs.text_tokens import BytePairs, WordPieces
from tessera.codecs.text_vae import TextVAE, divergence
from tessera.codecs.text_writing import Writing
from tessera.contexts.prompt_warnings import PromptTruncated, UnknownWords
from tessera.families.versatile.parts_checkpoint import load_part_state, text_vae_config
from tessera.nn.initialisation import without_initialisation
from tessera.randomness import Draws
from tests.conformance.cases import Case, original_file
from tests.conformance.settings import agree, known

__all__ = ["COMPONENTS", "Recorded", "heads_of", "last_drawn"]


class Recorded(Draws):
    """Stored uniform numbers [B, N], one column per draw."""

    def __init__(self, u: Tensor) -> None:
        super().__init__(0, [])
        self.columns = list(u.double().unbind(1))

    def uniform(self, *shape: int) -> Tensor:
        return self.columns.pop(0)[:, None]


def optimus(case: Case) -> dict[str, Tensor]:
    io = case.io
    with without_initialisation():
        vae = TextVAE(**text_vae_config(case.manifest, heads=heads_of(case.config)), pieces=4)
    load_part_state(vae, case.weights(), "text autoencoder")
    with torch.no_grad():
        outputs = _encoder(vae, io) | _decoder(case, vae)
        for run in case.spec["decodes"]:
            outputs |= _writing(case, vae, run)
    return outputs


def heads_of(described: dict[str, Any]) -> tuple[int, int]:
    """Of encoder and decoder; the decoder's number is said twice."""
    decoder = described["decoder"]
    return described["encoder"]["num_attention_heads"], agree("heads of the decoder", [decoder["num_attention_heads"], decoder["n_head"]])


def _encoder(vae: TextVAE, io: dict[str, Tensor]) -> dict[str, Tensor]:
    encoded = vae.distribution(io["encoder_ids"])
    return {
        "encoder_hidden": encoded.hidden,
        "pooled": encoded.pooled,
        "mean": encoded.mean,
        "logvar": encoded.log_variance,
        "z_sample": encoded.mean + (encoded.log_variance / 2).exp() * io["noise"][:, 0],
        "kl": divergence(encoded).sum(-1),
    }


def _decoder(case: Case, vae: TextVAE) -> dict[str, Tensor]:
    io, stride = case.io, case.spec.get("logits_stride", 1)
    logits = vae.logits(io["z"], io["labels"])
    outputs = {
        "logits": logits[..., ::stride],
        "logits_lse": logits.logsumexp(-1),
        "logits_argmax": logits.argmax(-1),
        "loss_rec": vae.reconstruction(io["z"], io["labels"], case.config["special_ids"]["pad"]),
    }
    for name, (embedding, memory) in case.spec["injection_modes"].items():
        outputs[f"logits_{name}"] = vae.logits(io["z"], io["labels"], embedding, memory)[..., ::stride]
    return outputs


def _writing(case: Case, vae: TextVAE, run: dict[str, Any]) -> dict[str, Tensor]:
    """Tokens, with what the distributions were that they were taken from."""
    io, name = case.io, run["name"]
    greedy = known("decodes.mode", run["mode"], {"greedy": True, "sample": False})
    how = Writing(run["temperature"], run["top_k"], run["top_p"], greedy=greedy, length=run["max_length"])
    draws = None if how.greedy else Recorded(io[f"{name}.u"])
    outputs: dict[str, Tensor] = {}
    for row, tokens in enumerate(vae.generate(io["z"], run["bos"], run["eos"], how, draws)):
        log_p = how.log_p(vae.logits(io["z"][row : row + 1], tokens[None, :-1])[0])
        largest = log_p.exp().topk(2).values
        taken = tokens[1:]
        if len(tokens) == how.length:  # the last one was overwritten
            taken = torch.cat([taken[:-1], last_drawn(log_p[-1:], how, io.get(f"{name}.u"), row, len(tokens) - 2)])
        outputs |= {
            f"{name}.{row}.tokens": tokens,
            f"{name}.{row}.log_prob": log_p.gather(1, taken[:, None])[:, 0],
            f"{name}.{row}.kept": (log_p > -torch.inf).sum(-1),
            f"{name}.{row}.margin": largest[:, 0] - largest[:, 1],
        }
    return outputs


def last_drawn(log_p: Tensor, how: Writing, u: Tensor | None, row: int, place: int) -> Tensor:
    return log_p.argmax(-1) if u is None else Recorded(u[row : row + 1, place:]).categorical(log_p[None])[0]


def tokenizers(case: Case) -> dict[str, Any]:
    config = case.config.get("toy", case.config)
    pieces, merges = WordPieces(_listed(config["wordpiece_vocab"])), BytePairs(_listed(config["bpe_merges"]))
    expected = case.spec["expected"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownWords)
        warnings.simplefilter("ignore", PromptTruncated)
        batch = case.spec["examples"]["wordpiece_batch"]
        return {
            "wordpiece": [_pieces(pieces, example["text"]) for example in case.spec["examples"]["wordpiece"]],
            "wordpiece_batch": batch | {"ids": pieces(batch["texts"], batch["max_length"]).tolist()},
            "bpe": [_pairs(merges, example["text"]) for example in case.spec["examples"]["bpe"]],
            "generated": [
                {"ids": example["ids"], "raw": merges.spelt(example["ids"]), "text": merges.decode(example["ids"])}
                for example in case.spec["examples"]["generated"]
            ],
            "special": {
                "bos": [merges.begin], "eos": [merges.end], "pad": [merges.pad], "unk_token": expected["special"]["unk_token"],
                "gpt2_size": merges.size, "cls": pieces.first, "sep": pieces.last, "bert_pad": 0, "bert_unk": pieces.unknown,
                "bert_size": len(pieces.vocabulary),
            },
        }  # fmt: skip


def _listed(given: str | Sequence[str]) -> list[str]:
    return json.loads(original_file("versatile", given).read_text()) if isinstance(given, str) else list(given)


def _pieces(tokenizer: WordPieces, text: str) -> dict[str, Any]:
    ids = tokenizer([text], 10**6)[0].tolist()
    return {"text": text, "tokens": [tokenizer.vocabulary[i] for i in ids[1:-1]], "ids": ids}


def _pairs(tokenizer: BytePairs, text: str) -> dict[str, Any]:
    ids = tokenizer.encode(text)
    tokens, spelt = [tokenizer.symbols[i] for i in ids[1:-1]], tokenizer.spelt(ids[1:-1])
    return {"text": text, "tokens": tokens, "ids": ids[1:-1], "ids_with_bos_eos": ids, "decoded": spelt}


def tidied(case: Case) -> dict[str, Any]:
    by_name = {"remove_duplicate_word": without_repetition, "merge_same_adjacent_word": without_doubled_words}
    return {name: [{"text": text, "result": function(text)} for text in case.spec["examples"]] for name, function in by_name.items()}


COMPONENTS = {"optimus_vae": optimus, "optimus_tokenizers": tokenizers, "text_postprocess": tidied}
