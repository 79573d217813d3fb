"""Features and statistics: made once, kept, streamed, and never taken from another extractor."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tessera.data.scenes import Scenes
from tessera.errors import TesseraError, UsageError
from tessera.evaluation.extractors import FeatureExtractor
from tessera.evaluation.measuring import Measurer, read_statistics
from tessera.evaluation.picture_sets import DatasetPictures, FolderPictures, PictureSet, Shown, in_batches
from tests.closeness import assert_same_but_for_rounding


class Colours(FeatureExtractor):
    """Mean colours; counts what it is asked for."""

    name = "colours"
    resize = "none"
    width = 3

    def __init__(self, shift: float = 0.0) -> None:
        self.network = torch.nn.Linear(3, 3)
        with torch.no_grad():
            self.network.weight.copy_(torch.eye(3))
            self.network.bias.fill_(shift)
        self.seen = 0
        self.largest = 0

    def extract(self, pictures: torch.Tensor) -> torch.Tensor:
        self.seen += len(pictures)
        self.largest = max(self.largest, len(pictures))
        return self.network(pictures.float().mean((2, 3)))


def scenes(seed: int = 0) -> DatasetPictures:
    return DatasetPictures(Scenes(seed=seed), {"kind": "scenes", "seed": seed})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    place = tmp_path / "pictures"
    (place / "sub").mkdir(parents=True)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (8, 8 + number // 4, 3), dtype=np.uint8)).save(place / "sub" / f"{number}.png")
    return place


def test_a_cache_answers_the_second_time(tmp_path: Path) -> None:
    extractor = Colours()
    first = Measurer(extractor, tmp_path, batch_size=4).features(scenes(), 10)
    assert (extractor.seen, extractor.largest) == (10, 4)
    again = Measurer(extractor, tmp_path).features(scenes(), 10)
    assert extractor.seen == 10
    assert torch.equal(first.values, again.values)
    assert first.origin == again.origin
    Measurer(extractor, tmp_path).statistics(scenes(), 10)  # from the features
    assert extractor.seen == 10
    Measurer(extractor, tmp_path).features(scenes(), 11)
    Measurer(extractor, tmp_path).features(scenes(1), 10)
    assert extractor.seen == 31


def test_another_extractor_finds_nothing_of_the_first(tmp_path: Path) -> None:
    Measurer(Colours(), tmp_path).features(scenes(), 4)
    other = Colours(shift=1.0)
    Measurer(other, tmp_path).features(scenes(), 4)
    assert other.seen == 4


def test_statistics_equal_those_of_the_features(tmp_path: Path) -> None:
    features = Measurer(Colours()).features(scenes(), 20).values.double()
    found = Measurer(Colours(), tmp_path, batch_size=3).statistics(scenes(), 20).values
    torch.testing.assert_close(found.mean, features.mean(0))
    torch.testing.assert_close(found.covariance, features.T.cov())


def test_statistics_from_another_extractor_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    Measurer(Colours()).statistics(scenes(), 5).save(path)
    assert read_statistics(path, Colours()).origin.count == 5
    with pytest.raises(TesseraError, match=r"come from the extractor colours \(\w{12}\), but this measures with colours \(\w{12}\)"):
        read_statistics(path, Colours(shift=1.0))


@pytest.mark.parametrize("content", [b"", b"not tensors", b"\x10\0\0\0\0\0\0\0{}"])
def test_damaged_statistics_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes(content)
    with pytest.raises(TesseraError, match="cannot be read"):
        read_statistics(path)


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    extractor = Colours()
    measurer = Measurer(extractor, tmp_path)
    measurer.features(scenes(), 4)
    measurer.statistics(scenes(1), 4)
    (kept,) = tmp_path.glob("*.features")
    (kept / "features.f32").write_bytes(b"short")
    (statistics,) = tmp_path.glob("*.safetensors")
    statistics.write_bytes(b"")
    assert measurer.features(scenes(), 4).values.shape == (4, 3)
    assert measurer.statistics(scenes(1), 4).origin.count == 4
    assert extractor.seen == 16


def test_features_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(TesseraError, match="not finite"):
        Measurer(Colours(shift=float("nan"))).features(scenes(), 2)


def test_a_changed_picture_is_measured_again(folder: Path, tmp_path: Path) -> None:
    extractor = Colours()
    measurer = Measurer(extractor, tmp_path / "cache")
    before = measurer.features(FolderPictures(folder))
    Image.new("RGB", (8, 8), "red").save(folder / "sub" / "0.png")
    after = measurer.features(FolderPictures(folder))
    assert extractor.seen == 10
    assert after.origin.pixels != before.origin.pixels
    assert_same_but_for_rounding(after.values[1:], before.values[1:])


def test_the_same_pictures_elsewhere_are_the_same_pixels(folder: Path, tmp_path: Path) -> None:
    measurer = Measurer(Colours())
    before = measurer.features(FolderPictures(folder)).origin.pixels
    moved = folder.rename(tmp_path / "moved")
    assert measurer.features(FolderPictures(moved)).origin.pixels == before


def test_a_folder_of_pictures_of_several_sizes(folder: Path) -> None:
    assert [tuple(batch.image.shape) for batch in FolderPictures(folder).batches(None, 3)] == [(3, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 9)]
    assert [len(batch.image) for batch in FolderPictures(folder, size=4).batches(None, 3)] == [3, 2]
    chosen = FolderPictures(folder).pictures_at([1, 3])
    assert sorted(chosen) == [1, 3]


def test_an_unreadable_picture_is_left_out_and_counted(folder: Path) -> None:
    (folder / "sub" / "2.png").write_bytes(b"no picture")
    pictures = FolderPictures(folder)
    assert sum(len(batch.image) for batch in pictures.batches(4, 10)) == 4
    assert list(pictures.skipped) == [str(folder / "sub" / "2.png")]
    third = pictures.pictures_at([2])[2]
    assert torch.equal(third, FolderPictures(folder).pictures_at([3])[3])
    with pytest.raises(UsageError, match=r"has 4 pictures \(1 cannot be read, .*2.png.*\), but 5 are needed"):
        list(pictures.batches(5, 10))


def test_fewer_pictures_than_needed(folder: Path) -> None:
    with pytest.raises(UsageError, match="has 5 pictures, but 6 are needed: add some or lower -n"):
        list(FolderPictures(folder).batches(6, 10))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no picture was found in"):
        FolderPictures(tmp_path)
    with pytest.raises(UsageError, match="there is no folder"):
        FolderPictures(tmp_path / "none")


def test_a_set_without_end_needs_a_number() -> None:
    with pytest.raises(UsageError, match="say how many"):
        list(scenes().batches(None, 5))


def test_no_more_pictures_are_made_than_asked_for() -> None:
    class Endless(PictureSet):
        def __init__(self) -> None:
            self.about, self.count, self.identity, self.skipped, self.made = {"name": "endless"}, None, None, {}, 0

        def shown(self, limit: int | None) -> Iterator[Shown]:
            while True:
                self.made += 1
                yield torch.zeros(3, 2, 2, dtype=torch.uint8), None

    endless = Endless()
    assert sum(len(batch.image) for batch in endless.batches(7, 5)) == 7
    assert endless.made == 7
    assert [len(batch.prompts) for batch in in_batches(iter([(torch.zeros(3, 2, 2, dtype=torch.uint8), 1)] * 3), 2)] == [2, 1]


def test_skipped_pictures_are_in_the_account_also_of_kept_features(folder: Path, tmp_path: Path) -> None:
    (folder / "sub" / "2.png").write_bytes(b"no picture")
    (folder / "gone.png").symlink_to(folder / "absent.png")
    (folder / "linked").symlink_to(folder / "sub")
    measurer = Measurer(Colours(), tmp_path / "kept")
    for _ in range(2):  # made, then kept
        for measure in (measurer.features, measurer.statistics):
            pictures = FolderPictures(folder)
            found = measure(pictures)
            skipped = {str(folder / name) for name in ("sub/2.png", "linked/2.png", "gone.png")}
            assert set(pictures.skipped) == set(found.origin.account["skipped"]) == skipped
            assert found.origin.count + len(skipped) == pictures.count + 1
