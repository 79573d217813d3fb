"""What holds for every dataset of picture files."""

import pickle

import torch

from tessera.data.collection import Collection

__all__ = ["check_laws"]


def check_laws(data: Collection, size: int) -> None:
    """Examples depend on (index, seed) alone, also in another process; the prompt is the same with and without its picture."""
    twin = pickle.loads(pickle.dumps(data))
    assert twin.fingerprint == data.fingerprint
    for index in range(len(data)):
        for seed in range(3):
            example = data.example(index, seed)
            if example is None:
                assert str(data.path(index)) in data.skipped
                continue
            assert example.image.shape == (3, size, size)
            assert example.image.dtype == torch.uint8
            again = twin.example(index, seed)
            assert torch.equal(example.image, again.image)
            assert example.prompt == again.prompt == data.prompt(index, seed)
