import pickle
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from torch import Tensor

from tessera.codecs.codec import TokenCodec
from tessera.data import token_cache as module
from tessera.data import token_files
from tessera.data.dataset import Example
from tessera.data.folder import Folder
from tessera.data.token_cache import CachedTokens, codec_fingerprint, token_cache
from tessera.errors import TesseraError, UsageError
from tests.data.making import picture, truncate

CHUNK = 4
PICTURES = 10


class Brightness(TokenCodec):
    """A picture's patches of 4 × 4 pixels by their brightness, in `classes` levels; counts the pictures it has encoded."""

    def __init__(self, classes: int = 1000, shift: float = 0.0) -> None:
        super().__init__()
        self.factor, self.classes, self.encoded, self.limit = 4, classes, 0, 10**9
        self.shift = torch.nn.Parameter(torch.tensor(shift))

    def encode(self, image: Tensor) -> Tensor:
        if self.encoded >= self.limit:
            raise KeyboardInterrupt
        assert not self.training
        self.encoded += len(image)
        levels = torch.nn.functional.avg_pool2d(image.mean(1, keepdim=True), self.factor).flatten(1)
        return ((levels + 1 + self.shift) / 2 * self.classes).long().clamp(0, self.classes - 1)


class Named:
    """A dataset without files, of pictures of given sides; its prompts come with the pictures only."""

    fingerprint = "named"

    def __init__(self, sides: list[int]) -> None:
        self.sides, self.skipped = sides, {}

    def __len__(self) -> int:
        return len(self.sides)

    def example(self, index: int, seed: int) -> Example:
        side = self.sides[index]
        return Example(torch.full((3, side, side), 10 * index, dtype=torch.uint8), f"number {index}")


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", CHUNK)
    monkeypatch.setattr(token_files, "CHUNK", CHUNK)


@pytest.fixture
def pictures(tmp_path) -> Path:
    for i in range(PICTURES):
        path = picture(tmp_path / "pictures" / f"{i}.png", 30 + i, 24)
        path.with_suffix(".txt").write_text("\n".join(f"{i} {j}" for j in range(5)))
    return tmp_path / "pictures"


def folder(pictures: Path, **changes) -> Folder:
    return Folder(**{"root": str(pictures), "size": 16, **changes})


def same(a: CachedTokens, b: CachedTokens) -> bool:
    return all(torch.equal(a.example(i, s).tokens, b.example(i, s).tokens) for i in range(PICTURES) for s in range(4))


@pytest.mark.parametrize(("views", "batch_size", "classes"), [(1, 1, 1000), (1, 64, 100_000), (3, 2, 1000), (3, 64, 1000)])
def test_tokens_are_those_of_the_pictures(tmp_path, pictures, views, batch_size, classes):
    codec = Brightness(classes).train()
    data = folder(pictures)
    cached = token_cache(tmp_path / "cache", data, codec, views=views, batch_size=batch_size)
    assert codec.training
    assert codec.encoded == PICTURES * views
    codec.eval()
    assert len(cached) == PICTURES
    crops = [module.derive_seed("cached view", view) for view in range(views)]
    for index in range(PICTURES):
        expected = {tuple(codec.encode(data.example(index, crop).image[None].float() / 127.5 - 1)[0].tolist()) for crop in crops}
        found = {tuple(cached.example(index, seed).tokens.tolist()) for seed in range(25)}
        assert found == expected
        assert cached.example(index, 0).tokens.dtype == torch.int64
        assert {cached.example(index, seed).prompt for seed in range(25)} == {f"{index} {j}" for j in range(5)}
        assert cached.example(index, 7).prompt == data.example(index, 7).prompt


def test_computed_once(tmp_path, pictures):
    first = token_cache(tmp_path / "cache", folder(pictures), Brightness())
    codec, seen = Brightness(), []
    again = token_cache(tmp_path / "cache", folder(pictures), codec, progress=lambda done, total: seen.append((done, total)))
    assert codec.encoded == 0
    assert same(first, again)
    token_cache(tmp_path / "other", folder(pictures), codec, batch_size=3, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (PICTURES, PICTURES)
    assert seen == sorted(seen)


def test_another_codec_dataset_or_number_of_views_has_another_cache(tmp_path, pictures):
    def encoded(codec: Brightness, views: int = 1, **changes) -> int:
        token_cache(tmp_path / "cache", folder(pictures, **changes), codec, views=views)
        return codec.encoded

    assert encoded(Brightness()) == PICTURES
    assert encoded(Brightness(shift=0.1)) == PICTURES
    assert encoded(Brightness(), size=12) == PICTURES
    assert encoded(Brightness(), flip=True) == PICTURES
    assert encoded(Brightness(), views=2) == 2 * PICTURES
    picture(pictures / "3.png", 50, 50)
    assert encoded(Brightness()) == PICTURES
    assert len(list((tmp_path / "cache").iterdir())) == 6


def test_fingerprint_knows_every_weight():
    codecs = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2), torch.nn.Linear(2, 3)]
    prints = {codec_fingerprint(codec) for codec in codecs}
    assert len(prints) == 3
    twin = torch.nn.Linear(3, 2)
    twin.load_state_dict(codecs[0].state_dict())
    assert codec_fingerprint(twin) in prints
    with torch.no_grad():
        twin.bias[1] += 1e-6
    assert codec_fingerprint(twin) not in prints
    assert codec_fingerprint(codecs[0].bfloat16()) not in prints


def test_an_interrupted_build_goes_on(tmp_path, pictures):
    codec = Brightness()
    codec.limit = 6
    with pytest.raises(KeyboardInterrupt):
        token_cache(tmp_path / "cache", folder(pictures), codec, batch_size=2)
    (place,) = (tmp_path / "cache").iterdir()
    (place / ".00001-00000000.npy-1234.part").write_bytes(b"half")
    rest = Brightness()
    cached = token_cache(tmp_path / "cache", folder(pictures), rest, batch_size=2)
    assert rest.encoded == PICTURES - CHUNK
    assert not list(place.glob(".*.part"))
    assert same(cached, token_cache(tmp_path / "whole", folder(pictures), Brightness()))


def _cut(path: Path) -> None:
    truncate(path, 0.9)


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def _break_the_header(path: Path) -> None:
    path.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr" + path.read_bytes()[20:])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _other_shape(path: Path) -> None:
    np.save(path, np.load(path)[:2])


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [_cut, _flip_a_bit, _break_the_header, _empty, _other_shape, _remove])
def test_a_damaged_file_is_made_again(tmp_path, pictures, damage):
    good = token_cache(tmp_path / "good", folder(pictures), Brightness())
    cached = token_cache(tmp_path / "cache", folder(pictures), Brightness())
    damage(cached.files[1])
    codec = Brightness()
    assert same(token_cache(tmp_path / "cache", folder(pictures), codec), good)
    assert codec.encoded == CHUNK


def test_unreadable_pictures_have_no_tokens_and_stay_reported(tmp_path, pictures):
    for i in (1, 4, 5, 6, 7):  # one of the first file, and all of the second
        truncate(pictures / f"{i}.png")
    for _ in range(2):
        data = folder(pictures)
        cached = token_cache(tmp_path / "cache", data, Brightness(), views=2)
        assert [i for i in range(PICTURES) if cached.example(i, 0) is None] == [1, 4, 5, 6, 7]
        assert {Path(path).name for path in cached.skipped} == {f"{i}.png" for i in (1, 4, 5, 6, 7)}
    (cached.files[0].parent / "skipped.json").write_text("{")
    assert token_cache(tmp_path / "cache", folder(pictures), Brightness(), views=2).example(0, 0) is not None


def test_a_caption_lost_later_is_reported(tmp_path, pictures):
    cached = token_cache(tmp_path / "cache", folder(pictures), Brightness())
    (pictures / "2.txt").unlink()
    assert cached.example(2, 0) is None
    assert "prompt of picture 2" in cached.skipped


def test_no_readable_picture(tmp_path, pictures):
    for i in range(PICTURES):
        truncate(pictures / f"{i}.png")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"none of the dataset's 10 pictures can be read: .*\.png"):
            token_cache(tmp_path / "cache", folder(pictures), Brightness())


def test_prompts_of_a_dataset_that_makes_its_pictures(tmp_path):
    cached = token_cache(tmp_path / "cache", Named([8] * 6), Brightness())
    assert [cached.example(i, 0).prompt for i in range(6)] == [f"number {i}" for i in range(6)]
    assert cached.example(5, 0).tokens.shape == (4,)


@pytest.mark.parametrize("sides", [[8, 8, 12], [8] * CHUNK + [12]])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_pictures_of_different_sizes(tmp_path, sides, batch_size):
    with pytest.raises(UsageError, match="different sizes"):
        token_cache(tmp_path / "cache", Named(sides), Brightness(), batch_size=batch_size)


def test_another_process_gets_file_names_not_tokens(tmp_path, pictures):
    cached = token_cache(tmp_path / "cache", folder(pictures), Brightness())
    cached.example(0, 0)
    content = pickle.dumps(cached)
    assert len(content) < 5000
    assert same(pickle.loads(content), cached)


def test_two_at_once_compute_once(tmp_path, pictures):
    codecs, results = [Brightness() for _ in range(4)], {}

    def build(i: int) -> None:
        results[i] = token_cache(tmp_path / "cache", folder(pictures), codecs[i])

    threads = [Thread(target=build, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(codec.encoded for codec in codecs) == PICTURES
    assert all(same(results[0], results[i]) for i in range(4))


def test_wrong_arguments(tmp_path, pictures):
    with pytest.raises(UsageError, match="views"):
        token_cache(tmp_path / "cache", folder(pictures), Brightness(), views=0)
    with pytest.raises(UsageError, match="pictures"):
        token_cache(tmp_path / "cache", Named([]), Brightness())
    (tmp_path / "file").write_text("")
    with pytest.raises(TesseraError, match="cannot keep tokens"):
        token_cache(tmp_path / "file", folder(pictures), Brightness())
