import pytest

from tessera.data.class_folders import imagenet_synsets
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


@pytest.mark.parametrize("stray", ["n00", "__MACOSX", "a/b"])
def test_a_folder_without_pictures_is_no_class(root, stray):
    (root / "train" / stray).mkdir(parents=True)
    (root / "train" / stray / ".keep").touch()
    data = ImageNet(str(root), 16)
    assert [data.prompt(i, 0) for i in range(4)] == [0, 1, 1, 2]
    assert data.skipped[str(root / "train" / stray.partition("/")[0])] == "the folder holds no picture, so it is no class"


def test_found_is_used_and_skipped(root):
    data = ImageNet(str(root), 16)
    assert data.skipped == {str(root / "train/stray.JPEG"): "it lies in no class's folder"}


def labels(data: ImageNet) -> dict[str, int]:
    return {name: data.prompt(index, 0) for index, name in enumerate(data.files)}


def test_labels_of_every_split_are_those_of_the_training_split(tmp_path):
    for name in ("train/ant/1.png", "train/bee/1.png", "train/cat/1.png", "val/bee/1.png", "val/cat/1.png", "val/dog/1.png"):
        picture(tmp_path / name, 4, 4)
    train, val = (ImageNet(str(tmp_path), 4, split) for split in ("train", "val"))
    assert train.classes == val.classes == ["ant", "bee", "cat"]
    assert labels(val) == {"bee/1.png": 1, "cat/1.png": 2}
    assert val.skipped == {str(tmp_path / "val/dog/1.png"): "its folder 'dog' is no class of the training data"}
    assert labels(ImageNet(str(tmp_path), 4, "val", classes=["dog", "cat", "bee"])) == {"bee/1.png": 2, "cat/1.png": 1, "dog/1.png": 0}


def test_linked_classes(tmp_path):
    for name in ("pool/b/1.png", "pool/c/1.png", "train/a/1.png"):
        picture(tmp_path / name, 4, 4)
    (tmp_path / "train/b").symlink_to(tmp_path / "pool/b")
    (tmp_path / "train/c").symlink_to("../pool/c")
    (tmp_path / "train/a/2.png").symlink_to(tmp_path / "pool/c/1.png")
    data = ImageNet(str(tmp_path), 4)
    assert labels(data) == {"a/1.png": 0, "a/2.png": 0, "b/1.png": 1, "c/1.png": 2}
    assert data.skipped == {}


def test_synsets_have_their_standard_numbers_in_any_subset(tmp_path):
    standard = imagenet_synsets()
    assert (len(set(standard)), standard) == (1000, sorted(standard))
    # The places of a few classes, as every list of ImageNet's labels has them.
    known = {"n01440764": 0, "n01443537": 1, "n02099601": 207, "n02123045": 281, "n02391049": 340, "n04285008": 817, "n15075141": 999}
    for name in known:
        picture(tmp_path / "train" / name / "1.png", 4, 4)
        picture(tmp_path / "val" / name / "1.png", 4, 4)
    for split in ("train", "val"):
        data = ImageNet(str(tmp_path), 4, split)
        assert {name[:9]: label for name, label in labels(data).items()} == known
        assert data.classes == standard
    picture(tmp_path / "train" / "mine" / "1.png", 4, 4)
    with pytest.raises(UsageError, match="classes of ImageNet and 'mine', which is none"):
        ImageNet(str(tmp_path), 4)
    assert labels(ImageNet(str(tmp_path), 4, classes=["n01443537", "mine"])) == {"n01443537/1.png": 0, "mine/1.png": 1}


def test_the_list_of_classes_as_a_file(root, tmp_path):
    (tmp_path / "classes.txt").write_bytes("\ufeffn03\r\nn01\r\nn02\r\n".encode())
    data = ImageNet(str(root), 16, classes=str(tmp_path / "classes.txt"))
    assert labels(data) == {"n01/c.JPEG": 1, "n02/a.JPEG": 2, "n02/b.JPEG": 2, "n03/sub/d.jpg": 0}
    assert data.fingerprint != ImageNet(str(root), 16).fingerprint
    with pytest.raises(UsageError, match="there is no file"):
        ImageNet(str(root), classes=str(tmp_path / "absent.txt"))
    with pytest.raises(UsageError, match="has 'a' twice"):
        ImageNet(str(root), classes=["a", "b", "a"])
    with pytest.raises(UsageError, match="names no class"):
        ImageNet(str(root), classes=[])


def test_without_a_training_split_the_list_must_be_given(tmp_path):
    picture(tmp_path / "val/ant/1.png", 4, 4)
    with pytest.raises(UsageError, match=r"there is no folder .*train to take the list of classes from"):
        ImageNet(str(tmp_path), 4, "val")
    assert labels(ImageNet(str(tmp_path), 4, "val", classes=["aardvark", "ant"])) == {"ant/1.png": 1}


def test_damage_is_skipped_and_reported(root):
    truncate(root / "train/n02/a.JPEG")
    data = ImageNet(str(root), 16)
    assert [data.example(i, 0) is None for i in range(4)] == [False, True, False, False]
    assert list(data.skipped) == [str(root / "train/stray.JPEG"), str(root / "train/n02/a.JPEG")]


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
