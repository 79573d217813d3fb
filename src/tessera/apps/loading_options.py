"""What completes a released file: the options of every command that loads a model; see `option_lists`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tessera.model import Model

__all__ = ["LoadingOptions"]


@dataclass(frozen=True)
class LoadingOptions:
    """What released files do not say themselves. Model folders are whole and take none but `clip`, which leads their guidance."""

    codec: Annotated[Path | None, typer.Option(metavar="FILE", help="Released files: the codec, where none is inside or beside.")] = None
    clip: Annotated[
        str | None,
        typer.Option(metavar="FILE|ID", help="CLIP for a model that has none: OpenAI's file, a folder or a hub id; for its merges too."),
    ] = None
    mapping: Annotated[Path | None, typer.Option(metavar="FILE", help="Released files: which codes of the codebook the model uses.")] = None
    merges: Annotated[Path | None, typer.Option(metavar="FILE", help="The merges of CLIP's tokenizer.")] = None
    text_codec: Annotated[Path | None, typer.Option(metavar="FILE", help="Released files: the codec of texts, for flows to words.")] = None
    no_ema: Annotated[bool, typer.Option("--no-ema", help="Released files: the last weights rather than their moving average.")] = False
    heads: Annotated[int | None, typer.Option(help="Released files: attention heads, for models that are none of the released.")] = None

    @property
    def extras(self) -> dict[str, Any]:
        """The arguments of `tessera.load` beside the model, the device and the flows."""
        return {
            "codec": self.codec, "clip": self.clip, "mapping": self.mapping, "merges": self.merges, "text_codec": self.text_codec,
            "ema": not self.no_ema, "heads": self.heads,
        }  # fmt: skip

    def load(self, source: str | Path, device: Any, flows: Sequence[str] | None = None) -> "Model":
        """The model, completed by these options."""
        from tessera.loading import load

        return load(source, device, flows=flows, **self.extras)
