"""CLIP with both of its towers (Radford et al. 2021, arXiv 2103.00020): one projected embedding for words or a picture.

    text:  h at the end marker, after the final norm, times W_t        picture:  h of the class token, after the final norm, times W_i

Neither is divided by its length here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tessera.checkpoints.safe_read import StoredTensor, Tensors, read_archive
from tessera.contexts.clip import MERGES_FILE, pretrained_merges
from tessera.contexts.clip_towers import CLIPTowers
from tessera.contexts.joint import JointEncoder, needed, standardise
from tessera.contexts.tokenizer import ClipTokenizer, read_merges
from tessera.errors import UsageError
from tessera.nn.initialisation import without_initialisation
from tessera.part_description import CONFIG
from tessera.part_folder import load_part
from tessera.registry import CONTEXTS
from tessera.schema import Positive
from tessera.tensor_index import SUFFIX, index_name, tensor_files

__all__ = ["JointCLIP", "load_clip"]

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
"""Weights in transformers' layout."""


class JointCLIP(JointEncoder):
    """CLIP's text and image tower; frozen.

    Args:
        text: length (tokens per text, markers included), layers, width, heads, vocabulary of the text tower.
        image: size (side in pixels), patch, layers, width, heads of the image tower. Either: hidden, the features inside its MLPs,
            if they are not 4 times its width.
        width: D, features of the embeddings.
        activation: between the two layers of an MLP, one of `clip_towers.ACTIVATIONS`; OpenAI's models have "quick_gelu".
        merges: of the tokenizer. Without them pictures can be encoded, but no words; see `CLIPText`.
    """

    kind = "clip"

    outside = ("merges",)

    def __init__(
        self,
        text: Mapping[str, int],
        image: Mapping[str, int],
        width: Positive,
        activation: str = "quick_gelu",
        merges: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        for tower, sizes in (("text", text), ("image", image)):
            if sizes["width"] % sizes["heads"]:
                raise UsageError(f"CLIP: width {sizes['width']} of the {tower} tower must be a multiple of its heads, {sizes['heads']}")
        if image["size"] % image["patch"]:
            raise UsageError(f"CLIP: the side of its pictures, {image['size']}, must be a multiple of its patches' {image['patch']}")
        self.config: dict[str, Any] = {
            "kind": self.kind,
            "text": dict(text),
            "image": dict(image),
            "width": width,
            "activation": activation,
        }
        self.size, self.width = image["size"], width
        self.clip = CLIPTowers(text, image, width, activation)
        self.clip.requires_grad_(False).eval()
        self.tokenizer: ClipTokenizer | None = None
        if merges is not None:
            self.use_merges(merges)

    def use_merges(self, merges: Sequence[str]) -> None:
        """Makes the tokenizer. Raises UsageError when the merges do not make as many tokens as the tower has."""
        sizes = self.config["text"]
        tokenizer = self._tokenizer(merges, sizes["length"])
        if tokenizer.vocabulary_size != sizes["vocabulary"]:
            raise UsageError(
                f"CLIP: {len(merges)} merges make {tokenizer.vocabulary_size} tokens, but the text tower has {sizes['vocabulary']}: "
                "use the merges it was trained with"
            )
        self.tokenizer = tokenizer

    def _tokenizer(self, merges: Sequence[str], length: int) -> ClipTokenizer:
        return ClipTokenizer(merges, length)

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "b l"]:
        """Token ids, on the CPU. Warns (`PromptTruncated`) of what was cut. UsageError without a tokenizer."""
        if self.tokenizer is None:
            raise UsageError("this CLIP has no tokenizer, so it cannot read words: give its merges (merges.txt), or prompt with pictures")
        return self.tokenizer(texts)[0]

    def train(self, mode: bool = True) -> JointCLIP:
        super().train(mode)
        self.clip.eval()
        return self

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "b d"]:
        """One embedding per text. Warns (`PromptTruncated`) of what was cut. UsageError without a tokenizer."""
        return self.clip.encode_text(self.tokenize(texts).to(self.device))

    def encode_image(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        if image.shape[2:] != (self.size, self.size):
            raise UsageError(f"this CLIP sees pictures of {self.size}x{self.size}, not {image.shape[3]}x{image.shape[2]}")
        return self.clip.encode_image(standardise(image))

    def extra_files(self) -> dict[str, bytes]:
        if self.tokenizer is None:
            return {}
        return {MERGES_FILE: "\n".join(["#version: 0.2", *self.tokenizer.merges, ""]).encode()}

    def load_extra_files(self, folder: str | Path) -> None:
        path = Path(folder) / MERGES_FILE
        if path.is_file():
            self.use_merges(read_merges(path))


def load_clip(source: str | Path, merges: str | Path | None = None, made: type[JointCLIP] = JointCLIP) -> JointEncoder:
    """CLIP from OpenAI's file, a folder in transformers' layout or a hub id; or whatever encoder of words and pictures training wrote.

    Args:
        merges: file of the tokenizer's merges. A folder or repository has its own; without any, only pictures can be encoded.
        made: what becomes of a CLIP.

    Raises:
        UsageError: there is no CLIP with two towers, or the merges are those of another.
        TesseraError: a file is damaged, or the hub cannot be reached.
    """
    path = Path(source)
    if (path / CONFIG).is_file():
        if merges is not None:
            raise UsageError(f"{path} has what it needs to read words: leave the merges out")
        return needed(load_part("context encoder", CONTEXTS, path))
    encoder = _from_file(path, made) if path.is_file() else _from_pretrained(str(source), made)
    if merges is not None:
        encoder.use_merges(read_merges(merges))
    elif not path.is_file():
        encoder.use_merges(pretrained_merges(str(source)))
    return encoder


def _from_file(path: Path, made: type[JointCLIP]) -> JointCLIP:
    from tessera.contexts.clip_file import fill, read_clip_file, sizes

    stored = read_clip_file(path)
    with without_initialisation():
        encoder = made(**sizes(stored))
    fill(encoder.clip, stored)
    return encoder.eval()


def _from_pretrained(source: str, made: type[JointCLIP]) -> JointCLIP:
    from huggingface_hub.errors import HfHubHTTPError
    from transformers import CLIPConfig

    expected = f"{source!r} is no CLIP with text and image tower: expected OpenAI's file, a folder in transformers' layout or a hub id"
    try:
        found = CLIPConfig.get_config_dict(source)[0].get("model_type")
        if found != "clip":
            raise UsageError(f"{expected}; it is {found!r}")
        config = CLIPConfig.from_pretrained(source)
        stored = _stored(Path(source))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UsageError(f"{expected} ({(str(error).splitlines() or [type(error).__name__])[0]})") from None
    text, image = config.text_config, config.vision_config
    if text.intermediate_size != 4 * text.hidden_size or image.intermediate_size != 4 * image.hidden_size:
        raise UsageError(f"{source!r} is a CLIP of another architecture: the hidden layer of its MLPs is not 4 times as wide as they are")
    with without_initialisation():
        encoder = made(
            text={
                "length": text.max_position_embeddings, "layers": text.num_hidden_layers, "width": text.hidden_size,
                "heads": text.num_attention_heads, "vocabulary": text.vocab_size,
            },
            image={
                "size": image.image_size, "patch": image.patch_size, "layers": image.num_hidden_layers, "width": image.hidden_size,
                "heads": image.num_attention_heads,
            },
            width=config.projection_dim,
            activation=text.hidden_act,
        )  # fmt: skip
    tensors = Tensors(stored)
    for name, value in encoder.clip.state_dict().items():
        if name not in stored:
            raise UsageError(f"{expected}; {name} is missing")
        if stored[name].shape != tuple(value.shape):
            raise UsageError(f"{expected}; {name} has shape {list(stored[name].shape)}, which is not what its config.json says")
        value.copy_(tensors[name])
    return encoder.eval()


def _stored(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a folder in transformers' layout, or of a repository of the hub, none of them read yet. OSError: there are none."""
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        repository = str(folder)
        folder = Path(snapshot_download(repository, allow_patterns=["config.json", f"model*{SUFFIX}", index_name(SAFE)]))
        if not any((folder / name).is_file() for name in (SAFE, index_name(SAFE))):
            folder = Path(snapshot_download(repository, allow_patterns=[PICKLED]))
    if any((folder / name).is_file() for name in (SAFE, index_name(SAFE))):
        files = tensor_files(folder, SAFE)
    elif (folder / PICKLED).is_file():
        files = [folder / PICKLED]
    else:
        raise FileNotFoundError(f"there is neither {SAFE} nor {PICKLED}")
    return {name: tensor for file in files for state in read_archive(file).states().values() for name, tensor in state.items()}
