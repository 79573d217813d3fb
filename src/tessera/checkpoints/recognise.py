"""What a checkpoint is, told by the names and shapes of its tensors. Each family knows its own files; this asks one after the other.

A family's module in `registry.FAMILIES` has `recognise(archive) -> Finding | None` and `build(archive, finding, extras)`.
"""

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from tessera.checkpoints.cards import card
from tessera.checkpoints.registry import find_local, resolve
from tessera.checkpoints.safe_read import Archive
from tessera.errors import TesseraError
from tessera.model import Model
from tessera.registry import FAMILIES

__all__ = ["CODEC", "MODEL", "TEXT_ENCODER", "Extras", "Finding", "build", "recognise", "with_local_files"]

MODEL, CODEC, TEXT_ENCODER = "model", "codec", "text encoder"

# What other checkpoints are known by: (tensor names begin so, what such a file is). The first that fits is said.
STRANGERS = [
    (("diffuser.image.", "diffuser.text."), "Versatile Diffusion"),
    (("model.diffusion_model.",), "a latent diffusion model such as Stable Diffusion"),
    (("timestep_embed.",), "a v-diffusion network"),
    (("text_model.", "vision_model."), "a CLIP in transformers' layout, whose folder --clip takes"),
    (("decoder.up.", "first_stage_model.decoder.up."), "an autoencoder without a codebook, which gives no tokens"),
]


@dataclass(frozen=True)
class Finding:
    """What a file was found to be.

    kind: "model", "codec" or "text encoder".
    preset: the name of its configuration where it is a known one.
    config: JSON values; of a model those of its flow (see `model_weights.build_flow`; what it lacks is None), else of the part.
    parameters: number of parameters by part; buffers and what nothing reads are not counted.
    needs: what must be given beside it, in words that name the option.
    cards: names of the released files that it can be.
    ema: whether it holds a moving average of the weights. learned_null: whether "no prompt" was learned, for guidance.
    notes: what else a user should know. unexpected: tensors that nobody reads.
    """

    family: str
    kind: str
    preset: str | None
    config: dict[str, Any]
    parameters: dict[str, int]
    needs: tuple[str, ...] = ()
    cards: tuple[str, ...] = ()
    ema: bool = False
    learned_null: bool = False
    notes: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()


@dataclass(frozen=True)
class Extras:
    """What is given beside a file.

    codec: file or folder of the codec. clip: CLIP as OpenAI's file, a folder in transformers' layout or a hub id; it fills what the
    checkpoint lacks, text tower or tokenizer. mapping: file with the class of every code. merges: file of the tokenizer's merges.
    ema: whether the moving average takes the place of the last weights. heads: attention heads, which no file says. flows: names of the
    flows that are wanted, where a file has several; None: all. text_codec: file or folder of the codec of texts.
    """

    codec: Path | None = None
    clip: str | None = None
    mapping: Path | None = None
    merges: Path | None = None
    ema: bool = True
    heads: int | None = None
    flows: tuple[str, ...] | None = None
    text_codec: Path | None = None


def recognise(archive: Archive) -> Finding:
    """What the file is. Reads no tensor. TesseraError when no family knows it, or when one does but it is incomplete."""
    for module in FAMILIES.values():
        finding: Finding | None = import_module(module).recognise(archive)
        if finding is not None:
            return finding
    raise TesseraError(f"{archive.path} is not a checkpoint that Tessera knows: {_looks_like(archive)}")


def build(archive: Archive, finding: Finding, extras: Extras) -> Model | nn.Module:
    """The model, codec or text encoder of the file, on the CPU in float32, its tensors read one by one.

    Raises:
        UsageError: something beside it is missing or does not belong to it.
        TesseraError: it is incomplete, or a file cannot be read.
    """
    made: Model | nn.Module = import_module(FAMILIES[finding.family]).build(archive, finding, with_local_files(finding, extras))
    return made


def with_local_files(finding: Finding, extras: Extras) -> Extras:
    """`extras` with the code mapping and the merges that a released model needs, from the local store where they are not given.

    Raises TesseraError for a file of that name in the store that is not the released one.
    """
    needed = {need for name in finding.cards for need in card(name).needs} if finding.kind == MODEL else set()
    here = {card(name).kind: name for name in sorted(needed) if find_local(card(name)) is not None}
    if "mapping" in here and extras.mapping is None and extras.codec is None:
        extras = replace(extras, mapping=resolve(here["mapping"]))
    if "merges" in here and extras.merges is None and extras.clip is None:
        extras = replace(extras, merges=resolve(here["merges"]))
    return extras


def _looks_like(archive: Archive) -> str:
    states = archive.states()
    if not states:
        return "it holds no tensors under names"
    path, state = max(states.items(), key=lambda entry: len(entry[1]))
    names = list(state)
    for prefixes, what in STRANGERS:
        if any(name.startswith(prefixes) for name in names):
            return f"it looks like {what}"
    where = f" under {path!r}" if path else ""
    return f"its {len(names)} tensors{where} are called {', '.join(map(repr, names[:3]))} and so on"
