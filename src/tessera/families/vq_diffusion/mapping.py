"""Code mappings: which class of the diffusion model every code of the codebook is (`full_to_quantize`, one number per code)."""

from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from tessera.checkpoints.safe_read import StoredTensor, read_archive
from tessera.codecs.vqgan import VQGAN
from tessera.errors import TesseraError, UsageError

__all__ = ["missing_mapping", "read_mapping", "use_mapping"]

TABLE = "full_to_quantize"


def read_mapping(path: Path) -> Int[Tensor, " codes"]:
    """The table in a released `taming_vqvae_*.pt`, which is that tensor alone, or in a file with a tensor of that name.

    Raises TesseraError when the file is damaged or holds no such table.
    """
    tree = read_archive(path).tree
    stored = tree.get(TABLE) if isinstance(tree, dict) else tree
    if not isinstance(stored, StoredTensor) or len(stored.shape) != 1 or stored.dtype.is_floating_point or stored.dtype == torch.bool:
        raise TesseraError(f"{path} holds no code mapping: expected the whole numbers of {TABLE!r}, one for each code")
    return stored.read().long()


def use_mapping(codec: VQGAN, path: Path | None, held: bool = False) -> None:
    """Give the codec its mapping. `held`: it has one already, which `path` may replace.

    Raises UsageError when one is missing, not wanted, or does not fit.
    """
    codebook, classes = codec.config["codebook"], codec.classes
    if codec.remap is None:
        if path is not None:
            raise UsageError(f"a code mapping is given ({path}), but all {codebook} codes of this codec are used: leave the mapping out")
    elif path is not None:
        try:
            codec.remap.use(read_mapping(path))
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
    elif not held:
        raise missing_mapping(codebook, classes)


def missing_mapping(codebook: int, classes: int) -> UsageError:
    """What to say where no file says which codes are used."""
    return UsageError(
        f"the codec has {codebook} codes, of which the model uses {classes}, and no file says which: give the code mapping "
        f"(--mapping FILE; released as help_folder/statistics/taming_vqvae_{classes}.pt)"
    )
