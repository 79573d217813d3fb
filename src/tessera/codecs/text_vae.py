"""A text autoencoder with one vector for a text: Optimus (Li et al. 2020, arXiv 2004.04092).

    mean, log-variance = W h,  h = tanh(A BERT(text)_[CLS] + b)        z = mean, or in training mean + exp(½ log-variance) ε
    text ~ GPT-2 with z as memory, one more key that is its own value in front of each layer, k_l = v_l = M_l z, and as embedding: E z is
    added to the embedding of every token

Its loss (section 3) is the cross-entropy of the text plus β times the divergence of q(z | text) from a standard normal distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.codecs.text_tokens import MARKERS, BytePairs, WholeWords, WordPieces, Writer, filled, read_wordpieces
from tessera.codecs.text_writing import Next, Writing, search, write
from tessera.contexts.tokenizer import read_merges
from tessera.errors import UsageError
from tessera.randomness import Draws
from tessera.schema import Positive

__all__ = ["Encoded", "TextLoss", "TextVAE"]

WORDPIECES_FILE = "text-codec-vocab.txt"
MERGES_FILE = "text-codec-merges.txt"
PIECES = 77


class Encoded(NamedTuple):
    """hidden: the encoder's last hidden states. pooled: h. mean, log_variance: of q(z | text)."""

    hidden: Float[Tensor, "b l d"]
    pooled: Float[Tensor, "b d"]
    mean: Float[Tensor, "b z"]
    log_variance: Float[Tensor, "b z"]


class TextLoss(NamedTuple):
    """Per text, in nats. reconstruction: -log p(text | z). divergence: KL(q(z | text), standard normal), of each number of z."""

    reconstruction: Float[Tensor, " b"]
    divergence: Float[Tensor, "b z"]

    def total(self, beta: float, free: float = 0.0) -> Float[Tensor, ""]:
        """Mean over the texts of reconstruction + β Σ divergence, of the numbers whose divergence exceeds `free`."""
        counted = self.divergence * (self.divergence > free)
        return (self.reconstruction + beta * counted.sum(-1)).mean()


class TextVAE(nn.Module):
    """Texts ⇄ vectors.

    Args:
        encoder, decoder: length (positions), layers, width, heads, and unless `words` are given vocabulary. encoder: also hidden,
            the features inside an MLP (by default 4 times the width, which the decoder always has).
        latent: numbers in a vector.
        words: a small vocabulary of whole words that both sides use. Without it the tokenizers need their files:
        wordpieces, merges: BERT's vocabulary and GPT-2's merges, or the files that hold them; see `use_vocabularies`. Without them
            only tensors can be encoded and decoded, until `load_extra_files` has found them beside a saved model.
        pieces: how many tokens of a text are read; the rest is cut with a warning.
        dropout: share of features left out in training.
        pooling: what h is made of: "first", the [CLS] token as above, or "all", the states of all tokens side by side, from which a small
            model learns sooner (there is no A then).
        normalised: the mean is scaled to numbers of mean square 1, so that latents are of unit size without a divergence that asks for it.
        memories: keys and values in front of each layer that the latent becomes.
        variance: whether the encoder says one; without it, training has to (`deviation`).
    """

    outside = ("wordpieces", "merges")

    def __init__(
        self,
        encoder: Mapping[str, int],
        decoder: Mapping[str, int],
        latent: Positive,
        words: Sequence[str] | None = None,
        wordpieces: Sequence[str] | str | Path | None = None,
        merges: Sequence[str] | str | Path | None = None,
        pieces: int = PIECES,
        dropout: float = 0.1,
        pooling: str = "first",
        normalised: bool = False,
        memories: int = 1,
        variance: bool = True,
    ) -> None:
        from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

        super().__init__()
        if (words is None) == ("vocabulary" not in encoder or "vocabulary" not in decoder):
            raise UsageError("text autoencoder: give either `words`, or `vocabulary` of the encoder and of the decoder")
        for side, sizes in (("encoder", encoder), ("decoder", decoder)):
            if min(sizes.values()) < 1 or sizes["width"] % sizes["heads"]:
                raise UsageError(
                    f"text autoencoder: the sizes of the {side} must be positive and its width a multiple of its heads: {sizes}"
                )
        if latent < 1 or not 1 <= pieces <= encoder["length"] - 2:
            raise UsageError(
                f"text autoencoder: latent must be positive, and pieces {pieces} with 2 markers fit length {encoder['length']}"
            )
        if pooling not in ("first", "all") or memories < 1:
            raise UsageError(f"text autoencoder: pooling must be first or all and memories at least 1, not {pooling!r} and {memories}")
        self.config: dict[str, Any] = {
            "kind": "text-vae", "encoder": dict(encoder), "decoder": dict(decoder), "latent": latent,
            "words": None if words is None else list(words), "pieces": pieces, "dropout": dropout,
            "pooling": pooling, "normalised": normalised, "memories": memories,
            "variance": variance,
        }  # fmt: skip
        self.latent, self.pieces = latent, pieces
        self.reader: WordPieces | None = None
        self.writer: Writer | None = None
        if words is not None:
            self.reader, self.writer = WordPieces([*MARKERS, *words]), WholeWords(words)
        read = encoder.get("vocabulary", 0) if self.reader is None else len(self.reader.vocabulary)
        written = decoder.get("vocabulary", 0) if self.writer is None else self.writer.size
        self.encoder: Any = BertModel(
            BertConfig(
                vocab_size=read, hidden_size=encoder["width"], num_hidden_layers=encoder["layers"], num_attention_heads=encoder["heads"],
                intermediate_size=encoder.get("hidden", 4 * encoder["width"]), max_position_embeddings=encoder["length"],
                hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, pad_token_id=0,
                initializer_range=_spread(encoder["width"]),
            ),
            add_pooling_layer=pooling == "first",
        )  # fmt: skip
        states = 1 if pooling == "first" else pieces + 2
        self.encoder.linear = nn.Linear(encoder["width"] * states, latent * (2 if variance else 1), bias=False)
        gpt: Any = GPT2Model(
            GPT2Config(
                vocab_size=written, n_embd=decoder["width"], n_layer=decoder["layers"], n_head=decoder["heads"],
                n_positions=decoder["length"] + memories - 1, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
                bos_token_id=None, eos_token_id=None, initializer_range=_spread(decoder["width"]),
            )
        )  # fmt: skip
        gpt.linear = nn.Linear(latent, decoder["layers"] * memories * decoder["width"], bias=False)
        gpt.linear_emb = nn.Linear(latent, decoder["width"], bias=False)
        # Under the original's names; its head is the token embedding again, and not stored here.
        self.decoder = nn.ModuleDict({"transformer": gpt})
        self.use_vocabularies(wordpieces, merges)
        self.eval()

    @property
    def channels(self) -> int:
        """Numbers in a vector, which is all there is at its one position: see `grid`."""
        latent: int = self.config["latent"]
        return latent

    def grid(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Latent positions along each axis, of which a text has none, whatever the size of pictures."""
        return ()

    @property
    def device(self) -> torch.device:
        return self.encoder.linear.weight.device

    @property
    def _gpt(self) -> Any:
        return self.decoder["transformer"]

    def use_vocabularies(self, wordpieces: Sequence[str] | str | Path | None, merges: Sequence[str] | str | Path | None) -> None:
        """Makes the tokenizers of what is given. UsageError when they do not have as many tokens as the model."""
        if wordpieces is not None:
            reader = WordPieces(read_wordpieces(wordpieces) if isinstance(wordpieces, str | Path) else wordpieces)
            self._check_size("word pieces", len(reader.vocabulary), self.encoder.embeddings.word_embeddings.num_embeddings)
            self.reader = reader
        if merges is not None:
            writer = BytePairs(read_merges(merges, most=None) if isinstance(merges, str | Path) else merges)
            self._check_size("merges", writer.size, self._gpt.wte.num_embeddings)
            self.writer = writer

    def _check_size(self, what: str, given: int, expected: int) -> None:
        if self.config["words"] is not None:
            raise UsageError(f"this text autoencoder has its own words: leave out its {what}")
        if given != expected:
            raise UsageError(f"these {what} make {given} tokens, but the text autoencoder has {expected}: use those it was trained with")

    def distribution(self, ids: Int[Tensor, "b l"]) -> Encoded:
        """q(z | text) of tokenized texts; 0 is padding."""
        found = self.encoder(input_ids=ids, attention_mask=(ids > 0).long())
        hidden = found.last_hidden_state
        pooled = found.pooler_output
        if self.config["pooling"] == "all":
            pooled = F.pad(hidden * (ids > 0).unsqueeze(-1), (0, 0, 0, self.pieces + 2 - ids.shape[1])).flatten(1)
        said = self.encoder.linear(pooled)
        mean, log_variance = said.chunk(2, -1) if self.config["variance"] else (said, torch.full_like(said, -torch.inf))
        if self.config["normalised"]:
            mean = F.normalize(mean.float(), dim=-1) * self.latent**0.5
        return Encoded(hidden, pooled, mean, log_variance)

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "b l"]:
        """What the encoder reads. Warns of unknown words and of what was cut. UsageError without a vocabulary."""
        if self.reader is None:
            raise UsageError(
                "this text autoencoder has no vocabulary of word pieces, so it cannot read words: give bert-base-cased's vocab.txt as "
                f"`wordpieces`, or put it as {WORDPIECES_FILE} into the model's folder"
            )
        return self.reader(texts, self.pieces).to(self.device)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Float[Tensor, "b z"]:
        """The mean of q(z | text). One by one, so that a text's numbers do not depend on its batch."""
        rows = [self.means([text]) for text in texts]
        return torch.cat(rows) if rows else torch.empty(0, self.latent, device=self.device)

    def means(self, texts: Sequence[str]) -> Float[Tensor, "b z"]:
        """The same of all at once, for training."""
        return self.distribution(self.tokenize(texts)).mean

    def logits(
        self, latents: Float[Tensor, "b z"], ids: Int[Tensor, "b l"], embedding: bool = True, memory: bool = True
    ) -> Float[Tensor, "b l v"]:
        """Logits of the token after each of `ids`. embedding, memory: the ways in which the latents are seen."""
        gpt = self._gpt
        embeddings = gpt.wte(ids) + (gpt.linear_emb(latents)[:, None] if embedding else 0)
        hidden = gpt(inputs_embeds=embeddings, past_key_values=self._memory(latents) if memory else None, use_cache=memory)
        return F.linear(hidden.last_hidden_state, gpt.wte.weight)

    def _memory(self, latents: Float[Tensor, "b z"]) -> Any:
        """What the decoder sees before the first token: one key and value a layer."""
        from transformers import DynamicCache

        gpt, heads, memories = self._gpt, self.config["decoder"]["heads"], self.config["memories"]
        past = DynamicCache(config=gpt.config)
        for layer, row in enumerate(gpt.linear(latents).chunk(len(gpt.h), -1)):
            key = row.view(len(row), memories, heads, gpt.embed_dim // heads).transpose(1, 2)
            past.update(key, key, layer)
        return past

    def following(self, latents: Float[Tensor, "b z"]) -> Next:
        """The decoder a token at a time; keys and values of those before are kept."""
        gpt, past, added = self._gpt, self._memory(latents), self._gpt.linear_emb(latents)

        def step(tokens: Int[Tensor, " b"], parents: Int[Tensor, " b"]) -> Float[Tensor, "b v"]:
            if not torch.equal(parents, torch.arange(len(parents), device=parents.device)):
                past.reorder_cache(parents)
            embeddings = gpt.wte(tokens)[:, None] + added[:, None]
            hidden = gpt(inputs_embeds=embeddings, past_key_values=past, use_cache=True).last_hidden_state
            return F.linear(hidden[:, 0], gpt.wte.weight)

        return step

    @torch.no_grad()
    def generate(
        self, latents: Float[Tensor, "b z"], begin: int, end: int, how: Writing, draws: Draws | None = None
    ) -> list[Int[Tensor, " l"]]:
        """Token ids of a text per latent, from the begin to the end marker."""
        room = self.config["decoder"]["length"]
        if how.length > room:
            raise UsageError(f"texts of {how.length} tokens do not fit the decoder, which has {room} positions: ask for at most {room}")
        if how.beams == 1:
            return write(self.following(latents), torch.full((len(latents),), begin, device=latents.device), end, how, draws)
        start = torch.full((how.beams,), begin, device=latents.device)
        return [search(self.following(row.expand(how.beams, -1)), start, end, how.length) for row in latents]

    def decode(self, latents: Float[Tensor, "b z"], how: Writing | None = None, draws: Draws | None = None) -> list[str]:
        """A text per latent, by default the most probable next word again and again; "" for what decodes to no words.

        draws: the random numbers of each text where words are drawn.

        Raises UsageError for latents of another size, settings that do not fit, or a decoder without a vocabulary.
        """
        if latents.shape[-1] != self.latent:
            raise UsageError(f"this text autoencoder has latents of {self.latent} numbers, not {latents.shape[-1]}")
        writer = self._writer()
        how = how or Writing(greedy=True, length=min(Writing.length, self.config["decoder"]["length"]))
        return [writer.decode(row.tolist()) for row in self.generate(latents, writer.begin, writer.end, how, draws)]

    def respelt(self, text: str) -> str:
        """The text as the decoder would write it: what a perfect reconstruction gives back."""
        writer = self._writer()
        return writer.decode(writer.encode(text))

    def _writer(self) -> Writer:
        if self.writer is None:
            raise UsageError(
                "this text autoencoder has no merges, so it cannot write words: give GPT-2's merges.txt as `merges`, "
                f"or put it as {MERGES_FILE} into the model's folder"
            )
        return self.writer

    def losses(self, texts: Sequence[str], draws: Draws, deviation: float | None = None) -> TextLoss:
        """The two parts of the loss of texts, differentiable.

        draws: the noise of z. deviation: of q, in place of what the encoder says.
        """
        writer = self._writer()
        encoded = self.distribution(self.tokenize(texts))
        if deviation is None and not self.config["variance"]:
            raise UsageError("this text autoencoder says no variance: give training a `deviation`")
        if deviation is not None:
            encoded = encoded._replace(log_variance=torch.full_like(encoded.mean, 2 * math.log(deviation)))
        latents = encoded.mean + (encoded.log_variance / 2).exp() * draws.normal(self.latent).to(encoded.mean)
        ids = filled([self._fitting(writer.encode(text)) for text in texts], writer.pad).to(latents.device)
        return TextLoss(self.reconstruction(latents, ids, writer.pad), divergence(encoded))

    def _fitting(self, ids: list[int]) -> list[int]:
        """The begin marker, as many tokens as there is room for, and the end marker. The encoder has warned of what is cut."""
        limit = min(self.pieces + 2, self.config["decoder"]["length"])
        return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]

    def reconstruction(self, latents: Float[Tensor, "b z"], ids: Int[Tensor, "b l"], pad: int) -> Float[Tensor, " b"]:
        """-log p(text | z) in nats, without the first token, which is given, and without padding."""
        logits = self.logits(latents, ids[:, :-1])
        return F.cross_entropy(logits.transpose(1, 2).float(), ids[:, 1:], ignore_index=pad, reduction="none").sum(-1)

    def extra_files(self) -> dict[str, bytes]:
        """Files that a saved model needs beside its weights: name → content."""
        files = {}
        if self.config["words"] is None and self.reader is not None:
            files[WORDPIECES_FILE] = "".join(f"{piece}\n" for piece in self.reader.vocabulary).encode()
        if isinstance(self.writer, BytePairs):
            files[MERGES_FILE] = "\n".join(["#version: 0.2", *self.writer.merges, ""]).encode()
        return files

    def load_extra_files(self, folder: str | Path) -> None:
        """Takes back what `extra_files` gave, from the folder of a saved model; what is not there stays as it is."""
        found = [path if (path := Path(folder) / name).is_file() else None for name in (WORDPIECES_FILE, MERGES_FILE)]
        self.use_vocabularies(*found)


def _spread(width: int) -> float:
    """Standard deviation of new weights: BERT's and GPT-2's 0.02 at their width of 768, and as much gain at any other.

    With 0.02 at width 32, four captions were at 5.4 nats after 80 steps; with this, at 0.5 (Adam, 3e-3).
    """
    return 0.02 * (768 / width) ** 0.5


def divergence(encoded: Encoded) -> Float[Tensor, "b z"]:
    """KL of N(mean, variance) from N(0, 1), of every number: ½ (mean² + variance - log variance - 1)."""
    return (encoded.mean.square() + encoded.log_variance.exp() - encoded.log_variance - 1) / 2
