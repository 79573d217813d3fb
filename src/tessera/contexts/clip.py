"""CLIP's text tower as the condition of VQ-Diffusion.

    h = tower(tokens) after its final norm, [B, 77, D];   context_i = h_i / |h_i|

Every position counts, padding included; nothing is projected (Radford et al. 2021, arXiv 2103.00020, for the tower).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.contexts.context import Context, ContextEncoder
from tessera.contexts.null_prompt import fill_null
from tessera.contexts.tokenizer import ClipTokenizer, read_merges
from tessera.errors import TesseraError, UsageError
from tessera.schema import Depth, Positive

__all__ = ["CLIPText", "pretrained_merges"]

MERGES_FILE = "merges.txt"


class CLIPText(ContextEncoder):
    """CLIP text embeddings of all tokens, each of unit length.

    Args:
        merges: the tokenizer's merges, or the file that holds them (see `read_merges`). Without them only `embed` works,
            until `load_extra_files` has found them beside a saved model.
        pretrained: a folder or hub id with CLIP weights in transformers' layout; it decides the tower's size, and its
            merges are used when none are given. Without it the tower's weights come from a checkpoint.
        length: tokens per prompt, markers included.
        layers, width, heads, vocabulary: the tower's size; the default is ViT-B/32's.
        null: whether "no prompt" is a learned [length, width] parameter (not of unit length) rather than the empty prompt.
        frozen: whether the tower keeps its weights while the model trains.
        normalise: whether each embedding is divided by its L2 norm.

    A prompt of None is "no prompt": its rows are those of `unconditional`.
    """

    outside = ("merges", "pretrained")

    def __init__(
        self,
        merges: Sequence[str] | str | Path | None = None,
        pretrained: str | None = None,
        length: Positive = 77,
        layers: Depth = 12,
        width: Positive = 512,
        heads: Positive = 8,
        vocabulary: Positive = 49408,
        null: bool = False,
        frozen: bool = True,
        normalise: bool = True,
    ) -> None:
        from transformers import CLIPTextConfig, CLIPTextModel

        super().__init__()
        if width < 1 or heads < 1 or width % heads:
            raise UsageError(f"CLIP text encoder: width {width} must be a multiple of heads {heads}")
        if pretrained is None:
            self.tower = CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=vocabulary,
                    hidden_size=width,
                    intermediate_size=4 * width,
                    num_hidden_layers=layers,
                    num_attention_heads=heads,
                    max_position_embeddings=length,
                    bos_token_id=vocabulary - 2,
                    eos_token_id=vocabulary - 1,
                )
            )
        else:
            self.tower = _pretrained_tower(pretrained)
            if merges is None:
                merges = pretrained_merges(pretrained)
        size = self.tower.config
        self.config = {
            "kind": "clip-text", "length": size.max_position_embeddings, "layers": size.num_hidden_layers, "width": size.hidden_size,
            "heads": size.num_attention_heads, "vocabulary": size.vocab_size, "null": null, "frozen": frozen, "normalise": normalise,
        }  # fmt: skip
        self.frozen, self.normalise = frozen, normalise
        self.tower.requires_grad_(not frozen)
        self.tower.eval()
        # Standard normal, as the original starts it; it is not divided by its norm.
        self.null_embedding = nn.Parameter(torch.randn(size.max_position_embeddings, size.hidden_size)) if null else None
        self.tokenizer: ClipTokenizer | None = None
        if merges is not None:
            self.use_merges(read_merges(merges) if isinstance(merges, str | Path) else merges)

    def use_merges(self, merges: Sequence[str]) -> None:
        """Makes the tokenizer. Raises UsageError when the merges do not make as many tokens as the tower has."""
        tokenizer = ClipTokenizer(merges, length=self.tower.config.max_position_embeddings)
        if tokenizer.vocabulary_size != self.tower.config.vocab_size:
            raise UsageError(
                f"CLIP text encoder: {len(merges)} merges make {tokenizer.vocabulary_size} tokens, "
                f"but the tower has {self.tower.config.vocab_size}: use the merges it was trained with"
            )
        self.tokenizer = tokenizer

    def train(self, mode: bool = True) -> "CLIPText":
        super().train(mode)
        if self.frozen:
            self.tower.eval()
        return self

    def tokenize(self, prompts: Sequence[str]) -> Int[Tensor, "b l"]:
        """Token ids, on the CPU. Warns (`PromptTruncated`) of what was cut."""
        if self.tokenizer is None:
            raise UsageError(
                "this text encoder has no tokenizer, so it cannot read words: give the file with CLIP's merges as `merges` when the "
                "checkpoint is loaded or converted (`merges.txt` of openai/clip-vit-base-patch32 or `bpe_simple_vocab_16e6.txt.gz` of the "
                f"CLIP repository), or put it as {MERGES_FILE} into the model's folder"
            )
        return self.tokenizer(prompts)[0]

    def embed(self, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """Embeddings of every token of already tokenized prompts."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            hidden = self.tower(input_ids=tokens.to(self.tower.device)).last_hidden_state
            return hidden / hidden.norm(dim=-1, keepdim=True) if self.normalise else hidden

    def forward(self, prompts: Sequence[str | None]) -> Context:
        """Context of embeddings [B, length, width] without a mask."""
        context = Context(self.embed(self.tokenize(["" if prompt is None else prompt for prompt in prompts])))
        return context if self.null_embedding is None else fill_null(context, self.unconditional(1), prompts)

    def unconditional(self, batch: int) -> Context:
        if self.null_embedding is None:
            return self([""]).repeat(batch)
        return Context(self.null_embedding.expand(batch, -1, -1))

    def extra_files(self) -> dict[str, bytes]:
        """Files that a saved model needs beside its weights: name → content."""
        if self.tokenizer is None:
            return {}
        return {MERGES_FILE: "\n".join(["#version: 0.2", *self.tokenizer.merges, ""]).encode()}

    def load_extra_files(self, folder: str | Path) -> None:
        """Takes back what `extra_files` gave, from the folder of a saved model; what is not there stays as it is."""
        path = Path(folder) / MERGES_FILE
        if path.is_file():
            self.use_merges(read_merges(path))


def _pretrained_tower(source: str) -> nn.Module:
    from transformers import CLIPTextModel

    try:
        return CLIPTextModel.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot load CLIP weights from {source!r}: expected a folder or hub id with a CLIP text model ({error})"
        ) from error


def pretrained_merges(source: str) -> list[str]:
    """The merges of a CLIP folder in transformers' layout or of a hub id. TesseraError when it has none, or the hub is not reached."""
    path = Path(source) / MERGES_FILE
    if not path.is_file():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            path = Path(hf_hub_download(source, MERGES_FILE))
        except HFValidationError:
            raise UsageError(
                f"{source!r} is neither a folder with CLIP's {MERGES_FILE} nor a hub id such as openai/clip-vit-base-patch32"
            ) from None
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise TesseraError(f"{source!r} has no {MERGES_FILE} for its tokenizer: give the file as `merges` ({error})") from error
    return read_merges(path)
