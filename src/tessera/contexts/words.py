"""A small text encoder over a fixed vocabulary of words, trained together with its diffusion model.

    h_0 = E[word_i] + Σ_{j=-1..1} C_j E[word_{i+j}] + P[i],   h_{l+1} = h + Attention(LN(h)),  then  h + MLP(LN(h)),   context = LN(h_depth)

The convolution C shows every word its neighbours, so that "red" and "circle" are bound before any attention has learnt where to look.
A pre-norm transformer (Xiong et al. 2020, arXiv 2002.04745) in which every position sees every other. Depth 0 leaves words and
positions. A prompt is its words and punctuation marks, lower-cased, then `<end>`, then `<pad>` up to a fixed length.
"""

import re
import warnings
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from tessera.contexts.context import Context, ContextEncoder
from tessera.contexts.null_prompt import fill_null
from tessera.contexts.prompt_warnings import UnknownWords, listed, warn_truncated
from tessera.errors import UsageError
from tessera.schema import Depth, Positive

__all__ = ["Words", "split_words", "vocabulary_of"]

SPECIAL = ("<pad>", "<end>", "<unk>")
PAD, END, UNKNOWN = range(3)
WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")


def split_words(text: str) -> list[str]:
    """The words and punctuation marks of `text`, lower-cased: "A red circle." → a, red, circle, "."."""
    return WORD.findall(text.lower())


def vocabulary_of(captions: Iterable[str]) -> list[str]:
    """Every word of `captions` once, sorted: a vocabulary for `Words`."""
    return sorted({word for caption in captions for word in split_words(caption)})


class Words(ContextEncoder):
    """Word embeddings with positions, mixed by a small bidirectional transformer.

    Args:
        vocabulary: the words known, as `split_words` gives them; every other word becomes `<unk>` with a warning.
        length: tokens per prompt, the `<end>` token included; longer prompts are cut with a warning.
        width: size of each embedding.
        depth: number of transformer layers; 0 is embeddings and positions alone.
        heads: attention heads; must divide `width`.
        null: whether "no prompt" is a learned [length, width] parameter rather than the encoding of the empty prompt.
        attend_padding: whether `<pad>` positions count as context; if not, `Context.mask` excludes them.

    A prompt of None is "no prompt": its rows are those of `unconditional`.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        length: Positive,
        width: Positive,
        depth: Depth,
        heads: Positive,
        null: bool = False,
        attend_padding: bool = True,
    ) -> None:
        super().__init__()
        if length < 1 or width < 1 or depth < 0 or heads < 1 or width % heads:
            raise UsageError(
                f"words encoder: length {length}, width {width} and heads {heads} must be positive, depth {depth} not negative, "
                "and the width a multiple of the heads"
            )
        for word in vocabulary:
            if split_words(word) != [word]:
                raise UsageError(f"words encoder: vocabulary entry {word!r} is not one lower-case word or punctuation mark")
        if len(set(vocabulary)) != len(vocabulary):
            raise UsageError("words encoder: the vocabulary names a word twice")
        self.config = {
            "kind": "words", "vocabulary": list(vocabulary), "length": length, "width": width, "depth": depth, "heads": heads,
            "null": null, "attend_padding": attend_padding,
        }  # fmt: skip
        self.length, self.attend_padding = length, attend_padding
        self.index = {word: i for i, word in enumerate(vocabulary, start=len(SPECIAL))}
        self.word_embedding = nn.Embedding(len(SPECIAL) + len(vocabulary), width)
        self.neighbours = nn.Conv1d(width, width, 3, padding=1)
        self.position_embedding = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.null_embedding = nn.Parameter(torch.empty(length, width)) if null else None
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        # Words start far apart. From a standard deviation of 0.02 the common part of the first updates made all of them but
        # the backgrounds' names alike, attention settled on those, and after 100,000 scenes no other word had any effect.
        nn.init.normal_(self.word_embedding.weight, std=1.0)
        nn.init.normal_(self.position_embedding, std=0.5)
        if self.null_embedding is not None:
            nn.init.normal_(self.null_embedding, std=1.0)

    def tokenize(self, prompts: Sequence[str]) -> Int[Tensor, "b l"]:
        """Token ids, on the CPU. Warns of unknown words (`UnknownWords`) and of what was cut (`PromptTruncated`)."""
        rows = []
        unknown: dict[str, None] = {}
        for prompt in prompts:
            words = split_words(prompt)
            kept = words[: self.length - 1]
            if len(words) > len(kept):
                warn_truncated(prompt, " ".join(words[len(kept) :]), self.length)
            unknown.update((word, None) for word in kept if word not in self.index)
            ids = [self.index.get(word, UNKNOWN) for word in kept]
            rows.append([*ids, END] + [PAD] * (self.length - len(ids) - 1))
        if unknown:
            message = f"the model does not know these words: {listed(list(unknown))} (its vocabulary has {len(self.index)} words)"
            warnings.warn(message, UnknownWords, stacklevel=2)
        return torch.tensor(rows, dtype=torch.long).reshape(len(prompts), self.length)

    def forward(self, prompts: Sequence[str | None]) -> Context:
        """Context of embeddings [B, length, width]; its mask is None when padding is attended."""
        ids = self.tokenize(["" if prompt is None else prompt for prompt in prompts]).to(self.word_embedding.weight.device)
        real = ids != PAD
        mask = None if self.attend_padding else real
        x = self.word_embedding(ids)
        if mask is not None:
            x = x * mask.unsqueeze(-1)
        x = x + self.neighbours(x.transpose(1, 2)).transpose(1, 2) + self.position_embedding
        for block in self.blocks:
            x = block(x, mask)
        context = Context(self.norm(x), mask)
        return context if self.null_embedding is None else fill_null(context, self.unconditional(1), prompts)

    def unconditional(self, batch: int) -> Context:
        if self.null_embedding is None:
            context = self([""])
            return context.repeat(batch)
        embeddings = self.null_embedding.expand(batch, -1, -1)
        return Context(embeddings, None if self.attend_padding else embeddings.new_ones(batch, self.length, dtype=torch.bool))


class Block(nn.Module):
    """Self-attention, then an MLP of four times the width, each on normalised input and added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"] | None) -> Float[Tensor, "b l d"]:
        x = x + self.projection(self.attention(self.norm_attention(x), mask))
        return x + self.contract(functional.gelu(self.expand(self.norm_mlp(x))))

    def attention(self, x: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"] | None) -> Float[Tensor, "b l d"]:
        # Plain products: at this size the backward pass of the fused attention is the slower one on CPUs.
        batch, length, width = x.shape
        q, k, v = self.query_key_value(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
