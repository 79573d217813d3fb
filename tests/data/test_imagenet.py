import pytest

from tessera.data.imagenet import ImageNet
from tessera.errors import UsageError
from tessera.registry import DATASETS, build
from tests.data.laws import check_laws
from tests.data.making import picture, truncate


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val"):
        for name in ("n02/b.JPEG", "n02/a.JPEG", "n01/c.JPEG", "n03/sub/d.jpg"):
            picture(tmp_path / split / name)
        (tmp_path / split / "n02" / "readme.txt").write_text("")
        picture(tmp_path / split / "stray.JPEG")
    return tmp_path


@pytest.mark.parametrize(("split", "mode"), [("train", "random"), ("val", "centre")])
def test_labels_are_ranks_of_folder_names(root, split, mode):
    data = build("dataset", DATASETS, {"kind": "imagenet", "root": str(root), "size": 16, "split": split})
    assert data.classes == ["n01", "n02", "n03"]
    assert data.files == ["n01/c.JPEG", "n02/a.JPEG", "n02/b.JPEG", "n03/sub/d.jpg"]
    assert [data.prompt(i, 0) for i in range(4)] == [0, 1, 1, 2]
    assert data.crop.mode == mode
    check_laws(data, 16)


def test_an_empty_class_keeps_the_labels_of_the_others(root):
    (root / "train/n00").mkdir()
    data = ImageNet(str(root), 16)
    assert [data.prompt(i, 0) for i in range(4)] == [1, 2, 2, 3]


def test_damage_is_skipped_and_reported(root):
    truncate(root / "train/n02/a.JPEG")
    data = ImageNet(str(root), 16)
    assert [data.example(i, 0) is None for i in range(4)] == [False, True, False, False]
    assert list(data.skipped) == [str(root / "train/n02/a.JPEG")]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        ImageNet(str(tmp_path / "absent"))
    with pytest.raises(UsageError, match="for each class"):
        ImageNet(str(tmp_path))
    (tmp_path / "train").mkdir()
    with pytest.raises(UsageError, match="one for each class"):
        ImageNet(str(tmp_path))
    (tmp_path / "train" / "n01").mkdir()
    with pytest.raises(UsageError, match="no usable picture"):
        ImageNet(str(tmp_path))
